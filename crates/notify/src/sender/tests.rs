#![allow(clippy::disallowed_methods, reason = "threads of real clocks, with real sockets")]

use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Sender as ChannelSender, bounded, unbounded};
use serde_json::Value;
use sigmad_clock::TimeSource;
use sigmad_incidents::incident::State;

use super::*;
use crate::testing::receiver::{Received, TestReceiver};
use crate::testing::{at_s, incident, with_state};

/// A book that says what a test has put into it.
struct StubBook(Receiver<Incident>);

impl Book for StubBook {
    fn changes_since(&mut self, _: u64, limit: usize) -> Option<Vec<Incident>> {
        Some(self.0.try_iter().take(limit).collect())
    }
}

/// No time passes: nothing is due before the end, however long the machine stalls.
#[derive(Debug)]
struct Standstill;

impl TimeSource for Standstill {
    fn monotonic_ns(&self) -> u64 {
        at_s(0).monotonic_ns
    }

    fn wall_us(&self) -> i64 {
        at_s(0).wall_us
    }

    fn sleep(&self, _: Duration) {
        unreachable!("senders wait for channels");
    }
}

struct Running {
    thread: JoinHandle<()>,
    book: ChannelSender<Incident>,
    changed: ChannelSender<()>,
    stop: ChannelSender<u64>,
    counters: Arc<TargetCounters>,
}

impl Running {
    fn start(kind: TargetKind, url: &str) -> Self {
        Self::start_with(kind, url, None)
    }

    fn start_at_standstill(kind: TargetKind, url: &str) -> Self {
        Self::start_by(Clock::simulated(Arc::new(Standstill)), kind, url, None)
    }

    fn start_with(kind: TargetKind, url: &str, notes: Option<NotesKept>) -> Self {
        Self::start_by(Clock::new(Instant::now()), kind, url, notes)
    }

    fn start_by(clock: Clock, kind: TargetKind, url: &str, notes: Option<NotesKept>) -> Self {
        let (book, incidents) = unbounded();
        let (changed, changes) = unbounded();
        let (stop, stopped) = bounded(1);
        let target = Target { kind, url: url.parse().expect("a URL") };
        let counters = Arc::new(TargetCounters::new(target.name()));
        let sender = Sender::new(SenderParts {
            target,
            external_url: "http://sigmad/".to_owned(),
            book: StubBook(incidents),
            changes,
            counters: counters.clone(),
            clock,
            seed: 1,
            stop: stopped,
            notes,
        });
        Self { thread: std::thread::spawn(move || sender.run()), book, changed, stop, counters }
    }

    fn tell(&self, incident: Incident) {
        self.book.send(incident).expect("the sender runs");
        self.changed.send(()).expect("the sender runs");
    }

    /// Ends the sender, which may send meanwhile, without a deadline. Returns sent, failed, refused and dropped.
    fn end(self) -> [u64; 4] {
        self.stop.send(u64::MAX).expect("the sender runs");
        self.thread.join().expect("no panic");
        let TargetCounters { sent_total, failed_total, refused_total, dropped_total, .. } =
            &*self.counters;
        [sent_total, failed_total, refused_total, dropped_total].map(|counter| counter.get())
    }
}

fn json(received: &Received) -> Value {
    serde_json::from_str(&received.body).expect("JSON")
}

#[test]
fn an_alert_is_repeated_until_alertmanager_has_it() {
    let target = TestReceiver::start(&[
        "503 Unavailable",
        "",
        "302 Found\r\nLocation: http://127.0.0.1:1/",
        "200 OK",
    ]);
    let url = format!("http://us:s3cret@127.0.0.1:{}/prefix", target.port);
    let running = Running::start(TargetKind::Alertmanager, &url);
    running.tell(incident(1));
    for _ in 0..4 {
        let received = target.next();
        assert!(received.head.starts_with("post /prefix/api/v2/alerts http/1.1"));
        assert!(received.head.contains("\r\nauthorization: basic dxm6cznjcmv0"), "{received:?}");
        let body = json(&received);
        assert_eq!(body[0]["labels"]["incident"], incident(1).id.to_string());
    }
    // The sender asks the book once more before it ends.
    running.tell(with_state(incident(1), State::Resolved, at_s(5)));
    assert_eq!(running.end(), [2, 3, 0, 0]);
    assert_eq!(json(&target.next())[0]["endsAt"], "2024-12-25T04:13:25Z");
}

