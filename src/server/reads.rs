//! The threads that answer reads: readers, the events of the live page, `/debug/`.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use sigmad_clock::Clock;
use tracing::warn;

use super::analytics::detectors;
use super::counters::ServerCounters;
use super::host::host_name;
use super::shared::Shared;
use super::state::KeptRecording;
use super::threads::{join_all, spawn};
use super::workers::RequestQueues;
use crate::answers::windows::DetectionSettings;
use crate::api::debug;
use crate::api::reader::{self, ReaderDeps};
use crate::config::ServerSettings;
use crate::dashboard::events::{Events, ServerInfo};
use crate::dashboard::recorder::Recorder;
use crate::dashboard::sampler::Sampler;
use crate::dashboard::subscriber;
use crate::shared_history::SharedHistory;
use crate::telemetry::{Build, Telemetry};

/// The running threads.
pub(super) struct ReadThreads(Vec<JoinHandle<()>>);

impl ReadThreads {
    /// Starts readers, events and debug.
    pub fn start(
        settings: &ServerSettings,
        shared: &Shared,
        counters: &ServerCounters,
        queues: RequestQueues,
        (history, shared_history): (KeptRecording, Option<Arc<SharedHistory>>),
    ) -> io::Result<Self> {
        let RequestQueues { reads, debug: debug_requests, asker, lists, incidents } = queues;
        let detector = detectors(settings).first();
        let (window, threshold) = (settings.window, settings.threshold);
        let build = Build {
            version: env!("CARGO_PKG_VERSION"),
            engine: settings.engine.name(),
            detector: detector.name(),
            window,
        };
        let sources = counters.sources(build, shared.registry.clone());
        let (subscriber, requests) = subscriber::channel(counters.events.clone());
        let mut recorder = Recorder::new(
            asker.clone(),
            lists.clone(),
            incidents.clone(),
            shared.registry.clone(),
            counters.events.clone(),
        )
        .sharing(shared_history);
        if history.recorded.is_some_and(|bytes| recorder.restore(&bytes).is_none()) {
            warn!("the kept history is of another form: it begins anew");
        }
        let registry = shared.registry.clone();
        let sampler = Sampler::new(asker.clone(), lists.clone(), registry, counters.sampled());
        let events = Events::new(
            requests,
            (sampler, recorder),
            server_info(settings, build),
            shared.readiness.clone(),
            counters.events.clone(),
            shared.start,
        )
        .keeping(history.keeps);
        let deps = Arc::new(ReaderDeps {
            asker,
            lists,
            incidents,
            subscriber,
            registry: shared.registry.clone(),
            telemetry: Telemetry::new(sources.clone()),
            settings: DetectionSettings { window, threshold, detector: detector.name() },
            is_shared: settings.redis_url.is_some(),
        });
        let mut threads = Vec::new();
        for (index, counters) in counters.readers.iter().enumerate() {
            let clock = Clock::new(shared.start);
            let (reads, deps) = (reads.clone(), deps.clone());
            threads.push(reader::start(index, reads, deps, counters.clone(), clock)?);
        }
        threads.push(spawn("events".into(), None, move || events.run())?);
        let (debug_counters, readiness) = (counters.debug.clone(), shared.readiness.clone());
        threads.push(debug::start(
            debug_requests,
            sources,
            debug_counters,
            readiness,
            shared.start,
        )?);
        Ok(Self(threads))
    }

    /// Waits until all have ended, after the last worker.
    pub fn join(self) {
        join_all(self.0);
    }
}

/// What the live page says of this server.
fn server_info(settings: &ServerSettings, build: Build) -> ServerInfo {
    let threshold = settings.threshold;
    ServerInfo {
        version: build.version,
        replica: host_name(),
        engine: build.engine,
        detector: build.detector,
        window: build.window,
        threshold,
        score_threshold: detectors(settings).first().threshold(threshold),
        grafana_url: settings.grafana_url.as_ref().map(ToString::to_string),
    }
}
