//! The thread behind `/events`.
//!
//! Readers hand it clients through the [`Subscriber`](super::subscriber::Subscriber). Four times a second, while
//! there are clients, it composes one event for each feed (the whole server, or one device) and sends every
//! client a copy. A client's queue is bounded; a client that reads too slowly is disconnected. Without
//! clients the thread takes one point of [`History`] per second and sleeps. It also feeds the
//! [`Recorder`], and asks it for readers.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender};
use serde::Serialize;

use super::counters::EventsCounters;
use super::feed::{Feed, anomaly_section, device_sections};
use super::figures::{DeviceRow, FleetByName};
use super::history::{History, POINT_MS};
use super::message::{EventId, EventMessage, HEARTBEAT};
use super::recorder::Recorder;
use super::sampler::{DeviceCursor, Sampler, Snapshot};
use super::subscriber::{EventsRequest, Requests, Subscription, response_head};
use crate::http::message::{Responder, StreamWriter};
use crate::readiness::{Readiness, ReadinessPhase, StoreState};
use sigmad_clock::{Clock, Now};

/// Interval between events of a feed.
const TICK_MS: u64 = 250;
/// Longest interval between events of a feed without changes, so that a page can show that it is current.
const QUIET_MS: u64 = 1_000;
/// Interval between tables of devices.
const DEVICES_MS: u64 = 1_000;
const HEARTBEAT_MS: u64 = 10_000;
/// Interval between recordings that are kept: what a crash loses of the history.
const KEEP_MS: u64 = 60_000;
/// How long a client waits before it reconnects.
const RETRY_MS: u64 = 1_000;
/// A slow tick, for example with a million devices, is followed by a pause this many times as long: the page
/// waits before samples do.
const PAUSE_FACTOR: u64 = 4;
/// Longest pause. A page takes five seconds without an event for the end of the stream.
const PAUSE_MS_MAX: u64 = 1_000;

/// The build and its settings, in the first event.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerInfo {
    /// The version of sigmad.
    pub version: &'static str,
    /// The name of the machine or container.
    pub replica: String,
    /// The HTTP engine.
    pub engine: &'static str,
    /// The detector that decides `isAnomaly`.
    pub detector: &'static str,
    /// Values in a window.
    pub window: usize,
    /// The z-score past which a value is an anomaly for `zscore`.
    pub threshold: f64,
    /// The score from which on a value is an anomaly for the detector.
    pub score_threshold: f64,
    /// The template of links to Grafana.
    pub grafana_url: Option<String>,
}

/// The state of the thread; [`Events::run`] is its loop.
pub struct Events {
    requests: Requests,
    sampler: Sampler,
    recorder: Recorder,
    history: History,
    server: ServerInfo,
    readiness: Arc<Readiness>,
    counters: Arc<EventsCounters>,
    clock: Clock,
    /// The start of the process, milliseconds since 1970.
    boot_ms: i64,
    last: Option<Snapshot>,
    devices: Vec<DeviceRow>,
    devices_due_ms: u64,
    heartbeat_due_ms: u64,
    /// Takes what is recorded, where that is kept.
    keeps: Option<Sender<Vec<u8>>>,
    keep_due_ms: u64,
    /// When the last tick began.
    ticked_ms: u64,
    /// When the pause after a slow tick ends.
    paused_until_ms: u64,
    /// Anomalies that points of the history have counted.
    anomalies_counted: u64,
    /// The state of the store, and since when, microseconds since 1970.
    store: (StoreState, i64),
    whole_feeds: Vec<WholeFeed>,
    device_feeds: Vec<DeviceFeed>,
}

/// The feed of the whole server, with these series of the fleet; without any, those that the sampler chooses.
struct WholeFeed {
    series: Arc<[Box<str>]>,
    feed: Feed,
}

/// The feed of one device, with these series; without any, those that there is room for.
struct DeviceFeed {
    device: Box<str>,
    series: Arc<[Box<str>]>,
    cursor: DeviceCursor,
    feed: Feed,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerStatus {
    phase: ReadinessPhase,
    /// The state of the store.
    redis: &'static str,
    /// Since when, in seconds since 1970.
    redis_since: f64,
    uptime: f64,
}

impl Events {
    /// The thread's state. Clients come from `requests`; all clocks count from `start`.
    pub fn new(
        requests: Requests,
        (sampler, recorder): (Sampler, Recorder),
        server: ServerInfo,
        readiness: Arc<Readiness>,
        counters: Arc<EventsCounters>,
        start: Instant,
    ) -> Self {
        let mut clock = Clock::new(start);
        let now = clock.now();
        let store = readiness.store();
        Self {
            requests,
            sampler,
            recorder,
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
            keeps: None,
            keep_due_ms: KEEP_MS,
            ticked_ms: 0,
            paused_until_ms: 0,
            anomalies_counted: 0,
            store: (store, now.wall_us),
            whole_feeds: Vec::new(),
            device_feeds: Vec::new(),
        }
    }

