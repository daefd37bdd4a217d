//! Makes the queues, starts every thread in its place, and stops them in the order of the data.
//!
//! Owns the life cycle: the file limit, the placement of threads, readiness, signals, the drain. What
//! the threads do is said where they are.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

use crate::analytics::families::StoredInMemory;
use crate::analytics::report::{TotalsReport, questions};
use crate::analytics::thread::{AnalyticsCounters, AnalyticsThread};
use crate::analytics::{Analytics, AnalyticsSettings};
use crate::answers::windows::DetectionSettings;
use crate::api::counters::{RequestCounters, RouterCounters};
use crate::api::debug::{self, DEBUGS_WAITING_MAX, DebugRequest};
use crate::api::reader::{self, READERS, READS_WAITING_MAX, ReadRequest, ReaderDeps};
use crate::api::router::{Router, RouterParts};
use crate::api::tokens::{BearerToken, Tokens};
use crate::config::{Engine, RedisHistory, ServerSettings};
use crate::dashboard::counters::EventsCounters;
use crate::dashboard::events::{self, Events};
use crate::dashboard::sampler::{IngestSource, Sampler, SamplerCounters};
use crate::decode::Decoder;
use crate::http::listen::listeners;
use crate::http::may::CONNECTIONS_OVER_MAX;
use crate::http::worker::{Worker, WorkerHandle};
use crate::http::{self, Limits};
use crate::judged_queue::{self, JudgedProducer, JudgedQueueCounters};
use crate::placement::{self, Machine, Placement};
use crate::readiness::{Readiness, ReadinessPhase, StoreState};
use crate::registry::Registry;
use crate::sample_queue::{self, SampleQueueCounters, Sleeper};
use crate::store::StoreCounters;
use crate::store::commands::StoreOptions;
use crate::store::keys::ReplicaId;
use crate::store::thread::{LAST_FLUSH, StoreThread, StoreThreadParts};
use crate::store::url::Target;
use crate::telemetry::{Build, Sources, Telemetry};
use sigmad_clock::{Clock, elapsed};
use sigmad_counters::{Counter, Source};
use sigmad_detectors::DetectorSettings;
use sigmad_detectors::zscore::ZScore;

/// Descriptors kept from connections: standard streams, logs, listeners and pollers of four workers.
const FILES_RESERVED: usize = 64;
/// Descriptors of one more worker: listener, poller, wake-up.
const FILES_PER_WORKER: usize = 3;
/// Samples in the history of one replica: a minute of a large fleet, some 20 MB in Redis.
const HISTORY_SAMPLES: usize = 100_000;
/// What an attempt of the store that has begun in time may take: to connect, and for an answer that does
/// not come. Longer takes only an answer that comes byte by byte, and nobody waits for that.
const STORE_ATTEMPT: Duration = Duration::from_secs(3);
/// For the request that was on its way to a connection when the drain began.
const DRAIN_IDLE_MS: u64 = 1_000;
/// An exit code for those who did not wait for the drain.
const EXIT_IMPATIENT: i32 = 1;

/// Why the server could not run.
#[derive(Debug)]
pub enum ServerError {
    /// The address of `--listen` can't be had.
    Listen(SocketAddr, io::Error),
    /// The kernel refused a thread, a poller or signals.
    Start(io::Error),
    /// A worker lost its poller.
    Worker(io::Error),
    /// The file limit leaves no room for connections.
    FileLimit(usize),
}

impl std::error::Error for ServerError {}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                write!(f, "can't listen on {address} (--listen): {error}")
            }
            Self::Start(error) => write!(f, "can't start: {error}"),
            Self::Worker(error) => write!(f, "a worker failed: {error}"),
            Self::FileLimit(limit) => {
                write!(
                    f,
                    "the file limit of {limit} leaves no room for connections; raise `ulimit -n`"
                )
            }
        }
    }
}

