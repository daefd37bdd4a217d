//! How what other replicas have changed enters a window.
//!
//! The store tells of a stream the newest values of all replicas, in the order that all of them see.
//! Around those stand values of this replica alone:
//!
//! ```text
//!   own values that the store has lost │ values of all, as the store has them │ own values since
//! ```
//!
//! The ring takes the last of this line. The store tells one value more than a window holds, so that
//! the last can be judged by the window before it: replicas that have nothing of their own to add show
//! not only the same window but the same verdict. That holds for `zscore`: other detectors remember the
//! values that came here, and what they said of the last of those stands.

use crate::analytics::arena::{Arena, RingSource, StreamIndex};
use crate::judged_queue::SharedMetric;
use sigmad_detectors::window::Moments;
use sigmad_sample::Verdict;

/// Merges one stream after the other; keeps the memory that this takes.
#[derive(Debug, Default)]
pub struct ReplicaMerge {
    own: Vec<f64>,
    line: Vec<f64>,
}

impl ReplicaMerge {
    /// Lets in what the store tells of the stream at `place`, and returns the verdict of its last
    /// value. With `all_sent` no value of ours is on its way to the store. None when it tells of no
    /// value that came from elsewhere, of a stream that is ours alone: its ring and verdict stay.
    pub fn stream(
        &mut self,
        arena: &mut Arena,
        place: StreamIndex,
        shared: &SharedMetric,
        all_sent: bool,
    ) -> Option<Verdict> {
        let Self { own, line } = self;
        let window = arena.window();
        let (stream, _) = arena.get_mut(place);
        stream.others = shared.others;
        let (own_total, ring_source) = (stream.own.total, stream.ring_source);
        let is_own = own_total > 0 && shared.own_values >= shared.values.len();
        if shared.values.is_empty() || is_own && ring_source == RingSource::Own {
            return None;
        }

        own.clear();
        own.extend(arena.own(place).into_iter().flat_map(|(own, ring)| own.window.values(ring)));
        let unsent = if all_sent { 0 } else { own_total.saturating_sub(shared.own_total) };
        let unsent = usize::try_from(unsent).unwrap_or(usize::MAX);
        // More than a window of ours is still to be sent: what stands before it here is not the store's.
        let is_all_ours = unsent > own.len();
        let unsent = unsent.min(own.len());
        let (sent, since) = own.split_at(own.len() - unsent);
        let lost = &sent[..sent.len().saturating_sub(shared.own_values)];
        let room = (window + 1).saturating_sub(shared.values.len() + since.len());
        line.clear();
        line.extend_from_slice(newest(lost, room));
        line.extend_from_slice(&shared.values);
        line.extend_from_slice(since);

        if is_own {
            arena.unshare(place, own);
        } else {
            let (stream, ring) = arena.get(place);
            let values = newest(line, window);
            if !stream.window.values(ring).eq(values.iter().copied()) {
                arena.share(place, own);
                let (stream, ring) = arena.get_mut(place);
                stream.window.refill(ring, values);
            }
        }
        let (&last, before) = line.split_last().expect("there are values");
        let verdict = match arena.own(place) {
            Some((own, _)) if is_all_ours => own.verdict,
            // Also of a value that is still to be sent: what came before it elsewhere may be news.
            _ => {
                let said = arena.get(place).0.verdict;
                let detectors = arena.states().settings();
                detectors.judge_again(&Moments::of(newest(before, window)), last, said)
            }
        };
        arena.get_mut(place).0.verdict = verdict;
        Some(verdict)
    }
}

pub fn newest(values: &[f64], count: usize) -> &[f64] {
    &values[values.len().saturating_sub(count)..]
}
