//! Scores by event: labelled runs of rows that were found or missed, and false alarms.
//!
//! Runs closer than [`MERGE`] rows are one event. An alarm from [`TOLERANCE`] rows before it to as many
//! after finds it; several find it once. Every other row with an alarm is a false alarm. Precision is
//! found events over those and false alarms, recall is found events over all. The first [`SKIP`] rows of
//! a series do not count.

use crate::series::Series;

/// Rows at the start of a series that do not count, while detectors learn.
pub const SKIP: usize = 150;
/// Rows before and after an event in which an alarm still finds it: labels are set by hand.
pub const TOLERANCE: usize = 2;
/// Runs of labels with at most this many rows from one to the next are one event.
pub const MERGE: usize = 5;

const SECONDS_PER_DAY: f64 = 86_400.0;

/// How well a detector finds events.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EventScore {
    /// The harmonic mean of precision and recall.
    pub f1: f64,
    /// Found events over found events and false alarms.
    pub precision: f64,
    /// Found events over all events.
    pub recall: f64,
    /// The threshold.
    pub threshold: f64,
    /// All events.
    pub events: usize,
    /// Events found.
    pub hits: usize,
    /// Rows with a false alarm.
    pub false_alarms: usize,
    /// False alarms per series and day.
    pub false_per_day: f64,
}

/// The runs of rows with a label, first and last row of each.
pub fn events(labels: &[bool]) -> Vec<(usize, usize)> {
    let mut events: Vec<(usize, usize)> = Vec::new();
    for (row, _) in labels.iter().enumerate().filter(|(_, is_anomalous)| **is_anomalous) {
        match events.last_mut() {
            Some((_, last)) if row - *last <= MERGE => *last = row,
            _ => events.push((row, row)),
        }
    }
    events
}

/// The kind of a row.
#[derive(Clone, Copy, PartialEq)]
enum RowKind {
    Normal,
    Event(usize),
    Ignored,
}

/// The rows that count, from the highest score down.
#[derive(Default)]
pub struct EventRanking {
    rows: Vec<(f64, Option<usize>)>,
    events: usize,
    days: f64,
}

impl EventRanking {
    /// Of all series with their scores.
    pub fn new<'a>(scored: impl IntoIterator<Item = (&'a Series, &'a [f64])>) -> Self {
        let mut ranking = Self::default();
        for (series, scores) in scored {
            ranking.add(series, scores);
        }
        ranking.rows.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranking
    }

    fn add(&mut self, series: &Series, scores: &[f64]) {
        let len = series.values.len();
        let mut places = vec![RowKind::Normal; len];
        for (first, last) in events(&series.labels) {
            let place = if last < SKIP { RowKind::Ignored } else { RowKind::Event(self.events) };
            self.events += usize::from(place != RowKind::Ignored);
            let until = (last + TOLERANCE + 1).min(len);
            places[first.saturating_sub(TOLERANCE)..until].fill(place);
        }
        let counted = len.saturating_sub(SKIP);
        for (&place, &score) in places.iter().zip(scores).skip(SKIP) {
            match place {
                RowKind::Ignored => {}
                // A score of 0 is never an alarm.
                _ if score <= 0.0 => {}
                RowKind::Normal => self.rows.push((score, None)),
                RowKind::Event(event) => self.rows.push((score, Some(event))),
            }
        }
        if let (Some(first), Some(last)) =
            (series.timestamps_us.iter().min(), series.timestamps_us.iter().max())
        {
            let seconds = last.saturating_sub(*first) as f64 / 1e6;
            self.days += seconds / SECONDS_PER_DAY * counted as f64 / len as f64;
        }
    }

    /// The score at this threshold, or at the one with the best F1.
    pub fn score(&self, threshold: Option<f64>) -> EventScore {
        let mut found = vec![false; self.events];
        let (mut hits, mut false_alarms) = (0usize, 0usize);
        let nothing = threshold.unwrap_or(f64::INFINITY);
        let mut result =
            EventScore { events: self.events, threshold: nothing, ..EventScore::default() };
        for same in self.rows.chunk_by(|a, b| a.0 == b.0) {
            if threshold.is_some_and(|threshold| same[0].0 < threshold) {
                break;
            }
            for &(_, event) in same {
                match event {
                    None => false_alarms += 1,
                    Some(event) => hits += usize::from(!std::mem::replace(&mut found[event], true)),
                }
            }
            let precision = hits as f64 / (hits + false_alarms) as f64;
            let recall = hits as f64 / self.events.max(1) as f64;
            let f1 = 2.0 * precision * recall / (precision + recall).max(1e-12);
            if threshold.is_some() || f1 > result.f1 {
                result = EventScore {
                    f1,
                    precision,
                    recall,
                    threshold: threshold.unwrap_or(same[0].0),
                    events: self.events,
                    hits,
                    false_alarms,
                    false_per_day: false_alarms as f64 / self.days,
                };
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_close_to_each_other_are_one_event() {
        let labels: Vec<bool> = "0110000110000011".bytes().map(|b| b == b'1').collect();
        assert_eq!(events(&labels), [(1, 8), (14, 15)]);
    }
}
