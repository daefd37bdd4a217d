//! Scores by event: labelled runs of rows that were found or missed, and false alarms.
//!
//! What an event is, and which rows count, differs between sets ([`EventRules`]). An alarm within the tolerance
//! of an event finds it; several find it once. Every other row with an alarm is a false alarm. Precision is
//! found events over those and false alarms, recall is found events over all. No point is adjusted.

use std::str::FromStr;

use crate::series::Series;

const SECONDS_PER_DAY: f64 = 86_400.0;

/// How many rows at the start of a series do not count, while detectors learn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Skip {
    /// This many.
    Rows(usize),
    /// This part of the series, in percent.
    Percent(f64),
}

impl Skip {
    /// Of a series of this length.
    fn rows(self, len: usize) -> usize {
        match self {
            Self::Rows(rows) => rows,
            Self::Percent(percent) => (percent / 100.0 * len as f64) as usize,
        }
    }
}

impl FromStr for Skip {
    type Err = String;

    /// `150`, or `15%`.
    fn from_str(text: &str) -> Result<Self, String> {
        let skip = match text.strip_suffix('%') {
            Some(percent) => {
                percent.parse().ok().filter(|p| (0.0..=100.0).contains(p)).map(Self::Percent)
            }
            None => text.parse().ok().map(Self::Rows),
        };
        skip.ok_or_else(|| "must be a number of rows, or a part like 15%".to_owned())
    }
}

/// What counts as an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EventRules {
    /// The rows that do not count.
    pub skip: Skip,
    /// Rows before and after an event in which an alarm still finds it: labels are set by hand.
    pub tolerance: usize,
    /// Runs of labels with at most this many rows from one to the next are one event.
    pub merge: usize,
}

impl EventRules {
    /// Those of Microsoft's set, and of the scenarios.
    pub const DEFAULT: Self = Self { skip: Skip::Rows(SKIP), tolerance: 2, merge: 5 };
}

/// Rows until `pager` and `novelty` give their first score.
pub const SKIP: usize = 150;

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

/// The runs of rows with a label, first and last row of each; runs up to `merge` rows apart are one.
pub fn events(labels: &[bool], merge: usize) -> Vec<(usize, usize)> {
    let mut events: Vec<(usize, usize)> = Vec::new();
    for (row, _) in labels.iter().enumerate().filter(|(_, is_anomalous)| **is_anomalous) {
        match events.last_mut() {
            Some((_, last)) if row - *last <= merge => *last = row,
            _ => events.push((row, row)),
        }
    }
    events
}

/// The kind of a row.
#[derive(Clone, Copy, PartialEq)]
enum RowKind {
    Normal,
    /// An event, and its first row.
    Event(usize, usize),
    Ignored,
}

/// A row with a score above 0.
#[derive(Clone, Copy)]
struct EventRow {
    score: f64,
    /// The event that the row finds.
    event: Option<usize>,
    /// Seconds since the event began, 0 before it.
    late_s: f32,
}

/// The rows that count, from the highest score down.
#[derive(Default)]
pub struct EventRanking {
    rows: Vec<EventRow>,
    events: usize,
    days: f64,
}

