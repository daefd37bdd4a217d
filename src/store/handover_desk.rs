//! What the store thread keeps of detector states on their way: those to write, and devices whose states it looks for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::keys::ReplicaId;
use super::states::{StatesCodec, Takeover};
use crate::handover::{HandoverConsumer, StatedPart};
use sigmad_sample::DeviceId;

/// The first wait before states are looked for again; it doubles each time. The other replica has to learn of the move
/// first.
pub const FIRST_LOOK: Duration = Duration::from_millis(25);
/// The longest.
pub const LONGEST_LOOK: Duration = Duration::from_millis(200);

/// A device whose states are looked for.
#[derive(Debug)]
pub struct Wanted {
    pub device: DeviceId,
    pub name: Arc<str>,
    /// None before Redis has it, and the replica that had the device is told.
    pub takeover: Option<Takeover>,
    /// False for a device that is only taken over: its states are here.
    pub is_looked_for: bool,
    /// Redis' time, at the latest: its first value has arrived before.
    pub asked_us: i64,
    /// When to look next, and how long to wait after that.
    pub next_ns: u64,
    pub pause: Duration,
    /// Analytics waits no longer than until then.
    pub until_ns: u64,
}

impl Wanted {
    /// Who must state its states.
    pub fn before(&self) -> Option<ReplicaId> {
        self.takeover.and_then(|takeover| takeover.before)
    }

    /// Whether there is anything to do for it. A takeover is made even when nobody waits any more: the next replica asks for it.
    pub fn is_open(&self, now_ns: u64) -> bool {
        self.takeover.is_none() || self.is_looked_for && now_ns < self.until_ns
    }
}

/// The handover as the store sees it.
pub struct HandoverDesk {
    pub consumer: HandoverConsumer,
    pub codec: StatesCodec,
    pub wanted: Vec<Wanted>,
    /// Replicas that are waited for and have no connection to Redis, each with the time at which that was first seen.
    pub absent: BTreeMap<ReplicaId, u64>,
    /// Parts that were taken and are not written so far.
    pub stating: Vec<StatedPart>,
    /// Analytics has ended, and all messages are taken.
    pub is_closed: bool,
}

impl HandoverDesk {
    pub fn new(consumer: HandoverConsumer) -> Self {
        let codec = StatesCodec::new().expect("memory for a few tables of zstd, at the start");
        Self {
            consumer,
            codec,
            wanted: Vec::new(),
            absent: BTreeMap::new(),
            stating: Vec::new(),
            is_closed: false,
        }
    }

    /// Nothing is left to be written, and nothing will be.
    pub fn is_done(&self) -> bool {
        self.is_closed && self.stating.is_empty()
    }

    /// Whether there is anything to do now.
    pub fn is_due(&self, now_ns: u64) -> bool {
        !self.stating.is_empty()
            || !self.consumer.messages.is_empty()
            || self.wanted.iter().any(|wanted| wanted.next_ns <= now_ns)
    }
}
