//! One sigmad process: its real registry, sample queue, analytics threads and store thread, under simulated clocks.
//!
//! What main and the workers do between them is here, in the order of `src/server/running.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Receiver;
use sigmad::analytics::report::{Question, Scope, WindowsReport};
use sigmad::analytics::thread::{AnalyticsParts, AnalyticsThread, Turn};
use sigmad::analytics::{
    Analytics, AnalyticsSettings, AnomalyNumbers, Asker, KnownSilences, questions,
};
use sigmad::handover::{self, HandoverCounters};
use sigmad::judged_queue::{self, JudgedQueueCounters};
use sigmad::registry::{NameSource, Registry};
use sigmad::sample_queue::{self, SampleProducer, Sleeper};
use sigmad::shards::ShardLayout;
use sigmad::shared_lists::SharedLists;
use sigmad::store::StoreCounters;
use sigmad::store::commands::{SampleKeys, StoreOptions};
use sigmad::store::keys::ReplicaId;
use sigmad::store::thread::{LAST_FLUSH, StoreThread, StoreThreadParts};
use sigmad::store::url::Target;
use sigmad_clock::Clock;
use sigmad_detectors::DetectorKind;
use sigmad_sample::{Batch, Reading};

use crate::world::{
    Event, MS, SECOND, SimulatedClock, SimulatedDialer, StoreRoutine, now_ns, with,
};

/// Streams of one process: far more than a simulation has.
const STREAMS_MAX: usize = 1_000;
const STREAM_IDLE: Duration = Duration::from_secs(3_600);
/// As `FINAL_STEPS` and `LAST_FLUSH_PART` in `src/server/store.rs`.
const FINAL_STEPS_NS: (u64, u64) = (200 * MS, 10);
const LAST_FLUSH_PART: u64 = 4;
/// Between two looks at the store while it ends.
const JOIN_EVERY_NS: u64 = 5 * MS;
/// As the default of `--handover-wait`.
const HANDOVER_WAIT: Duration = Duration::from_secs(1);
/// Turns of the analytics thread without a pause.
const TURNS_MAX: usize = 1_000;

/// What is the same for all processes of a simulation.
#[derive(Clone, Debug)]
pub struct ProcessSettings {
    pub target: Target,
    pub window: usize,
    pub flush_interval: Duration,
    pub drain_ns: u64,
    /// `--redis-queue`.
    pub queue_bytes: usize,
    pub sample_keys: SampleKeys,
    /// Detectors keep states, which follow their device.
    pub has_states: bool,
    /// `--analytics`.
    pub shards: usize,
}

/// Device, timestamp and readings of a sample.
pub type PostedSample<'a> = (Option<&'a str>, i64, &'a [(&'a str, f64)]);

/// How far a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Running,
    /// Since SIGTERM, until its deadline.
    Draining {
        deadline_ns: u64,
    },
    /// Analytics has ended; the store may go on until its deadline.
    Joining {
        deadline_ns: u64,
    },
    Exited,
    /// It was killed.
    Killed,
}

/// A read that waits for its report.
pub struct PendingRead {
    pub report: Receiver<WindowsReport>,
    pub subject: usize,
    pub scope: Scope,
    /// Samples of the subject that this process had accepted before the question.
    pub own: u64,
    pub is_at_rest: bool,
}

pub struct Process {
    pub index: usize,
    pub slot: usize,
    pub phase: Phase,
    pub id: ReplicaId,
    /// Its `--window`.
    pub window: usize,
    pub sample_keys: SampleKeys,
    /// What `/readyz` says of Redis.
    says_up: Arc<AtomicBool>,
    registry: Arc<Registry>,
    producer: Option<SampleProducer>,
    asker: Asker,
    /// The cluster's lists, as it shows them.
    pub lists: Arc<SharedLists>,
    layout: ShardLayout,
    /// By shard; None once it has ended.
    analytics: Vec<Option<AnalyticsThread>>,
    store: Option<StoreRoutine>,
    pub reads: Vec<PendingRead>,
    clock: Clock,
    deadline: Arc<AtomicU64>,
    source: Arc<SimulatedClock>,
    pub store_counters: Arc<StoreCounters>,
    handover_counters: Vec<Arc<HandoverCounters>>,
    queue_counters: Vec<Arc<JudgedQueueCounters>>,
    /// By shard.
    is_turn_due: Vec<bool>,
    /// Samples with a 202.
    pub accepted: u64,
    /// Its store did not end in time.
    pub is_store_lost: bool,
    /// Samples judged, by the shards that have ended.
    judged: u64,
    /// When it was told to end.
    pub term_ns: u64,
    /// What it had counted as stored, by time; each entry is a change.
    stored_by_time: Vec<(u64, u64)>,
    /// What of it must be in Redis after a kill.
    safe_stored: u64,
}

