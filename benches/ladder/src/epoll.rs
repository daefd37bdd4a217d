//! The upper rungs: sigmad's engine, and behind it the same service, part by part replaced.

use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use baseline::report::Report;
use baseline::sample::Sample;
use core_affinity::CoreId;
use crossbeam_channel::{Sender, bounded};
use serde_json::json;
use sigmad::decode::{Decoder, Format};
use sigmad::http::budget::ConnectionBudget;
use sigmad::http::listen::listeners;
use sigmad::http::message::{Method, Request, ResponseWriter, Service};
use sigmad::http::poller::epoll::EpollPoller;
use sigmad::http::stages::StageTimer;
use sigmad::http::worker::Worker;
use sigmad::http::{self, Limits};
use sigmad::registry::{NameSource, Registry};
use sigmad::sample_queue::{self, SampleProducer, Sleeper};
use sigmad_clock::Now;
use sigmad_sample::timestamp;
use sigmad_sample::{Batch, MetricId, Reading};
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use simd_json::Buffers;

use crate::Options;
use crate::analytics::{self, Ask, ById, Message, Rest, Wait};
use crate::counters::{AllCounters, HttpCounters};
use crate::rungs::{EpollParts, Handover, Json, Redis, Statistics};
use crate::samples::{self, Accepted};
use crate::windows::Windows;
use crate::writer::Writer;

const JSON: &str = "application/json";
/// As sigmad's defaults.
const LIMITS: Limits = Limits {
    head_bytes_max: 16 * 1024,
    body_bytes_max: 8 * 1024 * 1024,
    connections_max: 20_000,
    memory_bytes_max: 64 << 20,
    read_timeout_ms: 10_000,
    body_rate_min: 1024,
    write_stall_ms: 30_000,
    idle_timeout_ms: 75_000,
    drain_idle_ms: 1_000,
    cors: None,
};
const STREAMS_MAX: usize = 1_000_000;
const STREAM_IDLE_S: u32 = 3_600;
const DRAIN: Duration = Duration::from_secs(2);

/// Serves until SIGTERM.
///
/// # Errors
/// When the address can't be had, or Redis does not answer.
pub fn run(options: &Options, parts: EpollParts, start: Instant) -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new([SIGTERM])?;
    rlimit::increase_nofile_limit(u64::MAX)?;
    let writer = options.redis_url.as_deref().map(|url| Writer::start(url, Redis::Coalesced));
    let writer = writer.transpose()?;
    let registry = Arc::new(Registry::new(STREAMS_MAX, STREAM_IDLE_S));
    let cores = options.cores();
    let core_of = |thread: usize| parts.is_pinned.then(|| cores[thread % cores.len()]);

    let (ends, thread) = match parts.handover {
        Handover::Names => {
            let windows = Windows::new(Statistics::Running);
            let (sender, thread) = analytics::by_names(windows, writer, Wait::Blocked)?;
            ((0..options.workers).map(|_| End::Names(sender.clone())).collect(), thread)
        }
        Handover::Ids => {
            let by_id = ById::new(registry.clone(), writer);
            let (sender, thread) = analytics::by_ids(by_id, start)?;
            ((0..options.workers).map(|_| End::Ids(sender.clone())).collect(), thread)
        }
        Handover::Blocks | Handover::Doze => {
            let by_id = ById::new(registry.clone(), writer);
            let rest = if parts.handover == Handover::Doze { Rest::Doze } else { Rest::Park };
            let sleeper = Arc::new(Sleeper::default());
            let producers = (0..options.workers)
                .map(|_| sample_queue::channel(sleeper.clone(), Arc::default()));
            let (producers, consumers): (Vec<_>, _) = producers.unzip();
            let core = core_of(options.workers);
            let (asks, thread) =
                analytics::by_blocks(by_id, consumers, sleeper.clone(), rest, core, start)?;
            let ends = producers.into_iter().map(|samples| End::Chunks {
                samples,
                asks: asks.clone(),
                sleeper: sleeper.clone(),
            });
            (ends.collect::<Vec<_>>(), thread)
        }
    };

    let all_counters = Arc::new(AllCounters::default());
    let listeners = listeners(options.listen, options.workers)?;
    let address = listeners[0].local_addr()?;
    let budget = Arc::new(ConnectionBudget::new(LIMITS.memory_bytes_max));
    let (mut handles, mut workers) = (Vec::new(), Vec::new());
    for (index, (listener, end)) in listeners.into_iter().zip(ends).enumerate() {
        let front = Front {
            json: parts.json,
            end,
            registry: registry.clone(),
            decoder: Decoder::new(registry.clone()),
            counters: all_counters.add(),
            all_counters: all_counters.clone(),
            samples: Vec::new(),
            buffers: Buffers::default(),
            staging: Batch::default(),
            body: Vec::new(),
            answered: [0; 2],
        };
        let counters = Arc::new(http::counters::HttpCounters::default());
        let worker = Worker::new(
            EpollPoller::new([listener])?,
            LIMITS,
            budget.clone(),
            counters,
            start,
            front,
        );
        handles.push(worker.handle());
        let core = core_of(index);
        let run = move || {
            if let Some(id) = core {
                assert!(core_affinity::set_for_current(CoreId { id }), "the kernel pins threads");
            }
            worker.run().expect("a poller that works");
        };
        workers.push(thread::Builder::new().name(format!("worker-{index}")).spawn(run)?);
    }
    eprintln!("listening on {address}");

    signals.forever().next();
    for handle in handles {
        handle.drain(DRAIN);
    }
    for worker in workers {
        worker.join().expect("no worker panics");
    }
    thread.join().expect("the analytics thread does not panic");
    Ok(())
}

