//! The store of a replica without the rest of the server, on a machine whose wall clock may be off.

#![allow(
    clippy::disallowed_methods,
    reason = "the clock of a test replica is made of the system's"
)]

use std::io::Write;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::redis_server::Redis;
use sigmad::judged_queue::{
    self, CurrentCounts, JudgedCounts, JudgedProducer, MetricCounts, ReplicaUpdate,
};
use sigmad::registry::{NameSource, Registry};
use sigmad::shared_lists::SharedLists;
use sigmad::store::StoreCounters;
use sigmad::store::commands::{SampleKeys, StoreOptions};
use sigmad::store::dial::TcpDialer;
use sigmad::store::keys::ReplicaId;
use sigmad::store::thread::{StoreThread, StoreThreadParts};
use sigmad_clock::{Clock, TimeSource};
use sigmad_sample::{DeviceId, MetricId, Reading, Sample};

/// The clocks of a machine whose wall clock is off.
#[derive(Debug)]
struct WrongClock {
    start: Instant,
    off_us: i64,
}

impl TimeSource for WrongClock {
    fn monotonic_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn wall_us(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        since.as_micros() as i64 + self.off_us
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// The values of the fleet that were written.
struct Written(u64);

impl CurrentCounts for Written {
    fn of_device(&self, _: DeviceId, _: &mut [MetricCounts]) -> Option<JudgedCounts> {
        None
    }

    fn of_fleet(&self, _: MetricId) -> JudgedCounts {
        JudgedCounts { total: self.0, anomalies: 0 }
    }
}

/// Lines that a thread has logged.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub fn has(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).contains(text)
    }
}

/// The store of a replica on such a machine, without the rest of the server.
pub struct Replica {
    pub producer: JudgedProducer,
    pub thread: JoinHandle<()>,
    pub counters: Arc<StoreCounters>,
    clock: Clock,
    /// The warnings of its store thread.
    pub log: Log,
    /// Of the drain; 0: there is none.
    pub deadline_ns: Arc<AtomicU64>,
    pub written: u64,
    /// The fleet's `rps` as last read.
    pub shared: Vec<f64>,
}

impl Replica {
    pub fn start(redis: &Redis, random: u32, off_us: i64) -> Self {
        let clock = Clock::simulated(Arc::new(WrongClock { start: Instant::now(), off_us }));
        let registry = Arc::new(Registry::new(100, 60));
        registry
            .admit(NameSource::Client, None, &mut [("cpu", None), ("rps", None)], 1)
            .expect("room");
        let counters = Arc::<StoreCounters>::default();
        let deadline_ns = Arc::<AtomicU64>::default();
        let (producer, consumer) = judged_queue::channel(64 << 20, Arc::default(), Arc::default());
        let thread = StoreThread::new(StoreThreadParts {
            target: redis.url().parse().expect("a URL"),
            handover: None,
            lists: Arc::new(SharedLists::new(random, 0)),
            options: StoreOptions {
                replica: ReplicaId::new(random),
                window: 50,
                ttl: Duration::from_secs(300),
                stream_idle: Duration::from_secs(3_600),
                history_len: Some(1_000),
                devices_max: 100,
                sample_keys: SampleKeys::Two,
            },
            flush_interval: Duration::from_millis(20),
            consumer,
            registry,
            counters: counters.clone(),
            clock: clock.clone(),
            dialer: Arc::new(TcpDialer::new(sigmad_clock::start(), Arc::default())),
            on_state: Box::new(|_| {}),
            seed: 1,
            deadline_ns: deadline_ns.clone(),
            logs_in_again: Arc::default(),
            outcomes: Arc::default(),
        });
        let log = Log::default();
        let writer = log.clone();
        let warnings = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_writer(move || writer.clone())
            .finish();
        let thread = std::thread::spawn(move || {
            tracing::subscriber::with_default(warnings, || thread.run());
        });
        Self { producer, thread, counters, clock, log, deadline_ns, written: 0, shared: Vec::new() }
    }

    /// Sends a value of the fleet's `rps`, as analytics does.
    pub fn send(&mut self, value: f64) {
        self.written += 1;
        let time_us = (self.clock.monotonic_ns() / 1_000) as i64;
        self.producer.begin_batch(time_us, self.written - 1, self.written - 1);
        let sample = Sample { timestamp_us: 0, device: None, readings: 1 };
        self.producer.add(&[sample], &[Reading { metric: MetricId::RPS, value }]);
        self.producer.send(&Written(self.written));
    }

    /// Takes the updates, without which the store would wait.
    pub fn take_updates(&mut self) {
        for update in self.producer.updates.try_iter() {
            if let ReplicaUpdate::Windows(windows) = update {
                let metrics = windows.into_iter().flat_map(|window| window.metrics);
                let mut of_rps = metrics.filter(|metric| metric.metric == MetricId::RPS);
                self.shared = of_rps.next_back().map(|metric| metric.values).unwrap_or_default();
            }
        }
    }

    pub fn stored(&self) -> u64 {
        self.counters.stored_total.get()
    }

    pub fn stop(self) {
        drop(self.producer);
        self.thread.join().expect("no panic");
    }
}
