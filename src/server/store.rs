//! The store thread, its queue and its end. It exists with `--redis-url` only.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sigmad_clock::{Clock, elapsed};
use sigmad_counters::Counter;
use tracing::warn;

use super::reload::Reloads;
use super::shared::{MainEvent, Shared};
use super::threads::spawn;
use crate::config::{RedisHistory, RedisKeys, ServerSettings};
use crate::handover::{self, HandoverCounters, HandoverProducer};
use crate::judged_queue::{self, JudgedProducer, JudgedQueueCounters};
use crate::memory::MemoryPlan;
use crate::readiness::StoreState;
use crate::shards::ShardLayout;
use crate::shared_lists::SharedLists;
use crate::store::commands::{SampleKeys, StoreOptions};
use crate::store::dial::TcpDialer;
use crate::store::keys::ReplicaId;
use crate::store::thread::{LAST_FLUSH, StoreThread, StoreThreadParts};
use crate::store::{OutcomeGate, StoreCounters};

/// Samples in the history of one replica: a minute of a large fleet, about 20 MB in Redis.
const HISTORY_SAMPLES: usize = 100_000;
/// Between the deadline of the store and that of the process: to count and log what is lost. At most this part of the
/// drain, for a short one.
const FINAL_STEPS: (Duration, u32) = (Duration::from_millis(200), 10);
/// The last flush leaves most of a short drain to the requests.
const LAST_FLUSH_PART: u32 = 4;
/// Between two looks at the store thread while it ends.
const JOIN_INTERVAL: Duration = Duration::from_millis(5);

/// The counters on both sides of the judged-sample queue.
#[derive(Clone)]
pub(super) struct RedisCounters {
    /// One for each shard.
    pub queues: Vec<Arc<JudgedQueueCounters>>,
    pub store: Arc<StoreCounters>,
    /// One for each shard of devices.
    pub handovers: Vec<Arc<HandoverCounters>>,
}

/// The way of one shard to the store.
pub(super) struct ToStore {
    /// Judged samples.
    pub judged: JudgedProducer,
    /// Detector states; None for the fleet's, which stay with each replica.
    pub states: Option<HandoverProducer>,
}

/// The store thread before it runs.
pub(super) struct RedisParts {
    /// This replica.
    pub replica: ReplicaId,
    thread: StoreThread,
    pub counters: RedisCounters,
    /// What readers see of the lists of the cluster.
    pub lists: Arc<SharedLists>,
    deadline_ns: Arc<AtomicU64>,
    logs_in_again: Arc<AtomicBool>,
    outcomes: Arc<OutcomeGate>,
}

/// The store thread.
pub(super) struct RunningStore {
    thread: JoinHandle<()>,
    counters: RedisCounters,
    /// When the store drops what is left; 0 until the drain begins.
    deadline_ns: Arc<AtomicU64>,
    outcomes: Arc<OutcomeGate>,
}

impl RedisParts {
    /// The thread, and the ends of its queues that each shard has. `replica` may know by which number this replica goes on.
    pub fn new(
        settings: &ServerSettings,
        plan: &MemoryPlan,
        shared: &Shared,
        replica: impl FnOnce(u32) -> u32,
    ) -> Option<(Self, Vec<ToStore>)> {
        let target = settings.redis_target().expect("the settings were checked")?;
        // The system seeds it for each process.
        let random = RandomState::new().build_hasher().finish();
        let counters = RedisCounters::new(shared.layout);
        let (judged_producers, consumer) = judged_queue::sharded(
            plan.redis_queue_bytes,
            shared.layout,
            &shared.sleepers,
            &counters.queues,
        );
        let keeps_history = settings.redis_history == RedisHistory::Stream;
        let replica = ReplicaId::new(replica(random as u32));
        let options = StoreOptions {
            replica,
            window: settings.window,
            ttl: settings.ttl,
            stream_idle: settings.stream_idle,
            history_len: keeps_history.then_some(HISTORY_SAMPLES),
            devices_max: plan.max_streams,
            sample_keys: match settings.redis_keys {
                RedisKeys::Two => SampleKeys::Two,
                RedisKeys::One => SampleKeys::One,
                RedisKeys::None => SampleKeys::None,
            },
        };
        shared.readiness.set_store(StoreState::Degraded);
        let (readiness, main) = (shared.readiness.clone(), shared.main.clone());
        let deadline_ns = Arc::<AtomicU64>::default();
        let logs_in_again = Arc::<AtomicBool>::default();
        let outcomes = Arc::<OutcomeGate>::default();
        let (states_producers, states_consumer) =
            handover::channel(settings.handover_wait, &deadline_ns, &counters.handovers);
        let mut clock = Clock::new(shared.start);
        let lists = Arc::new(SharedLists::new(replica.number(), clock.now().wall_us));
        let thread = StoreThread::new(StoreThreadParts {
            target,
            options,
            flush_interval: settings.flush_interval,
            consumer,
            handover: Some(states_consumer),
            lists: lists.clone(),
            registry: shared.registry.clone(),
            counters: counters.store.clone(),
            clock,
            dialer: Arc::new(TcpDialer::new(shared.start, deadline_ns.clone())),
            seed: random,
            on_state: Box::new(move |is_up| {
                readiness.set_store(if is_up { StoreState::Ok } else { StoreState::Degraded });
                // Err: the main thread has ended.
                let _ = main.send(MainEvent::StoreState);
            }),
            deadline_ns: deadline_ns.clone(),
            logs_in_again: logs_in_again.clone(),
            outcomes: outcomes.clone(),
        });
        let parts = Self { replica, thread, counters, lists, deadline_ns, logs_in_again, outcomes };
        let mut states = states_producers.into_iter();
        let to_store = |judged| ToStore { judged, states: states.next() };
        Some((parts, judged_producers.into_iter().map(to_store).collect()))
    }

