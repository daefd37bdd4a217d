//! The analytics thread, from the settings of detection.

use super::counters::ServerCounters;
use super::shared::Shared;
use super::workers::AnalyticsQueues;
use crate::analytics::thread::{AnalyticsParts, AnalyticsThread};
use crate::analytics::{Analytics, AnalyticsSettings};
use crate::config::ServerSettings;
use crate::judged_queue::JudgedProducer;
use sigmad_clock::Clock;
use sigmad_detectors::DetectorSettings;
use sigmad_detectors::zscore::ZScore;

/// The detectors with the parameters that the settings give them.
pub(super) fn detectors(settings: &ServerSettings) -> DetectorSettings {
    // The settings bound it far below.
    let min_samples = settings.min_samples as u32;
    let zscore = ZScore { threshold: settings.threshold, min_samples };
    DetectorSettings { zscore, kinds: settings.detector.clone() }
}

/// How samples are judged.
pub(super) fn detection(settings: &ServerSettings) -> AnalyticsSettings {
    AnalyticsSettings { window: settings.window, detectors: detectors(settings) }
}

/// Builds the thread.
pub(super) fn thread(
    settings: &ServerSettings,
    shared: &Shared,
    counters: &ServerCounters,
    queues: AnalyticsQueues,
    judged_producer: Option<JudgedProducer>,
) -> AnalyticsThread {
    AnalyticsThread::new(AnalyticsParts {
        analytics: Analytics::new(detection(settings), shared.registry.clone().into()),
        ttl_us: settings.ttl.as_micros() as i64,
        sample_consumers: queues.samples,
        questions: queues.questions,
        judged_producer,
        sleeper: shared.sleeper.clone(),
        clock: Clock::new(shared.start),
        counters: counters.analytics.clone(),
    })
}
