//! Which streams have a history of a day, and what is written into it.
//!
//! The fleet's usual series are recorded always. A stream of a device is recorded from the moment that it is in an
//! open incident, or that somebody looks at it (the page of a device, a pinned device, `/history`), and for a day
//! after that. [`STREAMS_MAX`] bounds them all: the stream that nobody wanted for the longest time makes room.
//! A recording begins with the samples that `/latest` still has.
//!
//! With Redis replicas exchange what they have recorded (`shared`), so each answers for all of them.

mod page;
mod saved;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::counters::EventsCounters;
use super::day::{DAY_S, Day, POINT_S};
use super::figures;
use super::streams::{HistoryQuery, HistoryReport, STREAMS_MAX, StreamName, make_room};
use crate::analytics::Asker;
use crate::analytics::report::{
    MetricReport, SAMPLES_REPORTED_MAX, Scope, SeriesQuery, SeriesSelection, WindowsReport,
};
use crate::cluster_scope::ClusterScope;
use crate::incidents::shared::Incidents;
use crate::lists::{LatestQuery, Lists};
use crate::registry::Registry;
use crate::shared_history::SharedHistory;
use shared::SharedDays;
use sigmad_clock::Now;
use sigmad_incidents::incident::{Incident, State};
use sigmad_incidents::list::ListQuery;
use sigmad_sample::DeviceId;

/// Interval between looks at the windows: a window of 50 has all values of a stream with 25 a second.
const LOOK_MS: u64 = 2_000;
/// Interval between looks at the open incidents.
const INCIDENTS_MS: u64 = 10_000;
/// Open incidents whose members are recorded.
const INCIDENTS_RECORDED_MAX: usize = 16;
/// Members of an incident that are recorded, in the order of onset.
const MEMBERS_RECORDED_MAX: usize = 3;
/// Series of a device for which none are named: as many as the fleet has charts.
const SERIES_OF_DEVICE_MAX: usize = 4;

#[derive(Debug)]
struct Recorded {
    day: Day,
    /// Values and anomalies that were counted at the last look; None before the first.
    counted: Option<(u64, u64)>,
    /// Restored, and not looked at since: what the window has is of another time.
    is_restored: bool,
    /// When somebody last wanted it, milliseconds since the start.
    wanted_ms: u64,
}

/// Records, and answers `/history`.
#[derive(Debug)]
pub struct Recorder {
    asker: Asker,
    lists: Lists,
    incidents: Incidents,
    registry: Arc<Registry>,
    counters: Arc<EventsCounters>,
    streams: BTreeMap<StreamName, Recorded>,
    load: Day,
    shared: Option<SharedDays>,
    looked_ms: Option<u64>,
    incidents_ms: Option<u64>,
}

impl Recorder {
    /// A recorder of nothing so far.
    pub fn new(
        asker: Asker,
        lists: Lists,
        incidents: Incidents,
        registry: Arc<Registry>,
        counters: Arc<EventsCounters>,
    ) -> Self {
        Self {
            asker,
            lists,
            incidents,
            registry,
            counters,
            streams: BTreeMap::new(),
            load: Day::default(),
            shared: None,
            looked_ms: None,
            incidents_ms: None,
        }
    }

    /// Exchanges what is recorded with other replicas.
    #[must_use]
    pub fn sharing(self, desk: Option<Arc<SharedHistory>>) -> Self {
        let counters = self.counters.clone();
        Self { shared: desk.map(|desk| SharedDays::new(desk, counters)), ..self }
    }

    /// Adds a second of the whole server: samples accepted, and anomalies.
    pub fn add_load(&mut self, now: Now, accepted: f64, anomalies: u64) {
        self.load.add(now.wall_us, accepted);
        self.load.add_flags(now.wall_us, anomalies);
    }

