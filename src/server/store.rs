//! The store thread, its queue and its end. It exists with `--redis-url` only.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sigmad_clock::{Clock, elapsed};
use tracing::warn;

use super::shared::{MainEvent, Shared};
use super::threads::spawn;
use crate::config::{RedisHistory, ServerSettings};
use crate::judged_queue::{self, JudgedProducer, JudgedQueueCounters};
use crate::memory::MemoryPlan;
use crate::readiness::StoreState;
use crate::store::StoreCounters;
use crate::store::commands::StoreOptions;
use crate::store::dial::TcpDialer;
use crate::store::keys::ReplicaId;
use crate::store::thread::{LAST_FLUSH, StoreThread, StoreThreadParts};

/// Samples in the history of one replica: a minute of a large fleet, about 20 MB in Redis.
const HISTORY_SAMPLES: usize = 100_000;
/// The duration of an attempt of the store that began before the deadline: to connect, and for a response that
/// does not come. A response that comes byte by byte takes longer, and the process does not wait for it.
const STORE_ATTEMPT: Duration = Duration::from_secs(3);
/// Between two looks at the store thread while it ends.
const JOIN_INTERVAL: Duration = Duration::from_millis(5);

/// The counters on both sides of the judged-sample queue.
#[derive(Clone)]
pub(super) struct RedisCounters {
    pub queue: Arc<JudgedQueueCounters>,
    pub store: Arc<StoreCounters>,
}

/// The store thread before it runs.
pub(super) struct RedisParts {
    thread: StoreThread,
    pub counters: RedisCounters,
    deadline_ns: Arc<AtomicU64>,
}

/// The store thread.
pub(super) struct RunningStore {
    thread: JoinHandle<()>,
    counters: RedisCounters,
    /// When the store drops what is left; 0 until the drain begins.
    deadline_ns: Arc<AtomicU64>,
}

impl RedisParts {
    /// The thread, and the end of its queue that analytics has.
    pub fn new(
        settings: &ServerSettings,
        plan: &MemoryPlan,
        shared: &Shared,
    ) -> Option<(Self, JudgedProducer)> {
        let target = settings.redis_target().expect("the settings were checked")?;
        // The system seeds it for each process.
        let random = RandomState::new().build_hasher().finish();
        let counters = RedisCounters { queue: Arc::default(), store: Arc::default() };
        let (producer, consumer) = judged_queue::channel(
            plan.redis_queue_bytes,
            shared.sleeper.clone(),
            counters.queue.clone(),
        );
        let keeps_history = settings.redis_history == RedisHistory::Stream;
        let options = StoreOptions {
            replica: ReplicaId::new(random as u32),
            window: settings.window,
            ttl: settings.ttl,
            stream_idle: settings.stream_idle,
            history_len: keeps_history.then_some(HISTORY_SAMPLES),
            devices_max: plan.max_streams,
        };
        shared.readiness.set_store(StoreState::Degraded);
        let (readiness, main) = (shared.readiness.clone(), shared.main.clone());
        let deadline_ns = Arc::new(AtomicU64::new(0));
        let thread = StoreThread::new(StoreThreadParts {
            target,
            options,
            flush_interval: settings.flush_interval,
            consumer,
            registry: shared.registry.clone(),
            counters: counters.store.clone(),
            clock: Clock::new(shared.start),
            dialer: Arc::new(TcpDialer),
            seed: random,
            on_state: Box::new(move |is_up| {
                readiness.set_store(if is_up { StoreState::Ok } else { StoreState::Degraded });
                // Err: the main thread has ended.
                let _ = main.send(MainEvent::StoreState);
            }),
            deadline_ns: deadline_ns.clone(),
        });
        Some((Self { thread, counters, deadline_ns }, producer))
    }

    /// Starts the thread.
    pub fn start(self) -> io::Result<RunningStore> {
        let Self { thread, counters, deadline_ns } = self;
        let thread = spawn("store".into(), None, move || thread.run())?;
        Ok(RunningStore { thread, counters, deadline_ns })
    }
}

impl RunningStore {
    /// Sets when the store drops what is left.
    pub fn set_deadline(&self, deadline: Duration) {
        // Relaxed: no other data depends on it; the store reads it again and again.
        self.deadline_ns.store(deadline.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Waits until the store has written what is left, at most until its deadline and one attempt more.
    pub fn join(self, start: Instant, deadline: Duration) {
        let deadline = deadline.max(elapsed(start) + LAST_FLUSH) + STORE_ATTEMPT;
        while !self.thread.is_finished() {
            if elapsed(start) > deadline {
                let samples = self.counters.store.queue_samples.get();
                warn!(samples, "Redis does not respond; the samples left in the queue are lost");
                return;
            }
            std::thread::sleep(JOIN_INTERVAL);
        }
    }
}
