//! Labelled metrics, looked up by their labels whenever something is counted.

use std::time::Duration;

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};

use crate::windows::Judged;

/// What is counted.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    samples: IntCounterVec,
    anomalies: IntCounterVec,
    rolling_avg: GaugeVec,
    z_score: GaugeVec,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels).expect("valid names");
            registry.register(Box::new(counter.clone())).expect("registered once");
            counter
        };
        let gauge = |name: &str, help: &str| {
            let gauge = GaugeVec::new(Opts::new(name, help), &["metric"]).expect("valid names");
            registry.register(Box::new(gauge.clone())).expect("registered once");
            gauge
        };
        let options = HistogramOpts::new("http_request_duration_seconds", "Time to the answer.");
        let durations = HistogramVec::new(options, &["path"]).expect("valid names");
        registry.register(Box::new(durations.clone())).expect("registered once");
        Self {
            requests: counter("http_requests_total", "Requests.", &["method", "path", "code"]),
            samples: counter("ingest_samples_total", "Samples.", &["result"]),
            anomalies: counter("anomalies_total", "Anomalies.", &["metric"]),
            rolling_avg: gauge("rolling_avg", "Mean of the fleet's window."),
            z_score: gauge("zscore", "Score of the fleet's last value."),
            durations,
            registry,
        }
    }

    /// A request was answered.
    pub fn answered(&self, method: &str, path: &str, status: u16, elapsed: Duration) {
        self.requests.with_label_values(&[method, path, &status.to_string()]).inc();
        self.durations.with_label_values(&[path]).observe(elapsed.as_secs_f64());
    }

    /// Samples were kept.
    pub fn accepted(&self, samples: usize) {
        self.samples.with_label_values(&["accepted"]).inc_by(samples as u64);
    }

    /// A sample was judged.
    pub fn judged(&self, judged: &[Judged]) {
        for judged in judged {
            self.rolling_avg.with_label_values(&[judged.metric]).set(judged.mean);
            self.z_score.with_label_values(&[judged.metric]).set(judged.z_score);
            if judged.is_anomaly {
                self.anomalies.with_label_values(&[judged.metric]).inc();
            }
        }
    }

    /// As Prometheus text.
    pub fn scrape(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("into memory");
        String::from_utf8(text).expect("metrics are text")
    }
}
