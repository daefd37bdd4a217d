//! Baselines: the simplest rules that people use, so that no detector is compared with nothing.
//!
//! After an alarm each is silent for [`HOLD`] values, without which none would be usable. They are not
//! detectors of the server.

use std::collections::VecDeque;

/// Values without an alarm after an alarm.
pub const HOLD: usize = 120;
/// Values before the first score, as for `pager`.
const COUNT_MIN: usize = 150;
/// The values whose median is taken.
const MEDIAN_VALUES: usize = 1_000;
/// The median absolute deviation of a normal distribution, in standard deviations.
const OF_MEDIAN: f64 = 0.6745;
/// The weight of each value in the moving average, and of each square in that of the errors.
const AVERAGE_WEIGHT: f64 = 0.3;
const ERROR_WEIGHT: f64 = 0.01;
/// The largest score: that of a value which leaves a stream without spread.
const SCORE_MAX: f64 = 1e6;

/// A simple rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// Standard deviations from the mean of all values so far.
    Sigma,
    /// Median absolute deviations, as standard deviations, from the median of the last thousand values.
    Mad1000,
    /// The error of a moving average, in root mean square errors.
    Ewma,
}

impl Baseline {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sigma, Self::Mad1000, Self::Ewma];

    /// As tables name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sigma => "sigma",
            Self::Mad1000 => "mad1000",
            Self::Ewma => "ewma",
        }
    }

    /// Three deviations for `sigma`, as is usual, and six for the others. They were not tuned.
    pub const fn threshold(self) -> f64 {
        match self {
            Self::Sigma => 3.0,
            Self::Mad1000 => 6.0,
            Self::Ewma => 6.0,
        }
    }

    /// The score of each value, 0 where an earlier alarm holds.
    pub fn scores(self, values: &[f64], threshold: f64) -> Vec<f64> {
        let mut scores = match self {
            Self::Sigma => sigma(values),
            Self::Mad1000 => mad(values),
            Self::Ewma => ewma(values),
        };
        let mut held = 0usize;
        for (row, score) in scores.iter_mut().enumerate() {
            if held > 0 || row < COUNT_MIN {
                *score = 0.0;
            }
            held = if *score >= threshold { HOLD } else { held.saturating_sub(1) };
        }
        scores
    }
}

/// A distance in deviations.
fn ratio(distance: f64, deviation: f64) -> f64 {
    if distance == 0.0 { 0.0 } else { (distance.abs() / deviation).min(SCORE_MAX) }
}

fn sigma(values: &[f64]) -> Vec<f64> {
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    let score = |&value: &f64| {
        let distance = value - mean;
        let deviation = if count > 0.0 { f64::sqrt(squares / count) } else { f64::INFINITY };
        count += 1.0;
        mean += distance / count;
        squares += distance * (value - mean);
        ratio(distance, deviation)
    };
    values.iter().map(score).collect()
}

fn mad(values: &[f64]) -> Vec<f64> {
    let mut last: VecDeque<f64> = VecDeque::new();
    let mut sorted: Vec<f64> = Vec::new();
    let score = |&value: &f64| {
        let (median, deviation) = median_and_deviation(&sorted);
        if last.len() == MEDIAN_VALUES {
            let gone = last.pop_front().expect("it is full");
            sorted.remove(sorted.partition_point(|&v| v < gone));
        }
        last.push_back(value);
        sorted.insert(sorted.partition_point(|&v| v < value), value);
        ratio(value - median, deviation / OF_MEDIAN)
    };
    values.iter().map(score).collect()
}

/// The upper median, and the upper median of the distances from it.
fn median_and_deviation(sorted: &[f64]) -> (f64, f64) {
    let half = sorted.len() / 2;
    let Some(&median) = sorted.get(half) else { return (0.0, f64::INFINITY) };
    // The distances grow in both directions: find how many of the closer half are below.
    let (mut below, mut most) = (half + 1 - (sorted.len() - half).min(half + 1), half);
    while below < most {
        let middle = (below + most) / 2;
        if median - sorted[half - 1 - middle] < sorted[half + (half - middle)] - median {
            below = middle + 1;
        } else {
            most = middle;
        }
    }
    let above = sorted[half + (half - below)] - median;
    let under = if below > 0 { median - sorted[half - below] } else { 0.0 };
    (median, above.max(under))
}

fn ewma(values: &[f64]) -> Vec<f64> {
    let mut average = values.first().copied().unwrap_or(0.0);
    let mut squares = 0.0;
    let score = |&value: &f64| {
        let error = value - average;
        let score = ratio(error, f64::sqrt(squares));
        average += AVERAGE_WEIGHT * error;
        squares += ERROR_WEIGHT * (error * error - squares);
        score
    };
    values.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_distance_is_that_of_a_sort() {
        for len in 1..40usize {
            let mut sorted: Vec<f64> = (0..len).map(|i| ((i * i * 37) % 101) as f64).collect();
            sorted.sort_by(f64::total_cmp);
            let (median, deviation) = median_and_deviation(&sorted);
            assert_eq!(median, sorted[len / 2]);
            let mut distances: Vec<f64> = sorted.iter().map(|v| (v - median).abs()).collect();
            distances.sort_by(f64::total_cmp);
            assert_eq!(deviation, distances[len / 2], "{sorted:?}");
        }
    }

    #[test]
    fn an_alarm_holds() {
        let mut values: Vec<f64> = (0..1_000).map(|i| f64::from(i % 7)).collect();
        for row in [100, 500, 600, 700] {
            values[row] = 1e3;
        }
        for baseline in Baseline::ALL {
            let scores = baseline.scores(&values, baseline.threshold());
            let alarms = scores.iter().enumerate().filter(|(_, s)| **s >= baseline.threshold());
            let rows: Vec<usize> = alarms.map(|(row, _)| row).collect();
            assert_eq!(rows, [500, 700], "{baseline:?}");
        }
    }

    #[test]
    fn a_constant_stream_has_no_score() {
        for baseline in Baseline::ALL {
            assert!(baseline.scores(&[0.1; 2_000], 1.0).iter().all(|&s| s == 0.0), "{baseline:?}");
        }
    }
}
