//! Looks up the names of ids, once for each new device and metric.

use std::fmt;
use std::sync::Arc;

use crate::registry::Registry;
use sigmad_sample::{DeviceId, MetricId};

/// Where names come from: the registry, or a test.
pub trait Names: Send {
    /// None once the device has been evicted.
    fn device(&self, id: DeviceId) -> Option<Arc<str>>;
    /// Whether the device has not been evicted. Takes no lock.
    fn is_device(&self, id: DeviceId) -> bool;
    /// None once the metric has been evicted.
    fn metric(&self, id: MetricId) -> Option<Arc<str>>;
    /// Whether the metric has not been evicted. Takes no lock.
    fn is_metric(&self, id: MetricId) -> bool;
    /// How often metrics were evicted.
    fn evictions(&self) -> u64;
}

impl Names for Arc<Registry> {
    fn device(&self, id: DeviceId) -> Option<Arc<str>> {
        self.device_name(id)
    }

    fn metric(&self, id: MetricId) -> Option<Arc<str>> {
        self.metric_name(id)
    }

    fn is_device(&self, id: DeviceId) -> bool {
        Registry::is_device(self, id)
    }

    fn is_metric(&self, id: MetricId) -> bool {
        Registry::is_metric(self, id)
    }

    fn evictions(&self) -> u64 {
        self.metric_evictions()
    }
}

/// Looks up the names of ids.
pub struct NameLookup(pub Box<dyn Names>);

impl NameLookup {
    /// A lookup of names from anywhere. A device has none once it has been evicted; metrics keep theirs.
    pub fn new(
        device: impl Fn(DeviceId) -> Option<Arc<str>> + Send + 'static,
        metric: impl Fn(MetricId) -> Arc<str> + Send + 'static,
    ) -> Self {
        Self(Box::new(FixedNames { device, metric }))
    }
}

impl From<Arc<Registry>> for NameLookup {
    fn from(registry: Arc<Registry>) -> Self {
        Self(Box::new(registry))
    }
}

impl fmt::Debug for NameLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameLookup")
    }
}

/// Names of functions.
struct FixedNames<D, M> {
    device: D,
    metric: M,
}

impl<D, M> Names for FixedNames<D, M>
where
    D: Fn(DeviceId) -> Option<Arc<str>> + Send,
    M: Fn(MetricId) -> Arc<str> + Send,
{
    fn device(&self, id: DeviceId) -> Option<Arc<str>> {
        (self.device)(id)
    }

    fn metric(&self, id: MetricId) -> Option<Arc<str>> {
        Some((self.metric)(id))
    }

    fn is_device(&self, id: DeviceId) -> bool {
        (self.device)(id).is_some()
    }

    fn is_metric(&self, _: MetricId) -> bool {
        true
    }

    fn evictions(&self) -> u64 {
        0
    }
}
