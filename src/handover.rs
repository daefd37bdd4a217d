//! The way of detector states between analytics and the store, and what both count of it.
//!
//! A detector's state belongs to the replica that hears a device. When the device moves to another replica, the state
//! follows it through Redis: the replica that had it *states* it, and the one that hears the device next *wants* it.
//! Analytics decides both; the store writes and reads. Neither waits for the other.
//!
//! Exists only with Redis, and only where a detector keeps states.

mod counters;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

pub use counters::{HandoverCounters, StateLoss, StatesCounters, WaitOutcome};
use sigmad_incidents::silence::cadence::LearnedCadence;
use sigmad_sample::{DeviceId, MetricId};

/// Streams whose states travel together: some 200 kB.
pub const STREAMS_PER_PART: usize = 64;
/// Messages that wait for the store at most, 13 MB of states. Past it analytics keeps them.
const MESSAGES_MAX: usize = 64;

/// The states of a stream, as analytics writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStates {
    /// Of which stream.
    pub metric: MetricId,
    /// The forms of the states, then the states.
    pub bytes: Vec<u8>,
}

/// The states of some streams of a device. Those of a device follow one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedPart {
    /// Whose states.
    pub device: DeviceId,
    /// Samples of the device that this replica had judged. Where nobody takes devices over: with fewer of them in Redis,
    /// or as many, the states are current.
    pub own_total: u64,
    /// The number of this replica's takeover of the device; 0 if Redis was away, and did not take it.
    pub takeover: u32,
    /// The states.
    pub streams: Vec<StreamStates>,
    /// How often the device is heard, with the last part. None where nobody looks for silence.
    pub cadence: Option<LearnedCadence>,
    /// It is the first part of the device.
    pub is_first: bool,
    /// It is the last part.
    pub is_last: bool,
}

/// What analytics tells the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandoverMessage {
    /// A device was heard here whose states another replica may have.
    Wanted(DeviceId),
    /// A device was heard here, and goes on with the states that are here.
    Kept(DeviceId),
    /// Other replicas may have the states of a device.
    Stated(StatedPart),
}

/// What the store found for a device that was wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundStates {
    /// Whose states.
    pub device: DeviceId,
    /// The states of its streams; empty when no other replica has had the device.
    pub streams: Vec<StreamStates>,
    /// How often the device is heard, if the other replica says so.
    pub cadence: Option<LearnedCadence>,
    /// They lack the last values of a replica that has died since.
    pub is_older: bool,
}

/// The end of one shard.
#[derive(Debug)]
pub struct HandoverProducer {
    messages: Sender<HandoverMessage>,
    /// How long values wait for the states of their device.
    pub wait: Duration,
    /// When the store ends, on the monotonic clock; 0 before the drain.
    deadline_ns: Arc<AtomicU64>,
    /// Written by the thread of the shard.
    pub counters: Arc<HandoverCounters>,
}

/// The end of the store. What it finds goes the way of all updates.
#[derive(Debug)]
pub struct HandoverConsumer {
    /// Messages to take, those of a device in their order; disconnected once all shards have ended.
    pub messages: Receiver<HandoverMessage>,
    /// How long values wait for the states of their device.
    pub wait: Duration,
}

/// Makes the way, with a producer for each of the counters. Values wait for states at most `wait`.
pub fn channel(
    wait: Duration,
    deadline_ns: &Arc<AtomicU64>,
    counters: &[Arc<HandoverCounters>],
) -> (Vec<HandoverProducer>, HandoverConsumer) {
    let (messages, taken) = bounded(MESSAGES_MAX);
    let producer = |counters: &Arc<HandoverCounters>| HandoverProducer {
        messages: messages.clone(),
        wait,
        deadline_ns: deadline_ns.clone(),
        counters: counters.clone(),
    };
    (counters.iter().map(producer).collect(), HandoverConsumer { messages: taken, wait })
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The store has it.
    Yes,
    /// It comes back: there is no room now.
    Later(HandoverMessage),
    /// The store has ended.
    Never,
}

impl HandoverProducer {
    /// Sends a message, if there is room.
    pub fn send(&self, message: HandoverMessage) -> Sent {
        match self.messages.try_send(message) {
            Ok(()) => Sent::Yes,
            Err(TrySendError::Full(message)) => Sent::Later(message),
            Err(TrySendError::Disconnected(_)) => Sent::Never,
        }
    }

    /// When the store drops what is left, on the monotonic clock. None before the drain.
    pub fn deadline_ns(&self) -> Option<u64> {
        // Relaxed: no other data depends on it.
        Some(self.deadline_ns.load(Ordering::Relaxed)).filter(|&deadline_ns| deadline_ns != 0)
    }
}
