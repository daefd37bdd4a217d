//! The workers: a router for each, and the queues that leave it.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use sigmad_clock::Clock;
use sigmad_flags::TokenFlag;

use super::counters::ServerCounters;
use super::reload::Reloads;
use super::shared::Shared;
use crate::analytics::report::Question;
use crate::analytics::{Asker, questions};
use crate::api::acknowledge::Acknowledger;
use crate::api::debug::{DEBUGS_WAITING_MAX, DebugRequest};
use crate::api::reader::{READS_WAITING_MAX, ReadRequest};
use crate::api::router::{Router, RouterParts};
use crate::api::tokens::{BearerToken, Tokens};
use crate::config::{ServerSettings, SettingsError};
use crate::decode::Decoder;
use crate::http::counters::HttpCounters;
use crate::incidents::shared::Incidents;
use crate::lists::Lists;
use crate::reloadable::Reloadable;
use crate::sample_queue::{self, SampleConsumer, SampleProducer};
use crate::shared_lists::SharedLists;
use sigmad_sample::READINGS_MAX;

/// What one worker is made of.
pub(super) struct WorkerParts {
    pub router: Router,
    pub counters: Arc<HttpCounters>,
}

/// The queues between the threads: the ends of workers and readers.
pub(super) struct Queues {
    pub to_workers: WorkerQueues,
    pub requests: RequestQueues,
}

/// What workers send.
pub(super) struct WorkerQueues {
    samples: Vec<SampleProducer>,
    reads: Sender<ReadRequest>,
    debug: Sender<DebugRequest>,
}

/// What readers, the events thread and the debug thread receive, and how they ask analytics.
pub(super) struct RequestQueues {
    pub reads: Receiver<ReadRequest>,
    pub debug: Receiver<DebugRequest>,
    pub asker: Asker,
    pub lists: Lists,
    pub incidents: Incidents,
}

/// What the analytics thread of one shard receives.
pub(super) struct AnalyticsQueues {
    pub samples: Vec<SampleConsumer>,
    pub questions: Receiver<Question>,
}

impl Queues {
    pub fn new(
        shared: &Shared,
        counters: &ServerCounters,
        incidents: Incidents,
        (shared_lists, ttl): (Option<Arc<SharedLists>>, Duration),
    ) -> (Self, Vec<AnalyticsQueues>) {
        let (asker, questions) = questions(shared.layout, &shared.sleepers);
        let ttl_us = ttl.as_micros() as i64;
        let lists = Lists::new(asker.clone(), shared.registry.clone(), shared_lists, ttl_us);
        let of_shard = |questions| AnalyticsQueues { samples: Vec::new(), questions };
        let mut ends: Vec<_> = questions.into_iter().map(of_shard).collect();
        let mut producers = Vec::new();
        for worker in &counters.workers {
            let (producer, consumers) =
                sample_queue::sharded(shared.layout, &shared.sleepers, worker.queue.clone());
            producers.push(producer);
            ends.iter_mut().zip(consumers).for_each(|(end, samples)| end.samples.push(samples));
        }
        let (reads_sender, reads) = bounded(READS_WAITING_MAX);
        let (debug_sender, debug) = bounded(DEBUGS_WAITING_MAX);
        let queues = Self {
            to_workers: WorkerQueues {
                samples: producers,
                reads: reads_sender,
                debug: debug_sender,
            },
            requests: RequestQueues { reads, debug, asker, lists, incidents },
        };
        (queues, ends)
    }
}

fn tokens_of(settings: &ServerSettings) -> Tokens {
    let token =
        |flag: &Option<TokenFlag>| flag.as_ref().map(|flag| BearerToken::new(flag.secret()));
    Tokens {
        ingest: token(&settings.ingest_token),
        read: token(&settings.read_token),
        debug: token(&settings.debug_token),
        operator: token(&settings.operator_token),
    }
}

/// A router and counters for each worker.
pub(super) fn parts(
    settings: &ServerSettings,
    readings_max: usize,
    shared: &Shared,
    counters: &ServerCounters,
    queues: WorkerQueues,
    reloads: &mut Reloads,
) -> Vec<WorkerParts> {
    let tokens = Reloadable::new(tokens_of(settings));
    let (read_again, in_force) = (settings.clone(), tokens.clone());
    reloads.add("tokens", move || {
        let mut settings = read_again.clone();
        settings.read_tokens()?;
        in_force.replace(tokens_of(&settings));
        Ok::<_, SettingsError>(())
    });
    let WorkerQueues { samples, reads, debug } = queues;
    let acknowledger = counters.acknowledge.as_ref();
    let acknowledger =
        acknowledger.map(|counters| Acknowledger::new(counters.clone(), Clock::new(shared.start)));
    let workers = samples.into_iter().zip(&counters.workers);
    workers
        .map(|(mut samples, counters)| {
            let mut decoder = Decoder::new(shared.registry.clone());
            decoder.share(shared.points.clone());
            decoder.set_readings_max(readings_max);
            // The last sample of a body may go past it.
            samples.set_readings_max(readings_max + READINGS_MAX);
            let router = Router::new(RouterParts {
                decoder,
                samples,
                acknowledger: acknowledger.clone(),
                clock: Clock::new(shared.start),
                counters: counters.router.clone(),
                reads: reads.clone(),
                debug: debug.clone(),
                tokens: tokens.reader(),
                readiness: shared.readiness.clone(),
            });
            WorkerParts { router, counters: counters.http.clone() }
        })
        .collect()
}
