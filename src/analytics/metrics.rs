//! The metrics that a shard has judged values of: their names, and the anomalies of each.
//!
//! A metric is at its id's slot. The id of an earlier name is not that of the metric in its slot: a value whose name
//! has been evicted enters no window.

use std::sync::Arc;

use crate::analytics::names::NameLookup;
use sigmad_sample::{DeviceId, MetricId};

/// One metric.
#[derive(Debug)]
pub struct KnownMetric {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub metric: MetricId,
    /// Anomalous values, of devices or of samples without one.
    pub anomalies: u64,
}

/// The metrics by slot, and where names come from.
#[derive(Debug)]
pub struct KnownMetrics {
    names: NameLookup,
    slots: Vec<Option<KnownMetric>>,
}

impl KnownMetrics {
    /// Without metrics.
    pub fn new(names: NameLookup) -> Self {
        Self { names, slots: Vec::new() }
    }

    /// The metric of that id. None if its name is new, or gone.
    pub fn get(&self, metric: MetricId) -> Option<&KnownMetric> {
        self.slots.get(metric.slot())?.as_ref().filter(|known| known.metric == metric)
    }

    /// The metric of that id, taken in when its name is new. None when its name has been evicted.
    pub fn admit(&mut self, metric: MetricId) -> Option<&mut KnownMetric> {
        let slot = metric.slot();
        if self.get(metric).is_none() {
            let name = self.names.0.metric(metric)?;
            if self.slots.len() <= slot {
                self.slots.resize_with(slot + 1, || None);
            }
            self.slots[slot] = Some(KnownMetric { name, metric, anomalies: 0 });
        }
        self.slots[slot].as_mut()
    }

    /// Slots that metrics have, or had.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The metric in a slot.
    pub fn in_slot(&self, slot: usize) -> Option<&KnownMetric> {
        self.slots.get(slot)?.as_ref()
    }

    /// In the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &KnownMetric> {
        self.slots.iter().flatten()
    }

    /// Forgets the anomalies so far.
    pub fn count_anew(&mut self) {
        self.slots.iter_mut().flatten().for_each(|known| known.anomalies = 0);
    }

    /// Removes the metrics whose names have been evicted.
    pub fn remove_stale(&mut self) {
        let Self { names, slots } = self;
        for slot in slots {
            if slot.as_ref().is_some_and(|known| !names.0.is_metric(known.metric)) {
                *slot = None;
            }
        }
    }

    /// Whether the name of a metric has not been evicted.
    pub fn is_current(&self, metric: MetricId) -> bool {
        self.names.0.is_metric(metric)
    }

    /// The name of a metric, None once it has been evicted.
    pub fn name(&self, metric: MetricId) -> Option<Arc<str>> {
        let known = self.get(metric).map(|known| known.name.clone());
        known.or_else(|| self.names.0.metric(metric))
    }

    /// The name of a device, None once the registry has evicted it.
    pub fn device_name(&self, id: DeviceId) -> Option<Arc<str>> {
        self.names.0.device(id)
    }

    /// Whether the registry has not evicted a device.
    pub fn is_device(&self, id: DeviceId) -> bool {
        self.names.0.is_device(id)
    }

    /// How often metrics were evicted.
    pub fn evictions(&self) -> u64 {
        self.names.0.evictions()
    }
}
