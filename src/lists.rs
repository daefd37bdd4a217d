//! The lists of anomalies and samples: of the cluster where there is one, or of this replica.
//!
//! An answer of the cluster joins what all replicas have written to Redis with what only this replica has so far, so a
//! read still sees every sample whose 202 has left here. While Redis is away a replica answers for itself.

use std::collections::HashMap;
use std::sync::Arc;

use sigmad_clock::Now;
use sigmad_detectors::saved::Saved;
use sigmad_sample::DeviceId;

use crate::analytics::report::{AnomaliesQuery, AnomalyReport, RecentQuery, SampleReport};
use crate::analytics::{Asker, read_listed};
use crate::cluster_scope::ClusterScope;
use crate::registry::Registry;
use crate::shared_lists::{
    ListEntry, ListKind, ListPlace, OwnProgress, SampleBody, SharedLists, device_of,
};

/// What is asked of a list.
#[derive(Clone, Copy, Debug)]
pub struct LatestQuery<'a> {
    /// Only this device.
    pub device: Option<&'a str>,
    /// The most results.
    pub limit: usize,
    /// Only what arrived or changed at or after this time, microseconds since 1970.
    pub since_us: i64,
    /// Of this replica alone.
    pub is_local: bool,
}

/// An anomaly of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedAnomaly {
    /// The replica that found it, which its serial belongs to. None without a cluster.
    pub replica: Option<u32>,
    /// The anomaly.
    pub report: AnomalyReport,
}

/// The answer, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct List<T> {
    /// Whose it is.
    pub scope: ClusterScope,
    /// The rows.
    pub rows: Vec<T>,
}

/// Answers for the lists.
#[derive(Clone, Debug)]
pub struct Lists {
    asker: Asker,
    registry: Arc<Registry>,
    /// None without Redis.
    shared: Option<Arc<SharedLists>>,
    /// How long a sample is shown.
    ttl_us: i64,
}

/// A device by name and id. No id: this replica does not know it.
type AskedDevice = Option<Option<DeviceId>>;

// Each returns None once an analytics thread that it asks has stopped.
impl Lists {
    /// Without `shared` all are of this replica.
    pub fn new(
        asker: Asker,
        registry: Arc<Registry>,
        shared: Option<Arc<SharedLists>>,
        ttl_us: i64,
    ) -> Self {
        Self { asker, registry, shared, ttl_us }
    }

    /// The lists of the cluster, if the answer is of those; and whose it is.
    fn shared(&self, is_local: bool) -> (Option<&SharedLists>, ClusterScope) {
        match &self.shared {
            Some(shared) if !is_local => {
                let scope = shared.scope();
                (Some(&**shared).filter(|_| scope.is_cluster), scope)
            }
            _ => (None, ClusterScope::LOCAL),
        }
    }

    /// Whose windows an answer has. While Redis is away they are the cluster's as they were known last.
    pub fn windows_scope(&self, is_local: bool) -> ClusterScope {
        match &self.shared {
            Some(shared) if !is_local => ClusterScope { is_cluster: true, ..shared.scope() },
            _ => ClusterScope::LOCAL,
        }
    }

    fn device(&self, asked: &LatestQuery<'_>) -> AskedDevice {
        asked.device.map(|name| self.registry.find_device(name))
    }

    /// `/anomalies`
    pub fn anomalies(&self, asked: LatestQuery<'_>) -> Option<List<ListedAnomaly>> {
        let (shared, scope) = self.shared(asked.is_local);
        let replica = self.replica();
        let Some(shared) = shared else {
            let reports = self.own_anomalies(&asked, None)?;
            let listed = |report| ListedAnomaly { replica, report };
            return Some(List { scope, rows: reports.into_iter().map(listed).collect() });
        };
        let page = shared.newest(ListKind::Anomalies, asked.limit, |place, entry| {
            let report = corrected(place, entry)?;
            let is_asked = asked.device.is_none() || asked.device == report.device.as_deref();
            (is_asked && report.changed_us >= asked.since_us).then_some(report)
        });
        let mut rows: HashMap<ListPlace, AnomalyReport> = page.rows.into_iter().collect();
        let own: HashMap<u64, ListPlace> = rows
            .keys()
            .filter(|place| place.replica == shared.own())
            .map(|place| (place.serial, *place))
            .collect();
        for mut report in self.own_anomalies(&asked, page.own.as_ref())? {
            correct(&mut report, page.offset_us);
            let new = ListPlace {
                began_us: report.began_us,
                replica: shared.own(),
                serial: report.serial,
            };
            rows.insert(own.get(&report.serial).copied().unwrap_or(new), report);
        }
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
        rows.truncate(asked.limit);
        let listed = |(place, report): (ListPlace, _)| ListedAnomaly {
            replica: Some(place.replica),
            report,
        };
        Some(List { scope, rows: rows.into_iter().map(listed).collect() })
    }