fn store_options(replica: ReplicaId, settings: &ProcessSettings) -> StoreOptions {
    StoreOptions {
        replica,
        window: settings.window,
        // Longer than any run: a key that is gone was lost.
        ttl: Duration::from_secs(86_400),
        stream_idle: STREAM_IDLE,
        history_len: None,
        devices_max: STREAMS_MAX,
        sample_keys: settings.sample_keys,
    }
}

impl Process {
    pub fn start(
        index: usize,
        slot: usize,
        settings: &ProcessSettings,
        skew_us: Arc<AtomicI64>,
        drift_ppm: i64,
        random: u64,
    ) -> Self {
        let source = Arc::new(SimulatedClock::new(skew_us, drift_ppm));
        let clock = Clock::simulated(source.clone());
        let layout = ShardLayout::new(settings.shards);
        let sleepers: Vec<Arc<Sleeper>> = (0..layout.threads()).map(|_| Arc::default()).collect();
        let registry = Arc::new(Registry::new(STREAMS_MAX, STREAM_IDLE.as_secs() as u32));
        let (producer, consumers) = sample_queue::sharded(layout, &sleepers, Arc::default());
        let (asker, asked) = questions(layout, &sleepers);
        let queue_counters: Vec<_> = sleepers.iter().map(|_| Arc::default()).collect();
        let (judged_producers, judged_consumer) =
            judged_queue::sharded(settings.queue_bytes, layout, &sleepers, &queue_counters);
        let mut detection =
            AnalyticsSettings { window: settings.window, ..AnalyticsSettings::default() };
        if settings.has_states {
            detection.detectors.kinds.push(DetectorKind::Pager);
        }
        let deadline = Arc::new(AtomicU64::new(0));
        let handover_counters: Vec<_> = (0..layout.of_devices()).map(|_| Arc::default()).collect();
        let (states_producers, states_consumer) =
            handover::channel(HANDOVER_WAIT, &deadline, &handover_counters);
        let (numbers, mut states) = (AnomalyNumbers::default(), states_producers.into_iter());
        let ends = consumers.into_iter().zip(asked).zip(judged_producers).zip(sleepers);
        let analytics = ends
            .enumerate()
            .map(|(shard, (((consumer, questions), judged_producer), sleeper))| {
                let (part, names) = (layout.part(shard), registry.clone().into());
                Some(AnalyticsThread::new(AnalyticsParts {
                    analytics: Analytics::of_part(part, detection.clone(), names, numbers.clone()),
                    ttl_us: 300_000_000,
                    sample_consumers: vec![consumer],
                    questions,
                    state: None,
                    journal: None,
                    known_silences: KnownSilences::default(),
                    past: None,
                    judged_producer: Some(judged_producer),
                    handover: states.next(),
                    events: None,
                    sleeper,
                    clock: clock.clone(),
                    counters: Arc::default(),
                }))
            })
            .collect();
        let id = ReplicaId::new(random as u32);
        let store_counters = Arc::<StoreCounters>::default();
        let mut started = clock.clone();
        let lists = Arc::new(SharedLists::new(id.number(), started.now().wall_us));
        let says_up = Arc::<AtomicBool>::default();
        let state = says_up.clone();
        // Boxed: a coroutine takes only a small closure.
        let thread = Box::new(StoreThread::new(StoreThreadParts {
            target: settings.target.clone(),
            handover: Some(states_consumer),
            lists: lists.clone(),
            options: store_options(id, settings),
            flush_interval: settings.flush_interval,
            consumer: judged_consumer,
            registry: registry.clone(),
            counters: store_counters.clone(),
            clock: clock.clone(),
            dialer: Arc::new(SimulatedDialer {
                slot,
                process: index,
                clock: source.clone(),
                deadline_ns: deadline.clone(),
            }),
            on_state: Box::new(move |is_up| state.store(is_up, Ordering::Relaxed)),
            seed: random,
            deadline_ns: deadline.clone(),
            logs_in_again: Arc::default(),
            outcomes: Arc::default(),
        }));
        Self {
            index,
            slot,
            phase: Phase::Running,
            id,
            window: settings.window,
            sample_keys: settings.sample_keys,
            says_up,
            registry,
            producer: Some(producer),
            asker,
            lists,
            layout,
            analytics,
            store: Some(StoreRoutine::new(index, move || thread.run())),
            reads: Vec::new(),
            clock,
            deadline,
            source,
            store_counters,
            handover_counters,
            queue_counters,
            is_turn_due: vec![false; layout.threads()],
            accepted: 0,
            is_store_lost: false,
            judged: 0,
            term_ns: 0,
            stored_by_time: Vec::new(),
            safe_stored: u64::MAX,
        }
    }

