//! Counters that one thread adds to and the scrape adds up.

use std::cell::OnceCell;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use baseline::report::Report;
use sigmad_counters::{Counter, Counts, Histogram};

const PATHS: [&str; 2] = ["/ingest", "/metrics"];
const CODES: [u16; 5] = [200, 202, 400, 429, 503];

/// What one thread has counted.
#[derive(Debug, Default)]
pub struct HttpCounters {
    answered: [[Counter; CODES.len()]; PATHS.len()],
    durations: [Histogram; PATHS.len()],
    accepted: Counter,
}

impl HttpCounters {
    /// A POST was answered, in that time if it is known yet. `path` is one that takes samples.
    pub fn answered(&self, path: &str, status: u16, elapsed_ns: Option<u64>) {
        let path = usize::from(path != PATHS[0]);
        let code = CODES.iter().position(|&code| code == status).expect("listed");
        self.answered[path][code].add(1);
        if let Some(elapsed_ns) = elapsed_ns {
            self.durations[path].record(elapsed_ns, 1);
        }
    }

    /// POSTs were answered, each in that time.
    pub fn timed(&self, answered: [u64; PATHS.len()], elapsed_ns: u64) {
        for (durations, &count) in self.durations.iter().zip(&answered) {
            if count > 0 {
                durations.record(elapsed_ns, count);
            }
        }
    }

    /// Samples were kept.
    pub fn accepted(&self, samples: usize) {
        self.accepted.add(samples as u64);
    }
}

/// The counters of all threads.
#[derive(Debug, Default)]
pub struct AllCounters(Mutex<Vec<Arc<HttpCounters>>>);

thread_local! {
    static MINE: OnceCell<Arc<HttpCounters>> = const { OnceCell::new() };
}

impl AllCounters {
    /// Counters for one more thread.
    pub fn add(&self) -> Arc<HttpCounters> {
        let counters = Arc::<HttpCounters>::default();
        self.0.lock().expect("no holder panics").push(counters.clone());
        counters
    }

    /// The counters of the calling thread.
    pub fn with<T>(&self, count: impl FnOnce(&HttpCounters) -> T) -> T {
        MINE.with(|mine| count(mine.get_or_init(|| self.add())))
    }

    /// As Prometheus text, with the gauges that the fleet's windows give.
    pub fn scrape(&self, fleet: &Report) -> String {
        let all = self.0.lock().expect("no holder panics");
        let sum = |of: &dyn Fn(&HttpCounters) -> u64| {
            all.iter().map(|counters| of(counters)).sum::<u64>()
        };
        let mut text = String::new();
        let mut line = |line: std::fmt::Arguments<'_>| {
            writeln!(text, "{line}").expect("a String takes everything");
        };
        for (path, name) in PATHS.iter().enumerate() {
            for (code, status) in CODES.iter().enumerate() {
                let count = sum(&|counters| counters.answered[path][code].get());
                line(format_args!(
                    "http_requests_total{{method=\"POST\",path=\"{name}\",code=\"{status}\"}} {count}"
                ));
            }
            let mut durations = Counts::default();
            all.iter().for_each(|counters| counters.durations[path].merge_into(&mut durations));
            let (count, sum_s) = (durations.count(), durations.sum_ns as f64 / 1e9);
            for le in ["0.00005", "0.0001", "0.00025", "0.0005", "0.001", "0.01", "0.1", "1"] {
                let ns = le.parse::<f64>().expect("a number") * 1e9;
                let below = durations.below(ns as u64);
                line(format_args!(
                    "http_request_duration_seconds_bucket{{path=\"{name}\",le=\"{le}\"}} {below}"
                ));
            }
            line(format_args!(
                "http_request_duration_seconds_bucket{{path=\"{name}\",le=\"+Inf\"}} {count}"
            ));
            line(format_args!("http_request_duration_seconds_sum{{path=\"{name}\"}} {sum_s}"));
            line(format_args!("http_request_duration_seconds_count{{path=\"{name}\"}} {count}"));
        }
        let accepted = sum(&|counters| counters.accepted.get());
        line(format_args!("ingest_samples_total{{result=\"accepted\"}} {accepted}"));
        for (metric, stream) in &fleet.metrics {
            line(format_args!("anomalies_total{{metric=\"{metric}\"}} {}", stream.anomalies));
            line(format_args!("rolling_avg{{metric=\"{metric}\"}} {}", stream.mean));
            line(format_args!("zscore{{metric=\"{metric}\"}} {}", stream.z_score));
        }
        text
    }
}
