//! Devices for snapshots, and from them.

use super::{DEVICES_PER_CHUNK, DeviceEntry, DeviceWindows};
use crate::analytics::anomalies::OpenAnomaly;
use crate::analytics::arena::MetricStream;
use crate::analytics::metrics::KnownMetrics;
use crate::analytics::saved::form::{SavedDevice, SavedForm};
use sigmad_sample::{DeviceId, MetricId};

impl DeviceWindows {
    /// The entry at an index, whichever device has it.
    pub fn entry(&self, index: usize) -> Option<&DeviceEntry> {
        Some(&self.devices.get(index / DEVICES_PER_CHUNK)?[index % DEVICES_PER_CHUNK])
    }

    /// Opens a device with empty streams. False if its name has been evicted since it was admitted.
    pub fn restore(&mut self, saved: &SavedDevice, metrics: &mut KnownMetrics) -> bool {
        let Some((device, arena, _)) = self.get_mut(saved.device, metrics) else { return false };
        device.own = saved.own;
        device.last = saved.last;
        device.own_seen_s = saved.own_seen_s;
        for (at, &metric) in saved.streams.iter().enumerate() {
            // None: its name found no room, or has been evicted since.
            device.stream(metric, at, arena, metrics);
        }
        true
    }

    /// Gives a stream what was written, as [`Arena::read`](super::Arena::read).
    pub fn restore_stream(
        &mut self,
        id: DeviceId,
        metric: MetricId,
        form: &SavedForm,
        from: &[u8],
    ) -> Option<usize> {
        let device = self.get(id)?;
        let place = device.streams[device.find(metric, 0)?].place;
        self.arena.read(place, form, from)
    }

    /// Notes the open anomaly of a stream. False if there is no such stream.
    pub fn restore_open(&mut self, id: DeviceId, metric: MetricId, open: OpenAnomaly) -> bool {
        let stream = self.get(id).and_then(|device| Some(&device.streams[device.find(metric, 0)?]));
        let Some(&MetricStream { place, .. }) = stream else { return false };
        self.arena.get_mut(place).0.open = Some(open);
        true
    }
}
