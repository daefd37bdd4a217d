//! Looks up the names of ids, once for each new device and metric.

use std::fmt;
use std::sync::Arc;

use crate::registry::Registry;
use sigmad_sample::{DeviceId, MetricId};

type DeviceName = dyn Fn(DeviceId) -> Option<Arc<str>> + Send;
type MetricName = dyn Fn(MetricId) -> Arc<str> + Send;

/// Looks up the names of ids.
pub struct NameLookup {
    device: Box<DeviceName>,
    metric: Box<MetricName>,
}

impl NameLookup {
    /// A lookup of names from anywhere. A device has none once it has been evicted.
    pub fn new(
        device: impl Fn(DeviceId) -> Option<Arc<str>> + Send + 'static,
        metric: impl Fn(MetricId) -> Arc<str> + Send + 'static,
    ) -> Self {
        Self { device: Box::new(device), metric: Box::new(metric) }
    }

    /// None once the device has been evicted.
    pub fn device(&self, id: DeviceId) -> Option<Arc<str>> {
        (self.device)(id)
    }

    /// The name of a metric.
    pub fn metric(&self, id: MetricId) -> Arc<str> {
        (self.metric)(id)
    }
}

impl From<Arc<Registry>> for NameLookup {
    fn from(registry: Arc<Registry>) -> Self {
        let devices = registry.clone();
        Self::new(move |id| devices.device_name(id), move |id| registry.metric_name(id))
    }
}

impl fmt::Debug for NameLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameLookup")
    }
}
