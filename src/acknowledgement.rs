//! The right to acknowledge samples, for `--ack disk`: it travels with them to where they are durable.
//!
//! A worker begins a [`RoundAcknowledgement`] with the first samples of a round. Each chunk of the round takes an
//! [`AckRight`] along, through the sample queue, past analytics, into the journal. Who makes a chunk durable says so with
//! [`AckRight::durable`]; who drops one, for whatever reason, has lost it. When the last right of the round is gone, the
//! round ends with [`Durability::Durable`] if nothing was lost. So no way of losing a chunk can be forgotten.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

/// What became of the samples of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A crash can't lose them any more.
    Durable,
    /// Some of them may be lost.
    Lost,
}

/// What happens at the end of a round. It must not block: any thread may be the last.
type AtEnd = Box<dyn FnOnce(Durability) + Send>;

/// A round whose samples are on their way.
#[derive(Default)]
struct Round {
    is_lost: AtomicBool,
    at_end: Mutex<Option<AtEnd>>,
}

impl fmt::Debug for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Round").field("is_lost", &self.is_lost).finish_non_exhaustive()
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        let is_lost = *self.is_lost.get_mut();
        if let Some(at_end) = self.at_end.get_mut().take() {
            at_end(if is_lost { Durability::Lost } else { Durability::Durable });
        }
    }
}

/// The right of one chunk. Dropped, the chunk is lost.
#[derive(Debug)]
pub struct AckRight(Option<Arc<Round>>);

impl AckRight {
    /// The chunk is durable.
    pub fn durable(mut self) {
        self.0 = None;
    }

    /// The same right for another chunk: both must be durable.
    #[must_use]
    pub fn share(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Drop for AckRight {
    fn drop(&mut self) {
        if let Some(round) = &self.0 {
            // Relaxed: the drop of the Arc, which follows, orders it before the end of the round.
            round.is_lost.store(true, Relaxed);
        }
    }
}

/// The worker's part: the round does not end before [`RoundAcknowledgement::then`].
#[derive(Debug, Default)]
pub struct RoundAcknowledgement(Arc<Round>);

impl RoundAcknowledgement {
    /// A right for chunks of the round.
    #[must_use]
    pub fn right(&self) -> AckRight {
        AckRight(Some(self.0.clone()))
    }

    /// All chunks have been sent: `at_end` is called once all of them are durable, or the last one is lost.
    pub fn then(self, at_end: impl FnOnce(Durability) + Send + 'static) {
        *self.0.at_end.lock() = Some(Box::new(at_end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{Receiver, unbounded};

    fn round(chunks: usize) -> (Vec<AckRight>, Receiver<Durability>) {
        let round = RoundAcknowledgement::default();
        let first = round.right();
        let mut rights: Vec<_> = (1..chunks).map(|_| first.share()).collect();
        rights.push(first);
        let (sender, ended) = unbounded();
        round.then(move |durability| sender.send(durability).expect("the test waits"));
        (rights, ended)
    }

    #[test]
    fn a_round_ends_with_its_last_chunk() {
        let (mut rights, ended) = round(3);
        for _ in 0..2 {
            rights.pop().expect("three").durable();
            assert!(ended.is_empty());
        }
        rights.pop().expect("three").durable();
        assert_eq!(ended.try_recv(), Ok(Durability::Durable));
    }

    #[test]
    fn a_chunk_that_is_dropped_is_lost() {
        for lost in 0..3 {
            let (rights, ended) = round(3);
            for (at, right) in rights.into_iter().enumerate() {
                assert!(ended.is_empty());
                if at == lost { drop(right) } else { right.durable() }
            }
            assert_eq!(ended.try_recv(), Ok(Durability::Lost), "{lost}");
        }
    }

    #[test]
    fn a_round_whose_chunks_are_done_before_it_is_sent_ends_then() {
        let round = RoundAcknowledgement::default();
        round.right().durable();
        let (sender, ended) = unbounded();
        round.then(move |durability| sender.send(durability).expect("the test waits"));
        assert_eq!(ended.try_recv(), Ok(Durability::Durable));
    }
}
