//! The analytics threads, from the settings of detection.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::counters::ServerCounters;
use super::shared::Shared;
use super::store::ToStore;
use super::threads::{join, spawn};
use super::workers::AnalyticsQueues;
use crate::analytics::report::{PartTotals, TotalsReport};
use crate::analytics::saved::link::StateLink;
use crate::analytics::thread::{AnalyticsParts, AnalyticsThread, Past};
use crate::analytics::{
    Analytics, AnalyticsSettings, AnomalyNumbers, KnownSilences, OnsetSettings, SilenceIgnore,
};
use crate::config::{ServerSettings, Switch};
use crate::incidents::events::EventSender;
use crate::journal::JournalProducer;
use crate::memory::MemoryPlan;
use crate::placement::Placement;
use crate::shards::ShardLayout;
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
    AnalyticsSettings { window: settings.window, detectors: detectors(settings), onsets: None }
}

/// How streams are judged for incidents. None: they are not.
fn onsets(
    settings: &ServerSettings,
    plan: &MemoryPlan,
    shards: ShardLayout,
) -> Option<OnsetSettings> {
    let interval_us = settings.incident_interval.as_micros() as u64;
    let idle_us = settings.stream_idle.as_micros() as i64;
    let streams_max = plan.incident_streams;
    (settings.incidents == Switch::On).then(|| OnsetSettings {
        silence_ignore: ignored(settings),
        ..OnsetSettings::new(interval_us, idle_us, streams_max, shards.of_devices())
    })
}

/// The devices that may be silent, if there are any.
fn ignored(settings: &ServerSettings) -> Option<SilenceIgnore> {
    let globs = settings.silence_ignore.clone();
    let ignores = move |name: &str| globs.iter().any(|glob| glob.matches(name));
    (!settings.silence_ignore.is_empty()).then(|| SilenceIgnore(Arc::new(ignores)))
}

/// The ways between analytics and other threads, and what it begins with.
pub(super) struct ToThreads {
    /// To the store, one for each shard; none without it.
    pub to_store: Vec<ToStore>,
    /// To the incidents, one for each shard, or none.
    pub events: Vec<EventSender>,
    /// To the state directory, one for each shard; none without it.
    pub links: Vec<StateLink>,
    /// From the past, one for each shard; none where there is no past.
    pub pasts: Vec<Past>,
    /// To the journal, one for each shard; none without a state directory.
    pub journals: Vec<JournalProducer>,
    /// From the book of incidents.
    pub known_silences: KnownSilences,
}

/// Builds the threads, in the order of their shards.
pub(super) fn threads(
    settings: &ServerSettings,
    plan: &MemoryPlan,
    shared: &Shared,
    counters: &ServerCounters,
    queues: Vec<AnalyticsQueues>,
    to_threads: ToThreads,
) -> Vec<AnalyticsThread> {
    let ToThreads { to_store, events, links, pasts, journals, known_silences } = to_threads;
    let (mut links, mut journals) = (links.into_iter(), journals.into_iter());
    let mut pasts = pasts.into_iter();
    let mut to_store = to_store.into_iter();
    let numbers = AnomalyNumbers::default();
    let onsets = onsets(settings, plan, shared.layout);
    let detection = AnalyticsSettings { onsets, ..detection(settings) };
    let mut events = events.into_iter();
    let shards = queues.into_iter().zip(&shared.sleepers).zip(&counters.analytics);
    shards
        .enumerate()
        .map(|(shard, ((queues, sleeper), counters))| {
            let (judged_producer, handover) =
                to_store.next().map(|ToStore { judged, states }| (judged, states)).unzip();
            let (part, names) = (shared.layout.part(shard), shared.registry.clone().into());
            let analytics = Analytics::of_part(part, detection.clone(), names, numbers.clone());
            AnalyticsThread::new(AnalyticsParts {
                analytics,
                ttl_us: settings.ttl.as_micros() as i64,
                sample_consumers: queues.samples,
                questions: queues.questions,
                judged_producer,
                handover: handover.flatten(),
                events: events.next(),
                state: links.next(),
                journal: journals.next(),
                known_silences: known_silences.clone(),
                past: pasts.next(),
                sleeper: sleeper.clone(),
                clock: Clock::new(shared.start),
                counters: counters.clone(),
            })
        })
        .collect()
}

/// The running threads.
pub(super) struct AnalyticsThreads(Vec<JoinHandle<PartTotals>>);

impl AnalyticsThreads {
    /// Starts the threads on their cores.
    pub fn start(
        threads: Vec<AnalyticsThread>,
        shared: &Shared,
        placement: &Placement,
    ) -> io::Result<Self> {
        let started = threads.into_iter().zip(&placement.analytics_cores).enumerate();
        started
            .map(|(shard, (thread, core))| {
                let shares_core = placement.is_one_core;
                spawn(shared.layout.name(shard), *core, move || thread.run(shares_core))
            })
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Waits until all have ended, after the last worker.
    pub fn join(self) -> TotalsReport {
        TotalsReport::merge(self.0.into_iter().map(join).collect())
    }
}
