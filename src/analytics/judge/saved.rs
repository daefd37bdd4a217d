//! Snapshots of a shard, and a shard from one.

use super::Analytics;
use crate::analytics::devices::DeviceWindows;
use crate::analytics::fleet::FleetWindows;
use crate::analytics::latest::LatestSamples;
use crate::analytics::onset_settings::OnsetSettings;
use crate::analytics::saved::export::{Export, Rings};
use crate::analytics::saved::form::{
    RecordKind, SavedAnomaly, SavedDevice, SavedFleet, SavedForm, SavedMetric, SavedSilences,
    SavedTotals,
};
use crate::analytics::silence::KnownSilences;
use sigmad_detectors::saved::Saved;
use sigmad_incidents::event::Event;
use sigmad_incidents::silence::cadence::Cadence;
use sigmad_incidents::silence::returns::Returns;
use sigmad_incidents::watches::Restored;
use sigmad_sample::{Batch, DeviceId, MetricId};

impl Analytics {
    /// Begins a snapshot of what is known now. It replaces one that is under way.
    pub fn begin_snapshot(&mut self, latest: &LatestSamples) {
        let Self { fleet, devices, anomalies, metrics, .. } = &*self;
        let rings = Rings::new(anomalies.saved().collect(), latest.clone());
        let mut export = Export::begin(devices, fleet, metrics, rings);
        export.take_value(RecordKind::Form, &devices.arena.saved_form());
        let (serial, change) = anomalies.numbers().given();
        let totals = SavedTotals {
            samples: self.samples,
            unnamed_values: self.unnamed_values,
            begun: anomalies.begun(),
            serial,
            change,
        };
        export.take_value(RecordKind::Totals, &totals);
        if self.part.has_fleet() {
            let saved = SavedFleet {
                samples: fleet.samples,
                last: fleet.last,
                own_seen_s: fleet.own_seen_s,
            };
            export.take_value(RecordKind::Fleet, &saved);
        }
        if let Some(silence) = &self.silence {
            export.take_value(RecordKind::Silences, &silence.saved());
            export.take_value(RecordKind::Returns, silence.returns());
        }
        self.export = Some(Box::new(export));
    }

    /// Whether a snapshot is under way.
    pub fn is_exporting(&self) -> bool {
        self.export.is_some()
    }

    /// Takes what a batch would change.
    #[cold]
    pub(super) fn take_before(&mut self, batch: &Batch) {
        let Self { export, devices, fleet, metrics, silence, .. } = self;
        if let Some(export) = export {
            export.take_before(batch, devices, fleet, metrics, silence.as_ref());
        }
    }

    /// Takes what an update of other replicas would change of a device that is to be written: its entry may be of an evicted one.
    #[cold]
    pub(super) fn take_before_update(&mut self, id: DeviceId) {
        let Self { export, devices, metrics, silence, .. } = self;
        if let Some(export) = export {
            export.take_of_device(id, |_| false, devices, metrics, silence.as_ref());
        }
    }

    /// Takes a bounded part of what is left of the snapshot. False if there is nothing left.
    pub fn step_snapshot(&mut self) -> bool {
        let Self { export, devices, fleet, metrics, silence, .. } = self;
        export.as_mut().is_some_and(|export| export.step(devices, fleet, metrics, silence.as_ref()))
    }

    /// A block of the snapshot that is to be written next.
    pub fn next_block(&mut self) -> Option<Vec<u8>> {
        self.export.as_mut()?.next_block()
    }

    /// Ends the snapshot once all its blocks were handed out. False if it goes on, or there is none.
    pub fn end_snapshot(&mut self) -> bool {
        let is_done = self.export.as_ref().is_some_and(|export| export.is_done());
        if is_done {
            self.export = None;
        }
        is_done
    }

    /// Whether the snapshot will have to be given up if the disk does not take it faster.
    pub fn is_snapshot_late(&self) -> bool {
        self.export.as_ref().is_some_and(|export| export.is_late())
    }

    /// Gives the snapshot up if more of it waits than may, and returns it.
    pub fn give_up_if_behind(&mut self) -> Option<Box<Export>> {
        self.export.take_if(|export| export.is_behind())
    }

    pub(crate) fn restore_totals(&mut self, totals: &SavedTotals) {
        self.samples += totals.samples;
        self.unnamed_values += totals.unnamed_values;
        self.anomalies.restore_begun(totals.begun);
        self.anomalies.numbers().go_on_after(totals.serial, totals.change);
    }

