//! What detectors other than `zscore` keep of streams, and what they said last: slabs, next to the windows.
//!
//! A stream's memory is taken when the stream opens, and none where only `zscore` runs. A slab grows by
//! chunks that never move; a memory that is given back is the next to be taken.

use std::num::NonZeroU32;

use crate::analytics::report::Finding;
use sigmad_detectors::novelty::Novelty;
use sigmad_detectors::pager::Pager;
use sigmad_detectors::residual::Residual;
use sigmad_detectors::robust::Robust;
use sigmad_detectors::window::Moments;
use sigmad_detectors::zscore::ZScore;
use sigmad_detectors::{Detector, Kind};
use sigmad_sample::Verdict;

/// log₂ of the memories in a chunk: some 800 kB of the largest.
const CHUNK_BITS: u32 = 8;

/// Which detectors run, the first of which gives the verdict.
#[derive(Clone, Debug)]
pub struct Detectors {
    /// It always runs; and how.
    pub zscore: ZScore,
    /// Those that are shown; not empty, none twice.
    pub kinds: Vec<Kind>,
}

impl Default for Detectors {
    fn default() -> Self {
        Self { zscore: ZScore { threshold: 2.0, min_samples: 10 }, kinds: vec![Kind::Zscore] }
    }
}

impl Detectors {
    /// The one that gives the verdict.
    pub fn first(&self) -> Kind {
        self.kinds[0]
    }

    /// Judges the last value once more, by a window in which others' values have turned up. Only
    /// `zscore` looks at that; what another one said stands.
    pub fn judge_again(&self, before: &Moments, value: f64, said: Verdict) -> Verdict {
        let verdict = self.zscore.judge(before, value);
        match self.first() {
            Kind::Zscore => verdict,
            _ => Verdict { score: said.score, is_anomaly: said.is_anomaly, ..verdict },
        }
    }
}

/// The place of one stream's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateIndex(NonZeroU32);

/// What one detector has of a stream.
#[derive(Debug, Default)]
struct Memory<D> {
    detector: D,
    /// What it said last.
    score: f64,
}

#[derive(Debug)]
struct Slab<D> {
    chunks: Vec<Vec<Memory<D>>>,
}

impl<D: Detector> Slab<D> {
    fn of(kind: Kind, kinds: &[Kind]) -> Option<Self> {
        kinds.contains(&kind).then(|| Self { chunks: Vec::new() })
    }

    /// A new memory in that place, which is one that was taken before or the next.
    fn take(&mut self, place: usize) {
        let (chunk, within) = (place >> CHUNK_BITS, place & ((1 << CHUNK_BITS) - 1));
        if chunk == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(1 << CHUNK_BITS));
        }
        match self.chunks[chunk].get_mut(within) {
            Some(memory) => *memory = Memory::default(),
            None => self.chunks[chunk].push(Memory::default()),
        }
    }

    #[inline]
    fn observe(&mut self, place: usize, timestamp_us: i64, value: f64) -> (f64, bool) {
        let memory = &mut self.chunks[place >> CHUNK_BITS][place & ((1 << CHUNK_BITS) - 1)];
        memory.score = memory.detector.observe(timestamp_us, value);
        (memory.score, memory.score >= D::THRESHOLD)
    }

    fn fetch(&self, place: usize) {
        fetch(&self.chunks[place >> CHUNK_BITS][place & ((1 << CHUNK_BITS) - 1)]);
    }

    fn score(&self, place: usize) -> f64 {
        self.chunks[place >> CHUNK_BITS][place & ((1 << CHUNK_BITS) - 1)].score
    }
}

/// The memories of all streams.
#[derive(Debug)]
pub struct DetectorStates {
    detectors: Detectors,
    robust: Option<Slab<Robust>>,
    residual: Option<Slab<Residual>>,
    novelty: Option<Slab<Novelty>>,
    pager: Option<Slab<Pager>>,
    /// Places up to here have been taken at least once.
    taken: u32,
    given_back: Vec<StateIndex>,
}

impl DetectorStates {
    /// Of no stream so far.
    pub fn new(detectors: Detectors) -> Self {
        let kinds = &detectors.kinds[..];
        Self {
            robust: Slab::of(Kind::Robust, kinds),
            residual: Slab::of(Kind::Residual, kinds),
            novelty: Slab::of(Kind::Novelty, kinds),
            pager: Slab::of(Kind::Pager, kinds),
            detectors,
            taken: 0,
            given_back: Vec::new(),
        }
    }

    /// Which detectors run.
    #[inline]
    pub fn detectors(&self) -> &Detectors {
        &self.detectors
    }

    /// Whether any detector keeps something of streams.
    #[inline]
    pub fn keep_any(&self) -> bool {
        self.detectors.kinds.iter().any(|&kind| kind != Kind::Zscore)
    }

