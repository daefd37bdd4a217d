//! One stream as bytes: its window as it is, its counts, and the detectors' states; and what it is judged for incidents by.

use super::{Arena, StreamIndex, StreamToJudge};
use crate::analytics::saved::form::SavedForm;
use crate::judged_queue::JudgedCounts;
use sigmad_detectors::saved::Saved;
use sigmad_detectors::window::Window;
use sigmad_incidents::watches::Restored;
use sigmad_sample::Verdict;

impl Arena {
    /// The form of what [`Arena::write`] writes.
    pub fn saved_form(&self) -> SavedForm {
        SavedForm { window: self.window as u32, detectors: self.states.saved_forms() }
    }

    /// Appends a stream, with the values of this replica alone: Redis has those of all. Its open anomaly is known by the anomaly.
    pub fn write(&self, place: StreamIndex, to: &mut Vec<u8>) {
        let (all, _) = self.get(place);
        let (window, verdict, ring) = match self.own(place) {
            Some((own, ring)) => (own.window.clone(), own.verdict.verdict(), ring),
            None => (Window::default(), Verdict::default(), &[][..]),
        };
        window.write(to);
        verdict.write(to);
        all.own.write(to);
        // In the order of the ring: until it is full, its values are at its beginning.
        ring[..window.count()].iter().for_each(|value| value.write(to));
        if let Some(state) = all.state {
            self.states.write(state, to);
        }
    }

    /// Gives a stream, just opened, what was written. A window of another length takes the latest values that fit.
    /// Returns how many detectors begin anew. None, and the stream stays empty, if the bytes are of no stream.
    pub fn read(&mut self, place: StreamIndex, form: &SavedForm, mut from: &[u8]) -> Option<usize> {
        let mut window = Window::read(&mut from)?;
        let verdict = Verdict::read(&mut from)?;
        let own = JudgedCounts::read(&mut from)?;
        if !window.fits(form.window as usize) {
            return None;
        }
        let mut values = (0..window.count()).map(|_| f64::read(&mut from));
        let saved: Vec<f64> = values.by_ref().collect::<Option<_>>()?;
        let StreamToJudge { record: stream, ring, states, .. } = self.get_to_judge(place);
        let anew = states.read(stream.state, &form.detectors, &mut from)?;
        if ring.len() == form.window as usize {
            ring[..saved.len()].copy_from_slice(&saved);
        } else if !saved.is_empty() {
            let mut whole = vec![0.0; form.window as usize];
            whole[..saved.len()].copy_from_slice(&saved);
            let values: Vec<f64> = window.values(&whole).collect();
            let kept = &values[values.len().saturating_sub(ring.len())..];
            window = Window::default();
            window.refill(ring, kept);
        }
        (stream.window, stream.verdict, stream.own) = (window, verdict.into(), own);
        Some(anew)
    }

    /// Whether there is something to be written by which a stream is judged for incidents.
    pub fn is_watched(&self) -> bool {
        self.watches.is_some()
    }

    /// Appends that.
    pub fn write_watch(&self, place: StreamIndex, to: &mut Vec<u8>) {
        let (chunk, within) = self.split(place);
        if let Some(watches) = &self.watches {
            watches.write(&self.chunks[chunk].folds[within], to);
        }
    }

    /// Gives a stream what was written, in place of what it has. Without incidents that is nothing. None if the bytes are of no
    /// stream.
    pub fn read_watch(&mut self, place: StreamIndex, from: &[u8]) -> Option<Restored> {
        let (chunk, within) = self.split(place);
        let Some(watches) = &mut self.watches else { return Some(Restored::GoesOn) };
        let fold = &mut self.chunks[chunk].folds[within];
        watches.give_back(fold);
        watches.read(fold, from)
    }
}