/// What ends the wait of the main thread.
enum Event {
    Signal(i32),
    WorkerFailed(io::Error),
    /// The windows of the cluster are read, or Redis is away; or that has changed.
    StoreTold,
}

/// Serves until a signal says stop, then drains. `start` is the moment from which all clocks count;
/// `is_listening` is called once, when the address takes requests.
///
/// # Errors
/// When it can't start, or lost what it needs to go on.
pub fn run(
    settings: &ServerSettings,
    start: Instant,
    is_listening: impl FnOnce(SocketAddr),
) -> Result<(), ServerError> {
    let (events_end, events) = unbounded();
    watch_signals(events_end.clone()).map_err(ServerError::Start)?;
    let machine = Machine::of_this_process();
    let placement = placement::decide(&machine, settings.workers, settings.pin);
    let limits = limits(settings, placement.workers())?;
    let readiness = Arc::new(Readiness::default());

    let parts = Parts::new(settings, &placement, start, &readiness, &events_end);
    let analytics = parts.analytics;
    let analytics = spawn("analytics".into(), placement.analytics_core, move || analytics.run())
        .map_err(ServerError::Start)?;
    let store = parts.store.map(|store| spawn("store".into(), None, move || store.run()));
    let store = store.transpose().map_err(ServerError::Start)?;
    let readers = parts.readers.start(start).map_err(ServerError::Start)?;
    let events_thread = spawn("events".into(), None, move || parts.events.run());
    let events_thread = events_thread.map_err(ServerError::Start)?;
    let debug =
        debug::start(parts.debugs, parts.sources, parts.debug_counters, readiness.clone(), start);
    let debug = debug.map_err(ServerError::Start)?;
    let engine = match settings.engine {
        Engine::Native => native(settings, limits, &placement, parts.workers, start, events_end)?,
        Engine::May => may(settings, limits, &placement, parts.workers, start)?,
    };
    if store.is_none() {
        readiness.set(ReadinessPhase::Ready);
    }
    info!(
        address = %engine.address,
        workers = placement.workers(),
        workers_because = %placement.workers_reason,
        cores = ?placement.worker_cores,
        analytics_core = ?placement.analytics_core,
        pinned_because = %placement.pin_reason,
        connections_max = limits.connections_max,
        memory_limit_bytes = machine.limits.memory_bytes,
        started_ms = elapsed(start).as_millis() as u64,
        "listening"
    );
    is_listening(engine.address);

    let failure = loop {
        match events.recv().expect("this function holds a sender") {
            Event::StoreTold => readiness.set(ReadinessPhase::Ready),
            Event::Signal(signal) => {
                info!(signal, "draining");
                break None;
            }
            Event::WorkerFailed(error) => break Some(error),
        }
    };
    readiness.set(ReadinessPhase::Draining);
    let deadline = elapsed(start) + settings.drain;
    if let Some(deadline_ns) = &parts.store_deadline_ns {
        // Relaxed: nothing else travels with it; the store looks again and again.
        deadline_ns.store(deadline.as_nanos() as u64, Ordering::Relaxed);
    }
    engine.drain(settings.drain);
    // The workers have gone: readers and sample queues see their channels closed, and end once they are empty.
    join_all(readers);
    join_all(vec![events_thread, debug]);
    let totals = analytics.join().unwrap_or_else(|_| std::process::abort());
    // Analytics has gone: the store writes what is left.
    if let (Some(store), Some(counters)) = (store, &parts.store_counters) {
        let now = elapsed(start);
        join_store(&store, start, deadline.max(now + LAST_FLUSH) + STORE_ATTEMPT, counters);
    }
    report(&totals, &parts.routers, parts.store_counters.as_ref());
    failure.map_or(Ok(()), |error| Err(ServerError::Worker(error)))
}

