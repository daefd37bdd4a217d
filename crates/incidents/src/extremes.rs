//! How far single values of a stream go from its mean within an interval.
//!
//! `pager` sees means, so that a spike of one value in a thousand does not reach it. The distance of an interval's
//! farthest value has a past of its own: a distribution of distances in units of their mean. A farthest value that
//! one interval in p has is worth log10(p) less log10 of the intervals in a day: as for `pager`, −log10 of the false
//! alarms a day that a bar at this score costs.

use sigmad_detectors::saved::saved;
use sigmad_detectors::tail_probability::TailProbability;

/// Smallest learning rate of the mean distance: an hour of intervals of ten seconds.
const RATE_MIN: f64 = 1.0 / 360.0;
/// Taken off each score: values and means share what a score promises, and values get a third of it.
const SHARE: f32 = 0.5;

/// The farthest values of one stream's intervals.
#[derive(Clone, Debug, Default)]
pub struct Extremes {
    distances: TailProbability,
    /// Their mean.
    scale: f64,
    count: u32,
}

saved!(Extremes { distances, scale, count });

impl Extremes {
    /// Takes the distance of an interval's farthest value, and returns its score. `intervals_log10`: of one day.
    pub fn take(&mut self, distance: f64, intervals_log10: f32) -> f32 {
        self.count = self.count.saturating_add(1);
        if self.count == 1 {
            self.scale = distance;
        }
        let surprise = self.distances.surprise(self.in_units(distance));
        self.scale += (1.0 / f64::from(self.count)).max(RATE_MIN) * (distance - self.scale);
        score(surprise, intervals_log10)
    }

    /// The score of a distance that is not the interval's farthest so far, perhaps.
    pub fn score(&self, distance: f64, intervals_log10: f32) -> f32 {
        // A copy of 200 bytes, for values that are out of range alone.
        let surprise = self.distances.clone().surprise(self.in_units(distance));
        score(surprise, intervals_log10)
    }

    /// The distance whose score is `bar`. None before there is a past.
    pub fn reach(&self, bar: f32, intervals_log10: f32) -> Option<f64> {
        let surprise = bar + intervals_log10 + SHARE;
        let reached = self.distances.reached_by(10f32.powf(-surprise))?;
        Some(f64::from(reached) * self.scale).filter(|reach| *reach > 0.0)
    }

    fn in_units(&self, distance: f64) -> f32 {
        if self.scale > 0.0 { (distance / self.scale) as f32 } else { 0.0 }
    }
}

fn score(surprise: f32, intervals_log10: f32) -> f32 {
    (surprise - intervals_log10 - SHARE).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_past_the_reach_has_the_score_of_the_bar() {
        let mut extremes = Extremes::default();
        assert_eq!(extremes.reach(1.0, 4.0), None);
        for i in 0..2_000u32 {
            let distance = 3.0 + f64::from(i * 617 % 1_000) / 1_000.0;
            assert_eq!(extremes.take(distance, 4.0), 0.0, "{i}");
        }
        let reach = extremes.reach(1.0, 4.0).expect("there is a past");
        assert!((4.5..10.0).contains(&reach), "{reach}");
        assert!((extremes.score(reach, 4.0) - 1.0).abs() < 0.05);
        assert!(extremes.score(reach * 1.5, 4.0) > 1.3);
    }

    #[test]
    fn a_stream_that_does_not_move_has_no_reach() {
        let mut extremes = Extremes::default();
        for _ in 0..1_000 {
            assert_eq!(extremes.take(0.0, 4.0), 0.0);
        }
        assert_eq!(extremes.reach(1.0, 4.0), None);
        assert_eq!(extremes.take(1.0, 4.0), 0.0, "its mean tells");
    }
}
