//! The fleet's streams for snapshots, and from them.

use super::FleetWindows;
use crate::analytics::anomalies::OpenAnomaly;
use crate::analytics::arena::MetricStream;
use crate::analytics::metrics::KnownMetrics;
use crate::analytics::saved::form::SavedForm;
use sigmad_sample::MetricId;

impl FleetWindows {
    /// The stream in the slot of a metric, whichever name has it.
    pub fn in_slot(&self, metric: MetricId) -> Option<MetricStream> {
        *self.slots.get(metric.slot())?
    }

    /// The first stream in the slots from `at` on, with its slot.
    pub fn stream_from(&self, at: usize) -> Option<(usize, MetricStream)> {
        let mut slots = self.slots.iter().enumerate().skip(at);
        slots.find_map(|(slot, stream)| Some((slot, (*stream)?)))
    }

    /// Opens a stream, and gives it what was written, as [`Arena::read`](super::Arena::read).
    pub fn restore_stream(
        &mut self,
        metric: MetricId,
        form: &SavedForm,
        from: &[u8],
        metrics: &mut KnownMetrics,
    ) -> Option<usize> {
        let place = self.stream(metric, metrics)?;
        self.arena.read(place, form, from)
    }

    /// Notes the open anomaly of a stream. False if there is no such stream.
    pub fn restore_open(&mut self, metric: MetricId, open: OpenAnomaly) -> bool {
        let Some(stream) = self.get(metric) else { return false };
        self.arena.get_mut(stream.place).0.open = Some(open);
        true
    }
}
