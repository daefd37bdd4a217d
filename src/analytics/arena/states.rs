//! The detectors' states of one stream as bytes, for another replica: their forms, then the states.

use super::{Arena, StreamIndex};
use sigmad_detectors::SavedDetector;
use sigmad_detectors::saved::Saved;

impl Arena {
    /// What [`Arena::write_states`] begins with.
    pub fn states_head(&self) -> Vec<u8> {
        let mut head = Vec::new();
        self.states.saved_forms().write(&mut head);
        head
    }

    /// The states of a stream. None where it has none.
    pub fn write_states(&self, place: StreamIndex, head: &[u8]) -> Option<Vec<u8>> {
        let state = self.get(place).0.state?;
        let mut bytes = head.to_vec();
        self.states.write(state, &mut bytes);
        Some(bytes)
    }

    /// Gives a stream the states that were written. Returns how many detectors begin anew. None, and some states may be
    /// replaced, if the bytes are no states.
    pub fn read_states(&mut self, place: StreamIndex, mut from: &[u8]) -> Option<usize> {
        let forms = Vec::<SavedDetector>::read(&mut from)?;
        let state = self.get(place).0.state?;
        let anew = self.states.read(state, &forms, &mut from)?;
        from.is_empty().then_some(anew)
    }
}