    /// The store thread goes on until it waits.
    pub fn resume_store(&mut self) {
        if let Some(store) = &mut self.store {
            if store.resume() {
                self.store = None;
            }
            let stored = self.stored();
            if self.stored_by_time.last().is_none_or(|&(_, last)| last < stored) {
                self.stored_by_time.push((now_ns(), stored));
            }
            self.wake_analytics();
        }
    }

    /// The analytics threads will take their turns soon, each when it gets a core.
    pub fn wake_analytics(&mut self) {
        (0..self.layout.threads()).for_each(|shard| self.wake_shard(shard));
    }

    fn wake_shard(&mut self, shard: usize) {
        if !std::mem::replace(&mut self.is_turn_due[shard], true) {
            let index = self.index;
            with(|world| {
                let after_ns = world.random.within(1_000..MS);
                world.push(now_ns() + after_ns, Event::Turn(index, shard));
            });
        }
    }

    /// An analytics thread works until it has nothing to do.
    pub fn turn(&mut self, shard: usize) {
        self.is_turn_due[shard] = false;
        let Some(analytics) = &mut self.analytics[shard] else { return };
        for _ in 0..TURNS_MAX {
            match analytics.turn() {
                Turn::Worked => {}
                Turn::Idle { all_sent: true } => return,
                Turn::Idle { all_sent: false } => break,
                Turn::Ended => {
                    self.judged += analytics.totals().samples;
                    self.analytics[shard] = None;
                    if self.judged().is_some() {
                        self.join();
                    }
                    return;
                }
            }
        }
        self.wake_shard(shard);
    }

    /// Samples judged, once all shards have ended.
    pub fn judged(&self) -> Option<u64> {
        self.analytics.iter().all(Option::is_none).then_some(self.judged)
    }

