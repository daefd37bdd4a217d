//! The latest anomalies, in a ring allocated at the start.
//!
//! Anomalous values of one stream without a normal value between them are one anomaly. It begins with the first
//! of them, shows the one with the highest score, and ends with the next normal value.

mod listed;
mod saved;

pub use listed::{read_listed, write_listed};

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::analytics::report::{AnomaliesQuery, AnomaliesReport, AnomalyReport};
use sigmad_detectors::DetectorSettings;
use sigmad_detectors::window::Moments;
use sigmad_sample::{DeviceId, MetricId, Verdict};

/// Anomalies kept for `/anomalies`; older ones are only counted.
pub const ANOMALIES_KEPT: usize = 4_096;
const _: () = assert!(ANOMALIES_KEPT < u16::MAX as usize);

/// A value whose verdict is an anomaly.
#[derive(Clone, Copy, Debug)]
pub struct AnomalousValue {
    /// The value.
    pub value: f64,
    /// The window before it.
    pub before: Moments,
    /// The verdict.
    pub verdict: Verdict,
    /// The sample's timestamp.
    pub timestamp_us: i64,
    /// When it arrived.
    pub arrived_us: i64,
}

/// The names of the stream of an anomaly; no device for the fleet's.
pub type SubjectNames = (Option<Arc<str>>, Arc<str>);

/// The stream of an anomaly; no device for the fleet's.
pub type Subject = (Option<DeviceId>, MetricId);

/// The position of an anomaly that has not ended; a later one may have replaced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenAnomaly(NonZeroU16);

/// Numbers anomalies and their changes over all shards, from 1. Only anomalies touch it, so that shards wait for one
/// another's cache lines as seldom as anomalies begin, go on and end.
#[derive(Clone, Debug, Default)]
pub struct AnomalyNumbers(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    /// Anomalies so far.
    serials: AtomicU64,
    /// Changes so far.
    changes: AtomicU64,
}

