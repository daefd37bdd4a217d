//! The states that detectors keep of all streams: a slab for each detector that runs.
//!
//! A stream's states are taken when the stream opens; where only `zscore` runs, there are none. A
//! state that is given back is the next to be taken.

use std::num::NonZeroU32;
use std::sync::Arc;

use sigmad_sample::Verdict;

use crate::saved::saved;
use crate::table::{DetectorKind, Slabs};
use crate::window::Moments;
use crate::zscore::ZScore;

/// Which detectors run; the first gives the verdict.
#[derive(Clone, Debug)]
pub struct DetectorSettings {
    /// The settings of `zscore`, which always runs.
    pub zscore: ZScore,
    /// The detectors that are shown; not empty, none twice.
    pub kinds: Vec<DetectorKind>,
}

impl Default for DetectorSettings {
    fn default() -> Self {
        let zscore = ZScore { threshold: 2.0, min_samples: 10 };
        Self { zscore, kinds: vec![DetectorKind::Zscore] }
    }
}

impl DetectorSettings {
    /// The detector that gives the verdict.
    pub fn first(&self) -> DetectorKind {
        self.kinds[0]
    }

    /// Judges the last value once more, by a window that other replicas' values have entered. Only
    /// `zscore` looks at the window; the verdict of any other detector, `previous`, stands.
    pub fn judge_again(&self, before: &Moments, value: f64, previous: Verdict) -> Verdict {
        let verdict = self.zscore.judge(before, value);
        match self.first() {
            DetectorKind::Zscore => verdict,
            _ => verdict.by(previous.score, previous.is_anomaly),
        }
    }
}

/// What one detector says of a stream's last value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// The detector.
    pub detector: DetectorKind,
    /// The score, 0 and up, on the detector's own scale.
    pub score: f64,
    /// Whether the value is an anomaly to this detector.
    pub is_anomaly: bool,
    /// The score from which a value is an anomaly, or which it must exceed for `zscore`.
    pub threshold: f64,
}

/// Where the states of one stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateIndex(NonZeroU32);

impl StateIndex {
    const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The form in which a detector's states were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedDetector {
    /// The name of the detector.
    pub name: Arc<str>,
    /// The version of its state.
    pub version: u16,
    /// The bytes of each state.
    pub bytes: u32,
}

saved!(SavedDetector { name, version, bytes });

/// The states of all streams.
#[derive(Debug)]
pub struct DetectorStates {
    settings: DetectorSettings,
    slabs: Slabs,
    /// Indices below it have been taken at least once.
    taken: u32,
    free: Vec<StateIndex>,
}

impl DetectorStates {
    /// Without streams.
    pub fn new(settings: DetectorSettings) -> Self {
        Self { slabs: Slabs::new(&settings.kinds), settings, taken: 0, free: Vec::new() }
    }

    /// Which detectors run.
    #[inline]
    pub fn settings(&self) -> &DetectorSettings {
        &self.settings
    }

    /// The detector that runs always.
    #[inline]
    pub fn zscore(&self) -> &ZScore {
        &self.settings.zscore
    }

    /// Whether any detector that runs keeps a state.
    #[inline]
    pub fn keeps_states(&self) -> bool {
        self.settings.kinds.iter().any(|&kind| kind != DetectorKind::Zscore)
    }

    /// Takes the states of a new stream. None where no detector keeps one.
    pub fn take(&mut self) -> Option<StateIndex> {
        if !self.keeps_states() {
            return None;
        }
        let state = self.free.pop().unwrap_or_else(|| {
            self.taken += 1;
            StateIndex(NonZeroU32::new(self.taken).expect("it was incremented"))
        });
        self.slabs.take(state.index());
        Some(state)
    }

    /// Forgets a stream; its states will be taken again.
    pub fn give_back(&mut self, state: StateIndex) {
        self.free.push(state);
    }

    /// How many streams have states.
    pub fn in_use(&self) -> usize {
        self.taken as usize - self.free.len()
    }

