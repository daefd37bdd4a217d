//! The thread behind `/events`.
//!
//! Readers bring clients through the [`Door`]. Four times a second, while there are any, the thread
//! composes one event for each thing that is watched (the whole, or one device) and hands every
//! client a copy. A client that does not keep up is let go: its queue is bounded, and nobody waits
//! for it. Without clients it takes a point of [`History`] a second and sleeps.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use serde::Serialize;

use super::counters::EventsCounters;
use super::history::{History, POINT_MS};
use super::message::{EventId, HEARTBEAT, Message, json};
use super::sampler::{ByName, DeviceIndex, DeviceRow, DeviceSnapshot, Sampler, Snapshot};
use crate::analytics::report::{AnomalyReport, SampleReport};
use crate::answers::lists::{AnomalyJson, SampleJson};
use crate::answers::windows::MetricsJson;
use crate::http::message::{
    Responder, Response, STREAM_QUEUE_BYTES_MAX, StreamSendError, StreamWriter,
};
use crate::readiness::{Readiness, ReadinessPhase};
use sigmad_clock::{Clock, Now};
use sigmad_sample::READINGS_MAX;

/// The media type of `/events`.
pub const EVENT_STREAM: &str = "text/event-stream";
/// Open at once; past it 503. Each costs up to some 20 kB a second.
pub const CLIENTS_MAX: usize = 1_000;
/// Bytes of one device's samples in one event, and no more of its metrics than a sample can have: what
/// a device sends is no reason to let go of a client that reads.
const SAMPLES_BYTES_MAX: usize = STREAM_QUEUE_BYTES_MAX / 2;
const METRICS_TOLD_MAX: usize = READINGS_MAX;
/// Clients that wait to be let in.
const ARRIVALS_MAX: usize = 64;
/// Between two events of one client.
const TICK_MS: u64 = 250;
/// When nothing happens an event comes all the same, so that its age can be seen.
const QUIET_MS: u64 = 1_000;
/// Between two looks at all devices.
const DEVICES_MS: u64 = 1_000;
const HEARTBEAT_MS: u64 = 10_000;
/// How long a client whose stream has ended waits before it comes back.
const RETRY_MS: u64 = 1_000;
/// A tick that is slow, for a million devices are looked at, is followed by a pause so many times as
/// long: pages are the first to wait when there is much to do.
const REST: u64 = 4;
/// But no longer than this: a page takes a silence of five seconds for the end.
const REST_MS_MAX: u64 = 1_000;

/// What runs here, as the page's first line tells it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// The version of sigmad.
    pub version: &'static str,
    /// The name of the machine or container.
    pub replica: String,
    /// The HTTP engine.
    pub engine: &'static str,
    /// The detector that gives `isAnomaly`.
    pub detector: &'static str,
    /// Values in a window.
    pub window: usize,
    /// Deviations past which a value is an anomaly to `zscore`.
    pub threshold: f64,
    /// The score from which on it is one to the detector.
    pub score_threshold: f64,
}

/// A client that wants events.
#[derive(Debug)]
pub struct Subscription {
    /// Where they go.
    pub responder: Responder,
    /// Only of this device.
    pub device: Option<Box<str>>,
    /// `Last-Event-ID`, as sent; empty without one.
    pub last_event_id: String,
}

/// Where readers bring clients.
#[derive(Clone, Debug)]
pub struct Door {
    arrivals: Sender<Subscription>,
    counters: Arc<EventsCounters>,
}

/// Why a client was not let in; it comes back with the reason.
#[derive(Debug)]
pub enum SubscribeError {
    /// There are too many.
    Full(Responder),
    /// The server is stopping.
    Stopping(Responder),
}

/// A door, and what waits behind it.
pub fn door(counters: Arc<EventsCounters>) -> (Door, Receiver<Subscription>) {
    let (arrivals, waiting) = bounded(ARRIVALS_MAX);
    (Door { arrivals, counters }, waiting)
}