    /// For a new stream. None where no detector keeps anything.
    pub fn take(&mut self) -> Option<StateIndex> {
        if !self.keep_any() {
            return None;
        }
        let place = self.given_back.pop().unwrap_or_else(|| {
            self.taken += 1;
            StateIndex(NonZeroU32::new(self.taken).expect("one more than what was there"))
        });
        let at = place.at();
        self.robust.iter_mut().for_each(|slab| slab.take(at));
        self.residual.iter_mut().for_each(|slab| slab.take(at));
        self.novelty.iter_mut().for_each(|slab| slab.take(at));
        self.pager.iter_mut().for_each(|slab| slab.take(at));
        Some(place)
    }

    /// Forgets a stream; its place will be taken again.
    pub fn give_back(&mut self, place: StateIndex) {
        self.given_back.push(place);
    }

    /// Brings what is remembered of a stream near, while another is judged: samples come from devices in no
    /// order, so most of it lies beyond the core's caches. `benches/judging.py` shows what that saves.
    #[inline]
    pub fn fetch(&self, place: StateIndex) {
        let at = place.at();
        self.robust.iter().for_each(|slab| slab.fetch(at));
        self.residual.iter().for_each(|slab| slab.fetch(at));
        self.novelty.iter().for_each(|slab| slab.fetch(at));
        self.pager.iter().for_each(|slab| slab.fetch(at));
    }

    /// How many streams have a memory.
    pub fn in_use(&self) -> usize {
        self.taken as usize - self.given_back.len()
    }

    /// Judges a value by the window that it is about to enter, and by what is remembered of its stream.
    #[inline]
    pub fn judge(
        &mut self,
        place: Option<StateIndex>,
        before: &Moments,
        timestamp_us: i64,
        value: f64,
    ) -> Verdict {
        let verdict = self.detectors.zscore.judge(before, value);
        match place {
            None => verdict,
            Some(place) => self.observe(place, timestamp_us, value, verdict),
        }
    }

    #[inline(never)] // the default runs without
    fn observe(
        &mut self,
        place: StateIndex,
        timestamp_us: i64,
        value: f64,
        mut verdict: Verdict,
    ) -> Verdict {
        let at = place.at();
        let first = self.detectors.first();
        let mut heard = |kind: Kind, said: (f64, bool)| {
            if kind == first {
                (verdict.score, verdict.is_anomaly) = said;
            }
        };
        if let Some(slab) = &mut self.robust {
            heard(Kind::Robust, slab.observe(at, timestamp_us, value));
        }
        if let Some(slab) = &mut self.residual {
            heard(Kind::Residual, slab.observe(at, timestamp_us, value));
        }
        if let Some(slab) = &mut self.novelty {
            heard(Kind::Novelty, slab.observe(at, timestamp_us, value));
        }
        if let Some(slab) = &mut self.pager {
            heard(Kind::Pager, slab.observe(at, timestamp_us, value));
        }
        verdict
    }

    /// What each detector that runs said last of a stream, whose verdict is this.
    pub fn findings(&self, place: Option<StateIndex>, verdict: &Verdict) -> Vec<Finding> {
        let z = self.detectors.zscore.threshold;
        let finding = |&detector: &Kind| {
            let at = place.map(StateIndex::at);
            let threshold = detector.threshold(z);
            let score = match detector {
                Kind::Zscore => {
                    let (score, is_anomaly) = (verdict.z_score.abs(), verdict.is_far);
                    return Finding { detector, score, is_anomaly, threshold };
                }
                Kind::Robust => score_of(self.robust.as_ref(), at),
                Kind::Residual => score_of(self.residual.as_ref(), at),
                Kind::Novelty => score_of(self.novelty.as_ref(), at),
                Kind::Pager => score_of(self.pager.as_ref(), at),
            };
            Finding { detector, score, is_anomaly: score >= threshold, threshold }
        };
        self.detectors.kinds.iter().map(finding).collect()
    }
}

impl StateIndex {
    const fn at(self) -> usize {
        self.0.get() as usize - 1
    }
}

fn score_of<D: Detector>(slab: Option<&Slab<D>>, at: Option<usize>) -> f64 {
    slab.zip(at).map_or(0.0, |(slab, at)| slab.score(at))
}

/// Asks for every cache line of a value, and waits for none.
#[cfg(target_arch = "x86_64")]
#[inline]
fn fetch<T>(of: &T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    const LINE_BYTES: usize = 64;
    let first = std::ptr::from_ref(of).cast::<i8>();
    for offset in (0..size_of::<T>()).step_by(LINE_BYTES) {
        // SAFETY: a prefetch reads and writes nothing, and the address lies within `of`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(offset)) };
    }
}

/// There is nothing stable to ask with.
#[cfg(not(target_arch = "x86_64"))]
fn fetch<T>(_of: &T) {}