    /// Has what is recorded kept: each minute, and at the end.
    #[must_use]
    pub fn keeping(self, keeps: Option<Sender<Vec<u8>>>) -> Self {
        Self { keeps, ..self }
    }

    /// Runs on the calling thread until the server drains, all subscribers are gone, or analytics has
    /// stopped. All streams end with it, and clients reconnect to another replica or to the next process.
    pub fn run(mut self) {
        self.serve_until_the_end();
        self.recorder.finish(self.clock.now());
        self.keep();
    }

    /// A disk that has not taken the last recording so far gets the next one.
    fn keep(&self) {
        if let Some(keeps) = self.keeps.as_ref().filter(|keeps| !keeps.is_full()) {
            // Err: nothing is kept any more.
            let _ = keeps.try_send(self.recorder.saved());
        }
    }

    fn serve_until_the_end(&mut self) {
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
                let pause_ms = (end_ms - now.monotonic_ms()) * PAUSE_FACTOR;
                self.paused_until_ms = end_ms + pause_ms.min(PAUSE_MS_MAX);
                continue;
            }
            match self.requests.queue.recv_timeout(Duration::from_millis(wait_ms)) {
                Ok(request) => {
                    let now = self.clock.now();
                    if self.serve(request, now).is_none() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// None once analytics has stopped.
    fn serve(&mut self, request: EventsRequest, now: Now) -> Option<()> {
        match request {
            EventsRequest::Subscribe(subscription) => self.begin(subscription, now),
            EventsRequest::History(query, to) => {
                // Err: who asked has gone.
                let _ = to.try_send(self.recorder.answer(&query, now)?);
                Some(())
            }
        }
    }

    fn clients(&self) -> usize {
        let of_whole = self.whole_feeds.iter().map(|whole| whole.feed.clients.len());
        let of_devices = self.device_feeds.iter().map(|device| device.feed.clients.len());
        of_whole.chain(of_devices).sum()
    }

    fn due_ms(&self) -> u64 {
        let every_ms = if self.clients() > 0 { TICK_MS } else { POINT_MS };
        (self.ticked_ms + every_ms).max(self.paused_until_ms)
    }

    /// Samples the changes and sends them. None once analytics has stopped.
    fn tick(&mut self, now: Now) -> Option<()> {
        self.ticked_ms = now.monotonic_ms();
        let store = self.readiness.store();
        if store != self.store.0 {
            self.store = (store, now.wall_us);
        }
        let snapshot = self.sampler.snapshot(now)?;
        self.extend_history(&snapshot);
        self.recorder.tick(now)?;
        if self.is_event_due(&snapshot) {
            let has_devices = self.ticked_ms >= self.devices_due_ms;
            if has_devices {
                self.devices = self.sampler.devices(now)?;
                self.devices_due_ms = self.ticked_ms + DEVICES_MS;
            }
            self.send_whole(&snapshot, has_devices)?;
        }
        self.send_devices(now)?;
        self.last = Some(snapshot);
        if self.ticked_ms >= self.heartbeat_due_ms {
            self.heartbeat_due_ms = self.ticked_ms + HEARTBEAT_MS;
            let of_whole = self.whole_feeds.iter_mut().map(|whole| &mut whole.feed);
            let of_devices = self.device_feeds.iter_mut().map(|device| &mut device.feed);
            of_whole.chain(of_devices).for_each(|feed| feed.send(HEARTBEAT, &self.counters));
        }
        if self.ticked_ms >= self.keep_due_ms {
            self.keep_due_ms = self.ticked_ms + KEEP_MS;
            self.keep();
        }
        self.whole_feeds.retain(|whole| !whole.feed.clients.is_empty());
        self.device_feeds.retain(|device| !device.feed.clients.is_empty());
        self.counters.clients.set(self.clients() as u64);
        Some(())
    }

    fn extend_history(&mut self, snapshot: &Snapshot) {
        let at_ms = snapshot.now.monotonic_ms();
        if !self.history.is_due(at_ms) {
            return;
        }
        let Snapshot { load, fleet, .. } = snapshot;
        let anomalies = load.anomalies_total - self.anomalies_counted;
        self.anomalies_counted = load.anomalies_total;
        self.history.push(at_ms, snapshot.now.wall_us, load.accepted, anomalies as f64, fleet);
        self.recorder.add_load(snapshot.now, load.accepted, anomalies);
    }

    /// True when the feeds of the whole server get an event in this tick.
    fn is_event_due(&self, snapshot: &Snapshot) -> bool {
        let is_quiet = snapshot.anomalies.is_empty()
            && self.last.as_ref().is_some_and(|last| {
                let (now, then) = (&snapshot.load, &last.load);
                now.samples == then.samples && now.requests == then.requests
            });
        let at_ms = snapshot.now.monotonic_ms();
        let is_due = self.whole_feeds.iter().any(|whole| at_ms >= whole.feed.sent_ms + QUIET_MS);
        !self.whole_feeds.is_empty() && (is_due || !is_quiet)
    }

    fn send_whole(&mut self, snapshot: &Snapshot, has_devices: bool) -> Option<()> {
        let mut whole_feeds = std::mem::take(&mut self.whole_feeds);
        for WholeFeed { series, feed } in &mut whole_feeds {
            let mut message = self.message("delta", snapshot.now, None);
            self.whole_sections(&mut message, snapshot, series)?;
            if has_devices {
                message.list("devices", &self.devices);
            }
            let oldest_first: Vec<_> = snapshot.anomalies.iter().rev().collect();
            anomaly_section(&mut message, &oldest_first);
            if snapshot.anomalies_left_out > 0 {
                message.section("anomaliesLeftOut", &snapshot.anomalies_left_out);
            }
            feed.sent_ms = snapshot.now.monotonic_ms();
            feed.send(&message.finish(), &self.counters);
        }
        self.whole_feeds = whole_feeds;
        Some(())
    }

    /// Adds the sections of every event of the whole server. None once analytics has stopped.
    fn whole_sections(
        &self,
        message: &mut EventMessage,
        snapshot: &Snapshot,
        series: &[Box<str>],
    ) -> Option<()> {
        message.section("load", &snapshot.load).list("workers", &snapshot.workers);
        let chosen;
        let (fleet, left_out) = if series.is_empty() {
            (&snapshot.fleet, snapshot.fleet_left_out)
        } else {
            chosen = self.sampler.fleet_series(series)?;
            (&chosen.0, chosen.1)
        };
        message.section("fleet", &FleetByName(fleet));
        if left_out > 0 {
            message.section("metricsLeftOut", &left_out);
        }
        Some(())
    }

    fn send_devices(&mut self, now: Now) -> Option<()> {
        let at_ms = now.monotonic_ms();
        let mut device_feeds = std::mem::take(&mut self.device_feeds);
        for DeviceFeed { device, series, cursor, feed } in &mut device_feeds {
            let snapshot = self.sampler.device(device, series, cursor, &DeviceCursor::ALL)?;
            let is_quiet = snapshot.samples.is_empty() && snapshot.anomalies.is_empty();
            if is_quiet && at_ms < feed.sent_ms + QUIET_MS {
                continue;
            }
            let mut message = self.message("delta", now, None);
            device_sections(&mut message, device, &snapshot);
            feed.sent_ms = at_ms;
            feed.send(&message.finish(), &self.counters);
        }
        self.device_feeds = device_feeds;
        Some(())
    }

    /// Begins the stream of a client. Its first event has the whole state, or what it missed if it reconnects
    /// within the history of this process. None once analytics has stopped.
    fn begin(&mut self, subscription: Subscription, now: Now) -> Option<()> {
        let Subscription { responder, device, series, last_event_id } = subscription;
        let last_id = EventId::from_str(&last_event_id).ok();
        let resumed_ms = last_id
            .filter(|id| id.boot_ms == self.boot_ms && id.at_ms <= now.monotonic_ms())
            .map(|id| id.at_ms)
            .filter(|at_ms| *at_ms >= self.history.oldest_ms());
        let mut message = self.message("hello", now, Some(RETRY_MS));
        message.section("server", &self.server).section("resumed", &resumed_ms.is_some());
        match device {
            None => self.begin_whole(responder, message, series, resumed_ms, now)?,
            Some(device) => self.begin_device(responder, message, (device, series), resumed_ms)?,
        }
        self.counters.clients.set(self.clients() as u64);
        Some(())
    }

    fn begin_whole(
        &mut self,
        responder: Responder,
        mut message: EventMessage,
        series: Arc<[Box<str>]>,
        resumed_ms: Option<u64>,
        now: Now,
    ) -> Option<()> {
        if self.last.is_none() || self.clients() == 0 {
            // The last snapshot may be a second old, and the table of devices older.
            self.tick(now)?;
            self.devices = self.sampler.devices(now)?;
        }
        let last = self.last.as_ref().expect("a tick leaves its snapshot");
        self.whole_sections(&mut message, last, &series)?;
        message.list("devices", &self.devices);
        message.section("history", &self.history.after(resumed_ms.unwrap_or(0)));
        let missed = self.sampler.recent_anomalies(self.wall_us(resumed_ms));
        anomaly_section(&mut message, &missed.iter().collect::<Vec<_>>());
        let writer = self.stream(responder, message);
        match self.whole_feeds.iter_mut().find(|known| known.series == series) {
            Some(known) => known.feed.clients.push(writer),
            None => {
                let feed = Feed { clients: vec![writer], ..Feed::default() };
                self.whole_feeds.push(WholeFeed { series, feed });
            }
        }
        Some(())
    }

    fn begin_device(
        &mut self,
        responder: Responder,
        mut message: EventMessage,
        (device, series): (Box<str>, Arc<[Box<str>]>),
        resumed_ms: Option<u64>,
    ) -> Option<()> {
        let resumed_us = self.wall_us(resumed_ms);
        let mut cursor = DeviceCursor::after(resumed_us);
        self.recorder.want(Some(&Arc::from(&*device)), &series, self.clock.now())?;
        let is_known = |known: &DeviceFeed| known.device == device && known.series == series;
        let known = self.device_feeds.iter().position(is_known);
        // The next tick sends the rest to all clients of this device.
        let until = known.map_or(DeviceCursor::ALL, |index| self.device_feeds[index].cursor);
        let mut snapshot = self.sampler.device(&device, &series, &mut cursor, &until)?;
        snapshot.anomalies.retain(|anomaly| anomaly.report.changed_us > resumed_us);
        snapshot.samples.retain(|sample| sample.arrived_us > resumed_us);
        device_sections(&mut message, &device, &snapshot);
        let writer = self.stream(responder, message);
        match known {
            Some(index) => self.device_feeds[index].feed.clients.push(writer),
            None => {
                let feed = Feed { clients: vec![writer], ..Feed::default() };
                self.device_feeds.push(DeviceFeed { device, series, cursor, feed });
            }
        }
        Some(())
    }

    /// A time since the start as microseconds since 1970; without one, before all others.
    fn wall_us(&self, at_ms: Option<u64>) -> i64 {
        at_ms.map_or(i64::MIN, |at_ms| (self.boot_ms + at_ms as i64) * 1_000)
    }

    fn stream(&self, responder: Responder, message: EventMessage) -> StreamWriter {
        let body = message.finish();
        self.counters.sent_bytes_total.add(body.len() as u64);
        responder.stream(response_head(body))
    }

    /// An event with the sections that all events have.
    fn message(&self, event: &'static str, now: Now, retry_ms: Option<u64>) -> EventMessage {
        let id = EventId { boot_ms: self.boot_ms, at_ms: now.monotonic_ms() };
        let mut message = EventMessage::new(event, id, retry_ms);
        let uptime = now.monotonic_ms() as f64 / 1e3;
        let (store, since_us) = self.store;
        let redis_since = (since_us / 1_000) as f64 / 1e3;
        let phase = self.readiness.phase();
        let status = ServerStatus { phase, redis: store.name(), redis_since, uptime };
        message.section("at", &((now.wall_us / 1_000) as f64 / 1e3)).section("status", &status);
        message
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::Value;

    use super::super::sampler::DeviceSnapshot;
    use super::super::subscriber::{CLIENTS_MAX, EVENT_STREAM, SubscribeError, channel};
    use super::super::testing;
    use super::*;
    use crate::analytics::report::{MetricReport, SampleReport, WindowsReport};
    use crate::http::message::{Completion, CompletionSink, STREAM_QUEUE_BYTES_MAX, StreamState};
    use crate::incidents::shared::Incidents;
    use crate::incidents::thread::running;
    use crate::lists::Lists;
    use crate::registry::Registry;
    use crate::test_reports::{asker, fleet};
    use sigmad_sample::{NAME_BYTES_MAX, READINGS_MAX};

    /// An engine with a client that reads immediately, or never.
    #[derive(Default)]
    struct FakeClient {
        never_reads: bool,
        events: Mutex<Vec<String>>,
        state: Mutex<Arc<StreamState>>,
        has_ended: std::sync::atomic::AtomicBool,
    }

    impl CompletionSink for FakeClient {
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

    impl FakeClient {
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

    struct EventsTest {
        events: Events,
        now_ms: u64,
    }

    fn events_test() -> EventsTest {
        let registry = Arc::new(Registry::new(1_000, 3_600));
        let (asker, _) = asker();
        let lists = Lists::new(asker.clone(), registry.clone(), None, i64::MAX / 4);
        let counted = testing::counters(Arc::default());
        let sampler = Sampler::new(asker.clone(), lists.clone(), registry.clone(), counted);
        let counters = Arc::<EventsCounters>::default();
        let incidents = Incidents::new(running(registry.clone()).0, None);
        let recorder = Recorder::new(asker, lists, incidents, registry, counters.clone());
        let (_, requests) = channel(counters.clone());
        let server = ServerInfo {
            version: "0.1.0",
            replica: "here".into(),
            engine: "native",
            detector: "zscore",
            window: 50,
            threshold: 2.0,
            score_threshold: 2.0,
            grafana_url: None,
        };
        let start = sigmad_clock::start();
        let parts = (sampler, recorder);
        let events = Events::new(requests, parts, server, Arc::default(), counters, start);
        EventsTest { events, now_ms: 1_000 }
    }

    impl EventsTest {
        fn now(&self) -> Now {
            let wall_us = (self.events.boot_ms + self.now_ms as i64) * 1_000;
            Now { monotonic_ns: self.now_ms * 1_000_000, wall_us }
        }

        fn tick(&mut self) {
            self.now_ms += TICK_MS;
            self.events.tick(self.now()).expect("analytics runs");
        }

        fn subscribe(
            &mut self,
            reader: &Arc<FakeClient>,
            device: Option<&str>,
            last_event_id: String,
        ) {
            let responder = Responder::new(1, reader.clone());
            let subscription = Subscription {
                responder,
                device: device.map(Box::from),
                series: [].into(),
                last_event_id,
            };
            self.events.begin(subscription, self.now()).expect("analytics runs");
        }
    }

    #[test]
    fn clients_get_the_same_events_and_quiet_ticks_send_none() {
        let mut test = events_test();
        let readers = [Arc::<FakeClient>::default(), Arc::default()];
        for reader in &readers {
            test.subscribe(reader, None, String::new());
        }
        for _ in 0..8 {
            test.tick();
        }
        for reader in &readers {
            let events = reader.events();
            assert_eq!(events[0]["resumed"], false);
            assert_eq!(events[0]["server"]["replica"], "here");
            assert!(events[0]["history"]["at"].as_array().is_some_and(|at| !at.is_empty()));
            assert_eq!(events[0]["fleet"]["rps"]["mean"], 1e15);
            // Two seconds without samples.
            assert!((2..=4).contains(&events.len()), "{}", events.len());
            let has_devices = events.iter().filter(|event| !event["devices"].is_null()).count();
            assert!(has_devices >= 2, "the table comes although nothing else does");
        }
        assert_eq!(test.events.counters.clients.get(), 2);
    }

    #[test]
    fn a_client_that_reconnects_gets_what_it_missed() {
        let mut test = events_test();
        for _ in 0..40 {
            test.tick();
        }
        let id = EventId { boot_ms: test.events.boot_ms, at_ms: test.now_ms - 2_500 };
        let other = EventId { boot_ms: id.boot_ms - 1, ..id };
        let future = EventId { at_ms: test.now_ms + 1, ..id };
        for (id, resumed, points) in
            [(id, true, 2..=3), (other, false, 9..=11), (future, false, 9..=11)]
        {
            let reader = Arc::<FakeClient>::default();
            test.subscribe(&reader, None, id.to_string());
            let hello = &reader.events()[0];
            assert_eq!(hello["resumed"], resumed);
            let at = hello["history"]["at"].as_array().expect("points").len();
            assert!(points.contains(&at), "{at}");
        }
    }

    #[test]
    fn a_client_that_does_not_read_is_disconnected_and_others_are_not() {
        let mut test = events_test();
        let slow = Arc::new(FakeClient { never_reads: true, ..FakeClient::default() });
        let quick = Arc::<FakeClient>::default();
        test.subscribe(&slow, None, String::new());
        test.subscribe(&quick, None, String::new());
        let mut ticks = 0;
        while test.events.counters.dropped_total.get() == 0 {
            test.tick();
            ticks += 1;
            assert!(ticks < 10_000, "it is never disconnected");
        }
        assert!(slow.has_ended.load(std::sync::atomic::Ordering::Relaxed));
        assert!(!quick.has_ended.load(std::sync::atomic::Ordering::Relaxed));
        let queued: usize = slow.events.lock().expect("no panic").iter().map(String::len).sum();
        assert!(queued <= STREAM_QUEUE_BYTES_MAX, "{queued}");
        assert_eq!(test.events.counters.clients.get(), 1);
    }

    #[test]
    fn an_event_of_a_wide_device_fits_the_queue() {
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
        let snapshot = DeviceSnapshot {
            windows: WindowsReport { metrics: metrics.collect(), ..WindowsReport::default() },
            samples: (0..1_000).map(sample).collect(),
            anomalies: Vec::new(),
        };
        let mut message = events_test().events.message("delta", Now::default(), None);
        device_sections(&mut message, &device, &snapshot);
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
    fn clients_that_choose_series_have_a_feed_for_each_choice() {
        let mut test = events_test();
        let choices: [Arc<[Box<str>]>; 2] = [[].into(), [Box::from("rps"), "x".into()].into()];
        let mut readers: Vec<Arc<FakeClient>> = Vec::new();
        for device in [None, Some(Box::from("unknown"))] {
            for series in [&choices[0], &choices[1], &choices[1]] {
                let reader = Arc::<FakeClient>::default();
                let responder = Responder::new(1, reader.clone());
                readers.push(reader);
                let (device, series) = (device.clone(), series.clone());
                let last_event_id = String::new();
                let subscription = Subscription { responder, device, series, last_event_id };
                test.events.begin(subscription, test.now()).expect("analytics runs");
            }
        }
        let clients = |feeds: Vec<&Feed>| -> Vec<usize> {
            feeds.iter().map(|feed| feed.clients.len()).collect()
        };
        let Events { whole_feeds, device_feeds, .. } = &test.events;
        assert_eq!(clients(whole_feeds.iter().map(|whole| &whole.feed).collect()), [1, 2]);
        assert_eq!(clients(device_feeds.iter().map(|device| &device.feed).collect()), [1, 2]);
        test.tick();
        assert_eq!(test.events.counters.clients.get(), 6);
        for reader in &readers[..3] {
            assert_eq!(reader.events().len(), 2, "the whole server's feeds have another event");
        }
    }

    #[test]
    fn a_disconnected_client_is_removed() {
        let mut test = events_test();
        let reader = Arc::<FakeClient>::default();
        test.subscribe(&reader, Some("unknown"), String::new());
        assert_eq!(reader.events()[0]["device"]["device"], "unknown");
        let state = reader.state.lock().expect("no panic").clone();
        state.closed.store(true, std::sync::atomic::Ordering::Relaxed);
        for _ in 0..4 {
            test.tick();
        }
        assert!(test.events.device_feeds.is_empty());
        assert_eq!(test.events.counters.clients.get(), 0);
        assert_eq!(test.events.counters.dropped_total.get(), 0);
    }

    #[test]
    fn clients_beyond_the_limit_are_refused() {
        let counters = Arc::<EventsCounters>::default();
        let (subscriber, waiting) = channel(counters.clone());
        let subscription = || Subscription {
            responder: Responder::new(1, Arc::new(FakeClient::default())),
            device: None,
            series: [].into(),
            last_event_id: String::new(),
        };
        assert!(subscriber.subscribe(subscription()).is_ok());
        counters.clients.set(CLIENTS_MAX as u64);
        let reason = subscriber.subscribe(subscription()).expect_err("full");
        let SubscribeError::Full(responder) = reason else { panic!("{reason:?}") };
        std::mem::forget(responder);
        counters.clients.set(0);
        let first = waiting.queue.recv().expect("the first");
        let EventsRequest::Subscribe(first) = first else { panic!("{first:?}") };
        std::mem::forget(first.responder);
        drop(waiting);
        let reason = subscriber.subscribe(subscription()).expect_err("stopping");
        let SubscribeError::Stopping(responder) = reason else { panic!("{reason:?}") };
        std::mem::forget(responder);
    }
}