/// Sends the first signal to the main thread; the second ends the process.
fn watch_signals(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut signals = signals.forever();
        if let Some(signal) = signals.next() {
            // Err: the main thread is on its way out already.
            let _ = events.send(Event::Signal(signal));
        }
        if let Some(signal) = signals.next() {
            warn!(signal, "not waiting for the drain");
            std::process::exit(EXIT_IMPATIENT);
        }
    })?;
    Ok(())
}

fn limits(settings: &ServerSettings, workers: usize) -> Result<Limits, ServerError> {
    // The soft limit becomes the hard one.
    let files = rlimit::increase_nofile_limit(u64::MAX).map_err(ServerError::Start)?;
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    // The native engine takes fewer above the limit, to tell them that they are.
    let reserved = FILES_RESERVED + workers * FILES_PER_WORKER + CONNECTIONS_OVER_MAX;
    let room = files.checked_sub(reserved).filter(|&room| room > 0);
    let room = room.ok_or(ServerError::FileLimit(files))?;
    if room < settings.max_connections {
        warn!(connections_max = room, files, "the file limit is below --max-connections");
    }
    Ok(Limits {
        head_bytes_max: settings.max_head,
        body_bytes_max: settings.max_body,
        connections_max: settings.max_connections.min(room),
        read_timeout_ms: settings.read_timeout.as_millis() as u64,
        idle_timeout_ms: settings.idle_timeout.as_millis() as u64,
        drain_idle_ms: DRAIN_IDLE_MS,
    })
}

/// Everything that is made before any thread runs.
struct Parts {
    workers: Vec<WorkerParts>,
    analytics: AnalyticsThread,
    readers: ReaderParts,
    store: Option<StoreThread>,
    /// When the store gives up what is left; 0 until the drain begins.
    store_deadline_ns: Option<Arc<AtomicU64>>,
    store_counters: Option<RedisCounters>,
    events: Events,
    debugs: Receiver<DebugRequest>,
    /// For the stage budget.
    sources: Sources,
    debug_counters: Arc<RequestCounters>,
    routers: Vec<Arc<RouterCounters>>,
}

struct WorkerParts {
    router: Router,
    counters: Arc<http::counters::HttpCounters>,
}

struct ReaderParts {
    reads: Receiver<ReadRequest>,
    desk: Arc<ReaderDeps>,
    counters: Vec<Arc<RequestCounters>>,
}

