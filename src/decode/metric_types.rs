//! The types of metrics, and those that Prometheus announces to remote_write 1.0, by family.
//!
//! Samples and types come in different requests, and any worker may take either: so there is one table for all. The
//! first type that is told for a family holds, so that two senders that disagree do not change it back and forth.

use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::RwLock;

/// The type of a metric, as Prometheus and OpenMetrics have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum MetricType {
    /// None, or one that is not known here.
    #[default]
    Unknown,
    Counter,
    /// Also of info metrics, state sets and gauge histograms.
    Gauge,
    Histogram,
    Summary,
}

/// Families in the table, of which a fleet has a few thousand; what is told past it follows the rules for names.
const FAMILIES_MAX: usize = 1 << 14;
/// Bytes of a name in the table; longer ones follow the rules for names.
const FAMILY_BYTES_MAX: usize = 128;

/// Bytes that the table takes at most: a table of hashes doubles, and both are there meanwhile.
pub(super) const TYPES_BYTES: usize =
    FAMILIES_MAX * (FAMILY_BYTES_MAX + 3 * size_of::<(Box<[u8]>, MetricType)>());

/// What samples of a classic histogram or a summary have behind the name of their family.
const PARTS: [&[u8]; 3] = [b"_bucket", b"_sum", b"_count"];

/// Types by family, for all workers.
#[derive(Debug, Default)]
pub(super) struct MetricTypes {
    by_family: RwLock<HashMap<Box<[u8]>, MetricType, RandomState>>,
    /// Families told so far: what a worker remembers of a series is stale once it has changed.
    told: AtomicU32,
}

impl MetricTypes {
    /// Takes the type of a family.
    pub(super) fn tell(&self, family: &[u8], kind: MetricType) {
        if kind == MetricType::Unknown || family.len() > FAMILY_BYTES_MAX {
            return;
        }
        if self.by_family.read().contains_key(family) {
            return;
        }
        let mut by_family = self.by_family.write();
        if by_family.len() < FAMILIES_MAX && !by_family.contains_key(family) {
            by_family.insert(family.into(), kind);
            // Release: a worker that sees the number finds the family; pairs with the load in `told`.
            self.told.store(by_family.len() as u32, Ordering::Release);
        }
    }

    /// How many families were told so far.
    #[inline]
    pub(super) fn told(&self) -> u32 {
        // Acquire: pairs with the store in `tell`.
        self.told.load(Ordering::Acquire)
    }

    /// The type of the family that a metric belongs to.
    pub(super) fn of(&self, metric: &[u8]) -> MetricType {
        let by_family = self.by_family.read();
        if let Some(&kind) = by_family.get(metric) {
            return kind;
        }
        for part in PARTS {
            let family = metric.strip_suffix(part).and_then(|family| by_family.get(family));
            let kind = family.copied().unwrap_or_default();
            if matches!(kind, MetricType::Histogram | MetricType::Summary) {
                return kind;
            }
        }
        // OpenMetrics names a family without what its samples end in.
        let family = metric.strip_suffix(b"_total").and_then(|family| by_family.get(family));
        family.copied().filter(|&kind| kind == MetricType::Counter).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_the_type_of_its_family() {
        let types = MetricTypes::default();
        for (family, kind) in [
            ("http_requests_total", MetricType::Counter),
            ("rpc", MetricType::Counter),
            ("heat", MetricType::Gauge),
            ("latency", MetricType::Histogram),
            ("pause", MetricType::Summary),
            ("odd_count", MetricType::Gauge),
            ("odd", MetricType::Summary),
            ("odd", MetricType::Gauge),
            ("none", MetricType::Unknown),
        ] {
            types.tell(family.as_bytes(), kind);
        }
        assert_eq!(types.told(), 7);
        for (metric, expected) in [
            ("http_requests_total", MetricType::Counter),
            ("rpc_total", MetricType::Counter),
            ("heat", MetricType::Gauge),
            ("heat_total", MetricType::Unknown),
            ("heat_sum", MetricType::Unknown),
            ("latency_bucket", MetricType::Histogram),
            ("latency_count", MetricType::Histogram),
            ("latency_total", MetricType::Unknown),
            ("pause", MetricType::Summary),
            ("pause_sum", MetricType::Summary),
            ("odd_count", MetricType::Gauge),
            ("odd_sum", MetricType::Summary),
            ("none", MetricType::Unknown),
        ] {
            assert_eq!(types.of(metric.as_bytes()), expected, "{metric}");
        }
    }

    #[test]
    fn the_table_is_bounded() {
        let types = MetricTypes::default();
        for family in 0..FAMILIES_MAX + 10 {
            types.tell(format!("f{family}").as_bytes(), MetricType::Counter);
        }
        types.tell(&[b'x'; FAMILY_BYTES_MAX + 1], MetricType::Gauge);
        assert_eq!(types.told() as usize, FAMILIES_MAX);
        assert_eq!(types.of(format!("f{FAMILIES_MAX}").as_bytes()), MetricType::Unknown);
    }
}