impl Door {
    /// Lets a client in, if there is room.
    pub fn enter(&self, arrival: Subscription) -> Result<(), SubscribeError> {
        if self.counters.clients.get() >= CLIENTS_MAX as u64 {
            return Err(SubscribeError::Full(arrival.responder));
        }
        self.arrivals.try_send(arrival).map_err(|error| match error {
            TrySendError::Full(arrival) => SubscribeError::Full(arrival.responder),
            TrySendError::Disconnected(arrival) => SubscribeError::Stopping(arrival.responder),
        })
    }
}

/// The answer to `HEAD /events`, and the beginning of that to GET with `body`.
pub fn head(body: Vec<u8>) -> Response {
    let fields = vec![
        ("Cache-Control", "no-store".into()),
        // nginx would keep events back until a buffer is full.
        ("X-Accel-Buffering", "no".into()),
    ];
    Response { status: 200, content_type: EVENT_STREAM, fields, body }
}

/// The thread's state; [`Events::run`] is its life.
pub struct Events {
    arrivals: Receiver<Subscription>,
    sampler: Sampler,
    history: History,
    server: Server,
    readiness: Arc<Readiness>,
    counters: Arc<EventsCounters>,
    clock: Clock,
    /// When the process started, milliseconds since 1970.
    boot_ms: i64,
    last: Option<Snapshot>,
    devices: Vec<DeviceRow>,
    devices_due_ms: u64,
    heartbeat_due_ms: u64,
    /// When the last tick began.
    ticked_ms: u64,
    /// When the next may, after a slow one.
    rested_ms: u64,
    /// Anomalies not yet part of a point of the history.
    anomalies_counted: u64,
    whole: Watch,
    narrowed: Vec<(Box<str>, DeviceIndex, Watch)>,
}

/// Those who watch the same.
#[derive(Default)]
struct Watch {
    clients: Vec<StreamWriter>,
    /// When they were last told something.
    told_ms: u64,
}

#[derive(Serialize)]
struct Status {
    phase: ReadinessPhase,
    /// No store is behind the windows.
    redis: &'static str,
    uptime: f64,
}

impl Events {
    /// Clients come from `arrivals`; `start` is the moment from which all clocks count.
    pub fn new(
        arrivals: Receiver<Subscription>,
        sampler: Sampler,
        server: Server,
        readiness: Arc<Readiness>,
        counters: Arc<EventsCounters>,
        start: Instant,
    ) -> Self {
        let mut clock = Clock::new(start);
        let now = clock.now();
        Self {
            arrivals,
            sampler,
            history: History::default(),
            server,
            readiness,
            counters,
            clock,
            boot_ms: now.wall_us / 1_000 - now.monotonic_ms() as i64,
            last: None,
            devices: Vec::new(),
            devices_due_ms: 0,
            heartbeat_due_ms: 0,
            ticked_ms: 0,
            rested_ms: 0,
            anomalies_counted: 0,
            whole: Watch::default(),
            narrowed: Vec::new(),
        }
    }