impl Parts {
    fn new(
        settings: &ServerSettings,
        placement: &Placement,
        start: Instant,
        readiness: &Arc<Readiness>,
        events: &Sender<Event>,
    ) -> Self {
        let stream_idle_s = u32::try_from(settings.stream_idle.as_secs()).unwrap_or(u32::MAX);
        let registry = Arc::new(Registry::new(settings.max_streams, stream_idle_s));
        let sleeper = Arc::new(Sleeper::default());
        let (asker, questions) = questions(sleeper.clone());
        let (reads_end, reads) = bounded(READS_WAITING_MAX);
        let (debugs_end, debugs) = bounded(DEBUGS_WAITING_MAX);
        let tokens = Arc::new(Tokens {
            ingest: settings.ingest_token.as_ref().map(|token| BearerToken::new(token.secret())),
            read: settings.read_token.as_ref().map(|token| BearerToken::new(token.secret())),
            debug: settings.debug_token.as_ref().map(|token| BearerToken::new(token.secret())),
        });

        let store = settings.redis_url.as_ref().map(|target| {
            StoreParts::new(target, settings, &registry, &sleeper, start, readiness, events)
        });
        let analytics_counters = Arc::new(AnalyticsCounters::default());
        let store_counters = store.as_ref().map(|store| store.counters.clone());
        // What has left a queue before what has entered it: see `Sources`.
        let mut sources: Vec<Arc<dyn Source>> = match &store_counters {
            Some(RedisCounters { queue, store }) => vec![queue.clone(), store.clone()],
            None => vec![Arc::new(StoredInMemory(analytics_counters.clone()))],
        };
        let reader_counters: Vec<_> = (0..READERS).map(|_| Arc::default()).collect();
        let debug_counters = Arc::<RequestCounters>::default();
        let events_counters = Arc::<EventsCounters>::default();
        sources.extend(reader_counters.iter().map(|c: &Arc<RequestCounters>| c.clone() as _));
        sources.extend::<[Arc<dyn Source>; 4]>([
            debug_counters.clone(),
            analytics_counters.clone(),
            events_counters.clone(),
            registry.clone(),
        ]);
        let mut sampler_counters = SamplerCounters {
            ingest: Vec::new(),
            http: Vec::new(),
            sample_queues: Vec::new(),
            analytics: analytics_counters.clone(),
        };
        let mut routers = Vec::new();
        let mut workers = Vec::new();
        let mut sample_consumers = Vec::new();
        for worker in 0..placement.workers() {
            let queue_counters =
                Arc::new(SampleQueueCounters { worker, ..SampleQueueCounters::default() });
            let (samples, sample_consumer) =
                sample_queue::channel(sleeper.clone(), queue_counters.clone());
            let router_counters = Arc::new(RouterCounters::default());
            let counters = Arc::new(http::counters::HttpCounters::default());
            let router = Router::new(RouterParts {
                decoder: Decoder::new(registry.clone()),
                samples,
                clock: Clock::new(start),
                counters: router_counters.clone(),
                reads: reads_end.clone(),
                debug: debugs_end.clone(),
                tokens: tokens.clone(),
                readiness: readiness.clone(),
            });
            sources.extend::<[Arc<dyn Source>; 3]>([
                counters.clone(),
                router_counters.clone(),
                queue_counters.clone(),
            ]);
            sampler_counters.http.push(counters.clone());
            sampler_counters.ingest.push(router_counters.clone() as Arc<dyn IngestSource>);
            sampler_counters.sample_queues.push(queue_counters);
            routers.push(router_counters);
            sample_consumers.push(sample_consumer);
            workers.push(WorkerParts { router, counters });
        }

        let (window, threshold) = (settings.window, settings.threshold);
        // config bounds it far below.
        let min_samples = settings.min_samples as u32;
        let zscore = ZScore { threshold, min_samples };
        let detectors = DetectorSettings { zscore, kinds: settings.detector.clone() };
        let detector = detectors.first();
        let judging = AnalyticsSettings { window, detectors };
        let store_deadline_ns = store.as_ref().map(|store| store.deadline_ns.clone());
        let (judged_producer, store) =
            store.map(|store| (store.judged_producer, store.thread)).unzip();
        let analytics = AnalyticsThread::new(
            Analytics::new(judging, registry.clone().into()),
            settings.ttl.as_micros() as i64,
            sample_consumers,
            questions,
            judged_producer,
            sleeper,
            start,
            analytics_counters,
        );
        let build = Build {
            version: env!("CARGO_PKG_VERSION"),
            engine: settings.engine.name(),
            detector: detector.name(),
            window,
        };
        sources.push(Arc::new(build));
        let sources: Sources = sources.into();
        let (door, arrivals) = events::door(events_counters.clone());
        let server = events::Server {
            version: build.version,
            replica: host_name(),
            engine: build.engine,
            detector: build.detector,
            window,
            threshold,
            score_threshold: detector.threshold(threshold),
        };
        let events = Events::new(
            arrivals,
            Sampler::new(asker.clone(), registry.clone(), sampler_counters),
            server,
            readiness.clone(),
            events_counters,
            start,
        );
        let readers = ReaderParts {
            reads,
            counters: reader_counters,
            desk: Arc::new(ReaderDeps {
                asker,
                events: door,
                registry,
                telemetry: Telemetry::new(sources.clone()),
                settings: DetectionSettings { window, threshold, detector: detector.name() },
                is_shared: settings.redis_url.is_some(),
            }),
        };
        Self {
            workers,
            analytics,
            readers,
            events,
            debugs,
            sources,
            debug_counters,
            store,
            store_deadline_ns,
            store_counters,
            routers,
        }
    }
}

