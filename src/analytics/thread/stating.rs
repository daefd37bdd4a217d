//! How the time of a drain is divided: waits for states of other replicas, then the last states of all devices that are here.

use crate::handover::HandoverProducer;
use sigmad_clock::Clock;

/// The part of the time until the deadline of the store in which values still wait for the states of their devices, in
/// quarters. A replica that ends without them leaves a gap that no other can fill.
const WAITING_QUARTERS: u64 = 1;
/// The same in which states are stated. The rest is for the last of them on their way, and for what the process does
/// after that.
const STATING_QUARTERS: u64 = 3;

/// The end of the handover: no more samples come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stating {
    /// The index of the next device. None before the first: values may still wait.
    pub next: Option<usize>,
    /// When waits must end, on the monotonic clock.
    pub wait_until_ns: u64,
    /// When it must end, on the monotonic clock.
    pub until_ns: u64,
}

impl Stating {
    /// Begins.
    pub fn begin(handover: &HandoverProducer, clock: &Clock) -> Self {
        let now_ns = clock.monotonic_ns();
        let quarters = |quarters| {
            handover.deadline_ns().map_or(u64::MAX, |deadline_ns| {
                now_ns + deadline_ns.saturating_sub(now_ns) / 4 * quarters
            })
        };
        let (wait_until_ns, until_ns) = (quarters(WAITING_QUARTERS), quarters(STATING_QUARTERS));
        Self { next: None, wait_until_ns, until_ns }
    }
}