#[test]
fn a_webhook_is_told_of_what_is_gathered_before_the_end() {
    let target = TestReceiver::start(&["204 No Content"]);
    let url = format!("http://127.0.0.1:{}/hook", target.port);
    let running = Running::start(TargetKind::Webhook(WebhookFormat::Json), &url);
    // The stub is of 2024, and the sender began now: only what is open is news.
    running.tell(incident(1));
    running.tell(incident(2));
    assert_eq!(running.end(), [2, 0, 0, 0]);
    for number in [1, 2] {
        let received = target.next();
        let id = format!("{}-opened", incident(number).id);
        assert!(received.head.contains(&format!("idempotency-key: {}", id.to_lowercase())));
        assert_eq!(json(&received)["id"], id);
    }
}

#[test]
fn what_a_target_refuses_is_not_repeated() {
    let target = TestReceiver::start(&["400 Bad Request", "200 OK"]);
    let url = format!("http://127.0.0.1:{}/", target.port);
    let running = Running::start(TargetKind::Webhook(WebhookFormat::Slack), &url);
    running.tell(incident(1));
    running.tell(incident(2));
    assert_eq!(running.end(), [1, 0, 1, 0]);
    let [first, second] = [target.next(), target.next()];
    assert_ne!(first.head, second.head);
}

#[test]
fn what_an_absent_target_was_not_told_is_counted() {
    // It never answers. It keeps its port, so that no other test's target takes it.
    let target = TestReceiver::start(&[""]);
    let url = format!("http://127.0.0.1:{}", target.port);
    let running = Running::start_at_standstill(TargetKind::Webhook(WebhookFormat::Json), &url);
    running.tell(incident(1));
    running.tell(incident(2));
    // The end gives up with the first failure.
    assert_eq!(running.end(), [0, 1, 0, 2]);
}

/// Where senders of one target keep their notes, one after the other.
fn notes_in(kept: &Arc<Mutex<Option<Vec<u8>>>>) -> Option<NotesKept> {
    let before = kept.lock().expect("no panic").clone();
    let kept = kept.clone();
    let keep = move |notes| *kept.lock().expect("no panic") = Some(notes);
    Some(NotesKept { before, keep: Box::new(keep) })
}

#[test]
fn after_a_restart_a_target_is_told_what_it_was_not_told_before() {
    // It does not answer the first process, and the second one tells it.
    let target = TestReceiver::start(&["503 Unavailable", "200 OK"]);
    let url = format!("http://127.0.0.1:{}", target.port);
    let (kind, kept) = (TargetKind::Webhook(WebhookFormat::Json), Arc::default());
    let open = incident(1);
    let resolved = with_state(incident(1), State::Resolved, Clock::new(Instant::now()).now());
    let mut outcomes = [0; 4];
    for told in [&open, &open, &open, &resolved, &resolved] {
        let running = Running::start_with(kind, &url, notes_in(&kept));
        running.tell(told.clone());
        outcomes.iter_mut().zip(running.end()).for_each(|(sum, count)| *sum += count);
    }
    // Sent, failed, refused and dropped: whichever process it was.
    assert_eq!(outcomes, [2, 1, 0, 0]);
    let events = [target.next(), target.next(), target.next()].map(|it| json(&it)["event"].clone());
    assert_eq!(events, ["opened", "opened", "resolved"]);
    assert!(target.requests.try_recv().is_err());
}
