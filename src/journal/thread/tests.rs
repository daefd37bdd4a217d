use std::sync::mpsc;

use sigmad_sample::{Batch, Reading};
use sigmad_state::{Faults, SimulatedDisk, StateOptions};

use super::super::record::{Admission, RecordDecoder};
use super::super::{JournalProducer, JournalQueueCounters, channel};
use super::*;
use crate::acknowledgement::{Durability, RoundAcknowledgement};
use crate::registry::NameSource;

/// A registry with a device, a disk, and a thread that runs until its producer is dropped.
struct Bench {
    disk: SimulatedDisk,
    registry: Arc<Registry>,
    counters: Arc<JournalCounters>,
    batch: Batch,
}

struct Same;

impl Admission for Same {
    fn device(&mut self, there: DeviceId, name: &str) -> Option<DeviceId> {
        assert_eq!(name, "web-1");
        Some(there)
    }

    fn metric(&mut self, there: MetricId, name: &str) -> Option<MetricId> {
        assert_eq!(name, "cpu");
        Some(there)
    }
}

fn open(disk: &SimulatedDisk) -> (StateDir, sigmad_state::Recovery) {
    StateDir::open(Arc::new(disk.clone()), StateOptions::default()).expect("it can be listed")
}

impl Bench {
    fn new() -> Self {
        let registry = Arc::new(Registry::new(100, 3_600));
        let mut metrics = [("cpu", None)];
        let admitted = registry.admit(NameSource::Client, Some("web-1"), &mut metrics, 0);
        let device = admitted.expect("there is room").expect("it has a device").device;
        let mut batch = Batch::default();
        batch.push(5, Some(device), &[Reading { metric: MetricId::CPU, value: 0.5 }]);
        Self { disk: SimulatedDisk::new(1), registry, counters: Arc::default(), batch }
    }

    fn parts(&self, consumer: JournalConsumer) -> (JournalThreadParts, Receiver<()>) {
        let (directory_sender, directory) = crossbeam_channel::bounded(1);
        directory_sender.send(open(&self.disk).0).expect("it has room");
        let (wants_snapshot, wanted) = crossbeam_channel::bounded(1);
        let parts = JournalThreadParts {
            acknowledges: false,
            directory,
            shards: vec![consumer],
            registry: self.registry.clone(),
            wants_snapshot,
            on_state: Box::new(|_| {}),
            counters: self.counters.clone(),
            clock: Clock::new(sigmad_clock::start()),
        };
        (parts, wanted)
    }

    fn recovered(&self) -> Vec<(u64, i64)> {
        let (_, recovery) = open(&self.disk);
        let (mut decoder, mut batch, mut found) =
            (RecordDecoder::default(), Batch::default(), Vec::new());
        for journal in &recovery.journals {
            let mut records = journal.records();
            while let Some((position, record)) = records.next_record().expect("it was checked") {
                let arrived_us =
                    decoder.decode(record, &mut Same, &mut batch).expect("it is whole");
                assert_eq!(batch.iter().collect::<Vec<_>>(), self.batch.iter().collect::<Vec<_>>());
                found.push((position, arrived_us));
            }
        }
        found
    }
}

fn queue() -> (JournalProducer, JournalConsumer, Arc<JournalQueueCounters>) {
    let counters = Arc::<JournalQueueCounters>::default();
    let (producer, consumer) = channel(counters.clone());
    (producer, consumer, counters)
}

#[test]
fn what_was_judged_is_durable_when_the_thread_has_ended() {
    let bench = Bench::new();
    let (producer, consumer, _) = queue();
    for position in 0..1_000 {
        producer.push(position, position as i64 * 10, &bench.batch, None);
    }
    drop(producer);
    JournalThread::run(bench.parts(consumer).0);
    bench.disk.crash();
    let expected: Vec<_> = (0..1_000).map(|position| (position, position as i64 * 10)).collect();
    assert_eq!(bench.recovered(), expected);
    assert_eq!(bench.counters.records_total.get(), 1_000);
}

#[test]
fn a_full_queue_is_a_gap_that_asks_for_a_snapshot() {
    let bench = Bench::new();
    let (producer, consumer, counters) = queue();
    let pushed = super::super::CHUNKS_MAX as u64 + 5;
    for position in 0..pushed {
        producer.push(position, 1, &bench.batch, None);
    }
    assert_eq!(counters.dropped_total.get(), 5);
    let (parts, wanted) = bench.parts(consumer);
    let (ended_sender, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        JournalThread::run(parts);
        ended_sender.send(()).expect("the test waits");
    });
    // The queue has room again once the thread has taken the first chunks.
    while bench.counters.records_total.get() < pushed - 5 {
        std::thread::yield_now();
    }
    producer.push(pushed, 2, &bench.batch, None);
    drop(producer);
    ended.recv_timeout(Duration::from_secs(30)).expect("it ends with its shards");
    thread.join().expect("it ends well");
    assert_eq!(wanted.try_iter().count(), 1);
    assert_eq!(bench.recovered().len() as u64, pushed - 5, "what is after the gap is not used");
}

