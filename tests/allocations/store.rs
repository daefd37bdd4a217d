//! Allocations of the store queue: as many bytes as it reports, and none for a sample whose key and streams
//! exist.

use std::sync::Arc;
use std::time::Duration;

use sigmad::judged_queue::{ByteBudget, CHUNK_SAMPLES_MAX, ChunkHints, JudgedChunk, JudgedCounts};
use sigmad::store::commands::{SampleKeys, StoreOptions};
use sigmad::store::keys::ReplicaId;
use sigmad::store::queue::{Refusals, StoreQueue};
use sigmad_sample::{DeviceId, MetricId, Reading, Sample};

use crate::counting;

fn queue(history_len: Option<usize>) -> StoreQueue {
    let options = StoreOptions {
        replica: ReplicaId::new(1),
        window: 50,
        ttl: Duration::from_secs(300),
        stream_idle: Duration::from_secs(3_600),
        history_len,
        devices_max: 1_000_000,
        sample_keys: SampleKeys::Two,
    };
    StoreQueue::new(
        Arc::new(ByteBudget::new(1 << 30)),
        options.window,
        options.history_len.is_some(),
    )
}

/// Samples of two metrics: the device and the timestamp of each.
fn chunk(samples: impl Iterator<Item = (u32, i64)>) -> JudgedChunk {
    let (mut chunk, mut hints) = (JudgedChunk::default(), ChunkHints::default());
    let readings = [MetricId::CPU, MetricId::RPS].map(|metric| Reading { metric, value: 1.5 });
    for (at, (index, timestamp_us)) in samples.enumerate() {
        let device = Some(DeviceId { index, generation: 0 });
        chunk.begin_batch(1_735_100_000_000_000 + at as i64, at as u64);
        chunk.add(&[Sample { timestamp_us, device, readings: 2 }], &readings, &mut hints);
    }
    chunk.set_counts(&JudgedCounts::default(), &mut hints);
    chunk
}

/// The name exists, as in the registry: the queue allocates none.
fn take(queue: &mut StoreQueue, chunk: &JudgedChunk, name: &Arc<str>) {
    assert_eq!(queue.take(chunk, |_| Some(name.clone()), |_| Some(name.clone())), 0);
}

const CHUNK: u32 = CHUNK_SAMPLES_MAX as u32;

#[test]
fn the_queue_reports_the_bytes_it_allocates() {
    let name: Arc<str> = "edge-17".into();
    // Devices, timestamps, samples: some coalesce, some hardly.
    for (devices, timestamps, samples) in
        [(100_000, 1, 100_000), (1, 100_000, 100_000), (50, 40, 300_000), (1_000, 77, 61_000)]
    {
        for history_len in [None, Some(1_000)] {
            let before = counting::bytes();
            let mut queue = queue(history_len);
            for from in (0..samples).step_by(CHUNK as usize) {
                let chunk = chunk(
                    (from..from + CHUNK).map(|at| (at % devices, i64::from(at % timestamps))),
                );
                take(&mut queue, &chunk, &name);
            }
            // Documented to come on top: four bytes for each device, and the rows of a chunk.
            let rows = 64 * (samples.min(CHUNK) as usize).next_power_of_two();
            let hints = 4 * (devices as usize).next_power_of_two() + rows;
            let (taken, held) = (counting::bytes().wrapping_sub(before), queue.bytes());
            println!("{devices} devices, {timestamps} timestamps: {taken} taken, {held} held");
            assert!(taken <= held + hints + 8_192, "{taken} bytes taken, {held} held");
            assert!(held <= 2 * taken, "{taken} bytes taken, {held} held");
        }
    }
}

#[test]
fn a_sample_allocates_nothing_once_its_key_exists() {
    let name: Arc<str> = "edge-17".into();
    let mut queue = queue(None);
    let chunks: Vec<_> =
        (0..8).map(|at| chunk((0..CHUNK).map(move |device| (device, i64::from(at))))).collect();
    let fill = |queue: &mut StoreQueue, rounds| {
        for _ in 0..rounds {
            for chunk in &chunks {
                take(queue, chunk, &name);
            }
        }
    };
    fill(&mut queue, 60);
    let before = counting::calls();
    fill(&mut queue, 60);
    assert_eq!(counting::calls() - before, 0);
    // The segment after the next gets the memory of a finished one.
    queue.begin().expect("samples");
    fill(&mut queue, 60);
    queue.done(Refusals::default());
    queue.begin().expect("samples");
    let before = counting::calls();
    fill(&mut queue, 60);
    assert_eq!(counting::calls() - before, 0);
}
