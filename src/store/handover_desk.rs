//! What the store thread keeps of detector states on their way: those to write, and devices whose states it looks for.

use std::sync::Arc;
use std::time::Duration;

use super::states::StatesCodec;
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
    /// When to look next, and how long to wait after that.
    pub next_ns: u64,
    pub pause: Duration,
    /// Analytics waits no longer than until then.
    pub until_ns: u64,
}

/// The handover as the store sees it.
pub struct HandoverDesk {
    pub consumer: HandoverConsumer,
    pub codec: StatesCodec,
    pub wanted: Vec<Wanted>,
    /// Parts that were taken and are not written so far.
    pub stating: Vec<StatedPart>,
    /// Analytics has ended, and all messages are taken.
    pub is_closed: bool,
}

impl HandoverDesk {
    pub fn new(consumer: HandoverConsumer) -> Self {
        let codec = StatesCodec::new().expect("memory for a few tables of zstd, at the start");
        let (wanted, stating, is_closed) = (Vec::new(), Vec::new(), false);
        Self { consumer, codec, wanted, stating, is_closed }
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
