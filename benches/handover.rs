//! What a sample costs on its way from a worker to its verdicts: across the lane, by the size of the
//! rounds that send it, and in the windows.

mod measure;

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use criterion::measurement::Measurement;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use measure::CpuTime;
use sigmad::analytics::names::Names;
use sigmad::analytics::{Analytics, Settings};
use sigmad::sample_queue::{QueueClosed, SampleConsumer, SampleProducer, Sleeper, lane};
use sigmad_clock::Now;
use sigmad_sample::{Batch, DeviceId, MetricId, Reading};

/// One sample of `cpu` and `rps` from each of `devices` in turn.
fn batch(devices: u32, first: u32, samples: u32) -> Batch {
    let mut batch = Batch::default();
    for i in first..first + samples {
        // Scattered, so that a large fleet does not come in the order of its memory.
        let index = i.wrapping_mul(2_654_435_761) % devices;
        let noise = f64::from(i.wrapping_mul(747_796_405) >> 24);
        let cpu = Reading { metric: MetricId::CPU, value: 50.0 + noise / 64.0 };
        let rps = Reading { metric: MetricId::RPS, value: 2_000.0 + noise };
        batch.push(i64::from(i), Some(DeviceId { index, generation: 0 }), &[cpu, rps]);
    }
    batch
}

fn send(lane: &mut SampleProducer, batch: &Batch) {
    while !lane.has_room(batch.len()) {
        thread::yield_now();
    }
    lane.push(batch, Now::default());
    lane.send(Now::default());
}

fn read(end: &SampleConsumer) -> Result<usize, QueueClosed> {
    let Some(block) = end.receive()? else {
        return Ok(0);
    };
    let samples = block.batch.iter().map(|(_, readings)| black_box(readings).len() / 2).sum();
    end.give_back(block);
    Ok(samples)
}

fn across_the_lane(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("lane");
    for size in [1, 16, 128] {
        let batch = batch(50, 0, size);
        group.throughput(Throughput::Elements(u64::from(size)));

        // Both ends in turn on one core: what both together cost.
        let (mut near, end) = lane(Arc::new(Sleeper::default()), Arc::default());
        group.bench_function(BenchmarkId::new("one thread", size), |b| {
            b.iter(|| {
                send(&mut near, &batch);
                assert_eq!(read(&end), Ok(size as usize));
            });
        });

        // Each on its own core: the lines of the channel travel between them.
        group.bench_function(BenchmarkId::new("two threads", size), |b| {
            b.iter_custom(|rounds| two_threads(&batch, rounds));
        });
    }
    group.finish();
}

/// CPU time of both threads. The reader polls as the analytics thread does under load: it takes what is
/// there, then dozes.
fn two_threads(batch: &Batch, rounds: u64) -> Duration {
    let sleeper = Arc::new(Sleeper::default());
    let (mut lane, end) = lane(sleeper.clone(), Arc::default());
    let reader = thread::spawn(move || {
        sleeper.adopt();
        let (begun, mut seen) = (CpuTime.start(), 0);
        loop {
            match read(&end) {
                Ok(0) => sleeper.doze(Duration::from_micros(500), || end.has_news()),
                Ok(samples) => seen += samples as u64,
                Err(QueueClosed) => return (CpuTime.end(begun), seen),
            }
        }
    });
    let begun = CpuTime.start();
    for _ in 0..rounds {
        send(&mut lane, batch);
    }
    let sending = CpuTime.end(begun);
    drop(lane);
    let (reading, seen) = reader.join().expect("no panic");
    assert_eq!(seen, rounds * batch.len() as u64);
    sending + reading
}

fn judge(c: &mut Criterion<CpuTime>) {
    const SAMPLES: u32 = 128;
    let mut group = c.benchmark_group("judge, four windows a sample");
    group.throughput(Throughput::Elements(u64::from(SAMPLES)));
    for devices in [1, 50, 10_000, 500_000] {
        let names =
            Names::new(|id| Some(id.index.to_string().into()), |id| id.0.to_string().into());
        let mut analytics = Analytics::new(Settings::default(), names);
        let blocks: Vec<_> = (0..devices.max(SAMPLES).div_ceil(SAMPLES))
            .map(|b| batch(devices, b * SAMPLES, SAMPLES))
            .collect();
        let mut blocks = blocks.iter().cycle();
        // All streams exist before the clock runs.
        for block in blocks.by_ref().take(devices.div_ceil(SAMPLES) as usize) {
            analytics.judge(block, 0);
        }
        let mut judged = analytics.totals().samples;
        group.bench_function(BenchmarkId::new("devices", devices), |b| {
            b.iter(|| {
                analytics.judge(blocks.next().expect("a cycle"), 0);
                judged += u64::from(SAMPLES);
            });
        });
        assert_eq!(analytics.totals().samples, judged);
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = across_the_lane, judge
}
criterion_main!(benches);
