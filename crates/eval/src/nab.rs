//! The score of the Numenta Anomaly Benchmark (Lavin and Ahmad, 2015).
//!
//! The rows of the first 15 % of a file, at most 750, do not count. In a window only the first detection
//! does, for S(−(r − i + 1)/w)/S(−1) with S(y) = 2/(1 + e^(5y)) − 1: all at its first row, little at its
//! last; a window without one costs the weight of a miss. A detection elsewhere costs the weight of a
//! false alarm: whole before the first window, S((i − r)/(w − 1)) of it after one. What comes out is
//! 100 (raw − null) / (perfect − null), with null what silence scores. One threshold serves all files.

use crate::series::Series;

/// The weights of one profile.
#[derive(Clone, Copy, Debug)]
pub struct NabProfile {
    /// As NAB calls it.
    pub name: &'static str,
    miss: f64,
    false_alarm: f64,
}

/// The three that NAB publishes.
pub const PROFILES: [NabProfile; 3] = [
    NabProfile { name: "standard", miss: 1.0, false_alarm: 0.11 },
    NabProfile { name: "low FP", miss: 1.0, false_alarm: 0.22 },
    NabProfile { name: "low FN", miss: 2.0, false_alarm: 0.11 },
];

/// The score of a detector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NabScore {
    /// 100 is perfect, 0 is silence.
    pub score: f64,
    /// The threshold.
    pub threshold: f64,
    /// Windows with a detection.
    pub hits: usize,
    /// Windows that could have one.
    pub windows: usize,
    /// Rows detected outside of windows.
    pub false_rows: usize,
    /// The same per series and day.
    pub false_per_day: f64,
}

/// The fraction of a file that does not count, and its largest number of rows.
const PROBATION: f64 = 0.15;
const PROBATION_ROWS_MAX: f64 = 750.0;

/// The value of a detection in a row, before the profile's weight.
#[derive(Clone, Copy)]
struct NabRow {
    score: f64,
    worth: f64,
    window: Option<usize>,
}

fn sigmoid(y: f64) -> f64 {
    if y > 3.0 { -1.0 } else { 2.0 / (1.0 + (5.0 * y).exp()) - 1.0 }
}

/// The rows that count, from the highest score down, and how many windows they belong to.
#[derive(Default)]
pub struct NabRanking {
    rows: Vec<NabRow>,
    windows: usize,
    live: usize,
    /// Days that count, of all series.
    days: f64,
}

impl NabRanking {
    /// Of all series with their scores.
    pub fn new<'a>(scored: impl IntoIterator<Item = (&'a Series, &'a [f64])>) -> Self {
        let mut ranking = Self::default();
        for (series, scores) in scored {
            ranking.add(series, scores);
        }
        ranking.rows.sort_by(|a, b| b.score.total_cmp(&a.score));
        ranking
    }

    fn add(&mut self, series: &Series, scores: &[f64]) {
        let len = series.values.len();
        let probation = (PROBATION * len as f64).floor().min(PROBATION_ROWS_MAX) as usize;
        let mut rows = vec![(-1.0, None); len];
        let mut windows = series.windows.iter().peekable();
        while let Some(&(left, right)) = windows.next() {
            let width = (right - left + 1) as f64;
            for (row, place) in rows.iter_mut().enumerate().take(right + 1).skip(left) {
                let ahead = (right - row + 1) as f64 / width;
                *place = (sigmoid(-ahead) / sigmoid(-1.0), Some(self.windows));
            }
            let end = windows.peek().map_or(len, |next| next.0);
            for (row, place) in rows.iter_mut().enumerate().take(end).skip(right + 1) {
                place.0 = sigmoid((row - right) as f64 / (width - 1.0));
            }
            // A window that ends within the probation cannot be missed.
            self.live += usize::from(right >= probation);
            self.windows += 1;
        }
        self.days += series.days() * (len - probation) as f64 / len.max(1) as f64;
        let counted = rows.into_iter().zip(scores).skip(probation);
        self.rows.extend(counted.map(|((worth, window), &score)| NabRow { score, worth, window }));
    }

    /// The score at this threshold, or at the best one.
    pub fn score(&self, profile: NabProfile, threshold: Option<f64>) -> NabScore {
        let null = -profile.miss * self.live as f64;
        let perfect = self.windows as f64;
        let mut best = vec![-profile.miss; self.windows];
        let mut raw = null;
        let (mut hits, mut false_rows) = (0, 0);
        let normalised = |raw: f64| 100.0 * (raw - null) / (perfect - null);
        let mut result = NabScore {
            score: 0.0,
            threshold: threshold.unwrap_or(f64::INFINITY),
            hits,
            windows: self.live,
            false_rows,
            false_per_day: 0.0,
        };
        for same in self.rows.chunk_by(|a, b| a.score == b.score) {
            let score = same[0].score;
            if threshold.is_some_and(|threshold| score < threshold) {
                break;
            }
            for row in same {
                let Some(window) = row.window else {
                    raw += row.worth * profile.false_alarm;
                    false_rows += 1;
                    continue;
                };
                if row.worth > best[window] {
                    hits += usize::from(best[window] == -profile.miss);
                    raw += row.worth - best[window];
                    best[window] = row.worth;
                }
            }
            if threshold.is_some() || normalised(raw) > result.score {
                let threshold = threshold.unwrap_or(score);
                let false_per_day = false_rows as f64 / self.days;
                let score = normalised(raw);
                result = NabScore { score, threshold, hits, false_rows, false_per_day, ..result };
            }
        }
        result
    }
}