    /// Looks at what is due. None once analytics has stopped.
    pub fn tick(&mut self, now: Now) -> Option<()> {
        let at_ms = now.monotonic_ms();
        if self.incidents_ms.is_none_or(|last| at_ms >= last + INCIDENTS_MS) {
            self.incidents_ms = Some(at_ms);
            self.want_incidents(now)?;
        }
        if self.looked_ms.is_none_or(|last| at_ms >= last + LOOK_MS) {
            self.looked_ms = Some(at_ms);
            self.look(now)?;
        }
        if let Some(shared) = &mut self.shared {
            shared.exchange(now, &self.load, days(&self.streams));
        }
        Some(())
    }

    /// Nothing is recorded any more: others get the ten seconds that go on, as they are.
    pub fn finish(&mut self, now: Now) {
        let after_us = now.wall_us + POINT_S * 1_000_000;
        if let Some(shared) = &mut self.shared {
            shared.exchange(Now { wall_us: after_us, ..now }, &self.load, days(&self.streams));
        }
    }

    /// The history of a device or of the fleet, which is recorded from now on.
    pub fn answer(&mut self, query: &HistoryQuery, now: Now) -> Option<HistoryReport> {
        match &query.device {
            Some(device) => self.want(Some(&Arc::from(&**device)), &query.series, now)?,
            None if !query.series.is_empty() => self.want(None, &query.series, now)?,
            None => {}
        }
        if let Some(shared) = self.shared.as_ref().filter(|_| !query.is_local) {
            return Some(shared.answer(query, now, &self.load, days(&self.streams)));
        }
        let found = self.streams.iter().filter(|(name, _)| query.is_for(name));
        let series = found.map(|(name, one)| (name.series.clone(), one.day.columns(&query.range)));
        let load = query.device.is_none().then(|| self.load.columns(&query.range));
        Some(HistoryReport { scope: ClusterScope::LOCAL, series: series.collect(), load })
    }

    /// Records these series of a device or of the fleet; without any, some of a device.
    pub fn want(&mut self, device: Option<&Arc<str>>, series: &[Box<str>], now: Now) -> Option<()> {
        let id = match device {
            None => None,
            Some(name) => match self.registry.find_device(name) {
                None => return Some(()),
                known => known,
            },
        };
        let named: Vec<Arc<str>> = if series.is_empty() {
            let windows = self.asker.windows(id, Scope::Cluster)?;
            figures::usual_first(&windows)
                .take(SERIES_OF_DEVICE_MAX)
                .map(|report| report.metric.clone())
                .collect()
        } else {
            let known = |name: &&str| self.registry.find_metric(name).is_some();
            series.iter().map(|name| &**name).filter(known).map(Arc::from).collect()
        };
        let mut begun = Vec::new();
        for series in named {
            let name = StreamName { device: device.cloned(), series };
            if let Some(known) = self.streams.get_mut(&name) {
                known.wanted_ms = now.monotonic_ms();
            } else if self.has_room(now) {
                let wanted_ms = now.monotonic_ms();
                let recorded = Recorded::new(wanted_ms);
                begun.push(name.series.clone());
                self.streams.insert(name, recorded);
            }
        }
        self.counters.history_streams.set(self.streams.len() as u64);
        if begun.is_empty() || id.is_none() {
            Some(())
        } else {
            self.begin(id, device, &begun, now)
        }
    }

    /// Makes room for another stream, if one can go that nobody wants now.
    fn has_room(&mut self, now: Now) -> bool {
        if self.streams.len() < STREAMS_MAX {
            return true;
        }
        let of_devices = self.streams.iter().filter(|(name, _)| name.device.is_some());
        let oldest = of_devices.min_by_key(|(_, one)| one.wanted_ms);
        let unwanted = oldest.filter(|(_, one)| one.wanted_ms + INCIDENTS_MS < now.monotonic_ms());
        let going = unwanted.map(|(name, _)| name.clone());
        make_room(&mut self.streams, going, &self.counters)
    }