#[test]
fn what_the_disk_refuses_is_counted() {
    let bench = Bench::new();
    let (producer, consumer, _) = queue();
    let (parts, wanted) = bench.parts(consumer);
    bench.disk.set_faults(Faults { is_read_only: true, ..Faults::default() });
    for position in 0..10 {
        producer.push(position, 1, &bench.batch, None);
    }
    drop(producer);
    JournalThread::run(parts);
    assert_eq!(bench.counters.lost_total[JournalLoss::Disk as usize].get(), 10);
    assert_eq!(wanted.try_iter().count(), 0, "nothing was written, so nothing is missing so far");
    assert_eq!(bench.recovered(), []);
}

/// Chunks with a right each, and what their round has become.
fn acknowledged(
    producer: &JournalProducer,
    positions: std::ops::Range<u64>,
    batch: &Batch,
) -> Receiver<Durability> {
    let round = RoundAcknowledgement::default();
    for position in positions {
        producer.push(position, 1, batch, Some(round.right()));
    }
    let (sender, ended) = crossbeam_channel::unbounded();
    // Err: the test has ended.
    round.then(move |durability| {
        let _ = sender.send(durability);
    });
    ended
}

#[test]
fn a_round_ends_when_its_chunks_are_durable() {
    let bench = Bench::new();
    let (producer, consumer, _) = queue();
    let ended = acknowledged(&producer, 0..300, &bench.batch);
    let (parts, _) = bench.parts(consumer);
    let parts = JournalThreadParts { acknowledges: true, ..parts };
    let thread = std::thread::spawn(|| JournalThread::run(parts));
    // The queue stays open: no end of the thread has done it.
    assert_eq!(ended.recv(), Ok(Durability::Durable));
    let copy = bench.disk.clone();
    copy.crash();
    assert_eq!(bench.recovered().len(), 300);
    drop(producer);
    thread.join().expect("it ends with the shard");
}

#[test]
fn what_the_disk_refuses_is_lost_and_so_is_what_follows_until_a_snapshot() {
    for faults in [
        Faults { sync_fails_one_in: 1, ..Faults::default() },
        Faults { append_fails_one_in: 1, ..Faults::default() },
        Faults { is_read_only: true, ..Faults::default() },
        Faults { capacity: Some(0), ..Faults::default() },
    ] {
        let bench = Bench::new();
        let (producer, consumer, _) = queue();
        let parts = JournalThreadParts { acknowledges: true, ..bench.parts(consumer).0 };
        bench.disk.set_faults(faults);
        let thread = std::thread::spawn(|| JournalThread::run(parts));
        let ended = acknowledged(&producer, 0..3, &bench.batch);
        assert_eq!(ended.recv(), Ok(Durability::Lost), "{faults:?}");
        bench.disk.set_faults(Faults::default());
        let ended = acknowledged(&producer, 3..4, &bench.batch);
        assert_eq!(ended.recv(), Ok(Durability::Lost), "{faults:?}");
        drop(producer);
        thread.join().expect("it ends with the shard");
    }
}

#[test]
fn a_chunk_without_room_is_lost() {
    let bench = Bench::new();
    let (producer, consumer, _) = queue();
    let ended = acknowledged(&producer, 0..super::super::CHUNKS_MAX as u64 + 1, &bench.batch);
    assert!(ended.is_empty(), "the others wait");
    drop((producer, consumer));
    assert_eq!(ended.recv(), Ok(Durability::Lost));
}

#[test]
fn without_a_directory_every_chunk_is_lost() {
    let bench = Bench::new();
    let ((producer, consumer, _), (other, second, _)) = (queue(), queue());
    let parts = bench.parts(consumer).0;
    let parts = JournalThreadParts {
        directory: crossbeam_channel::bounded(0).1,
        shards: parts.shards.into_iter().chain([second]).collect(),
        ..parts
    };
    let thread = std::thread::spawn(|| JournalThread::run(parts));
    for producer in [&producer, &other] {
        let ended = acknowledged(producer, 0..1, &bench.batch);
        assert_eq!(ended.recv(), Ok(Durability::Lost));
    }
    assert_eq!(bench.counters.lost_total[JournalLoss::Disk as usize].get(), 2);
    drop((producer, other));
    thread.join().expect("it ends with the shards");
}
