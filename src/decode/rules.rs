//! The rules for series: which label is the device, which series are dropped, which values are counters.

/// The labels that can be the device, the first of which a point carries. `device` is the last one: the metrics of
/// disks and interfaces call those so, beside a host.
pub const DEVICE_LABELS: [&str; 10] = [
    "device_id",
    "deviceId",
    "sensor_id",
    "host",
    "hostname",
    "host.name",
    "instance",
    "node",
    "service.instance.id",
    "device",
];

/// The rules in force, the same for all workers.
#[derive(Clone, Debug)]
pub struct SeriesRules {
    device_labels: Vec<Box<str>>,
}

impl Default for SeriesRules {
    fn default() -> Self {
        Self { device_labels: DEVICE_LABELS.map(Box::from).to_vec() }
    }
}

impl SeriesRules {
    /// The place of a label in the list of those that can be the device.
    pub fn device_rank(&self, label: &[u8]) -> Option<usize> {
        self.device_labels.iter().position(|name| name.as_bytes() == label)
    }

    /// Whether a series is neither stored nor judged.
    pub fn drops(&self, _series: &str) -> bool {
        false
    }

    /// Whether values without a type are cumulative, by the name of their metric.
    pub fn is_counter(&self, name: &str) -> bool {
        name.ends_with("_total")
    }
}
