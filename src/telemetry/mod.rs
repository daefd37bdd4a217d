//! The scrape: families of all sources, as Prometheus text or OpenMetrics.
//!
//! Nothing is counted here. Each thread has counters beside its code, which render themselves
//! ([`MetricSource`]); the scrape walks them on a reader thread, without stopping the threads that count.

pub mod latency;
pub mod openmetrics;
mod process;
mod proto;
mod sources;

use prometheus::TextEncoder;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;

use self::latency::LatencyBudget;
pub use self::sources::Sources;
use sigmad_counters::{Families, MetricSource};

/// The media type of [`text`].
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The media type of [`openmetrics::encode`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The build and its settings, for `sigmad_build_info`.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The version of sigmad.
    pub version: &'static str,
    /// The HTTP engine.
    pub engine: &'static str,
    /// The detector that decides `isAnomaly`.
    pub detector: &'static str,
    /// Values in a window.
    pub window: usize,
}

impl MetricSource for Build {
    fn collect(&self, families: &mut Families) {
        let window = self.window.to_string();
        let labels = [
            ("version", self.version),
            ("engine", self.engine),
            ("detector", self.detector),
            ("window", &*window),
        ];
        families
            .gauge("sigmad_build_info", "Always 1; the labels describe the build and its settings.")
            .add(&labels, 1.0);
    }
}

/// Answers the scrape.
#[derive(Debug)]
pub struct Telemetry {
    sources: Sources,
    process: process::Process,
}

impl Telemetry {
    /// Exports `sources` and the metrics of this process.
    pub fn new(sources: Sources) -> Self {
        Self { sources, process: process::Process::default() }
    }

    /// The families of all sources and of `reports`, in the order of their names.
    pub fn gather(&self, reports: &[&dyn MetricSource]) -> Vec<MetricFamily> {
        let mut families = Families::default();
        for source in self.sources.iter().map(|source| &**source).chain(reports.iter().copied()) {
            source.collect(&mut families);
        }
        LatencyBudget::collect(&self.sources, &mut families);
        let mut families: Vec<_> = families.iter().map(proto::family).collect();
        families.extend(self.process.collect());
        families.sort_by(|one, other| one.name().cmp(other.name()));
        families
    }
}

/// The families in Prometheus text 0.0.4.
pub fn text(families: &[MetricFamily]) -> String {
    TextEncoder::new().encode_to_string(families).expect("every family has a name and a metric")
}
