//! How far the last states are, those of all devices that are here.

use crate::handover::HandoverProducer;
use sigmad_clock::Clock;

/// The part of the time until the deadline of the store in which states are stated, in quarters. The rest is for the last of them
/// on their way, and for what the process does after that.
const STATING_QUARTERS: u64 = 3;

/// The last states under way: those of all devices that are here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stating {
    /// The index of the next device.
    pub next: usize,
    /// When it must end, on the monotonic clock.
    pub until_ns: u64,
}

impl Stating {
    /// Begins, at the first device.
    pub fn begin(handover: &HandoverProducer, clock: &Clock) -> Self {
        let now_ns = clock.monotonic_ns();
        let until_ns = handover.deadline_ns().map_or(u64::MAX, |deadline_ns| {
            now_ns + deadline_ns.saturating_sub(now_ns) / 4 * STATING_QUARTERS
        });
        Self { next: 0, until_ns }
    }
}