    /// Runs on the calling thread until the server drains, its doors are gone, or analytics has
    /// stopped. All streams end with it, and their clients come back to whoever serves then.
    pub fn run(mut self) {
        loop {
            if self.readiness.phase() == ReadinessPhase::Draining {
                return;
            }
            let now = self.clock.now();
            let wait_ms = self.due_ms().saturating_sub(now.monotonic_ms());
            if wait_ms == 0 {
                if self.tick(now).is_none() {
                    return;
                }
                let end_ms = self.clock.now().monotonic_ms();
                let rest_ms = (end_ms - now.monotonic_ms()) * REST;
                self.rested_ms = end_ms + rest_ms.min(REST_MS_MAX);
                continue;
            }
            match self.arrivals.recv_timeout(Duration::from_millis(wait_ms)) {
                Ok(arrival) => {
                    let now = self.clock.now();
                    if self.welcome(arrival, now).is_none() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn clients(&self) -> usize {
        let narrowed = self.narrowed.iter().map(|(_, _, watch)| watch.clients.len());
        self.whole.clients.len() + narrowed.sum::<usize>()
    }

    fn due_ms(&self) -> u64 {
        let every_ms = if self.clients() > 0 { TICK_MS } else { POINT_MS };
        (self.ticked_ms + every_ms).max(self.rested_ms)
    }

    /// Looks at what is new, and tells everyone. None once analytics has stopped.
    fn tick(&mut self, now: Now) -> Option<()> {
        self.ticked_ms = now.monotonic_ms();
        let pulse = self.sampler.pulse(now)?;
        self.remember(&pulse);
        if self.speaks(&pulse) {
            let has_devices = self.ticked_ms >= self.devices_due_ms;
            if has_devices {
                self.devices = self.sampler.devices(now)?;
                self.devices_due_ms = self.ticked_ms + DEVICES_MS;
            }
            self.tell_whole(&pulse, has_devices);
        }
        self.tell_narrowed(now)?;
        self.last = Some(pulse);
        if self.ticked_ms >= self.heartbeat_due_ms {
            self.heartbeat_due_ms = self.ticked_ms + HEARTBEAT_MS;
            let (whole, counters) = (&mut self.whole, &self.counters);
            whole.send(HEARTBEAT, counters);
            self.narrowed.iter_mut().for_each(|(_, _, watch)| watch.send(HEARTBEAT, counters));
        }
        self.narrowed.retain(|(_, _, watch)| !watch.clients.is_empty());
        self.counters.clients.set(self.clients() as u64);
        Some(())
    }

    fn remember(&mut self, pulse: &Snapshot) {
        let at_ms = pulse.now.monotonic_ms();
        if !self.history.is_due(at_ms) {
            return;
        }
        let Snapshot { load, fleet, .. } = pulse;
        let anomalies = load.anomalies_total - self.anomalies_counted;
        self.anomalies_counted = load.anomalies_total;
        self.history.push(at_ms, pulse.now.wall_us, load.accepted, anomalies as f64, fleet);
    }

    /// True when those who watch the whole are to be told of this tick.
    fn speaks(&self, pulse: &Snapshot) -> bool {
        let is_quiet = pulse.anomalies.is_empty()
            && self.last.as_ref().is_some_and(|last| {
                let (now, then) = (&pulse.load, &last.load);
                now.samples == then.samples && now.requests == then.requests
            });
        let is_due = pulse.now.monotonic_ms() >= self.whole.told_ms + QUIET_MS;
        !self.whole.clients.is_empty() && (is_due || !is_quiet)
    }

    fn tell_whole(&mut self, pulse: &Snapshot, has_devices: bool) {
        let mut message = self.message("delta", pulse.now, None);
        self.whole_sections(&mut message, pulse);
        if has_devices {
            message.list("devices", &self.devices);
        }
        let oldest_first: Vec<_> = pulse.anomalies.iter().rev().collect();
        anomalies(&mut message, &oldest_first);
        if pulse.anomalies_left_out > 0 {
            message.section("anomaliesLeftOut", &pulse.anomalies_left_out);
        }
        self.whole.told_ms = pulse.now.monotonic_ms();
        self.whole.send(&message.finish(), &self.counters);
    }

    fn tell_narrowed(&mut self, now: Now) -> Option<()> {
        let at_ms = now.monotonic_ms();
        let mut narrowed = std::mem::take(&mut self.narrowed);
        for (name, place, watch) in &mut narrowed {
            let pulse = self.sampler.device(name, place)?;
            let is_quiet = pulse.samples.is_empty() && pulse.anomalies.is_empty();
            if is_quiet && at_ms < watch.told_ms + QUIET_MS {
                continue;
            }
            let mut message = self.message("delta", now, None);
            device_sections(&mut message, name, &pulse);
            watch.told_ms = at_ms;
            watch.send(&message.finish(), &self.counters);
        }
        self.narrowed = narrowed;
        Some(())
    }

    /// Lets a client in: the first event has all that it needs to begin with, or, when it comes back
    /// within the memory of this process, what it has missed. None once analytics has stopped.
    fn welcome(&mut self, arrival: Subscription, now: Now) -> Option<()> {
        let Subscription { responder, device, last_event_id } = arrival;
        let seen = EventId::from_str(&last_event_id).ok();
        let seen_ms = seen
            .filter(|id| id.boot_ms == self.boot_ms && id.at_ms <= now.monotonic_ms())
            .map(|id| id.at_ms)
            .filter(|at_ms| *at_ms >= self.history.oldest_ms());
        let seen_us = seen_ms.map_or(i64::MIN, |at_ms| (self.boot_ms + at_ms as i64) * 1_000);

        let mut message = self.message("hello", now, Some(RETRY_MS));
        message.section("server", &self.server).section("resumed", &seen_ms.is_some());
        match device {
            None => {
                if self.last.is_none() || self.clients() == 0 {
                    // The last look may be a second old, and the table of devices as old as its last reader.
                    self.tick(now)?;
                    self.devices = self.sampler.devices(now)?;
                }
                let pulse = self.last.as_ref().expect("a tick leaves its pulse");
                self.whole_sections(&mut message, pulse);
                message.list("devices", &self.devices);
                message.section("history", &self.history.after(seen_ms.unwrap_or(0)));
                let missed = self.sampler.remembered(seen_us);
                anomalies(&mut message, &missed.iter().collect::<Vec<_>>());
                let writer = self.begin(responder, message);
                self.whole.clients.push(writer);
            }
            Some(name) => {
                let known = self.narrowed.iter_mut().find(|(known, _, _)| *known == name);
                let mut place = DeviceIndex { arrived_us: seen_us, change: 0 };
                let mut pulse = self.sampler.device(&name, &mut place)?;
                pulse.anomalies.retain(|anomaly| anomaly.changed_us > seen_us);
                // Those who watch already are told by the next tick what this one is told now.
                if let Some((_, known, _)) = known {
                    pulse.samples.retain(|sample| sample.arrived_us <= known.arrived_us);
                    pulse.anomalies.retain(|anomaly| anomaly.change <= known.change);
                }
                device_sections(&mut message, &name, &pulse);
                let writer = self.begin(responder, message);
                match self.narrowed.iter_mut().find(|(known, _, _)| *known == name) {
                    Some((_, _, watch)) => watch.clients.push(writer),
                    None => {
                        let watch = Watch { clients: vec![writer], ..Watch::default() };
                        self.narrowed.push((name, place, watch));
                    }
                }
            }
        }
        self.counters.clients.set(self.clients() as u64);
        Some(())
    }

    fn begin(&self, responder: Responder, message: Message) -> StreamWriter {
        let body = message.finish();
        self.counters.sent_bytes_total.add(body.len() as u64);
        responder.stream(head(body))
    }

    /// An event with what all of them have.
    fn message(&self, event: &'static str, now: Now, retry_ms: Option<u64>) -> Message {
        let id = EventId { boot_ms: self.boot_ms, at_ms: now.monotonic_ms() };
        let mut message = Message::new(event, id, retry_ms);
        let uptime = now.monotonic_ms() as f64 / 1e3;
        let status =
            Status { phase: self.readiness.phase(), redis: self.readiness.store().name(), uptime };
        message.section("at", &((now.wall_us / 1_000) as f64 / 1e3)).section("status", &status);
        message
    }

    fn whole_sections(&self, message: &mut Message, pulse: &Snapshot) {
        message
            .section("load", &pulse.load)
            .list("workers", &pulse.workers)
            .section("fleet", &ByName(&pulse.fleet));
    }
}

impl Watch {
    /// Hands everyone a copy; lets go of who has gone, or can't keep up.
    fn send(&mut self, event: &[u8], counters: &EventsCounters) {
        self.clients.retain(|client| match client.send(event.to_vec()) {
            Ok(()) => {
                counters.sent_bytes_total.add(event.len() as u64);
                true
            }
            Err(StreamSendError::Full) => {
                counters.dropped_total.add(1);
                false
            }
            Err(StreamSendError::Closed) => false,
        });
    }
}

fn anomalies(message: &mut Message, oldest_first: &[&AnomalyReport]) {
    if !oldest_first.is_empty() {
        let shown = oldest_first.iter().map(|report| AnomalyJson::from(*report));
        message.list("anomalies", shown);
    }
}

fn device_sections(message: &mut Message, name: &str, pulse: &DeviceSnapshot) {
    #[derive(Serialize)]
    struct Device<'a> {
        device: &'a str,
        metrics: MetricsJson<'a>,
    }
    let metrics = &pulse.windows.metrics;
    let told = &metrics[..metrics.len().min(METRICS_TOLD_MAX)];
    message.section("device", &Device { device: name, metrics: MetricsJson(told) });
    if told.len() < metrics.len() {
        message.section("metricsLeftOut", &(metrics.len() - told.len()));
    }
    if !pulse.samples.is_empty() {
        message.json_list("samples", &newest_that_fit(&pulse.samples));
    }
    anomalies(message, &pulse.anomalies.iter().collect::<Vec<_>>());
}

/// As JSON, without the oldest where all would be too long.
fn newest_that_fit(samples: &[SampleReport]) -> Vec<String> {
    let mut bytes = 0;
    let newest_first = samples.iter().rev().map(|sample| json(&SampleJson(sample)));
    let mut newest: Vec<_> = newest_first
        .take_while(|sample| {
            bytes += sample.len();
            bytes <= SAMPLES_BYTES_MAX
        })
        .collect();
    newest.reverse();
    newest
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::Value;

    use super::super::testing;
    use super::*;
    use crate::analytics::report::{MetricReport, WindowsReport};
    use crate::http::message::{Completion, CompletionSink, StreamState};
    use crate::registry::Registry;
    use crate::test_reports::{asker, fleet};
    use sigmad_clock;
    use sigmad_sample::NAME_BYTES_MAX;

    /// An engine with a client that reads at once, or never.
    #[derive(Default)]
    struct Reader {
        never_reads: bool,
        events: Mutex<Vec<String>>,
        state: Mutex<Arc<StreamState>>,
        has_ended: std::sync::atomic::AtomicBool,
    }

    impl CompletionSink for Reader {
        fn complete(&self, _serial: u64, completion: Completion) {
            let bytes = match completion {
                Completion::StreamStart(head, state) => {
                    assert_eq!((head.status, head.content_type), (200, EVENT_STREAM));
                    *self.state.lock().expect("no panic") = state;
                    head.body
                }
                Completion::StreamPart(bytes) => bytes,
                Completion::StreamEnd => {
                    return self.has_ended.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                Completion::Response(response) => panic!("{response:?}"),
            };
            if !self.never_reads {
                let state = self.state.lock().expect("no panic");
                state.queued_bytes.fetch_sub(bytes.len(), std::sync::atomic::Ordering::Relaxed);
            }
            let text = String::from_utf8(bytes).expect("UTF-8");
            self.events.lock().expect("no panic").push(text);
        }
    }

    impl Reader {
        fn events(&self) -> Vec<Value> {
            let events = self.events.lock().expect("no panic");
            let data = |event: &String| -> Option<Value> {
                let lines: Vec<_> =
                    event.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
                (!lines.is_empty()).then(|| serde_json::from_str(&lines.join("\n")).expect("JSON"))
            };
            events.iter().filter_map(data).collect()
        }
    }

    struct Bench {
        events: Events,
        now_ms: u64,
    }

    fn bench() -> Bench {
        let registry = Arc::new(Registry::new(1_000, 3_600));
        let (asker, _) = asker();
        let sampler = Sampler::new(asker, registry, testing::counters(Arc::default()));
        let counters = Arc::<EventsCounters>::default();
        let (_, arrivals) = door(counters.clone());
        let server = Server {
            version: "0.1.0",
            replica: "here".into(),
            engine: "native",
            detector: "zscore",
            window: 50,
            threshold: 2.0,
            score_threshold: 2.0,
        };
        let start = sigmad_clock::start();
        let events = Events::new(arrivals, sampler, server, Arc::default(), counters, start);
        Bench { events, now_ms: 1_000 }
    }

    impl Bench {
        fn now(&self) -> Now {
            let wall_us = (self.events.boot_ms + self.now_ms as i64) * 1_000;
            Now { monotonic_ns: self.now_ms * 1_000_000, wall_us }
        }

        fn tick(&mut self) {
            self.now_ms += TICK_MS;
            self.events.tick(self.now()).expect("analytics runs");
        }

        fn enter(&mut self, reader: &Arc<Reader>, device: Option<&str>, last_event_id: String) {
            let responder = Responder::new(1, reader.clone());
            let arrival = Subscription { responder, device: device.map(Box::from), last_event_id };
            self.events.welcome(arrival, self.now()).expect("analytics runs");
        }
    }

    #[test]
    fn everyone_is_told_the_same_once_and_quiet_ticks_are_left_out() {
        let mut bench = bench();
        let readers = [Arc::<Reader>::default(), Arc::default()];
        for reader in &readers {
            bench.enter(reader, None, String::new());
        }
        for _ in 0..8 {
            bench.tick();
        }
        for reader in &readers {
            let events = reader.events();
            assert_eq!(events[0]["resumed"], false);
            assert_eq!(events[0]["server"]["replica"], "here");
            assert!(events[0]["history"]["at"].as_array().is_some_and(|at| !at.is_empty()));
            assert_eq!(events[0]["fleet"]["rps"]["mean"], 1e15);
            // Two seconds in which nothing came.
            assert!((2..=4).contains(&events.len()), "{}", events.len());
            let has_devices = events.iter().filter(|event| !event["devices"].is_null()).count();
            assert!(has_devices >= 2, "the table comes although nothing else does");
        }
        assert_eq!(bench.events.counters.clients.get(), 2);
    }

    #[test]
    fn who_comes_back_is_told_what_was_missed() {
        let mut bench = bench();
        for _ in 0..40 {
            bench.tick();
        }
        let id = EventId { boot_ms: bench.events.boot_ms, at_ms: bench.now_ms - 2_500 };
        let other = EventId { boot_ms: id.boot_ms - 1, ..id };
        let future = EventId { at_ms: bench.now_ms + 1, ..id };
        for (id, resumed, points) in
            [(id, true, 2..=3), (other, false, 9..=11), (future, false, 9..=11)]
        {
            let reader = Arc::<Reader>::default();
            bench.enter(&reader, None, id.to_string());
            let hello = &reader.events()[0];
            assert_eq!(hello["resumed"], resumed);
            let at = hello["history"]["at"].as_array().expect("points").len();
            assert!(points.contains(&at), "{at}");
        }
    }

    #[test]
    fn a_client_that_does_not_read_is_let_go_and_the_others_are_not() {
        let mut bench = bench();
        let slow = Arc::new(Reader { never_reads: true, ..Reader::default() });
        let quick = Arc::<Reader>::default();
        bench.enter(&slow, None, String::new());
        bench.enter(&quick, None, String::new());
        let mut ticks = 0;
        while bench.events.counters.dropped_total.get() == 0 {
            bench.tick();
            ticks += 1;
            assert!(ticks < 10_000, "it is never let go");
        }
        assert!(slow.has_ended.load(std::sync::atomic::Ordering::Relaxed));
        assert!(!quick.has_ended.load(std::sync::atomic::Ordering::Relaxed));
        let queued: usize = slow.events.lock().expect("no panic").iter().map(String::len).sum();
        assert!(queued <= STREAM_QUEUE_BYTES_MAX, "{queued}");
        assert_eq!(bench.events.counters.clients.get(), 1);
    }

    #[test]
    fn an_event_of_a_wide_device_fits_what_may_wait() {
        let name =
            |at: usize| Arc::<str>::from(format!("{at:02}{}", "\"".repeat(NAME_BYTES_MAX - 2)));
        let device = name(0);
        let sample = |arrived_us| SampleReport {
            device: Some(device.clone()),
            timestamp_us: 1_735_100_000_123_456,
            arrived_us,
            readings: (0..READINGS_MAX).map(|at| (name(at), -123_456_789.012_345)).collect(),
        };
        let metric = fleet().metrics.remove(0);
        let metrics =
            (0..2 * READINGS_MAX).map(|at| MetricReport { metric: name(at), ..metric.clone() });
        let pulse = DeviceSnapshot {
            windows: WindowsReport { metrics: metrics.collect(), ..WindowsReport::default() },
            samples: (0..1_000).map(sample).collect(),
            anomalies: Vec::new(),
        };
        let mut message = bench().events.message("delta", Now::default(), None);
        device_sections(&mut message, &device, &pulse);
        let event = message.finish();
        assert!(event.len() < STREAM_QUEUE_BYTES_MAX, "{}", event.len());
        let text = String::from_utf8(event).expect("UTF-8");
        let data: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let event: Value = serde_json::from_str(&data.join("\n")).expect("JSON");
        assert_eq!(event["device"]["metrics"].as_object().expect("by name").len(), READINGS_MAX);
        assert_eq!(event["metricsLeftOut"], READINGS_MAX);
        let samples = event["samples"].as_array().expect("some");
        assert!((10..1_000).contains(&samples.len()), "{}", samples.len());
        assert_eq!(samples.last().expect("the newest")["arrivedAt"], 0.000_999);
    }

    #[test]
    fn a_client_that_has_gone_is_forgotten() {
        let mut bench = bench();
        let reader = Arc::<Reader>::default();
        bench.enter(&reader, Some("nobody"), String::new());
        assert_eq!(reader.events()[0]["device"]["device"], "nobody");
        let state = reader.state.lock().expect("no panic").clone();
        state.closed.store(true, std::sync::atomic::Ordering::Relaxed);
        for _ in 0..4 {
            bench.tick();
        }
        assert!(bench.events.narrowed.is_empty());
        assert_eq!(bench.events.counters.clients.get(), 0);
        assert_eq!(bench.events.counters.dropped_total.get(), 0);
    }

    #[test]
    fn the_door_closes_when_there_are_too_many() {
        let counters = Arc::<EventsCounters>::default();
        let (door, waiting) = door(counters.clone());
        let arrival = || Subscription {
            responder: Responder::new(1, Arc::new(Reader::default())),
            device: None,
            last_event_id: String::new(),
        };
        assert!(door.enter(arrival()).is_ok());
        counters.clients.set(CLIENTS_MAX as u64);
        let reason = door.enter(arrival()).expect_err("full");
        let SubscribeError::Full(responder) = reason else { panic!("{reason:?}") };
        std::mem::forget(responder);
        counters.clients.set(0);
        std::mem::forget(waiting.recv().expect("the first").responder);
        drop(waiting);
        let reason = door.enter(arrival()).expect_err("stopping");
        let SubscribeError::Stopping(responder) = reason else { panic!("{reason:?}") };
        std::mem::forget(responder);
    }
}
