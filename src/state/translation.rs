//! Ids of the process that took the snapshots, in those of this one.

use sigmad_sample::{DeviceId, MetricId};

/// What stands for a device that has no room here: no registry gives it out.
pub(super) const NO_DEVICE: DeviceId = DeviceId { index: u32::MAX, generation: u32::MAX };

/// The ids of this process for those of another one. Its shards share their ids.
#[derive(Debug, Default)]
pub(super) struct Translation {
    /// By slot: generation there, id here.
    metrics: Vec<Option<(u16, MetricId)>>,
    /// By index: generation there, id here.
    devices: Vec<Option<(u32, DeviceId)>>,
}

impl Translation {
    /// The id of a metric here. None if it has no room, or is not known.
    pub fn metric(&self, there: MetricId) -> Option<MetricId> {
        let (generation, here) = (*self.metrics.get(there.slot())?)?;
        (generation == there.generation()).then_some(here)
    }

    /// The id of a device here. None if it has no room, or is not known.
    pub fn device(&self, there: DeviceId) -> Option<DeviceId> {
        let (generation, here) = (*self.devices.get(there.index as usize)?)?;
        (generation == there.generation).then_some(here)
    }

    /// Notes the id of a metric.
    pub fn note_metric(&mut self, there: MetricId, here: MetricId) {
        let slot = there.slot();
        if self.metrics.len() <= slot {
            self.metrics.resize(slot + 1, None);
        }
        self.metrics[slot] = Some((there.generation(), here));
    }

    /// Notes the id of a device.
    pub fn note_device(&mut self, there: DeviceId, here: DeviceId) {
        let index = there.index as usize;
        if self.devices.len() <= index {
            self.devices.resize(index + 1, None);
        }
        self.devices[index] = Some((there.generation, here));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_another_generation_is_not_known() {
        let mut translation = Translation::default();
        let there = DeviceId { index: 9, generation: 4 };
        let here = DeviceId { index: 2, generation: 0 };
        translation.note_device(there, here);
        assert_eq!(translation.device(there), Some(here));
        assert_eq!(translation.device(DeviceId { generation: 5, ..there }), None);
        assert_eq!(translation.device(DeviceId { index: 8, ..there }), None);
        assert_eq!(translation.device(NO_DEVICE), None);
        let metric = MetricId::new(70, 3);
        translation.note_metric(metric, MetricId::RPS);
        assert_eq!(translation.metric(metric), Some(MetricId::RPS));
        assert_eq!(translation.metric(MetricId::new(70, 2)), None);
        assert_eq!(translation.metric(MetricId::new(7, 3)), None);
    }
}
