//! How fast chunks come, and so which sleep costs less.
//!
//! A doze costs a wake-up by timer, however many chunks come meanwhile. A park costs a wake-up by the worker that sends the
//! next chunk, and nothing while none comes. So the thread dozes while several chunks come in the time of a doze.

use std::time::Duration;

/// The longest doze. A verdict comes within a millisecond, and the thread wakes no more often than that: a
/// wake-up costs more than judging a hundred samples.
pub(super) const DOZE: Duration = Duration::from_micros(900);
/// It dozes while chunks are no further apart than this, on average: then four come in three dozes. With half a doze, one
/// connection whose requests take a third of a doze was woken for each sixth of them.
const DOZE_GAP_NS: u64 = DOZE.as_nanos() as u64 / 4 * 3;
/// A longer gap counts as this one, so that a few chunks after a pause are enough to doze again.
const GAP_NS_MAX: u64 = 2 * DOZE_GAP_NS;
/// A gap has this part of the average: it follows within ten chunks, and one late chunk does not change it much.
const GAP_SHARE: u64 = 8;

/// The average gap between the latest chunks.
#[derive(Debug)]
pub(super) struct ChunkPace {
    gap_ns: u64,
    /// When the thread last found chunks as it went to sleep, and how many it had judged by then.
    last_ns: u64,
    chunks: u64,
    is_fast: bool,
}

impl Default for ChunkPace {
    /// Nothing comes.
    fn default() -> Self {
        Self { gap_ns: GAP_NS_MAX, last_ns: 0, chunks: 0, is_fast: false }
    }
}

impl ChunkPace {
    /// Whether more chunks are expected soon: the last answer of [`ChunkPace::dozes`].
    pub fn is_fast(&self) -> bool {
        self.is_fast
    }

    /// True when a doze costs less than a park. The thread has judged `chunks` since its start, and all that it knows of.
    pub fn dozes(&mut self, now_ns: u64, chunks: u64) -> bool {
        self.is_fast = self.expects_more(now_ns, chunks);
        self.is_fast
    }

    fn expects_more(&mut self, now_ns: u64, chunks: u64) -> bool {
        let elapsed_ns = now_ns.saturating_sub(self.last_ns);
        let came = chunks - self.chunks;
        if came == 0 {
            // Its last doze was in vain: one more, for a sender that was held up.
            return self.gap_ns < DOZE_GAP_NS && elapsed_ns < GAP_NS_MAX;
        }
        let gap_ns = (elapsed_ns / came).min(GAP_NS_MAX);
        // More chunks weigh more.
        for _ in 0..came.min(GAP_SHARE) {
            self.gap_ns = (self.gap_ns * (GAP_SHARE - 1) + gap_ns) / GAP_SHARE;
        }
        (self.last_ns, self.chunks) = (now_ns, chunks);
        self.gap_ns < DOZE_GAP_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often the thread would doze, where chunks come `gap_ns` apart and each ends a park.
    fn dozes(pace: &mut ChunkPace, from_ns: u64, gap_ns: u64, chunks: u64) -> u64 {
        (1..=chunks).filter(|chunk| pace.dozes(from_ns + chunk * gap_ns, pace.chunks + 1)).count()
            as u64
    }

    #[test]
    fn it_dozes_while_chunks_come_in_most_dozes() {
        let mut pace = ChunkPace::default();
        assert_eq!(dozes(&mut pace, 0, 1_000_000, 1_000), 0);
        assert!(dozes(&mut pace, 1_000_000_000, 300_000, 1_000) > 980);
        assert!(dozes(&mut pace, 2_000_000_000, 800_000, 1_000) < 20);
    }

    #[test]
    fn two_dozes_in_vain_are_the_last() {
        let mut pace = ChunkPace::default();
        assert!(dozes(&mut pace, 0, 50_000, 100) > 80);
        let chunks = pace.chunks;
        assert!(pace.dozes(100 * 50_000 + 900_000, chunks));
        assert!(!pace.dozes(100 * 50_000 + 1_800_000, chunks));
        // One chunk after a long pause does not change what was usual before it by much.
        assert!(pace.dozes(10_000_000_000, chunks + 1));
    }

    #[test]
    fn many_chunks_at_once_are_soon_the_usual_rate() {
        let mut pace = ChunkPace::default();
        assert!(!pace.dozes(10_000_000_000, 1));
        assert!(pace.dozes(10_000_900_000, 65));
    }
}
