//! Merges other replicas' values into a window.
//!
//! The store sends the newest values of a stream from all replicas, in one order for all. Before and after them
//! are values that only this replica has:
//!
//! ```text
//!   own values that the store has lost │ values of all, as the store has them │ own values since
//! ```
//!
//! The ring takes the last values of this sequence. The store sends one value more than a window holds, so that
//! the last can be judged by the window before it: replicas without values of their own show the same window
//! and the same verdict. That holds for `zscore`; other detectors judge only values that came to this replica,
//! and their last verdict stays.

use crate::analytics::arena::{Arena, RingSource, StreamIndex};
use crate::judged_queue::SharedMetric;
use sigmad_detectors::window::Moments;

/// Merges one stream at a time; keeps its memory between them.
#[derive(Debug, Default)]
pub struct ReplicaMerge {
    own: Vec<f64>,
    merged: Vec<f64>,
}

impl ReplicaMerge {
    /// Merges the store's values of the stream at `place`, and judges the last one. `all_sent`
    /// says that no value of this replica is on its way to the store. When the stream holds this replica's values
    /// only and the store has no others, ring and verdict stay.
    pub fn stream(
        &mut self,
        arena: &mut Arena,
        place: StreamIndex,
        shared: &SharedMetric,
        all_sent: bool,
    ) {
        let Self { own, merged } = self;
        let window = arena.window();
        let (stream, _) = arena.get_mut(place);
        stream.others = shared.others;
        // After a restart whose disk lacked the last values.
        let has_forgotten = stream.own.total < shared.own_total;
        stream.own.total = stream.own.total.max(shared.own_total);
        let (own_total, ring_source) = (stream.own.total, stream.ring_source);
        let is_own = own_total > 0 && shared.own_values >= shared.values.len();
        let is_known = is_own && ring_source == RingSource::Own && !has_forgotten;
        if shared.values.is_empty() || is_known {
            return;
        }

        own.clear();
        own.extend(arena.own(place).into_iter().flat_map(|(own, ring)| own.window.values(ring)));
        let unsent = if all_sent { 0 } else { own_total.saturating_sub(shared.own_total) };
        let unsent = usize::try_from(unsent).unwrap_or(usize::MAX);
        // More than a window of own values is still to be sent, so the window holds none of the store's.
        let is_all_own = unsent > own.len();
        let unsent = unsent.min(own.len());
        let (sent, since) = own.split_at(own.len() - unsent);
        let lost = &sent[..sent.len().saturating_sub(shared.own_values)];
        let room = (window + 1).saturating_sub(shared.values.len() + since.len());
        merged.clear();
        merged.extend_from_slice(newest(lost, room));
        merged.extend_from_slice(&shared.values);
        merged.extend_from_slice(since);

        if is_own {
            arena.unshare(place, if has_forgotten { newest(merged, window) } else { own });
        } else {
            let (stream, ring) = arena.get(place);
            let values = newest(merged, window);
            if !stream.window.values(ring).eq(values.iter().copied()) {
                arena.share(place, own);
                let (stream, ring) = arena.get_mut(place);
                stream.window.refill(ring, values);
            }
        }
        let (&last, before) = merged.split_last().expect("there are values");
        let verdict = match arena.own(place) {
            Some((own, _)) if is_all_own => own.verdict,
            // Also for a value that is still to be sent: other replicas' values before it may be new here.
            _ => {
                let previous = arena.get(place).0.verdict.verdict();
                let detectors = arena.states().settings();
                detectors.judge_again(&Moments::of(newest(before, window)), last, previous).into()
            }
        };
        arena.get_mut(place).0.verdict = verdict;
    }
}

/// The last `count` values.
pub fn newest(values: &[f64], count: usize) -> &[f64] {
    &values[values.len().saturating_sub(count)..]
}