    /// Fills new recordings with the samples that are still known.
    fn begin(
        &mut self,
        id: Option<DeviceId>,
        device: Option<&Arc<str>>,
        begun: &[Arc<str>],
        now: Now,
    ) -> Option<()> {
        // Before the samples: a value between both questions is recorded twice rather than never.
        let windows = self.windows(id, begun)?;
        let (device_name, limit) = (device.map(|name| &**name), SAMPLES_REPORTED_MAX);
        let query = LatestQuery { device: device_name, limit, since_us: i64::MIN, is_local: false };
        let newest_first = self.lists.latest(query, now)?.rows;
        for series in begun {
            let name = StreamName { device: device.cloned(), series: series.clone() };
            let Some(recorded) = self.streams.get_mut(&name) else { continue };
            for sample in newest_first.iter().rev() {
                let readings = sample.readings.iter().filter(|(metric, _)| metric == series);
                readings.for_each(|(_, value)| recorded.day.add(sample.arrived_us, *value));
            }
            let found = windows.metrics.iter().find(|report| report.metric == *series);
            recorded.counted = found.map(|report| (report.total_count, report.anomaly_count));
        }
        Some(())
    }

    /// Records the first members of open incidents.
    fn want_incidents(&mut self, now: Now) -> Option<()> {
        for state in [State::Open, State::Acknowledged] {
            let limit = INCIDENTS_RECORDED_MAX;
            let query = ListQuery { state: Some(state), limit, ..ListQuery::default() };
            // None: the thread has ended with analytics.
            let (page, _) = self.incidents.list(query, false)?;
            for incident in &page.incidents {
                self.want_members(incident, now)?;
            }
        }
        Some(())
    }

    fn want_members(&mut self, incident: &Incident, now: Now) -> Option<()> {
        for member in incident.members.iter().take(MEMBERS_RECORDED_MAX) {
            let series: Option<Box<str>> = member.series.as_deref().map(Box::from);
            if member.device.is_some() || series.is_some() {
                self.want(member.device.as_ref(), series.as_slice(), now)?;
            }
        }
        Some(())
    }

    /// Adds the values since the last look to each recorded stream.
    fn look(&mut self, now: Now) -> Option<()> {
        let fleet = self.asker.windows(None, Scope::Cluster)?;
        for report in figures::usual_first(&fleet).take(SERIES_OF_DEVICE_MAX) {
            let name = StreamName { device: None, series: report.metric.clone() };
            let wanted_ms = now.monotonic_ms();
            if self.streams.contains_key(&name) || self.has_room(now) {
                let recorded = self.streams.entry(name).or_insert(Recorded::new(wanted_ms));
                recorded.wanted_ms = wanted_ms;
            }
        }
        let oldest_ms = now.monotonic_ms().saturating_sub(DAY_S as u64 * 1_000);
        self.streams.retain(|_, one| one.wanted_ms >= oldest_ms);
        self.counters.history_streams.set(self.streams.len() as u64);
        let mut by_device: BTreeMap<Option<Arc<str>>, Vec<Arc<str>>> = BTreeMap::new();
        for name in self.streams.keys() {
            by_device.entry(name.device.clone()).or_default().push(name.series.clone());
        }
        for (device, series) in by_device {
            let id = match &device {
                None => None,
                Some(name) => match self.registry.find_device(name) {
                    // Forgotten, or idle for long; it may come back.
                    None => continue,
                    known => known,
                },
            };
            for report in &self.windows(id, &series)?.metrics {
                let name = StreamName { device: device.clone(), series: report.metric.clone() };
                if let Some(recorded) = self.streams.get_mut(&name) {
                    recorded.take(report, now);
                }
            }
        }
        Some(())
    }

    fn windows(&self, device: Option<DeviceId>, series: &[Arc<str>]) -> Option<WindowsReport> {
        let named = series.iter().filter_map(|name| self.registry.find_metric(name)).collect();
        let (selection, limit) = (SeriesSelection::Named(named), series.len());
        self.asker.series(SeriesQuery { device, scope: Scope::Cluster, selection, limit })
    }
}

fn days(
    streams: &BTreeMap<StreamName, Recorded>,
) -> impl Iterator<Item = (&StreamName, &Day)> + Clone {
    streams.iter().map(|(name, one)| (name, &one.day))
}

impl Recorded {
    fn new(wanted_ms: u64) -> Self {
        Self { day: Day::default(), counted: None, is_restored: false, wanted_ms }
    }

