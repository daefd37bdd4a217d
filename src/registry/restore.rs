//! Names from a snapshot: admitted before, or while, clients send theirs.

use super::{Full, NameSource, NameTables, Registry};
use crate::registry::metrics::Sender;
use sigmad_sample::{DeviceId, MetricId};

/// The second in which restored names count as sent: they are idle from the start on.
const RESTORED_S: u32 = 0;

impl Registry {
    /// Gives a metric its id, in the slot that it had if that is free. None when there is no room for its name.
    ///
    /// It counts against the first device that has it and is restored.
    pub fn restore_metric(&self, name: &str, slot: usize) -> Option<MetricId> {
        let hash = self.hash_name(name.as_bytes());
        let mut names = self.names.write();
        let NameTables { metrics, .. } = &mut *names;
        if let Some(slot) = metrics.find(hash, name) {
            return Some(self.metric_id(slot));
        }
        let has_room = metrics.len() < metrics.max;
        has_room.then(|| {
            let (words, sender) = (&self.metric_words, Some(Sender::Replicas));
            let slot = metrics.claim(slot);
            metrics.add_at(words, &self.hasher, name, sender, slot)
        })
    }

    /// Gives a device its id, and room for its streams. It gets the slot that it had if that is free, so that devices
    /// keep their order.
    ///
    /// # Errors
    /// When the streams do not all have room; nothing is created then.
    pub fn restore_device(
        &self,
        name: &str,
        slot: u32,
        metrics: &[MetricId],
    ) -> Result<DeviceId, Full> {
        let hash = self.hash_name(name.as_bytes());
        let mut names = self.names.write();
        let names = &mut *names;
        let mut index = names.devices.find(hash, name);
        let lacks = |id: &MetricId| index.is_none_or(|index| !names.devices.has(index, *id));
        let needed = metrics.iter().filter(|id| lacks(id)).count();
        let has_slot = index.is_some() || names.devices.has_slot(&self.device_words);
        if names.devices.streams + needed > self.max_streams || !has_slot {
            return Err(Full::Streams);
        }
        if index.is_none() {
            let wanted = names.devices.claim(slot, &self.device_words);
            index = Some(names.devices.add_at(&self.hasher, name, wanted));
        }
        let index = index.expect("it was added");
        let device = self.touched(names, index, RESTORED_S).device;
        let sender = self.sender(NameSource::Client, Some(index));
        for &metric in metrics {
            names.devices.add_stream(index, metric);
            names.metrics.note(metric, sender);
        }
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_devices_have_their_slots_and_clients_the_others() {
        let registry = Registry::new(6, 60);
        let metric = registry.restore_metric("temperature", 9).expect("room");
        assert_eq!(metric.slot(), 9);
        assert_eq!(registry.restore_metric("temperature", 7), Some(metric));
        let at = |name: &str, slot| {
            registry.restore_device(name, slot, &[metric]).map(|id| (id.index, id.generation))
        };
        let client = |name: &str| {
            let mut metrics = [("temperature", None)];
            let admitted = registry.admit(NameSource::Client, Some(name), &mut metrics, 1);
            let admitted = admitted.expect("room").expect("with a device");
            assert_eq!(metrics[0].1, Some(metric));
            admitted.device.index
        };
        assert_eq!(at("d", 3), Ok((3, 0)));
        let first = client("x");
        assert!(first < 3);
        let taken = at("a", first).expect("another slot is free");
        assert_ne!(taken.0, first);
        let free = (0..3).find(|slot| ![first, taken.0].contains(slot)).expect("one of three");
        assert_eq!(at("b", free), Ok((free, 0)));
        assert_eq!(at("d", 5), Ok((3, 0)), "known already");
        assert_eq!(at("far", 1_000).map(|id| id.0 < 6), Ok(true), "past the last slot");
        client("y");
        assert_eq!(registry.devices(), 6);
        assert_eq!(at("more", 5), Err(Full::Streams));
        for name in ["a", "b", "d", "x", "y", "far"] {
            let id = registry.find_device(name).expect("it has a slot");
            assert_eq!(registry.device_name(id).as_deref(), Some(name));
        }
    }

    #[test]
    fn restored_names_are_evicted_when_they_stay_silent() {
        let registry = Registry::new(2, 10);
        let metric = registry.restore_metric("m", 0).expect("room");
        registry.restore_device("old", 0, &[metric]).expect("room");
        registry.restore_device("older", 1, &[metric]).expect("room");
        let mut metrics = [("m", None)];
        let refused = registry.admit(NameSource::Client, Some("new"), &mut metrics, 10);
        assert_eq!(refused, Err(Full::Streams));
        assert!(registry.admit(NameSource::Client, Some("new"), &mut metrics, 11).is_ok());
    }

    #[test]
    fn metrics_that_do_not_fit_are_left_out() {
        let registry = Registry::new(1, 10);
        let names: Vec<String> = (0..registry.metrics_max()).map(|at| at.to_string()).collect();
        let restored = names.iter().rev().enumerate();
        let restored = restored.filter_map(|(at, name)| registry.restore_metric(name, 3 * at));
        let ids: std::collections::HashSet<_> = restored.collect();
        let restored = ids.len();
        assert_eq!(restored, registry.metrics_max() - 2, "cpu and rps have theirs");
    }
}