// Relaxed: a number orders nothing else. What it numbers stays with its shard, and leaves it in a report.
impl AnomalyNumbers {
    fn next_serial(&self) -> u64 {
        self.0.serials.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn next_change(&self) -> u64 {
        self.0.changes.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last serial and the last change given out.
    fn last(&self) -> (u64, u64) {
        (self.0.serials.load(Ordering::Relaxed), self.0.changes.load(Ordering::Relaxed))
    }
}

/// One anomaly. It keeps the names of its stream, which may outlive it.
#[derive(Debug)]
struct AnomalyEntry {
    serial: u64,
    subject: Subject,
    names: SubjectNames,
    highest: AnomalousValue,
    start_us: i64,
    /// When its first value arrived.
    began_us: i64,
    flags: u64,
    end_us: Option<i64>,
    /// When its last value or its end arrived.
    changed_us: i64,
    /// The number of that change.
    change: u64,
}

/// Bytes of the ring.
pub const RING_BYTES: usize = ANOMALIES_KEPT * size_of::<AnomalyEntry>();

/// The latest anomalies of one shard.
#[derive(Debug, Default)]
pub struct AnomalyLog {
    ring: Vec<AnomalyEntry>,
    /// Those that were in the ring, of this shard.
    total: u64,
    /// Those that began before a restart and are no more in the ring.
    begun_before: u64,
    numbers: AnomalyNumbers,
    /// The last change of this shard.
    last_change: u64,
    /// All changes up to this one were sent for the list of the cluster.
    listed_change: u64,
    /// The same before the first sample: they are in the list, from before a restart.
    listed_before: u64,
    /// Those that made room before their last change was.
    unlisted: u64,
}

impl AnomalyLog {
    /// Without anomalies. All shards share `numbers`.
    pub fn new(numbers: AnomalyNumbers) -> Self {
        Self { ring: Vec::with_capacity(ANOMALIES_KEPT), numbers, ..Self::default() }
    }

    /// Takes an anomalous value. It belongs to the open anomaly of its stream if that is still kept, else to a
    /// new one, which replaces the oldest when the ring is full.
    #[cold]
    pub fn flag(
        &mut self,
        open: Option<OpenAnomaly>,
        subject: Subject,
        names: impl FnOnce() -> SubjectNames,
        flag: AnomalousValue,
    ) -> OpenAnomaly {
        let change = self.numbers.next_change();
        self.last_change = change;
        let ring = &mut self.ring;
        if let Some((open, anomaly)) =
            open.and_then(|open| Some((open, open_in(ring, open, subject)?)))
        {
            if flag.verdict.score >= anomaly.highest.verdict.score {
                anomaly.highest = flag;
            }
            anomaly.flags += 1;
            (anomaly.changed_us, anomaly.change) = (flag.arrived_us, change);
            return open;
        }
        let anomaly = AnomalyEntry {
            serial: self.numbers.next_serial(),
            subject,
            names: names(),
            highest: flag,
            start_us: flag.timestamp_us,
            began_us: flag.arrived_us,
            flags: 1,
            end_us: None,
            changed_us: flag.arrived_us,
            change,
        };
        self.keep(anomaly)
    }

    /// Adds an anomaly to the ring.
    fn keep(&mut self, anomaly: AnomalyEntry) -> OpenAnomaly {
        let place = self.total as usize % ANOMALIES_KEPT;
        if place == self.ring.len() {
            self.ring.push(anomaly);
        } else {
            self.unlisted += u64::from(self.ring[place].change > self.listed_change);
            self.ring[place] = anomaly;
        }
        self.total += 1;
        OpenAnomaly(NonZeroU16::new(place as u16 + 1).expect("one more than a place"))
    }

    /// Ends an anomaly at the stream's next normal value.
    #[cold]
    pub fn end(&mut self, open: OpenAnomaly, subject: Subject, timestamp_us: i64, arrived_us: i64) {
        let Self { ring, numbers, last_change, .. } = self;
        if let Some(anomaly) = open_in(ring, open, subject) {
            *last_change = numbers.next_change();
            anomaly.end_us = Some(timestamp_us);
            (anomaly.changed_us, anomaly.change) = (arrived_us, *last_change);
        }
    }

    /// Ends an anomaly whose stream has gone, so that there will be no next value.
    #[cold]
    pub fn abandon(&mut self, open: OpenAnomaly, subject: Subject, arrived_us: i64) {
        let last_us =
            open_in(&mut self.ring, open, subject).map(|anomaly| anomaly.highest.timestamp_us);
        if let Some(last_us) = last_us {
            self.end(open, subject, last_us, arrived_us);
        }
    }

    /// The anomalies that `query` asks for, newest first.
    pub fn latest(&self, query: &AnomaliesQuery, detectors: &DetectorSettings) -> AnomaliesReport {
        // Before the search: what this shard numbers later is not in the report.
        let (serial, change) = self.numbers.last();
        let kept = self.ring.len() as u64;
        let listed = query.listed_change.map_or(0, |change| change.max(self.listed_before));
        let after_change = query.after_change.max(listed);
        let found = (1..=kept)
            .map(|back| &self.ring[(self.total - back) as usize % ANOMALIES_KEPT])
            .filter(|anomaly| {
                anomaly.changed_us >= query.since_us
                    && anomaly.change > after_change
                    && (query.device.is_none() || query.device == anomaly.subject.0)
            })
            .take(query.limit)
            .map(|anomaly| anomaly.report(detectors));
        AnomaliesReport { anomalies: found.collect(), begun: self.begun(), serial, change }
    }
}

impl AnomalyEntry {
    fn report(&self, detectors: &DetectorSettings) -> AnomalyReport {
        let AnomalousValue { value, before, verdict, timestamp_us, arrived_us } = self.highest;
        AnomalyReport {
            serial: self.serial,
            device: self.names.0.clone(),
            metric: self.names.1.clone(),
            value,
            mean: before.mean,
            std_dev: before.std_dev(),
            reach: detectors.zscore.threshold * before.std_dev(),
            verdict,
            timestamp_us,
            arrived_us,
            detector: detectors.first(),
            start_us: self.start_us,
            began_us: self.began_us,
            end_us: self.end_us,
            flags: self.flags,
            changed_us: self.changed_us,
            change: self.change,
        }
    }
}

fn open_in(
    ring: &mut [AnomalyEntry],
    place: OpenAnomaly,
    subject: Subject,
) -> Option<&mut AnomalyEntry> {
    let anomaly = ring.get_mut(usize::from(place.0.get()) - 1)?;
    (anomaly.subject == subject && anomaly.end_us.is_none()).then_some(anomaly)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(value: f64, at_us: i64) -> AnomalousValue {
        AnomalousValue {
            value,
            before: Moments { count: 50, mean: 0.0, variance: 4.0, mean_rest: 0.0 },
            verdict: Verdict { score: value, ..Verdict::default() },
            timestamp_us: at_us,
            arrived_us: at_us,
        }
    }

    fn names() -> SubjectNames {
        (None, "cpu".into())
    }

    fn everything() -> AnomaliesQuery {
        AnomaliesQuery { limit: usize::MAX, ..AnomaliesQuery::default() }
    }

    fn ask(anomalies: &AnomalyLog, query: AnomaliesQuery) -> Vec<AnomalyReport> {
        anomalies.latest(&query, &DetectorSettings::default()).anomalies
    }

    #[test]
    fn the_ring_keeps_the_latest_newest_first() {
        let mut anomalies = AnomalyLog::default();
        let pushed = ANOMALIES_KEPT as i64 + 10;
        for i in 1..=pushed {
            let device = DeviceId { index: (i % 2) as u32, generation: 0 };
            let device = (i % 3 != 0).then_some(device);
            anomalies.flag(None, (device, MetricId::CPU), names, flag(i as f64, i));
        }
        let ask = |device, limit, since_us| {
            let found = ask(&anomalies, AnomaliesQuery { device, limit, since_us, ..everything() });
            assert!(found.iter().all(|a| a.serial as f64 == a.value && a.std_dev == 2.0));
            found.iter().map(|a| a.arrived_us).collect::<Vec<_>>()
        };
        assert_eq!(ask(None, 3, 0), [pushed, pushed - 1, pushed - 2]);
        assert_eq!(ask(None, usize::MAX, 0), (11..=pushed).rev().collect::<Vec<_>>());
        assert_eq!(ask(None, usize::MAX, pushed - 1), [pushed, pushed - 1]);
        let odd = Some(DeviceId { index: 1, generation: 0 });
        assert!(ask(odd, usize::MAX, 0).iter().all(|i| i % 2 == 1 && i % 3 != 0));
        assert_eq!(ask(Some(DeviceId { index: 1, generation: 1 }), 9, 0), [0; 0]);
    }

    #[test]
    fn flags_in_a_row_are_one_anomaly_that_shows_the_highest() {
        let mut anomalies = AnomalyLog::default();
        let (one, other) = ((None, MetricId::CPU), (None, MetricId::RPS));
        let open = anomalies.flag(None, one, names, flag(3.0, 10));
        assert_eq!(anomalies.flag(Some(open), one, names, flag(9.0, 20)), open);
        let beside = anomalies.flag(None, other, names, flag(5.0, 25));
        anomalies.flag(Some(open), one, names, flag(4.0, 30));
        let found = ask(&anomalies, everything());
        assert_eq!(found.len(), 2);
        let first = &found[1];
        assert_eq!((first.serial, first.value, first.timestamp_us), (1, 9.0, 20));
        assert_eq!((first.start_us, first.end_us, first.flags), (10, None, 3));
        assert_eq!((first.changed_us, first.change), (30, 4));

        anomalies.end(open, one, 40, 41);
        let found = ask(&anomalies, AnomaliesQuery { after_change: 4, ..everything() });
        assert_eq!((found.len(), found[0].serial, found[0].end_us), (1, 1, Some(40)));
        assert_eq!(ask(&anomalies, AnomaliesQuery { since_us: 41, ..everything() }), found);
        // It has ended: the next is another.
        assert_ne!(anomalies.flag(Some(open), one, names, flag(4.0, 50)), open);
        anomalies.abandon(beside, other, 60);
        let found = ask(&anomalies, everything());
        let ends: Vec<_> = found.iter().map(|anomaly| anomaly.end_us).collect();
        assert_eq!(ends, [None, Some(25), Some(40)]);
    }

    #[test]
    fn a_place_that_another_has_taken_is_no_longer_open() {
        let mut anomalies = AnomalyLog::default();
        let one = (None, MetricId::CPU);
        let open = anomalies.flag(None, one, names, flag(3.0, 1));
        for i in 0..ANOMALIES_KEPT as i64 {
            let device = Some(DeviceId { index: i as u32, generation: 0 });
            anomalies.flag(None, (device, MetricId::CPU), names, flag(2.0, i));
        }
        anomalies.end(open, one, 5, 5);
        assert!(ask(&anomalies, everything()).iter().all(|anomaly| anomaly.end_us.is_none()));
        anomalies.flag(Some(open), one, names, flag(4.0, 6));
        assert_eq!(ask(&anomalies, everything())[0].start_us, 6);
    }
}