/// The counters on both sides of the judged-sample queue.
#[derive(Clone)]
struct RedisCounters {
    queue: Arc<JudgedQueueCounters>,
    store: Arc<StoreCounters>,
}

/// What there is with Redis only.
struct StoreParts {
    judged_producer: JudgedProducer,
    thread: StoreThread,
    counters: RedisCounters,
    deadline_ns: Arc<AtomicU64>,
}

impl StoreParts {
    fn new(
        target: &Target,
        settings: &ServerSettings,
        registry: &Arc<Registry>,
        sleeper: &Arc<Sleeper>,
        start: Instant,
        readiness: &Arc<Readiness>,
        events: &Sender<Event>,
    ) -> Self {
        // Seeded by the system for each process.
        let random = RandomState::new().build_hasher().finish();
        let counters = RedisCounters { queue: Arc::default(), store: Arc::default() };
        let (judged_producer, judged_consumer) =
            judged_queue::channel(settings.redis_queue, sleeper.clone(), counters.queue.clone());
        let keeps_history = settings.redis_history == RedisHistory::Stream;
        let options = StoreOptions {
            replica: ReplicaId::new(random as u32),
            window: settings.window,
            ttl: settings.ttl,
            stream_idle: settings.stream_idle,
            history_len: keeps_history.then_some(HISTORY_SAMPLES),
            devices_max: settings.max_streams,
        };
        readiness.set_store(StoreState::Degraded);
        let (readiness, events) = (readiness.clone(), events.clone());
        let deadline_ns = Arc::new(AtomicU64::new(0));
        let thread = StoreThread::new(StoreThreadParts {
            target: target.clone(),
            options,
            flush_interval: settings.flush_interval,
            consumer: judged_consumer,
            registry: registry.clone(),
            counters: counters.store.clone(),
            clock: Clock::new(start),
            seed: random,
            on_state: Box::new(move |is_up| {
                readiness.set_store(if is_up { StoreState::Ok } else { StoreState::Degraded });
                // Err: the main thread is on its way out already.
                let _ = events.send(Event::StoreTold);
            }),
            deadline_ns: deadline_ns.clone(),
        });
        Self { judged_producer, thread, counters, deadline_ns }
    }
}

impl ReaderParts {
    fn start(self, start: Instant) -> io::Result<Vec<JoinHandle<()>>> {
        let Self { reads, desk, counters } = self;
        let readers = counters.into_iter().enumerate().map(|(index, counters)| {
            reader::start(index, reads.clone(), desk.clone(), counters, Clock::new(start))
        });
        readers.collect()
    }
}

/// What serves HTTP, whichever it is.
struct RunningEngine {
    address: SocketAddr,
    drain: Box<dyn FnOnce(Duration)>,
}

impl RunningEngine {
    /// Returns when the last connection has gone, or after `limit`.
    fn drain(self, limit: Duration) {
        (self.drain)(limit);
    }
}

fn native(
    settings: &ServerSettings,
    limits: Limits,
    placement: &Placement,
    workers: Vec<WorkerParts>,
    start: Instant,
    events: Sender<Event>,
) -> Result<RunningEngine, ServerError> {
    let refused = |error| ServerError::Listen(settings.listen, error);
    let listeners = listeners(settings.listen, workers.len()).map_err(refused)?;
    let address = listeners[0].local_addr().map_err(refused)?;
    let open = Arc::new(AtomicUsize::new(0));
    let mut threads = Vec::new();
    let mut handles: Vec<Arc<WorkerHandle>> = Vec::new();
    for (index, (parts, listener)) in workers.into_iter().zip(listeners).enumerate() {
        let WorkerParts { router, counters } = parts;
        let worker = Worker::new(listener, limits, open.clone(), counters, start, router)
            .map_err(ServerError::Start)?;
        handles.push(worker.handle());
        let events = events.clone();
        let thread = spawn(format!("worker-{index}"), placement.worker_cores[index], move || {
            if let Err(error) = worker.run() {
                // Err: the main thread is on its way out already.
                let _ = events.send(Event::WorkerFailed(error));
            }
        });
        threads.push(thread.map_err(ServerError::Start)?);
    }
    let drain = move |limit| {
        for handle in &handles {
            handle.drain(limit);
        }
        join_all(threads);
    };
    Ok(RunningEngine { address, drain: Box::new(drain) })
}

