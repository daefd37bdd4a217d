//! On which side of its daily baseline a stream is.
//!
//! The baseline is the mean of the half-hour ([`DailyProfile`]) as it was when the half-hour began, because
//! within the half-hour the mean moves towards today's values.

use crate::daily_profile::DailyProfile;
use crate::normalizer::{Conversion, Normalizer};
use crate::saved::saved;

/// A value closer to the baseline than this, in deviations, is on neither side.
const SIDE_MIN: f32 = 0.3;

/// The side of one stream.
#[derive(Clone, Debug, Default)]
pub struct BaselineSide {
    /// In its [`Normalizer`]'s coordinates. None on the first day.
    baseline: Option<f32>,
    slot: u8,
    /// 1 above, −1 below, 0 near it.
    side: i8,
}

saved!(BaselineSide { baseline, slot, side });

impl BaselineSide {
    /// Whether a value is on the same side as the value before it. Call it before the profile takes the value
    /// and after the normalizer does.
    #[inline]
    pub fn stays(
        &mut self,
        profile: &DailyProfile,
        normalizer: &Normalizer,
        timestamp_us: i64,
        value: f64,
    ) -> bool {
        let slot = DailyProfile::slot(timestamp_us);
        if slot != usize::from(self.slot) {
            self.slot = slot as u8;
            self.baseline = profile.mean(slot);
        }
        let distance = self
            .baseline
            .map_or(0.0, |baseline| (normalizer.at(value) - baseline) * normalizer.inverse());
        let before = self.side;
        self.side = i8::from(distance > SIDE_MIN) - i8::from(distance < -SIDE_MIN);
        self.side != 0 && self.side == before
    }

    /// Converts to new coordinates.
    pub fn convert(&mut self, conversion: Conversion) {
        self.baseline = self.baseline.map(|baseline| conversion.apply(baseline));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_is_that_of_the_days_before() {
        let (mut normalizer, mut profile, mut side) =
            (Normalizer::default(), DailyProfile::default(), BaselineSide::default());
        let mut stays = |minute: i64, value: f64| {
            if let Some(conversion) = normalizer.take(value) {
                profile.convert(conversion);
                side.convert(conversion);
            }
            let at_us = minute * 60_000_000;
            let stays = side.stays(&profile, &normalizer, at_us, value);
            profile.error(&normalizer, at_us, value, f32::INFINITY);
            stays
        };
        for minute in 0..1_440 {
            let value = if minute % 4 < 2 { 1.0 } else { -1.0 };
            assert!(!stays(minute, value), "the first day has no baseline");
        }
        // Far longer than the mean of a half-hour takes to follow.
        assert_eq!((1_440..1_560).filter(|&minute| stays(minute, 5.0)).count(), 119);
        let later = [0.0, -5.0, -5.0, 5.0].map(|value| stays(1_560, value));
        assert_eq!(later, [false, false, true, false]);
    }
}
