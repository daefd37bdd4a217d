//! The way of a client of `/events` from a reader to the thread that streams.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::counters::EventsCounters;
use crate::http::message::{Responder, Response};

/// The media type of `/events`.
pub const EVENT_STREAM: &str = "text/event-stream";
/// Clients at a time; further ones are answered 503. Each costs up to some 20 kB per second.
pub const CLIENTS_MAX: usize = 1_000;
/// Subscriptions that wait for the events thread.
const SUBSCRIPTIONS_MAX: usize = 64;

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

/// Hands subscriptions to the events thread.
#[derive(Clone, Debug)]
pub struct Subscriber {
    subscriptions: Sender<Subscription>,
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

/// The two ends of the queue of subscriptions.
pub fn channel(counters: Arc<EventsCounters>) -> (Subscriber, Receiver<Subscription>) {
    let (sender, subscriptions) = bounded(SUBSCRIPTIONS_MAX);
    (Subscriber { subscriptions: sender, counters }, subscriptions)
}

impl Subscriber {
    /// Subscribes a client unless there are too many.
    pub fn subscribe(&self, subscription: Subscription) -> Result<(), SubscribeError> {
        if self.counters.clients.get() >= CLIENTS_MAX as u64 {
            return Err(SubscribeError::Full(subscription.responder));
        }
        self.subscriptions.try_send(subscription).map_err(|error| match error {
            TrySendError::Full(refused) => SubscribeError::Full(refused.responder),
            TrySendError::Disconnected(refused) => SubscribeError::Stopping(refused.responder),
        })
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