    /// Those of this replica: all, or what the list of the cluster may lack.
    fn own_anomalies(
        &self,
        asked: &LatestQuery<'_>,
        listed: Option<&OwnProgress>,
    ) -> Option<Vec<AnomalyReport>> {
        let device = match self.device(asked) {
            Some(None) => return Some(Vec::new()),
            device => device.flatten(),
        };
        let LatestQuery { limit, since_us, .. } = *asked;
        let query = AnomaliesQuery { device, limit, since_us, ..AnomaliesQuery::default() };
        let report = match listed {
            None => self.asker.anomalies(query),
            Some(listed) => self.asker.unlisted_anomalies(query, |shard| listed.of(shard)),
        };
        report.map(|report| report.anomalies)
    }

    /// `/latest`
    pub fn latest(&self, asked: LatestQuery<'_>, now: Now) -> Option<List<SampleReport>> {
        let (shared, scope) = self.shared(asked.is_local);
        let Some(shared) = shared else {
            return Some(List { scope, rows: self.own_samples(&asked, None)? });
        };
        let since_us = asked.since_us.max(now.wall_us - self.ttl_us);
        let page = shared.newest(ListKind::Samples, asked.limit, |place, entry| {
            if place.began_us < since_us {
                return None;
            }
            if asked.device.is_some() && device_of(&entry.body)?.as_deref() != asked.device {
                return None;
            }
            listed_sample(place, entry)
        });
        let mut own = self.own_samples(&asked, page.own.as_ref())?;
        own.iter_mut().for_each(|sample| sample.arrived_us -= page.offset_us);
        let written = page.rows.into_iter().map(|(_, sample)| sample);
        Some(List { scope, rows: merged(own, written.collect(), asked.limit) })
    }

    /// Those of this replica: all, or what the list of the cluster may lack.
    fn own_samples(
        &self,
        asked: &LatestQuery<'_>,
        listed: Option<&OwnProgress>,
    ) -> Option<Vec<SampleReport>> {
        let device = match self.device(asked) {
            Some(None) => return Some(Vec::new()),
            device => device.flatten(),
        };
        let LatestQuery { limit, since_us, .. } = *asked;
        let query = RecentQuery { device, limit, since_us, ..RecentQuery::default() };
        match listed {
            None => self.asker.latest(query),
            Some(listed) => self.asker.unlisted_samples(query, |shard| listed.of(shard)),
        }
    }
}

/// How far the entries of other replicas are known, by the numbers of their writes.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere {
    anomalies: u64,
    samples: u64,
}

impl Elsewhere {
    /// Nothing is known.
    pub const NOTHING: Self = Self { anomalies: 0, samples: 0 };
    /// Whatever they write.
    pub const ALL: Self = Self { anomalies: u64::MAX, samples: u64::MAX };
}

// For the live page: what other replicas have written, with times by the clock of this replica.
impl Lists {
    /// This replica, where there are several.
    pub fn replica(&self) -> Option<u32> {
        self.shared.as_ref().map(|shared| shared.own())
    }

    /// Anomalies that other replicas have changed after what is known, oldest first; of one device, or of all.
    pub fn anomalies_elsewhere(
        &self,
        (known, until): (&mut Elsewhere, Elsewhere),
        device: Option<&str>,
    ) -> Vec<ListedAnomaly> {
        let Some(shared) = &self.shared else { return Vec::new() };
        let (known, until) = (&mut known.anomalies, until.anomalies);
        let (mut changed, offset_us) =
            shared.changed_elsewhere(ListKind::Anomalies, known, until, |place, entry| {
                let report = corrected(place, entry)?;
                let is_asked = device.is_none() || device == report.device.as_deref();
                is_asked.then_some(ListedAnomaly { replica: Some(place.replica), report })
            });
        changed.iter_mut().for_each(|one| correct(&mut one.report, -offset_us));
        changed
    }

    /// Samples of a device that other replicas have received after what is known, oldest first.
    pub fn samples_elsewhere(
        &self,
        (known, until): (&mut Elsewhere, Elsewhere),
        device: &str,
    ) -> Vec<SampleReport> {
        let Some(shared) = &self.shared else { return Vec::new() };
        let (known, until) = (&mut known.samples, until.samples);
        let (mut samples, offset_us) =
            shared.changed_elsewhere(ListKind::Samples, known, until, |place, entry| {
                let is_asked = device_of(&entry.body)?.as_deref() == Some(device);
                is_asked.then(|| listed_sample(place, entry)).flatten()
            });
        samples.iter_mut().for_each(|sample| sample.arrived_us += offset_us);
        samples
    }
}

/// The sample of an entry, with its time by Redis' clock.
fn listed_sample(place: &ListPlace, entry: &ListEntry) -> Option<SampleReport> {
    let SampleBody { device, timestamp_us, readings } = SampleBody::read(&mut &entry.body[..])?;
    Some(SampleReport { device, timestamp_us, arrived_us: place.began_us, readings })
}

/// The anomaly of an entry, with times by Redis' clock.
fn corrected(place: &ListPlace, entry: &ListEntry) -> Option<AnomalyReport> {
    let mut report = read_listed(&entry.body, (place.serial, entry.change, 0))?;
    correct(&mut report, entry.offset_us);
    report.began_us = place.began_us;
    Some(report)
}

