//! One atomic word for each slot: the generation of the slot's name, and the second in which it was last sent.
//!
//! Workers and eviction share nothing but these words, which each side reads and writes in one step. So either
//! a sample keeps the name, or its worker learns that the name is gone: a sample never counts for the slot's
//! next name. All orderings are relaxed: names and everything else are read under the lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// The words of all slots.
#[derive(Debug)]
pub(super) struct SlotWords(Box<[AtomicU64]>);

fn word(generation: u32, seen_s: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(seen_s)
}

fn generation_of(word: u64) -> u32 {
    (word >> 32) as u32
}

fn seen_of(word: u64) -> u32 {
    word as u32
}

impl SlotWords {
    /// Words of generation 0. Zeroed by the system, so that a slot takes memory when its name comes, not before.
    pub(super) fn new(slots: usize) -> Self {
        let words = Box::<[AtomicU64]>::new_zeroed_slice(slots);
        // SAFETY: all bits zero is a valid AtomicU64.
        Self(unsafe { words.assume_init() })
    }

    /// The number of slots.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The generation of the slot's name.
    #[inline]
    pub(super) fn generation(&self, slot: usize) -> u32 {
        generation_of(self.0[slot].load(Ordering::Relaxed))
    }

    /// Whether the slot's name is still that of `generation`.
    #[inline]
    pub(super) fn has(&self, slot: usize, generation: u32) -> bool {
        self.generation(slot) == generation
    }

    /// Records that the name was sent in the second `now_s`. False once its generation has passed.
    #[inline]
    pub(super) fn touch(&self, slot: usize, generation: u32, now_s: u32) -> bool {
        let word_now = &self.0[slot];
        let mut seen = word_now.load(Ordering::Relaxed);
        loop {
            if generation_of(seen) != generation {
                return false;
            }
            // Another worker's second may be ahead; the word never goes back.
            if seen_of(seen) >= now_s {
                return true;
            }
            match word_now.compare_exchange_weak(
                seen,
                word(generation, now_s),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(actual) => seen = actual,
            }
        }
    }

    /// Ends the generation of a name that was last sent more than `idle_s` ago; `next` gives the generation
    /// after it. False if the name is not silent, also when a worker has just touched it.
    pub(super) fn retire(
        &self,
        slot: usize,
        now_s: u32,
        idle_s: u32,
        next: impl Fn(u32) -> u32,
    ) -> bool {
        let seen = self.0[slot].load(Ordering::Relaxed);
        if now_s.saturating_sub(seen_of(seen)) <= idle_s {
            return false;
        }
        let next = word(next(generation_of(seen)), seen_of(seen));
        self.0[slot].compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Ends the generation of a name, however lately it was sent.
    pub(super) fn end(&self, slot: usize, next: impl Fn(u32) -> u32) {
        let ended = |seen| Some(word(next(generation_of(seen)), seen_of(seen)));
        let updated = self.0[slot].fetch_update(Ordering::Relaxed, Ordering::Relaxed, ended);
        debug_assert!(updated.is_ok(), "it is never refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_end_at_any_time() {
        let words = SlotWords::new(1);
        assert!(words.touch(0, 0, 9));
        words.end(0, |generation| generation + 1);
        assert!(!words.touch(0, 0, 9) && words.touch(0, 1, 9));
    }

    #[test]
    fn a_touch_and_an_eviction_never_both_win() {
        // Each round both sides race for the same silent name; exactly one may have it.
        let words = SlotWords::new(1);
        let barrier = std::sync::Barrier::new(2);
        let race = |act: &(dyn Fn(u32, u32) -> bool + Sync)| {
            let mut won = Vec::new();
            for round in 1..2_000_u32 {
                let generation = words.generation(0);
                barrier.wait();
                won.push(act(generation, round * 10));
                barrier.wait();
            }
            won
        };
        std::thread::scope(|scope| {
            let kept = scope.spawn(|| race(&|generation, now_s| words.touch(0, generation, now_s)));
            let gone = race(&|_, now_s| words.retire(0, now_s, 2, |generation| generation + 1));
            let kept = kept.join().expect("no panic");
            assert!(kept.iter().zip(&gone).all(|(kept, gone)| kept != gone));
        });
    }

    #[test]
    fn a_word_never_goes_back() {
        let words = SlotWords::new(2);
        assert!(words.touch(1, 0, 9) && words.touch(1, 0, 3));
        assert!(!words.retire(1, 11, 2, |_| 1), "sent two seconds ago");
        assert!(words.retire(1, 12, 2, |generation| generation + 1));
        assert!(!words.touch(1, 0, 12) && words.touch(1, 1, 12));
        assert_eq!((words.generation(0), words.generation(1)), (0, 1));
    }
}