    pub(crate) fn restore_fleet(&mut self, saved: &SavedFleet) {
        self.fleet.samples = saved.samples;
        self.fleet.last = saved.last;
        self.fleet.own_seen_s = saved.own_seen_s;
    }

    pub(crate) fn restore_metric(&mut self, saved: &SavedMetric) -> bool {
        let known = self.metrics.admit(saved.metric);
        known.map(|known| known.anomalies += saved.anomalies).is_some()
    }

    pub(crate) fn restore_device(&mut self, saved: &SavedDevice) -> bool {
        self.devices.restore(saved, &mut self.metrics)
    }

    pub(crate) fn restore_fleet_stream(
        &mut self,
        form: &SavedForm,
        mut from: &[u8],
    ) -> Option<usize> {
        let metric = MetricId::read(&mut from)?;
        self.fleet.restore_stream(metric, form, from, &mut self.metrics)
    }

    pub(crate) fn restore_stream(&mut self, form: &SavedForm, mut from: &[u8]) -> Option<usize> {
        let id = DeviceId::read(&mut from)?;
        let metric = MetricId::read(&mut from)?;
        self.devices.restore_stream(id, metric, form, from)
    }

    pub(crate) fn restore_silences(&mut self, saved: SavedSilences) {
        if let Some(silence) = &mut self.silence {
            silence.restore(saved);
        }
    }

    pub(crate) fn restore_returns(&mut self, saved: &Returns) {
        if let Some(silence) = &mut self.silence {
            silence.restore_returns(saved);
        }
    }

    pub(crate) fn restore_cadence(&mut self, mut from: &[u8]) -> Option<()> {
        let id = DeviceId::read(&mut from)?;
        let cadence = Cadence::read(&mut from)?;
        let Some(silence) = &mut self.silence else { return Some(()) };
        silence.restore_cadence(id, cadence, &self.devices).then_some(())
    }

    pub(crate) fn restore_fleet_watch(&mut self, mut from: &[u8]) -> Option<Restored> {
        let metric = MetricId::read(&mut from)?;
        let place = self.fleet.get(metric)?.place;
        let FleetWindows { onsets, arena, .. } = &mut self.fleet;
        let restored = arena.read_watch(place, from)?;
        onsets.restore(arena, (None, metric, place), &self.metrics);
        Some(restored)
    }

    pub(crate) fn restore_watch(&mut self, mut from: &[u8]) -> Option<Restored> {
        let id = DeviceId::read(&mut from)?;
        let metric = MetricId::read(&mut from)?;
        let device = self.devices.get(id)?;
        let (name, place) = (device.name.clone(), device.streams[device.find(metric, 0)?].place);
        let DeviceWindows { onsets, arena, .. } = &mut self.devices;
        let restored = arena.read_watch(place, from)?;
        onsets.restore(arena, (name.as_ref(), metric, place), &self.metrics);
        Some(restored)
    }

    /// Goes on once everything is restored, and returns an onset of all that is wrong. `known`: which silences were
    /// known of before.
    pub fn begin_again(&mut self, now_us: i64, known: &KnownSilences) -> Vec<Event> {
        let Some(&OnsetSettings { idle_us, .. }) = self.onsets.as_ref() else { return Vec::new() };
        let mut standing = Vec::new();
        if let Some(silence) = &mut self.silence {
            standing.extend(silence.begin_again(known, &self.devices));
        }
        let DeviceWindows { onsets, arena, .. } = &mut self.devices;
        onsets.end_unheard(arena, now_us, idle_us);
        standing.extend(onsets.standing(arena));
        let FleetWindows { onsets, arena, .. } = &mut self.fleet;
        onsets.end_unheard(arena, now_us, idle_us);
        standing.extend(onsets.standing(arena));
        standing
    }

    /// Adds an anomaly. Streams are restored before.
    pub(crate) fn restore_anomaly(&mut self, saved: SavedAnomaly) {
        let subject = (saved.device, saved.metric);
        let Some(open) = self.anomalies.restore(saved) else { return };
        let has_stream = match subject.0 {
            Some(id) => self.devices.restore_open(id, subject.1, open),
            None => self.fleet.restore_open(subject.1, open),
        };
        if !has_stream {
            // There will be no next value, so the next batch ends it.
            self.devices.left_open.push((open, subject));
        }
    }
}