    /// Adds the values that are new in a window: of those that have left it already, none.
    fn take(&mut self, report: &MetricReport, now: Now) {
        let counted = (report.total_count, report.anomaly_count);
        if std::mem::take(&mut self.is_restored) {
            self.counted = Some(counted);
            return;
        }
        // Of a stream without a past only the newest value is known to be of now.
        let before =
            self.counted.replace(counted).unwrap_or((counted.0.saturating_sub(1), counted.1));
        // Fewer than before: the device was forgotten, and has come back.
        let values = counted.0.checked_sub(before.0).unwrap_or(counted.0);
        let flags = counted.1.checked_sub(before.1).unwrap_or(counted.1);
        let from = report.values.len().saturating_sub(values.try_into().unwrap_or(usize::MAX));
        report.values[from..].iter().for_each(|value| self.day.add(now.wall_us, *value));
        self.day.add_flags(now.wall_us, flags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::day::DayRange;
    use crate::incidents::events::EventSender;
    use crate::incidents::thread::running;
    use crate::registry::NameSource;
    use crate::test_reports::{HOSTILE, asker};
    use sigmad_incidents::event::Event;

    const T0_US: i64 = 1_735_100_000_000_000;

    fn at(ms: u64) -> Now {
        Now { monotonic_ns: ms * 1_000_000, wall_us: T0_US + ms as i64 * 1_000 }
    }

    fn test() -> (Recorder, EventSender) {
        let registry = Arc::new(Registry::new(1_000, 3_600));
        for device in 0..200 {
            let (name, mut metrics) = (format!("d{device}"), [("rps", None), (HOSTILE, None)]);
            registry.admit(NameSource::Client, Some(&name), &mut metrics, 1).expect("room");
        }
        let (incidents, events) = running(registry.clone());
        let incidents = Incidents::new(incidents, None);
        let asker = asker().0;
        let lists = Lists::new(asker.clone(), registry.clone(), None, i64::MAX / 4);
        (Recorder::new(asker, lists, incidents, registry, Arc::default()), events)
    }

    fn query(device: Option<&str>, series: &[&str]) -> HistoryQuery {
        HistoryQuery {
            device: device.map(Box::from),
            series: series.iter().map(|name| Box::from(*name)).collect(),
            range: DayRange::new(T0_US - 1_000_000_000, T0_US + 1_000_000_000, 720),
            is_local: false,
        }
    }

    #[test]
    fn the_fleet_is_recorded_from_the_start() {
        let (mut recorder, _events) = test();
        recorder.add_load(at(0), 500.0, 3);
        for second in 0..30 {
            recorder.tick(at(second * 1_000)).expect("it runs");
        }
        let report = recorder.answer(&query(None, &[]), at(30_000)).expect("it runs");
        let names: Vec<&str> = report.series.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, [HOSTILE, "rps"]);
        // The analytics double has always the same values, of which the first is counted.
        assert_eq!(report.series[1].1.max.iter().flatten().collect::<Vec<_>>(), [&1e15]);
        let load = report.load.expect("of the fleet");
        assert_eq!(load.mean.iter().flatten().collect::<Vec<_>>(), [&500.0]);
        assert_eq!(load.flags.iter().sum::<u64>(), 3);
        let chosen = recorder.answer(&query(None, &["rps", "unknown"]), at(30_000));
        assert_eq!(chosen.expect("it runs").series.len(), 1);
    }

    #[test]
    fn what_was_recorded_is_restored() {
        let (mut recorder, _events) = test();
        recorder.add_load(at(0), 500.0, 3);
        recorder.answer(&query(Some("d7"), &["rps"]), at(0)).expect("it runs");
        for second in 0..30 {
            recorder.tick(at(second * 1_000)).expect("it runs");
        }
        let saved = recorder.saved();
        let (mut other, _events) = test();
        assert!((0..saved.len()).all(|length| other.restore(&saved[..length]).is_none()));
        assert_eq!(other.streams.len(), 0);
        other.restore(&saved).expect("it was saved");
        assert_eq!(other.counters.history_streams.get(), 3);
        // What the windows have was recorded before, or is of another time.
        other.tick(at(60_000)).expect("it runs");
        let fleet = other.answer(&query(None, &[]), at(0)).expect("it runs");
        assert_eq!(fleet.series[1].1.max.iter().flatten().collect::<Vec<_>>(), [&1e15]);
        for asked in [query(None, &[]), query(Some("d7"), &["rps"])] {
            let shown = [&mut recorder, &mut other].map(|one| {
                let report = one.answer(&asked, at(0)).expect("it runs");
                format!("{report:?}")
            });
            assert_eq!(shown[0], shown[1]);
        }
        let count = |recorder: &Recorder| -> Vec<Option<(u64, u64)>> {
            recorder.streams.values().map(|one| one.counted).collect()
        };
        assert_eq!(count(&other), count(&recorder), "from here on");
    }

    #[test]
    fn a_device_is_recorded_once_somebody_asks() {
        let (mut recorder, _events) = test();
        let report = recorder.answer(&query(Some("d7"), &[]), at(0)).expect("it runs");
        assert_eq!(report.series.len(), 2);
        assert!(report.load.is_none());
        assert_eq!(recorder.counters.history_streams.get(), 2);
        let unknown = recorder.answer(&query(Some("nobody"), &["rps"]), at(0)).expect("it runs");
        assert!(unknown.series.is_empty());
        // A day later nobody has asked again.
        recorder.tick(at(DAY_S as u64 * 1_000 + 1)).expect("it runs");
        assert!(recorder.streams.keys().all(|name| name.device.is_none()));
    }

    #[test]
    fn members_of_open_incidents_are_recorded() {
        let (mut recorder, events) = test();
        events.send(Event::Deviation {
            device: Some("d3".into()),
            series: "rps".into(),
            at_us: T0_US,
            value: 9.0,
            usual: 1.0,
            low: 0.0,
            high: 2.0,
            score: 1.5,
        });
        let (at_us, since_us) = (T0_US, T0_US - 60_000_000);
        let device = Arc::from("d4");
        events.send(Event::Silence { device, since_us, at_us, usual_interval_us: 1 });
        recorder.tick(at(0)).expect("it runs");
        let names = |recorder: &Recorder| -> Vec<(Option<Arc<str>>, Arc<str>)> {
            let all = recorder.streams.keys();
            all.map(|name| (name.device.clone(), name.series.clone())).collect()
        };
        let of = |device: &str, series: &str| (Some(Arc::from(device)), Arc::from(series));
        let found = names(&recorder);
        for name in [of("d3", "rps"), of("d4", "rps"), of("d4", HOSTILE)] {
            assert!(found.contains(&name), "{found:?}");
        }
    }

    #[test]
    fn who_was_wanted_longest_ago_makes_room() {
        let (mut recorder, _events) = test();
        recorder.tick(at(0)).expect("it runs");
        for device in 0..100 {
            let name = format!("d{device}");
            recorder.answer(&query(Some(&name), &["rps"]), at(device * 1_000)).expect("it runs");
            assert!(recorder.streams.len() <= STREAMS_MAX);
        }
        let has = |recorder: &Recorder, device: &str| {
            recorder.streams.keys().any(|name| name.device.as_deref() == Some(device))
        };
        assert!(has(&recorder, "d99") && !has(&recorder, "d0"));
        let fleet = recorder.streams.keys().filter(|name| name.device.is_none()).count();
        assert_eq!(fleet, 2, "the fleet stays");
        assert_eq!(recorder.counters.history_refused_total.get(), 0);
        assert_eq!(recorder.counters.history_evicted_total.get(), 102 - STREAMS_MAX as u64);
        // All at once: those that are wanted now stay.
        for device in 100..200 {
            let name = format!("d{device}");
            recorder.answer(&query(Some(&name), &["rps"]), at(900_000)).expect("it runs");
        }
        assert!(has(&recorder, "d100") && !has(&recorder, "d199"));
        assert!(recorder.counters.history_refused_total.get() > 0);
        assert!(recorder.streams.len() <= STREAMS_MAX);
    }
}
