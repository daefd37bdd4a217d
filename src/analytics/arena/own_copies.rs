//! Copies of this replica's values, of streams whose rings hold those of others too.

use super::{Arena, RingSource, StreamIndex, StreamRecord};
use sigmad_sample::Verdict;

impl Arena {
    /// Copies of own values, a bit for each index; those past its end are none.
    pub fn own_copies(&self) -> &[u64] {
        &self.is_own_copy
    }

    /// The stream that holds this replica's values and the verdict on the last of them, with its ring. None
    /// while there are no such values.
    pub fn own(&self, place: StreamIndex) -> Option<(&StreamRecord, &[f64])> {
        match self.get(place).0.ring_source {
            RingSource::Own => {
                Some(self.get(place)).filter(|(stream, _)| stream.window.count() > 0)
            }
            RingSource::Others => None,
            RingSource::Both(copy) => Some(self.get(copy)),
        }
    }

    /// Adds a value that has entered a ring of several replicas to this replica's copy as well.
    #[inline(never)] // called only where there are other replicas
    pub fn enter_own(&mut self, place: StreamIndex, value: f64, verdict: Verdict) {
        let copy = match self.get(place).0.ring_source {
            RingSource::Own => return,
            RingSource::Others => self.take_own_copy(place),
            RingSource::Both(copy) => copy,
        };
        let (stream, ring) = self.get_mut(copy);
        stream.window.push(ring, value);
        stream.verdict = verdict.into();
    }

    /// Prepares a ring for other replicas' values: if it holds this replica's only, copies them (`own`) to a
    /// stream of their own.
    pub fn share(&mut self, place: StreamIndex, own: &[f64]) {
        let (stream, _) = self.get_mut(place);
        if stream.ring_source != RingSource::Own {
            return;
        }
        if own.is_empty() {
            stream.ring_source = RingSource::Others;
            return;
        }
        let verdict = stream.verdict;
        let copy = self.take_own_copy(place);
        let (stream, ring) = self.get_mut(copy);
        stream.window.refill(ring, own);
        stream.verdict = verdict;
    }

    /// Ends sharing: the ring holds `own`, this replica's values, and the copy is given back.
    pub fn unshare(&mut self, place: StreamIndex, own: &[f64]) {
        self.give_back_own_copy(place);
        let (stream, ring) = self.get_mut(place);
        stream.window.refill(ring, own);
        stream.ring_source = RingSource::Own;
    }

    fn take_own_copy(&mut self, place: StreamIndex) -> StreamIndex {
        let copy = self.take();
        self.get_mut(place).0.ring_source = RingSource::Both(copy);
        self.own_copies += 1;
        let word = copy.number() / 64;
        if self.is_own_copy.len() <= word {
            self.is_own_copy.resize(word + 1, 0);
        }
        self.is_own_copy[word] |= 1 << (copy.number() % 64);
        copy
    }

    pub(super) fn give_back_own_copy(&mut self, place: StreamIndex) {
        if let RingSource::Both(copy) = self.get(place).0.ring_source {
            self.free.push(copy);
            self.own_copies -= 1;
            self.is_own_copy[copy.number() / 64] &= !(1 << (copy.number() % 64));
        }
    }
}