    /// Takes samples if there is room for all of them: then their 202 is sent.
    pub fn post(&mut self, samples: &[PostedSample<'_>]) -> bool {
        let Some(producer) = &mut self.producer else { return false };
        let readings = samples.iter().map(|(_, _, readings)| readings.len()).sum();
        if !producer.has_room(samples.len(), readings) {
            return false;
        }
        let now = self.clock.now();
        let mut batch = Batch::default();
        for (device, timestamp_us, readings) in samples {
            let mut named: Vec<_> = readings.iter().map(|(name, _)| (*name, None)).collect();
            let second = now.wall_s() as u32;
            let admitted = self.registry.admit(NameSource::Client, *device, &mut named, second);
            let device = admitted.expect("there is room").map(|admitted| admitted.device);
            let readings: Vec<_> = named
                .iter()
                .zip(*readings)
                .map(|((_, id), (_, value))| Reading {
                    metric: id.expect("admitted"),
                    value: *value,
                })
                .collect();
            batch.push(*timestamp_us, device, &readings);
        }
        producer.push(&batch, now);
        producer.send(now);
        self.accepted += samples.len() as u64;
        self.wake_analytics();
        true
    }

    /// Asks for the windows of a subject. False for a device that is unknown here.
    pub fn ask(
        &mut self,
        name: Option<&str>,
        subject: usize,
        scope: Scope,
        own: u64,
        is_at_rest: bool,
    ) -> bool {
        let device = name.map(|name| self.registry.find_device(name));
        let device = match device {
            None => None,
            Some(Some(device)) => Some(device),
            Some(None) => return false,
        };
        let report = self.asker.of(device).send(|to| Question::Windows(device, scope, to));
        if let Some(report) = report {
            self.reads.push(PendingRead { report, subject, scope, own, is_at_rest });
            self.wake_analytics();
        }
        true
    }

    /// SIGTERM.
    pub fn terminate(&mut self, drain_ns: u64, workers_ns: u64) {
        if self.phase != Phase::Running {
            return;
        }
        let deadline_ns = now_ns() + drain_ns;
        self.phase = Phase::Draining { deadline_ns };
        self.term_ns = now_ns();
        let (longest_ns, part) = FINAL_STEPS_NS;
        let store_deadline_ns = self.source.at(deadline_ns - longest_ns.min(drain_ns / part));
        self.deadline.store(store_deadline_ns, Ordering::Relaxed);
        let last_flush_ns = (LAST_FLUSH.as_nanos() as u64).min(drain_ns / LAST_FLUSH_PART);
        let workers_ns = workers_ns.min(drain_ns - last_flush_ns);
        let index = self.index;
        with(|world| world.push(now_ns() + workers_ns, Event::WorkersEnd(index)));
    }

    /// The workers have ended.
    pub fn end_workers(&mut self) {
        self.producer = None;
        self.wake_analytics();
    }

    /// The main thread waits for the store, as `RunningStore::join` does.
    fn join(&mut self) {
        let Phase::Draining { deadline_ns } = self.phase else { return };
        self.phase = Phase::Joining { deadline_ns };
        self.look();
    }

    /// Exits once the store has ended, or after its time.
    pub fn look(&mut self) {
        let Phase::Joining { deadline_ns } = self.phase else { return };
        if self.store.is_none() || now_ns() >= deadline_ns {
            self.phase = Phase::Exited;
            self.is_store_lost = self.store.take().is_some();
        } else {
            let index = self.index;
            with(|world| world.push(now_ns() + JOIN_EVERY_NS, Event::Join(index)));
        }
    }

    /// SIGKILL, or the machine is gone. `replicated_ns`: another Redis becomes the master just then and has all writes
    /// until that time. Nobody writes again what this process has written since.
    pub fn kill(&mut self, replicated_ns: Option<u64>) {
        if let Some(replicated_ns) = replicated_ns {
            let is_before = |&&(at_ns, _): &&(u64, u64)| at_ns < replicated_ns;
            let before = self.stored_by_time.iter().rev().find(is_before);
            self.safe_stored = before.map_or(0, |&(_, stored)| stored);
        }
        self.phase = Phase::Killed;
        self.producer = None;
        self.analytics.fill_with(|| None);
        self.store = None;
        self.reads.clear();
    }

    pub fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Exited | Phase::Killed)
    }

    pub fn stored(&self) -> u64 {
        self.store_counters.stored_total.get()
    }

    /// Samples counted as stored that must be in Redis.
    pub fn safe_stored(&self) -> u64 {
        let unconfirmed = self.store_counters.unconfirmed_total.get();
        self.stored().saturating_sub(unconfirmed).min(self.safe_stored)
    }

    /// Whether Redis takes and shares what it is sent, as `/readyz` says.
    pub fn says_up(&self) -> bool {
        self.says_up.load(Ordering::Relaxed)
    }

    /// Devices whose values wait for detector states.
    pub fn waiting(&self) -> u64 {
        self.handover_counters.iter().map(|shard| shard.waiting.get()).sum()
    }

    /// Samples dropped and counted, whatever the reason.
    pub fn dropped(&self) -> u64 {
        let store: u64 =
            self.store_counters.dropped_total.iter().map(|counter| counter.get()).sum();
        store + self.queue_counters.iter().map(|shard| shard.dropped_total.get()).sum::<u64>()
    }

    /// Samples with an outcome.
    pub fn outcomes(&self) -> u64 {
        self.stored() + self.store_counters.coalesced_total.get() + self.dropped()
    }

    /// Samples that the store has taken and that have no outcome so far are in its queue.
    pub fn is_queue_counted(&self) -> bool {
        let counters = &self.store_counters;
        let store: u64 = counters.dropped_total.iter().map(|counter| counter.get()).sum();
        let finished = self.stored() + counters.coalesced_total.get() + store;
        counters.taken_total.get() == finished + counters.queue_samples.get()
    }

    /// The end of its drain is late past this.
    pub fn late_ns(&self) -> u64 {
        match self.phase {
            Phase::Draining { deadline_ns } | Phase::Joining { deadline_ns } => {
                deadline_ns + SECOND / 2
            }
            _ => u64::MAX,
        }
    }
}
