//! The states that detectors keep of all streams: a slab for each detector that runs.
//!
//! A stream's states are taken when the stream opens; where only `zscore` runs, there are none. A
//! state that is given back is the next to be taken.

use std::num::NonZeroU32;

use sigmad_sample::Verdict;

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
            _ => Verdict { score: previous.score, is_anomaly: previous.is_anomaly, ..verdict },
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
        match state {
            None => verdict,
            Some(state) => self.observe(state, timestamp_us, value, verdict),
        }
    }

    #[inline(never)] // the default runs without
    fn observe(
        &mut self,
        state: StateIndex,
        timestamp_us: i64,
        value: f64,
        verdict: Verdict,
    ) -> Verdict {
        let first = self.settings.first();
        match self.slabs.observe(first, state.index(), timestamp_us, value) {
            Some((score, is_anomaly)) => Verdict { score, is_anomaly, ..verdict },
            None => verdict,
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
