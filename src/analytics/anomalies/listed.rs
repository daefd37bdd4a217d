//! Anomalies for the list of the cluster, and from it.

use sigmad_detectors::saved::Saved;
use sigmad_detectors::{DetectorKind, DetectorSettings};

use super::AnomalyLog;
use crate::analytics::report::AnomalyReport;
use crate::judged_queue::{ChangedAnomaly, ListedChanges};

impl AnomalyLog {
    /// The next changes for the list, `limit` at most, in their order. They count as listed.
    pub fn take_changes(&mut self, limit: usize, detectors: &DetectorSettings) -> ListedChanges {
        let is_new = |change: u64| change > self.listed_change;
        let mut changed: Vec<_> = self.ring.iter().filter(|one| is_new(one.change)).collect();
        changed.sort_unstable_by_key(|one| one.change);
        let is_rest = changed.len() <= limit;
        changed.truncate(limit);
        let listed = changed.iter().map(|one| listed(&one.report(detectors))).collect();
        let last = changed.last().map_or(self.listed_change, |one| one.change);
        // The last change may be of one that has made room already.
        self.listed_change = if is_rest { self.last_change } else { last };
        ListedChanges { changed: listed, until_change: self.listed_change }
    }

    /// True when something changed that is not listed.
    #[inline]
    pub fn has_changes(&self) -> bool {
        self.last_change > self.listed_change
    }

    /// Anomalies that made room in the ring before their last change was listed.
    pub fn unlisted(&self) -> u64 {
        self.unlisted
    }
}

fn listed(report: &AnomalyReport) -> ChangedAnomaly {
    let AnomalyReport { serial, change, began_us, .. } = *report;
    ChangedAnomaly { serial, change, began_us, body: write_listed(report) }
}

/// An anomaly as the body of an entry: without its serial, change and beginning.
pub fn write_listed(report: &AnomalyReport) -> Vec<u8> {
    let mut body = Vec::new();
    let to = &mut body;
    report.device.write(to);
    report.metric.write(to);
    for number in [report.value, report.mean, report.std_dev, report.reach] {
        number.write(to);
    }
    report.verdict.write(to);
    report.detector.name().to_owned().write(to);
    for time_us in [report.timestamp_us, report.arrived_us, report.start_us, report.changed_us] {
        time_us.write(to);
    }
    report.end_us.write(to);
    report.flags.write(to);
    body
}

/// The anomaly in an entry of the list, whose serial, change and beginning are beside it. None for what this version
/// does not write.
pub fn read_listed(mut body: &[u8], changed: (u64, u64, i64)) -> Option<AnomalyReport> {
    let (from, (serial, change, began_us)) = (&mut body, changed);
    let (device, metric) = (Saved::read(from)?, Saved::read(from)?);
    let [value, mean, std_dev, reach] = Saved::read(from)?;
    let verdict = Saved::read(from)?;
    let detector = String::read(from)?;
    let detector = *DetectorKind::ALL.iter().find(|kind| kind.name() == detector)?;
    let [timestamp_us, arrived_us, start_us, changed_us] = Saved::read(from)?;
    let (end_us, flags) = (Saved::read(from)?, Saved::read(from)?);
    Some(AnomalyReport {
        serial,
        device,
        metric,
        value,
        mean,
        std_dev,
        reach,
        verdict,
        timestamp_us,
        arrived_us,
        detector,
        start_us,
        began_us,
        end_us,
        flags,
        changed_us,
        change,
    })
    .filter(|report| {
        let numbers = [report.value, report.mean, report.std_dev, report.reach];
        let scores = [report.verdict.score, report.verdict.z_score];
        from.is_empty() && numbers.into_iter().chain(scores).all(f64::is_finite)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytics::anomalies::{ANOMALIES_KEPT, AnomalousValue, Subject};
    use crate::analytics::report::AnomaliesQuery;
    use sigmad_detectors::window::Moments;
    use sigmad_sample::{DeviceId, MetricId, Verdict};

    fn flag(log: &mut AnomalyLog, subject: Subject, at_us: i64) {
        let flag = AnomalousValue {
            value: 7.0,
            before: Moments { count: 50, mean: 1.0, variance: 4.0, mean_rest: 0.0 },
            verdict: Verdict {
                score: 3.0,
                z_score: 3.0,
                is_anomaly: true,
                is_zscore_anomaly: true,
            },
            timestamp_us: at_us,
            arrived_us: at_us + 1,
        };
        log.flag(None, subject, || (Some("edge-1".into()), "cpu".into()), flag);
    }

    #[test]
    fn changes_come_once_and_are_read_as_they_were_written() {
        let (mut log, settings) = (AnomalyLog::default(), DetectorSettings::default());
        assert!(!log.has_changes() && log.take_changes(9, &settings).changed.is_empty());
        (0..3).for_each(|at| flag(&mut log, (None, MetricId::CPU), at));
        let ListedChanges { changed: first, until_change } = log.take_changes(2, &settings);
        assert_eq!(until_change, 2);
        assert_eq!(first.iter().map(|one| one.change).collect::<Vec<_>>(), [1, 2]);
        assert!(log.has_changes());
        let last = log.take_changes(2, &settings).changed.pop().expect("one");
        assert!(!log.has_changes());
        let everything = AnomaliesQuery { limit: 9, ..AnomaliesQuery::default() };
        let report = log.latest(&everything, &settings).anomalies.remove(0);
        let of = (last.serial, last.change, last.began_us);
        assert_eq!((of, read_listed(&last.body, of)), ((3, 3, 3), Some(report)));
        for end in 0..last.body.len() {
            assert_eq!(read_listed(&last.body[..end], of), None, "{end}");
        }
    }

    #[test]
    fn what_makes_room_too_soon_is_counted() {
        let (mut log, settings) = (AnomalyLog::default(), DetectorSettings::default());
        let of = |index| (Some(DeviceId { index, generation: 0 }), MetricId::CPU);
        (0..ANOMALIES_KEPT as u32).for_each(|index| flag(&mut log, of(index), 1));
        log.take_changes(5, &settings);
        (0..9).for_each(|index| flag(&mut log, of(index), 2));
        assert_eq!(log.unlisted(), 4);
    }
}