/// Times of arrival by Redis' clock in place of a replica's.
fn correct(report: &mut AnomalyReport, offset_us: i64) {
    for time_us in [&mut report.began_us, &mut report.arrived_us, &mut report.changed_us] {
        *time_us = time_us.saturating_sub(offset_us);
    }
}

/// Two lists, newest first, as one.
fn merged(own: Vec<SampleReport>, written: Vec<SampleReport>, limit: usize) -> Vec<SampleReport> {
    let (mut own, mut written) = (own.into_iter().peekable(), written.into_iter().peekable());
    let next = move || match (own.peek(), written.peek()) {
        // Of one moment: what is not written came later.
        (Some(one), Some(other)) if one.arrived_us < other.arrived_us => written.next(),
        (Some(_), _) => own.next(),
        (None, _) => written.next(),
    };
    std::iter::from_fn(next).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::NameSource;
    use crate::shared_lists::NumberedEntry;
    use crate::test_reports::asker;

    const OWN: u32 = 7;

    fn lists() -> (Lists, Arc<SharedLists>) {
        let registry = Arc::new(Registry::new(1_000, 3_600));
        registry.admit(NameSource::Client, Some("edge-1"), &mut [("rps", None)], 1).expect("room");
        let shared = Arc::new(SharedLists::new(OWN, 5));
        (Lists::new(asker().0, registry, Some(shared.clone()), 60_000_000), shared)
    }

    fn query(device: Option<&str>, is_local: bool) -> LatestQuery<'_> {
        LatestQuery { device, limit: 3, since_us: i64::MIN, is_local }
    }

    fn at(wall_us: i64) -> Now {
        Now { monotonic_ns: 1, wall_us }
    }

    fn sample(number: u64, replica: u32, device: &str, began_us: i64) -> NumberedEntry {
        let (device, readings) = (Some(device.into()), vec![("rps".into(), 1.0)]);
        let mut body = Vec::new();
        SampleBody { device, timestamp_us: 3, readings }.write(&mut body);
        let entry = ListEntry { began_us, offset_us: 0, change: 0, body };
        NumberedEntry { number, replica, serial: number, entry }
    }

    #[test]
    fn samples_of_all_are_joined_with_those_that_are_only_here() {
        let (lists, shared) = lists();
        // The analytics double has samples that arrived at 1, as many as are asked for.
        let arrivals = |query, now| {
            let list = lists.latest(query, now).expect("it runs");
            let rows = list.rows.iter().map(|row| row.arrived_us).collect::<Vec<_>>();
            (list.scope.is_cluster, rows)
        };
        assert_eq!(arrivals(query(None, false), at(9)), (false, vec![1; 3]), "not yet known");
        shared.reached(-2);
        let read =
            vec![sample(1, 1, "edge-1", 10), sample(2, 1, "edge-2", 2), sample(3, OWN, "x", 9)];
        shared.add(ListKind::Samples, read);
        assert_eq!(arrivals(query(None, false), at(9)), (true, vec![10, 9, 3]));
        assert_eq!(arrivals(query(Some("edge-2"), false), at(9)), (true, vec![2]));
        assert_eq!(arrivals(query(Some("edge-1"), false), at(9)), (true, vec![10, 3, 3]));
        assert_eq!(arrivals(query(None, true), at(9)), (false, vec![1; 3]));
        let now = at(60_000_010);
        assert_eq!(arrivals(query(None, false), now), (true, vec![10, 3, 3]), "after --ttl");
    }

    #[test]
    fn an_anomaly_that_changed_here_keeps_its_place() {
        let (lists, shared) = lists();
        shared.reached(0);
        // The double has three anomalies that began at 0, with serials and changes 1 to 3.
        let found = |lists: &Lists, query| {
            let list = lists.anomalies(query).expect("it runs");
            let row = |row: &ListedAnomaly| (row.replica.expect("one"), row.report.serial);
            list.rows.iter().map(row).collect::<Vec<_>>()
        };
        assert_eq!(found(&lists, query(None, false)), [(OWN, 3), (OWN, 2), (OWN, 1)]);
        let report = lists.own_anomalies(&query(None, true), None).expect("it runs").remove(0);
        let entry = |number, replica, serial, began_us| {
            let body = crate::analytics::write_listed(&report);
            let entry = ListEntry { began_us, offset_us: 0, change: 1, body };
            NumberedEntry { number, replica, serial, entry }
        };
        shared.add(ListKind::Anomalies, vec![entry(1, OWN, 2, 20), entry(2, 9, 1, 10)]);
        assert_eq!(found(&lists, query(None, false)), [(OWN, 2), (9, 1), (OWN, 3)]);
        assert_eq!(found(&lists, query(Some("edge-2"), false)), [(0, 0); 0]);
        assert_eq!(found(&lists, query(None, true)), [(OWN, 3), (OWN, 2), (OWN, 1)]);
    }
}