impl EventRanking {
    /// Of all series with their scores.
    pub fn new<'a>(
        rules: EventRules,
        scored: impl IntoIterator<Item = (&'a Series, &'a [f64])>,
    ) -> Self {
        let mut ranking = Self::default();
        for (series, scores) in scored {
            ranking.add(rules, series, scores);
        }
        ranking.rows.sort_by(|a, b| b.score.total_cmp(&a.score));
        ranking
    }

    fn add(&mut self, rules: EventRules, series: &Series, scores: &[f64]) {
        let len = series.values.len();
        let skip = rules.skip.rows(len);
        let mut kinds = vec![RowKind::Normal; len];
        for (first, last) in events(&series.labels, rules.merge) {
            let is_counted = last >= skip;
            let kind =
                if is_counted { RowKind::Event(self.events, first) } else { RowKind::Ignored };
            self.events += usize::from(is_counted);
            let until = (last + rules.tolerance + 1).min(len);
            kinds[first.saturating_sub(rules.tolerance)..until].fill(kind);
        }
        let rows = kinds.iter().zip(scores).zip(&series.timestamps_us).skip(skip);
        // A score of 0 is never an alarm.
        for ((&kind, &score), &at_us) in rows.filter(|((_, score), _)| **score > 0.0) {
            match kind {
                RowKind::Ignored => {}
                RowKind::Normal => self.rows.push(EventRow { score, event: None, late_s: 0.0 }),
                RowKind::Event(event, first) => {
                    let late_us = at_us.saturating_sub(series.timestamps_us[first]).max(0);
                    let late_s = late_us as f32 / 1e6;
                    self.rows.push(EventRow { score, event: Some(event), late_s });
                }
            }
        }
        self.days += series.days() * len.saturating_sub(skip) as f64 / len.max(1) as f64;
    }

    /// The score at this threshold, or at the one with the best F1.
    pub fn score(&self, threshold: Option<f64>) -> EventScore {
        let mut found = vec![false; self.events];
        let (mut hits, mut false_alarms) = (0usize, 0usize);
        let nothing = threshold.unwrap_or(f64::INFINITY);
        let mut result =
            EventScore { events: self.events, threshold: nothing, ..EventScore::default() };
        for same in self.rows.chunk_by(|a, b| a.score == b.score) {
            if threshold.is_some_and(|threshold| same[0].score < threshold) {
                break;
            }
            for row in same {
                match row.event {
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
                    threshold: threshold.unwrap_or(same[0].score),
                    events: self.events,
                    hits,
                    false_alarms,
                    false_per_day: false_alarms as f64 / self.days,
                };
            }
        }
        result
    }

    /// The fraction of the `k` highest rows that find an event. NaN without rows.
    pub fn precision_at(&self, k: usize) -> f64 {
        let highest = &self.rows[..k.min(self.rows.len())];
        let finding = highest.iter().filter(|row| row.event.is_some()).count();
        finding as f64 / highest.len() as f64
    }

    /// The median time from the start of an event to its first alarm at this threshold, of those found, in
    /// seconds. NaN when none is found.
    pub fn seconds_to_detect(&self, threshold: f64) -> f64 {
        let mut first = vec![f32::INFINITY; self.events];
        for row in self.rows.iter().take_while(|row| row.score >= threshold) {
            if let Some(event) = row.event {
                first[event] = first[event].min(row.late_s);
            }
        }
        first.retain(|late_s| late_s.is_finite());
        first.sort_by(f32::total_cmp);
        first.get(first.len() / 2).map_or(f64::NAN, |&late_s| f64::from(late_s))
    }
}

impl Series {
    /// Days from its first moment to its last.
    pub fn days(&self) -> f64 {
        let (Some(first), Some(last)) =
            (self.timestamps_us.iter().min(), self.timestamps_us.iter().max())
        else {
            return 0.0;
        };
        last.saturating_sub(*first) as f64 / 1e6 / SECONDS_PER_DAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_close_to_each_other_are_one_event() {
        let labels: Vec<bool> = "0110000110000011".bytes().map(|b| b == b'1').collect();
        assert_eq!(events(&labels, 5), [(1, 8), (14, 15)]);
        assert_eq!(events(&labels, 4), [(1, 2), (7, 8), (14, 15)]);
    }

    #[test]
    fn the_rows_to_skip_are_a_number_or_a_part() {
        assert_eq!("150".parse(), Ok(Skip::Rows(150)));
        assert_eq!("15%".parse::<Skip>().map(|skip| skip.rows(299)), Ok(44));
        for wrong in ["", "-1", "101%", "%", "many"] {
            assert!(wrong.parse::<Skip>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn alarms_have_a_delay_and_a_rank() {
        let series = Series {
            timestamps_us: (0..20).map(|row| row * 60_000_000).collect(),
            values: vec![0.0; 20],
            labels: (0..20).map(|row| (5..9).contains(&row) || row == 15).collect(),
            ..Series::default()
        };
        let mut scores = vec![0.0; 20];
        (scores[7], scores[8], scores[14], scores[18]) = (2.0, 9.0, 1.0, 3.0);
        let rules = EventRules { skip: Skip::Rows(0), tolerance: 1, merge: 2 };
        let ranking = EventRanking::new(rules, [(&series, scores.as_slice())]);
        assert_eq!(ranking.seconds_to_detect(5.0), 180.0);
        assert_eq!(ranking.seconds_to_detect(2.0), 120.0);
        assert!(ranking.seconds_to_detect(10.0).is_nan());
        assert_eq!([1, 2, 9].map(|k| ranking.precision_at(k)), [1.0, 0.5, 0.75]);
        let score = ranking.score(Some(1.0));
        assert_eq!((score.hits, score.events, score.false_alarms), (2, 2, 1));
    }
}
