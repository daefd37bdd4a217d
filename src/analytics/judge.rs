//! Judges samples by their windows, and reports what was judged.

mod handover;
mod listed;
mod past;
mod saved;
mod series;
mod walk;

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::Sender;
use sigmad_detectors::DetectorSettings;
use sigmad_incidents::event::Event;
use sigmad_sample::{Batch, DeviceId, MetricId};

use crate::analytics::anomalies::{AnomalyLog, AnomalyNumbers};
use crate::analytics::arena::{Arena, StreamIndex};
use crate::analytics::devices::DeviceWindows;
use crate::analytics::fleet::{FleetWindows, most_used};
use crate::analytics::last_sample::LastSample;
use crate::analytics::merge::ReplicaMerge;
use crate::analytics::metrics::KnownMetrics;
use crate::analytics::names::NameLookup;
use crate::analytics::onset_settings::OnsetSettings;
use crate::analytics::report::{
    AnomaliesQuery, AnomaliesReport, DevicesQuery, MetricReport, PartTotals, RankedDevice, Scope,
    TotalsReport, WatchedStreams, WindowsReport,
};
use crate::analytics::saved::export::Export;
use crate::analytics::scan::DeviceScan;
use crate::analytics::silence::SilenceWatch;
use crate::judged_queue::{JudgedCounts, SharedWindows};
use crate::shards::ShardPart;

/// Seconds between searches for streams that deviate and are not heard.
const UNHEARD_EVERY_S: u32 = 60;

/// How samples are judged.
#[derive(Clone, Debug)]
pub struct AnalyticsSettings {
    /// Values in a window, 1 to [`WINDOW_MAX`](sigmad_detectors::window::WINDOW_MAX).
    pub window: usize,
    /// Which detectors run.
    pub detectors: DetectorSettings,
    /// How streams are judged for incidents. None: they are not.
    pub onsets: Option<OnsetSettings>,
}

impl Default for AnalyticsSettings {
    fn default() -> Self {
        Self { window: 50, detectors: DetectorSettings::default(), onsets: None }
    }
}

/// The windows of one shard, and the anomalies found in them.
#[derive(Debug)]
pub struct Analytics {
    part: ShardPart,
    metrics: KnownMetrics,
    fleet: FleetWindows,
    devices: DeviceWindows,
    anomalies: AnomalyLog,
    /// Samples judged, each counted by one shard: that of its device, or the fleet's.
    samples: u64,
    /// Of those, the ones that were restored as of the replica that it was before.
    listed_before: u64,
    /// Values whose names were evicted on the way here, counted by the fleet's shard.
    unnamed_values: u64,
    onsets: Option<OnsetSettings>,
    silence: Option<SilenceWatch>,
    /// The last second in which what time brings was looked for.
    ticked_s: u32,
    /// The evictions that the last search for streams of evicted metrics began after.
    evictions: u64,
    merge: ReplicaMerge,
    scans: VecDeque<DeviceScan>,
    /// The snapshot under way.
    export: Option<Box<Export>>,
}

impl Analytics {
    /// All windows, without samples.
    pub fn new(settings: AnalyticsSettings, names: NameLookup) -> Self {
        Self::of_part(ShardPart::Whole, settings, names, AnomalyNumbers::default())
    }

    /// The windows of one shard, without samples. All shards share `numbers`.
    pub fn of_part(
        part: ShardPart,
        settings: AnalyticsSettings,
        names: NameLookup,
        numbers: AnomalyNumbers,
    ) -> Self {
        let AnalyticsSettings { window, detectors, onsets } = settings;
        let arena = |streams_max: fn(&OnsetSettings) -> usize| {
            let arena = Arena::new(window, detectors.clone());
            match &onsets {
                Some(onsets) => arena.watched(onsets.watches(streams_max(onsets))),
                None => arena,
            }
        };
        Self {
            part,
            metrics: KnownMetrics::new(names),
            fleet: FleetWindows::new(arena(|onsets| onsets.fleet_streams_max)),
            devices: DeviceWindows::new(arena(|onsets| onsets.streams_max)),
            anomalies: AnomalyLog::new(numbers),
            samples: 0,
            listed_before: 0,
            unnamed_values: 0,
            silence: onsets.as_ref().map(|onsets| onsets.silence_watch(part.has_fleet())),
            onsets,
            ticked_s: 0,
            evictions: 0,
            merge: ReplicaMerge::default(),
            scans: VecDeque::new(),
            export: None,
        }
    }

    /// What this shard judges by.
    pub fn part(&self) -> ShardPart {
        self.part
    }

