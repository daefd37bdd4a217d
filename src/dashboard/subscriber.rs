//! The way from readers to the thread behind `/events`: of clients, and of questions about the past.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};

use super::counters::EventsCounters;
use super::streams::{HistoryQuery, HistoryReport};
use crate::http::message::{Responder, Response};

/// The media type of `/events`.
pub const EVENT_STREAM: &str = "text/event-stream";
/// Clients at a time; further ones are answered 503. Each costs up to some 20 kB per second.
pub const CLIENTS_MAX: usize = 1_000;
/// Requests that wait for the events thread.
const REQUESTS_MAX: usize = 64;

/// A client of `/events`.
#[derive(Debug)]
pub struct Subscription {
    /// Where the stream goes.
    pub responder: Responder,
    /// The device of a device feed.
    pub device: Option<Box<str>>,
    /// Only these series; without any, those that there is room for.
    pub series: Arc<[Box<str>]>,
    /// `Last-Event-ID` as sent; empty without it.
    pub last_event_id: String,
}

/// What readers ask of the events thread.
#[derive(Debug)]
pub enum EventsRequest {
    /// A client of `/events`.
    Subscribe(Subscription),
    /// `/history`
    History(HistoryQuery, Sender<HistoryReport>),
}

/// The end of the requests that the events thread has; when it is dropped, no question waits any longer.
#[derive(Debug)]
pub struct Requests {
    /// The requests.
    pub queue: Receiver<EventsRequest>,
    _alive: Sender<()>,
}

/// Hands requests to the events thread.
#[derive(Clone, Debug)]
pub struct Subscriber {
    requests: Sender<EventsRequest>,
    /// Nothing arrives here: it is disconnected once the thread has ended.
    ended: Receiver<()>,
    counters: Arc<EventsCounters>,
}

/// Why a client was refused; returns its responder.
#[derive(Debug)]
pub enum SubscribeError {
    /// [`CLIENTS_MAX`] clients are connected.
    Full(Responder),
    /// The server is stopping.
    Stopping(Responder),
}

/// The two ends of the queue of requests.
pub fn channel(counters: Arc<EventsCounters>) -> (Subscriber, Requests) {
    let (sender, queue) = bounded(REQUESTS_MAX);
    let (alive, ended) = bounded(0);
    (Subscriber { requests: sender, ended, counters }, Requests { queue, _alive: alive })
}

impl Subscriber {
    /// Subscribes a client unless there are too many.
    pub fn subscribe(&self, subscription: Subscription) -> Result<(), SubscribeError> {
        if self.counters.clients.get() >= CLIENTS_MAX as u64 {
            return Err(SubscribeError::Full(subscription.responder));
        }
        self.requests.try_send(EventsRequest::Subscribe(subscription)).map_err(|error| {
            let (is_full, refused) = match error {
                TrySendError::Full(refused) => (true, refused),
                TrySendError::Disconnected(refused) => (false, refused),
            };
            let EventsRequest::Subscribe(Subscription { responder, .. }) = refused else {
                unreachable!("it is what was sent")
            };
            if is_full {
                SubscribeError::Full(responder)
            } else {
                SubscribeError::Stopping(responder)
            }
        })
    }

    /// The past, as the thread has recorded it. Waits; None once the thread has ended.
    pub fn history(&self, query: HistoryQuery) -> Option<HistoryReport> {
        let (reply, report) = bounded(1);
        self.requests.send(EventsRequest::History(query, reply)).ok()?;
        select! {
            recv(report) -> report => report.ok(),
            recv(self.ended) -> _ => None,
        }
    }
}

/// The response to `HEAD /events`, and with `body` the beginning of the response to GET.
pub fn response_head(body: Vec<u8>) -> Response {
    let fields = vec![
        ("Cache-Control", "no-store".into()),
        // nginx would buffer the events.
        ("X-Accel-Buffering", "no".into()),
    ];
    Response { status: 200, content_type: EVENT_STREAM, fields, body }
}
