//! The thread's part in the handover of detector states: what is sent to the store, while it runs and at its end.

use super::stating::Stating;
use super::{AnalyticsThread, Turn};
use crate::handover::Sent;

/// Messages that one turn sends at the end: some milliseconds of states.
const MESSAGES_PER_TURN: usize = 64;

impl AnalyticsThread {
    /// Ends waits that are too long, and tells the store what is wanted and stated. True if it told anything.
    pub(super) fn hand_over(&mut self) -> bool {
        let Self { analytics, handover, clock, .. } = self;
        let Some(handover) = handover else { return false };
        if !analytics.has_handover() {
            return false;
        }
        analytics.end_waits(clock.monotonic_ns(), handover.wait.as_nanos() as u64);
        let mut any = false;
        while let Some(message) = analytics.next_handover() {
            match handover.send(message) {
                Sent::Yes | Sent::Never => any = true,
                Sent::Later(message) => {
                    analytics.put_back_handover(message);
                    break;
                }
            }
        }
        any
    }

    /// Whether values wait for states, or the store has no room for what it is to be told.
    pub(super) fn is_handing_over(&self) -> bool {
        self.handover.is_some() && self.analytics.has_handover()
    }

    /// No more samples come: whether values still wait for the states of their devices, and may do so.
    pub(super) fn is_drain_waiting(&mut self) -> bool {
        let Self { analytics, handover, clock, stating, .. } = self;
        let Some(handover) = handover else { return false };
        let stating = stating.get_or_insert_with(|| Stating::begin(handover, clock));
        stating.next.is_none()
            && analytics.waits_for_states()
            && clock.monotonic_ns() < stating.wait_until_ns
    }

    /// All samples are judged and sent, and no values wait: states the states of all devices that are here, and ends.
    pub(super) fn state_all(&mut self) -> Turn {
        let Self { analytics, handover: way, clock, stating, .. } = self;
        let (Some(handover), Some(stating)) = (way.as_ref(), stating) else { return Turn::Ended };
        let next = stating.next.get_or_insert_with(|| {
            analytics.give_up_waits();
            0
        });
        let mut is_over = clock.monotonic_ns() >= stating.until_ns;
        for _ in 0..MESSAGES_PER_TURN {
            if is_over {
                break;
            }
            let Some(message) = analytics.next_handover() else {
                match analytics.state_next(*next) {
                    Some(after) => *next = after,
                    None => is_over = true,
                }
                continue;
            };
            match handover.send(message) {
                Sent::Yes => {}
                Sent::Later(message) => {
                    analytics.put_back_handover(message);
                    return Turn::Idle { all_sent: false };
                }
                Sent::Never => is_over = true,
            }
        }
        if !is_over {
            return Turn::Worked;
        }
        handover.counters.left_total.add(analytics.count_here(*next) as u64);
        // The store sees that nothing more comes.
        *way = None;
        Turn::Ended
    }
}