    /// Each login to Redis reads the file of the password. After SIGHUP the present connections log in with it too,
    /// so that a wrong one shows before they are lost.
    pub fn reload_password(&self, settings: &ServerSettings, reloads: &mut Reloads) {
        let Some(password) = settings.redis_password.clone() else { return };
        let logs_in_again = self.logs_in_again.clone();
        reloads.add("Redis password", move || {
            password.read()?;
            // Relaxed: no other data depends on it.
            logs_in_again.store(true, Ordering::Relaxed);
            Ok::<(), io::Error>(())
        });
    }

    /// Starts the thread.
    pub fn start(self) -> io::Result<RunningStore> {
        let Self { thread, counters, deadline_ns, outcomes, .. } = self;
        let thread = spawn("store".into(), None, move || thread.run())?;
        Ok(RunningStore { thread, counters, deadline_ns, outcomes })
    }
}

impl RedisCounters {
    pub fn new(layout: ShardLayout) -> Self {
        Self {
            queues: (0..layout.threads()).map(|_| Arc::default()).collect(),
            store: Arc::default(),
            handovers: (0..layout.of_devices()).map(|_| Arc::default()).collect(),
        }
    }

    fn of_queues(&self, counter: fn(&JudgedQueueCounters) -> &Counter) -> u64 {
        self.queues.iter().map(|queue| counter(queue).get()).sum()
    }

    /// Samples dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        let by_store = self.store.dropped_total.iter().map(Counter::get).sum::<u64>();
        self.of_queues(|queue| &queue.dropped_total) + by_store
    }

    /// Samples that have their outcome.
    pub fn finished(&self) -> u64 {
        self.store.stored_total.get() + self.store.coalesced_total.get() + self.dropped()
    }

    /// Samples that were sent to the store and have no outcome.
    pub fn unfinished(&self) -> u64 {
        // In this order: what is sent in between is not counted below zero.
        let finished = self.finished();
        self.of_queues(|queue| &queue.samples_total) - finished
    }
}

/// The part of the drain in which requests are finished. The store needs the rest.
pub(super) fn drain_of_requests(drain: Duration) -> Duration {
    drain - LAST_FLUSH.min(drain / LAST_FLUSH_PART)
}

impl RunningStore {
    /// Begins the drain, which ends at `deadline`: the store drops what is left shortly before.
    pub fn set_deadline(&self, deadline: Duration, drain: Duration) {
        let (longest, part) = FINAL_STEPS;
        let deadline = deadline - longest.min(drain / part);
        // Relaxed: no other data depends on it; the store reads it again and again. 0 means that there is none.
        self.deadline_ns.store((deadline.as_nanos() as u64).max(1), Ordering::Relaxed);
    }

    /// Waits until the store has written or dropped what is left. A connect, the search for the address of a host name,
    /// or a busy machine can keep it longer than its deadline: what it then holds is lost, and counted here.
    pub fn join(self, start: Instant, deadline: Duration) {
        while !self.thread.is_finished() {
            if elapsed(start) > deadline {
                self.outcomes.close();
                let samples = self.counters.unfinished();
                warn!(samples, "the store does not respond; the samples that it holds are lost");
                return;
            }
            std::thread::sleep(JOIN_INTERVAL);
        }
    }
}