fn may(
    settings: &ServerSettings,
    limits: Limits,
    placement: &Placement,
    workers: Vec<WorkerParts>,
    start: Instant,
) -> Result<RunningEngine, ServerError> {
    warn!(limits = ?http::may::KNOWN_LIMITS, "--engine may is for comparisons on trusted networks");
    let counters = workers[0].counters.clone();
    let routers = workers.into_iter().map(|parts| parts.router).collect();
    let is_pinned = placement.analytics_core.is_some();
    let engine = http::may::start(settings.listen, routers, limits, is_pinned, counters, start)
        .map_err(|error| ServerError::Listen(settings.listen, error))?;
    let address = engine.address();
    let drain = move |limit| drop(engine.stop(limit));
    Ok(RunningEngine { address, drain: Box::new(drain) })
}

/// What the machine, or the container, is called.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    // A name for people, and nothing depends on it.
    name.map_or_else(|_| "unknown".to_owned(), |name| name.trim_end().to_owned())
}

/// Starts a thread on a core. A panic in it is our mistake, and without it nothing is promised any
/// more: it ends the process.
fn spawn<T: Send + 'static>(
    name: String,
    core: Option<usize>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    struct AbortOnPanic;
    impl Drop for AbortOnPanic {
        fn drop(&mut self) {
            if std::thread::panicking() {
                std::process::abort();
            }
        }
    }
    std::thread::Builder::new().name(name).spawn(move || {
        let _guard = AbortOnPanic;
        if let Some(id) = core
            && !core_affinity::set_for_current(CoreId { id })
        {
            warn!(core = id, "the kernel did not pin this thread");
        }
        run()
    })
}

fn join_all(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // Err: it panicked, which spawn() has dealt with.
        let _ = thread.join();
    }
}

/// Waits for the store until `deadline` after `start`. What it still holds then, nobody gets.
fn join_store(
    store: &JoinHandle<()>,
    start: Instant,
    deadline: Duration,
    counters: &RedisCounters,
) {
    const LOOK: Duration = Duration::from_millis(5);
    while !store.is_finished() {
        if elapsed(start) > deadline {
            let samples = counters.store.queue_samples.get();
            warn!(samples, "Redis hangs; what is left is lost");
            return;
        }
        std::thread::sleep(LOOK);
    }
}

/// The last words: what was promised, and that it was kept.
fn report(totals: &TotalsReport, routers: &[Arc<RouterCounters>], store: Option<&RedisCounters>) {
    if let Some(RedisCounters { queue, store }) = store {
        let dropped = store.dropped_total.iter().map(Counter::get).sum::<u64>();
        info!(
            stored = store.stored_total.get(),
            coalesced = store.coalesced_total.get(),
            dropped = queue.dropped_total.get() + dropped,
            "Redis has"
        );
    }
    let sum =
        |of: fn(&RouterCounters) -> &Counter| routers.iter().map(|r| of(r).get()).sum::<u64>();
    info!(
        requests = sum(|router| &router.ingest_requests_total),
        accepted = sum(|router| &router.accepted_total),
        judged = totals.samples,
        invalid = sum(|router| &router.invalid_total),
        too_many_streams = sum(|router| &router.too_many_streams_total),
        queue_full = sum(|router| &router.queue_full_total),
        anomalies = totals.anomalies.iter().map(|(_, count)| count).sum::<u64>(),
        devices = totals.devices,
        streams = totals.streams,
        "stopped"
    );
}