    /// The forms of what [`DetectorStates::write`] writes, in that order.
    pub fn saved_forms(&self) -> Vec<SavedDetector> {
        let running = DetectorKind::ALL.iter().filter(|kind| self.settings.kinds.contains(kind));
        let form = |kind: &DetectorKind| {
            let (version, bytes) = kind.saved_form()?;
            Some(SavedDetector { name: kind.name().into(), version, bytes: bytes as u32 })
        };
        running.filter_map(form).collect()
    }

    /// Appends the states of a stream, to the last bit.
    pub fn write(&self, state: StateIndex, to: &mut Vec<u8>) {
        self.slabs.write(state.index(), to);
    }

    /// Replaces the states of a stream by those that were written in these forms. Returns how many detectors begin
    /// anew although a state was written: its version is another one, or it can't be read. What was written by detectors
    /// that do not run here is passed over, and all of it without a `state`. None if the bytes end early.
    pub fn read(
        &mut self,
        state: Option<StateIndex>,
        forms: &[SavedDetector],
        from: &mut &[u8],
    ) -> Option<usize> {
        let mut anew = 0;
        for form in forms {
            let (bytes, rest) = from.split_at_checked(form.bytes as usize)?;
            *from = rest;
            let named = |kind: &&DetectorKind| kind.name() == &*form.name;
            let kind = self.settings.kinds.iter().find(named);
            let (Some(state), Some(&kind)) = (state, kind) else { continue };
            let is_current = kind.saved_form().is_some_and(|(version, _)| version == form.version);
            anew += usize::from(!(is_current && self.slabs.read(kind, state.index(), bytes)));
        }
        Some(anew)
    }

    /// Prefetches the states of a stream while another is judged. Samples come from devices in no order,
    /// so most states are in no cache of the core; `benches/judging.py` shows what this saves.
    #[inline]
    pub fn prefetch(&self, state: StateIndex) {
        self.slabs.prefetch(state.index());
    }

    /// Judges a value by the window that it is about to enter, and by the states of its stream.
    #[inline]
    pub fn judge(
        &mut self,
        state: Option<StateIndex>,
        before: &Moments,
        timestamp_us: i64,
        value: f64,
    ) -> Verdict {
        let verdict = self.settings.zscore.judge(before, value);
        self.judge_late(state, timestamp_us, value, verdict)
    }

    /// The verdict of the first detector that keeps states. Without `zscore`'s, so that this can stay in registers.
    #[inline(never)] // the default runs without
    fn observe(&mut self, state: StateIndex, timestamp_us: i64, value: f64) -> Option<(f64, bool)> {
        let first = self.settings.first();
        self.slabs.observe(first, state.index(), timestamp_us, value)
    }

    /// Judges a value of a stream that waits for its states, by `zscore` alone. [`DetectorStates::judge_late`] gives the
    /// verdict of the others.
    pub fn judge_early(&self, before: &Moments, value: f64) -> Verdict {
        let verdict = self.settings.zscore.judge(before, value);
        match self.settings.first() {
            DetectorKind::Zscore => verdict,
            _ => verdict.by(0.0, false),
        }
    }

    /// Judges a value that `zscore` has judged before, by the states of its stream.
    #[inline]
    pub fn judge_late(
        &mut self,
        state: Option<StateIndex>,
        timestamp_us: i64,
        value: f64,
        early: Verdict,
    ) -> Verdict {
        match state.and_then(|state| self.observe(state, timestamp_us, value)) {
            Some((score, is_anomaly)) => early.by(score, is_anomaly),
            None => early,
        }
    }