/// Where samples leave the worker.
enum End {
    Names(Sender<Message<Vec<Sample>>>),
    Ids(Sender<Message<Batch>>),
    Chunks { samples: SampleProducer, asks: Sender<Ask>, sleeper: Arc<Sleeper> },
}

struct Front {
    json: Json,
    end: End,
    registry: Arc<Registry>,
    decoder: Decoder,
    counters: Arc<HttpCounters>,
    all_counters: Arc<AllCounters>,
    samples: Vec<Sample>,
    buffers: Buffers,
    staging: Batch,
    body: Vec<u8>,
    /// POSTs of this round, by path.
    answered: [u64; 2],
}

impl Front {
    fn ingest(&mut self, request: Request<'_>, answer: &mut dyn ResponseWriter) {
        let is_ingest = request.path == "/ingest";
        let path = request.path;
        self.answered[usize::from(!is_ingest)] += 1;
        self.body.clear();
        let status = match self.keep(request.body, request.now) {
            Ok(accepted) => {
                self.counters.accepted(accepted);
                let answer = Accepted::of(accepted);
                serde_json::to_writer(&mut self.body, &answer).expect("into memory");
                if is_ingest { 202 } else { 200 }
            }
            Err((status, message)) => {
                let answer = json!({"error": {"message": message}});
                serde_json::to_writer(&mut self.body, &answer).expect("into memory");
                status
            }
        };
        self.counters.answered(path, status, None);
        answer.send(status, JSON, &[], &self.body);
    }

    fn keep(&mut self, body: &mut [u8], now: Now) -> Result<usize, (u16, String)> {
        let refused = |message| (400, message);
        self.samples.clear();
        self.staging.clear();
        match self.json {
            Json::Value | Json::Typed => {
                samples::typed(body, &mut self.samples).map_err(refused)?
            }
            Json::Simd => {
                samples::simd(body, &mut self.buffers, &mut self.samples).map_err(refused)?;
            }
            Json::Scanner => {
                let decoded = self.decoder.decode(body, Format::Json, now, &mut self.staging);
                let decoded = decoded.map_err(|error| (400, format!("{error:?}")))?;
                if decoded.accepted == 0 {
                    return Err((400, self.decoder.refusals()[0].message.clone()));
                }
            }
        }
        if !matches!(self.end, End::Names(_)) && self.json != Json::Scanner {
            name_to_ids(&self.registry, &self.samples, now, &mut self.staging)?;
        }
        let full = || (503, "the queue is full".to_owned());
        match &mut self.end {
            End::Names(messages) => {
                let samples = std::mem::take(&mut self.samples);
                let accepted = samples.len();
                messages.try_send(Message::Samples(samples)).map_err(|_| full())?;
                Ok(accepted)
            }
            End::Ids(messages) => {
                let batch = std::mem::take(&mut self.staging);
                let accepted = batch.len();
                messages.try_send(Message::Samples(batch)).map_err(|_| full())?;
                Ok(accepted)
            }
            End::Chunks { samples, .. } => {
                let accepted = self.staging.len();
                if !samples.has_room(accepted, self.staging.readings()) {
                    return Err(full());
                }
                samples.push(&self.staging, now);
                Ok(accepted)
            }
        }
    }