    /// How many samples of a batch this shard counts, so that each sample is counted by one shard.
    pub fn samples_counted(&self, batch: &Batch) -> usize {
        match self.part {
            ShardPart::Whole | ShardPart::Devices => batch.len(),
            ShardPart::Fleet => batch.iter().filter(|(sample, _)| sample.device.is_none()).count(),
        }
    }

    /// Applies what other replicas have changed. A device that is new here is opened, unless it has been
    /// evicted.
    pub fn apply(&mut self, shared: &SharedWindows) {
        if self.export.is_some()
            && let Some(id) = shared.device
        {
            self.take_before_update(id);
        }
        let Self { fleet, devices, metrics, merge, .. } = self;
        match shared.device {
            None => {
                // What Redis has of this replica before its restart, and its disk has not.
                self.samples = match self.part {
                    ShardPart::Fleet => {
                        self.samples + shared.own_total.saturating_sub(fleet.samples)
                    }
                    ShardPart::Whole | ShardPart::Devices => self.samples.max(shared.own_total),
                };
                fleet.apply(shared, metrics, merge);
            }
            Some(id) => devices.apply(id, shared, metrics, merge),
        }
    }

    /// The name of a device that has windows. None once another device has its entry.
    pub fn device_name(&self, id: DeviceId) -> Option<&Arc<str>> {
        self.devices.get(id)?.name.as_ref()
    }

    /// The name of a metric, None once it has been evicted.
    pub fn metric_name(&self, id: MetricId) -> Option<Arc<str>> {
        self.metrics.name(id)
    }

    /// The windows of one device, or of the fleet: those with the most values, where there are many. Empty for
    /// a device without windows.
    pub fn windows(&self, device: Option<DeviceId>, scope: Scope) -> WindowsReport {
        let Some(id) = device else {
            let FleetWindows { arena, last, samples, others, .. } = &self.fleet;
            let reported = self.fleet.reported();
            let other_metrics = self.fleet.streams() - reported.len();
            let reports =
                reported.iter().map(|f| self.metric_report(arena, f.metric, f.place, scope));
            return WindowsReport {
                metrics: reports.flatten().collect(),
                other_metrics,
                last_timestamp_us: last_timestamp(last, *samples, *others, scope),
                synced_at_us: None,
            };
        };
        let Some(device) = self.devices.get(id) else {
            return WindowsReport::default();
        };
        let arena = &self.devices.arena;
        let streams = most_used(device.streams.to_vec(), arena);
        let other_metrics = device.streams.len() - streams.len();
        let reports = streams.iter().map(|s| self.metric_report(arena, s.metric, s.place, scope));
        WindowsReport {
            metrics: reports.flatten().collect(),
            other_metrics,
            last_timestamp_us: last_timestamp(&device.last, device.own.total, device.others, scope),
            synced_at_us: None,
        }
    }

    /// One stream. None when it has no values of that scope.
    fn metric_report(
        &self,
        arena: &Arena,
        metric: MetricId,
        place: StreamIndex,
        scope: Scope,
    ) -> Option<MetricReport> {
        let (all, ring_of_all) = arena.get(place);
        let (stream, ring, counts) = match scope {
            Scope::Cluster => (all, ring_of_all, all.own + all.others),
            Scope::Local => {
                let (own, ring) = arena.own(place)?;
                (own, ring, all.own)
            }
        };
        if stream.window.count() == 0 {
            // Opened for its detector states.
            return None;
        }
        let (moments, verdict) = (stream.window.moments(), stream.verdict.verdict());
        let mut values = Vec::with_capacity(stream.window.count());
        values.extend(stream.window.values(ring));
        Some(MetricReport {
            metric: self.metric_name(metric)?,
            values,
            mean: moments.mean,
            std_dev: moments.std_dev(),
            verdict,
            findings: arena.states().findings(all.state, &verdict),
            total_count: counts.total,
            anomaly_count: counts.anomalies,
            folded_values: arena.learned(place),
        })
    }

    /// The latest anomalies, newest first.
    pub fn anomalies(&self, query: &AnomaliesQuery) -> AnomaliesReport {
        let detectors = self.devices.arena.states().settings();
        self.anomalies.latest(query, detectors)
    }

    /// The counts since the start, of a shard that has all windows.
    pub fn totals(&self) -> TotalsReport {
        TotalsReport::merge(vec![self.part_totals()])
    }