    /// What each detector that is shown says of a stream's last value, whose verdict is `verdict`.
    pub fn findings(&self, state: Option<StateIndex>, verdict: &Verdict) -> Vec<Finding> {
        let zscore_threshold = self.settings.zscore.threshold;
        let finding = |&detector: &DetectorKind| {
            let threshold = detector.threshold(zscore_threshold);
            if detector == DetectorKind::Zscore {
                let (score, is_anomaly) = (verdict.z_score.abs(), verdict.is_zscore_anomaly);
                return Finding { detector, score, is_anomaly, threshold };
            }
            let score = state.and_then(|state| self.slabs.score(detector, state.index()));
            let score = score.unwrap_or(0.0);
            Finding { detector, score, is_anomaly: score >= threshold, threshold }
        };
        self.settings.kinds.iter().map(finding).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> DetectorStates {
        let kinds = DetectorKind::ALL.to_vec();
        DetectorStates::new(DetectorSettings { kinds, ..DetectorSettings::default() })
    }

    /// Values of a daily cycle with noise, jumps and rests.
    fn value(at: u32) -> f64 {
        let noise = f64::from(at.wrapping_mul(2_654_435_761) >> 20) / 4_096.0;
        let jump = if at % 700 > 650 { 50.0 } else { 0.0 };
        if at % 900 > 800 {
            7.0
        } else {
            100.0 + (f64::from(at) / 230.0).sin() * 10.0 + noise + jump
        }
    }

    fn observe(states: &mut DetectorStates, state: StateIndex, at: u32) -> Vec<Finding> {
        let before = Moments::of(&[1.0, 2.0, 3.0]);
        let verdict = states.judge(Some(state), &before, i64::from(at) * 60_000_000, value(at));
        states.findings(Some(state), &verdict)
    }

    #[test]
    fn states_that_were_read_go_on_as_those_that_were_written() {
        let mut states = all();
        let state = states.take().expect("most keep states");
        let forms = states.saved_forms();
        let mut restored = all();
        let other = restored.take().expect("as above");
        for at in 0..3_000 {
            if at % 97 == 0 {
                let mut bytes = Vec::new();
                states.write(state, &mut bytes);
                restored = all();
                assert_eq!(restored.take(), Some(other));
                let mut from = &bytes[..];
                assert_eq!(restored.read(Some(other), &forms, &mut from), Some(0));
                assert!(from.is_empty());
                let mut again = Vec::new();
                restored.write(other, &mut again);
                assert_eq!(again, bytes);
            }
            assert_eq!(observe(&mut states, state, at), observe(&mut restored, other, at));
        }
    }

    #[test]
    fn each_detector_that_was_written_otherwise_begins_anew() {
        let mut states = all();
        let state = states.take().expect("most keep states");
        (0..500).for_each(|at| _ = observe(&mut states, state, at));
        let mut bytes = Vec::new();
        states.write(state, &mut bytes);
        let mut forms = states.saved_forms();
        assert_eq!(forms.iter().map(|form| form.bytes as usize).sum::<usize>(), bytes.len());

        forms[0].version += 1;
        let mut restored = all();
        let other = restored.take().expect("as above");
        assert_eq!(restored.read(Some(other), &forms, &mut &bytes[..]), Some(1));
        forms[0].version -= 1;
        forms[1].name = "gone".into();
        assert_eq!(restored.read(Some(other), &forms, &mut &bytes[..]), Some(0));
        assert_eq!(restored.read(None, &forms, &mut &bytes[..]), Some(0));
        assert_eq!(restored.read(Some(other), &forms, &mut &bytes[1..]), None);
    }

    /// A change of these numbers without a new version would read old states as new ones.
    #[test]
    fn forms_have_these_versions_and_lengths() {
        let forms = all().saved_forms();
        let forms: Vec<_> =
            forms.iter().map(|form| (&*form.name, form.version, form.bytes)).collect();
        let known =
            [("robust", 1, 460), ("residual", 1, 320), ("novelty", 2, 2_316), ("pager", 4, 3_274)];
        assert_eq!(forms, known);
    }

    #[test]
    fn no_bytes_panic() {
        let mut states = all();
        let state = states.take().expect("most keep states");
        (0..500).for_each(|at| _ = observe(&mut states, state, at));
        let (forms, mut bytes) = (states.saved_forms(), Vec::new());
        states.write(state, &mut bytes);
        let mut random = 1u32;
        for at in 0..bytes.len() {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mut damaged = bytes.clone();
            damaged[at] ^= (random >> 24) as u8;
            let mut restored = all();
            let other = restored.take().expect("as above");
            restored.read(Some(other), &forms, &mut &damaged[..]);
            restored.slabs.score(DetectorKind::Pager, other.index());
        }
    }
}