    /// Waits for the analytics thread; sigmad leaves that to a reader.
    fn report(&mut self, device: Option<&str>, now: Now) -> Report {
        let (to, report) = bounded(1);
        let reply = Box::new(move |report| to.send(report).expect("somebody waits"));
        let ask = Ask { device: device.map(str::to_owned), reply };
        let is_sent = match &mut self.end {
            End::Names(messages) => messages.send(Message::Ask(ask)).is_ok(),
            End::Ids(messages) => messages.send(Message::Ask(ask)).is_ok(),
            End::Chunks { samples, asks, sleeper } => {
                samples.send(now);
                let is_sent = asks.send(ask).is_ok();
                sleeper.wake();
                is_sent
            }
        };
        assert!(is_sent, "the analytics thread outlives its workers");
        report.recv().expect("the thread answers whom it hears")
    }
}

/// Looks every name up under the registry's lock.
fn name_to_ids(
    registry: &Registry,
    samples: &[Sample],
    now: Now,
    batch: &mut Batch,
) -> Result<(), (u16, String)> {
    let now_s = (now.monotonic_ns / 1_000_000_000) as u32;
    for sample in samples {
        let mut metrics = [("", None); 2];
        let mut count = 0;
        for (name, value) in sample.readings() {
            let metric = if name == "cpu" { MetricId::CPU } else { MetricId::RPS };
            metrics[count] = (name, Some(metric));
            count += 1;
            batch.draft(Reading { metric, value });
        }
        let admitted = registry.admit(
            NameSource::Client,
            sample.device.as_deref(),
            &mut metrics[..count],
            now_s,
        );
        let admitted = admitted.map_err(|full| (429, format!("{full:?}")))?;
        let stamp = timestamp::from_integer(sample.timestamp.unsigned_abs());
        let stamp = stamp.map_err(|_| (400, "timestamp is out of range".to_owned()))?;
        let timestamp_us = stamp.unwrap_or(now.wall_us);
        batch.complete(timestamp_us, admitted.map(|admitted| admitted.device));
    }
    Ok(())
}

impl Service for Front {
    fn call(&mut self, request: Request<'_>, answer: &mut dyn ResponseWriter) {
        match (request.method, request.path) {
            (Method::Post, "/ingest" | "/metrics") => self.ingest(request, answer),
            (Method::Get, "/analyze") => {
                let device = request.query.split('&').find_map(|pair| pair.strip_prefix("device="));
                let report = self.report(device, request.now).to_json(device);
                answer.send(200, JSON, &[], report.to_string().as_bytes());
            }
            (Method::Get, "/metrics") => {
                let fleet = self.report(None, request.now);
                let text = self.all_counters.scrape(&fleet);
                answer.send(200, "text/plain; version=0.0.4", &[], text.as_bytes());
            }
            (Method::Get, "/healthz") => answer.send(200, JSON, &[], br#"{"status":"ok"}"#),
            _ => answer.send(404, JSON, &[], br#"{"error":{"message":"not found"}}"#),
        }
    }

    fn round_called(&mut self, now: Now, _stages: StageTimer<'_>) {
        if let End::Chunks { samples, .. } = &mut self.end {
            samples.send(now);
        }
    }

    fn round_answered(&mut self, elapsed_ns: u64) {
        self.counters.timed(std::mem::take(&mut self.answered), elapsed_ns);
    }
}