    /// The counts of this shard since the start.
    pub fn part_totals(&self) -> PartTotals {
        let listed = self.fleet.reported().into_iter();
        let counted = self.metrics.iter().filter(|known| known.anomalies > 0);
        PartTotals {
            samples: self.samples,
            listed: listed.filter_map(|f| Some((f.metric, self.metric_name(f.metric)?))).collect(),
            metrics: self.fleet.streams(),
            anomalies: counted.map(|known| (known.metric, known.anomalies)).collect(),
            unnamed_values: self.unnamed_values,
            devices: self.devices.occupied(),
            streams: self.devices.arena.in_use(),
            watched: self.watched(),
        }
    }

    /// How many streams are judged for incidents, and how many are not so far.
    fn watched(&self) -> WatchedStreams {
        let Some(of_devices) = self.devices.arena.watches() else {
            return WatchedStreams::default();
        };
        let unjudged = self.devices.arena.in_use() - of_devices.in_use();
        let mut watched = WatchedStreams { unjudged, ..WatchedStreams::default() };
        for watches in [Some(of_devices), self.fleet.arena.watches()].into_iter().flatten() {
            watched.judged += watches.learned();
            watched.learning += watches.in_use() - watches.learned();
        }
        watched
    }

    /// Does what time brings, in each second of arrivals and of the clock. In any other second it is nothing.
    #[inline]
    pub fn tick(&mut self, now_us: i64) {
        let now_s = LastSample::seconds(now_us);
        if now_s > self.ticked_s {
            self.tick_second(now_us, now_s);
        }
    }

    /// Whether time brings anything while nobody is heard.
    pub fn needs_ticks(&self) -> bool {
        self.silence.as_ref().is_some_and(SilenceWatch::needs_ticks)
    }

    #[cold]
    fn tick_second(&mut self, now_us: i64, now_s: u32) {
        if let Some(silence) = &mut self.silence {
            silence.tick(now_us, &mut self.devices);
        }
        let is_due = now_s / UNHEARD_EVERY_S > self.ticked_s / UNHEARD_EVERY_S;
        self.ticked_s = now_s;
        if let Some(&OnsetSettings { idle_us, .. }) = self.onsets.as_ref()
            && is_due
        {
            let DeviceWindows { onsets, arena, .. } = &mut self.devices;
            onsets.end_unheard(arena, now_us, idle_us);
            let FleetWindows { onsets, arena, .. } = &mut self.fleet;
            onsets.end_unheard(arena, now_us, idle_us);
        }
    }

    /// Passes on the events since the last call, in their order.
    #[inline]
    pub fn pass_events(&mut self, mut to: impl FnMut(Event)) {
        for onsets in [&mut self.devices.onsets, &mut self.fleet.onsets] {
            if !onsets.is_empty() {
                onsets.drain().for_each(&mut to);
            }
        }
    }

    /// Queues a scan of all devices, which [`Analytics::advance`] advances.
    pub fn scan_devices(&mut self, query: DevicesQuery, reply: Sender<Vec<RankedDevice>>) {
        self.scans.push_back(DeviceScan::new(query, reply));
    }

    /// Advances what is done in steps: the first scan, and giving back streams of evicted metrics. False when
    /// there is nothing to do.
    pub fn advance(&mut self) -> bool {
        let has_freed = self.free_stale();
        let Some(scan) = self.scans.front_mut() else {
            return has_freed;
        };
        if scan.advance(&self.devices, &self.metrics) {
            let scan = self.scans.pop_front().expect("it was at the front");
            scan.reply(&self.devices, &self.metrics);
        }
        true
    }

    /// Takes one step in giving back the streams whose metrics were evicted. False if there is nothing to do.
    fn free_stale(&mut self) -> bool {
        if self.export.is_some() {
            // What the snapshot has not taken so far must stay.
            return false;
        }
        if self.devices.free_stale(&self.metrics) {
            return true;
        }
        let evictions = self.metrics.evictions();
        if self.evictions == evictions {
            return false;
        }
        self.evictions = evictions;
        self.fleet.free_stale(&self.metrics);
        self.metrics.remove_stale();
        self.devices.begin_free_stale();
        true
    }
}

fn last_timestamp(last: &LastSample, own: u64, others: JudgedCounts, scope: Scope) -> Option<i64> {
    match scope {
        Scope::Cluster => (own > 0 || others.total > 0).then_some(last.timestamp_us),
        Scope::Local => (own > 0).then_some(last.own_timestamp_us),
    }
}

#[cfg(test)]
mod batch_tests;
#[cfg(test)]
mod handover_tests;
#[cfg(test)]
mod onset_tests;
#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod shard_tests;
#[cfg(test)]
mod tests;
