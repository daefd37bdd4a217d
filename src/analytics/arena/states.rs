//! What follows one stream to another replica, as bytes: the forms of the detectors' states, the states, and what the
//! stream is judged for incidents by.

use super::{Arena, StreamIndex};
use sigmad_detectors::SavedDetector;
use sigmad_detectors::saved::Saved;
use sigmad_incidents::watches::Restored;

impl Arena {
    /// Whether anything of a stream is of use to another replica, beside its window.
    pub fn has_states(&self) -> bool {
        self.states.keeps_states() || self.is_watched()
    }

    /// What [`Arena::write_states`] begins with.
    pub fn states_head(&self) -> Vec<u8> {
        let mut head = Vec::new();
        self.states.saved_forms().write(&mut head);
        head
    }

    /// The states of a stream.
    pub fn write_states(&self, place: StreamIndex, head: &[u8]) -> Vec<u8> {
        let mut bytes = head.to_vec();
        if let Some(state) = self.get(place).0.state {
            self.states.write(state, &mut bytes);
        }
        self.write_watch(place, &mut bytes);
        bytes
    }

    /// Gives a stream the states that were written. Returns how many begin anew. None, and some may be replaced, if the
    /// bytes are no states.
    pub fn read_states(&mut self, place: StreamIndex, mut from: &[u8]) -> Option<usize> {
        let forms = Vec::<SavedDetector>::read(&mut from)?;
        let state = self.get(place).0.state;
        let anew = self.states.read(state, &forms, &mut from)?;
        if from.is_empty() {
            // Of a replica without incidents, or an older one.
            return Some(anew);
        }
        let is_anew = self.read_watch(place, from)? == Restored::BeginsAnew;
        Some(anew + usize::from(is_anew))
    }
}
