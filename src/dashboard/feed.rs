//! The clients of one feed, and the sections of its events.

use serde::Serialize;

use super::counters::EventsCounters;
use super::message::{EventMessage, json};
use super::sampler::DeviceSnapshot;
use crate::analytics::report::SampleReport;
use crate::answers::lists::{AnomalyJson, SampleJson};
use crate::answers::windows::MetricsJson;
use crate::http::message::{STREAM_QUEUE_BYTES_MAX, StreamSendError, StreamWriter};
use crate::lists::ListedAnomaly;
use sigmad_sample::READINGS_MAX;

/// Bytes of one device's samples in one event. The rest of the client's queue holds its metrics, so that no
/// device can send so much that its clients are disconnected.
const SAMPLES_BYTES_MAX: usize = STREAM_QUEUE_BYTES_MAX / 2;
/// Metrics of one device in one event: as many as a sample can have.
const METRICS_PER_EVENT_MAX: usize = READINGS_MAX;

/// The clients that receive the same events.
#[derive(Default)]
pub struct Feed {
    /// Connected clients.
    pub clients: Vec<StreamWriter>,
    /// The time of the last event, milliseconds since the start.
    pub sent_ms: u64,
}

impl Feed {
    /// Sends each client a copy; removes clients that have disconnected or read too slowly.
    pub fn send(&mut self, event: &[u8], counters: &EventsCounters) {
        self.clients.retain(|client| match client.send(event.to_vec()) {
            Ok(()) => {
                counters.sent_bytes_total.add(event.len() as u64);
                true
            }
            Err(StreamSendError::Full) => {
                counters.dropped_total.add(1);
                false
            }
            Err(StreamSendError::Closed) => false,
        });
    }
}

/// Adds the section of anomalies, if there are any.
pub fn anomaly_section(message: &mut EventMessage, oldest_first: &[&ListedAnomaly]) {
    if !oldest_first.is_empty() {
        let anomalies = oldest_first.iter().map(|anomaly| AnomalyJson::from(*anomaly));
        message.list("anomalies", anomalies);
    }
}

/// Adds the sections of a device feed.
pub fn device_sections(message: &mut EventMessage, name: &str, snapshot: &DeviceSnapshot) {
    #[derive(Serialize)]
    struct DeviceSection<'a> {
        device: &'a str,
        metrics: MetricsJson<'a>,
    }
    let metrics = &snapshot.windows.metrics;
    let shown = &metrics[..metrics.len().min(METRICS_PER_EVENT_MAX)];
    message.section("device", &DeviceSection { device: name, metrics: MetricsJson(shown) });
    let left_out = metrics.len() - shown.len() + snapshot.windows.other_metrics;
    if left_out > 0 {
        message.section("metricsLeftOut", &left_out);
    }
    if !snapshot.samples.is_empty() {
        message.json_list("samples", &newest_that_fit(&snapshot.samples));
    }
    anomaly_section(message, &snapshot.anomalies.iter().collect::<Vec<_>>());
}

/// The newest samples as JSON, oldest first, up to [`SAMPLES_BYTES_MAX`].
fn newest_that_fit(samples: &[SampleReport]) -> Vec<String> {
    let mut bytes = 0;
    let newest_first = samples.iter().rev().map(|sample| json(&SampleJson(sample)));
    let mut newest: Vec<_> = newest_first
        .take_while(|sample| {
            bytes += sample.len();
            bytes <= SAMPLES_BYTES_MAX
        })
        .collect();
    newest.reverse();
    newest
}
