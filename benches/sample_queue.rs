//! What a sample costs from a worker to its verdicts: in the sample queue, by the number of samples per
//! round, and in the windows.

mod measure;

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use criterion::measurement::Measurement;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use measure::CpuTime;
use sigmad::analytics::names::NameLookup;
use sigmad::analytics::{Analytics, AnalyticsSettings};
use sigmad::sample_queue::{self, QueueClosed, SampleConsumer, SampleProducer, Sleeper};
use sigmad_clock::Now;
use sigmad_sample::{Batch, DeviceId, MetricId, Reading};

/// One sample of `cpu` and `rps` from each of `devices` in turn.
fn batch(devices: u32, first: u32, samples: u32) -> Batch {
    let mut batch = Batch::default();
    for i in first..first + samples {
        // Scattered, so that devices are not visited in the order of their memory.
        let index = i.wrapping_mul(2_654_435_761) % devices;
        let noise = f64::from(i.wrapping_mul(747_796_405) >> 24);
        let cpu = Reading { metric: MetricId::CPU, value: 50.0 + noise / 64.0 };
        let rps = Reading { metric: MetricId::RPS, value: 2_000.0 + noise };
        batch.push(i64::from(i), Some(DeviceId { index, generation: 0 }), &[cpu, rps]);
    }
    batch
}

fn send(producer: &mut SampleProducer, batch: &Batch) {
    while !producer.has_room(batch.len(), batch.readings()) {
        thread::yield_now();
    }
    producer.push(batch, Now::default());
    producer.send(Now::default());
}

fn read(consumer: &SampleConsumer) -> Result<usize, QueueClosed> {
    let Some(chunk) = consumer.receive()? else {
        return Ok(0);
    };
    let samples = chunk.batch.iter().map(|(_, readings)| black_box(readings).len() / 2).sum();
    consumer.recycle(chunk);
    Ok(samples)
}

fn sample_queue_cost(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("sample queue");
    for size in [1, 16, 128] {
        let batch = batch(50, 0, size);
        group.throughput(Throughput::Elements(u64::from(size)));

        // Both ends in turn on one thread: the cost of both together.
        let (mut producer, consumer) =
            sample_queue::channel(Arc::new(Sleeper::default()), Arc::default());
        group.bench_function(BenchmarkId::new("one thread", size), |b| {
            b.iter(|| {
                send(&mut producer, &batch);
                assert_eq!(read(&consumer), Ok(size as usize));
            });
        });

        // Each on its own core: the cache lines of the channel move between them.
        group.bench_function(BenchmarkId::new("two threads", size), |b| {
            b.iter_custom(|rounds| two_threads(&batch, rounds));
        });
    }
    group.finish();
}

/// CPU time of both threads. The consumer behaves as the analytics thread does under load: it takes all
/// that waits, then dozes.
fn two_threads(batch: &Batch, rounds: u64) -> Duration {
    let sleeper = Arc::new(Sleeper::default());
    let (mut producer, consumer) = sample_queue::channel(sleeper.clone(), Arc::default());
    let receiving = thread::spawn(move || {
        sleeper.register();
        let (begun, mut seen) = (CpuTime.start(), 0);
        loop {
            match read(&consumer) {
                Ok(0) => sleeper.doze(Duration::from_micros(500), || consumer.is_ready()),
                Ok(samples) => seen += samples as u64,
                Err(QueueClosed) => return (CpuTime.end(begun), seen),
            }
        }
    });
    let begun = CpuTime.start();
    for _ in 0..rounds {
        send(&mut producer, batch);
    }
    let sending = CpuTime.end(begun);
    drop(producer);
    let (reading, seen) = receiving.join().expect("no panic");
    assert_eq!(seen, rounds * batch.len() as u64);
    sending + reading
}

fn judge(c: &mut Criterion<CpuTime>) {
    const SAMPLES: u32 = 128;
    let mut group = c.benchmark_group("judge, four windows a sample");
    group.throughput(Throughput::Elements(u64::from(SAMPLES)));
    for devices in [1, 50, 10_000, 500_000] {
        let names = NameLookup::new(
            |id| Some(id.index.to_string().into()),
            |id| id.slot().to_string().into(),
        );
        let mut analytics = Analytics::new(AnalyticsSettings::default(), names);
        let chunks: Vec<_> = (0..devices.max(SAMPLES).div_ceil(SAMPLES))
            .map(|b| batch(devices, b * SAMPLES, SAMPLES))
            .collect();
        let mut chunks = chunks.iter().cycle();
        // All streams exist before the measurement.
        for chunk in chunks.by_ref().take(devices.div_ceil(SAMPLES) as usize) {
            analytics.judge(chunk, 0);
        }
        let mut judged = analytics.totals().samples;
        group.bench_function(BenchmarkId::new("devices", devices), |b| {
            b.iter(|| {
                analytics.judge(chunks.next().expect("a cycle"), 0);
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
    targets = sample_queue_cost, judge
}
criterion_main!(benches);
