//! On which side of the usual a stream is, by the time of the day.
//!
//! The usual is the mean of the half-hour ([`DailyProfile`]) as it was when that began: within it the mean comes
//! to know today alone.

use crate::daily_profile::DailyProfile;
use crate::normalizer::{Conversion, Normalizer};

/// Nearer than so many deviations is on neither side.
const APART: f32 = 0.3;

/// Where one stream is.
#[derive(Clone, Debug, Default)]
pub struct BaselineSide {
    /// In its [`Normalizer`]'s coordinates. None on the first day.
    usual: Option<f32>,
    slot: u8,
    /// 1 above, −1 below, 0 near it.
    side: i8,
}

impl BaselineSide {
    /// Whether a value stays on the side where the one before it was. The day has not seen it, the scale has.
    #[inline]
    pub fn stays(
        &mut self,
        day: &DailyProfile,
        scale: &Normalizer,
        timestamp_us: i64,
        value: f64,
    ) -> bool {
        let slot = DailyProfile::slot(timestamp_us);
        if slot != usize::from(self.slot) {
            self.slot = slot as u8;
            self.usual = day.usual(slot);
        }
        let apart = self.usual.map_or(0.0, |usual| (scale.at(value) - usual) * scale.inverse());
        let before = self.side;
        self.side = i8::from(apart > APART) - i8::from(apart < -APART);
        self.side != 0 && self.side == before
    }

    /// Follows the coordinates.
    pub fn convert(&mut self, conversion: Conversion) {
        self.usual = self.usual.map(|usual| conversion.apply(usual));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_is_that_of_the_days_before() {
        let (mut scale, mut day, mut side) =
            (Normalizer::default(), DailyProfile::default(), BaselineSide::default());
        let mut stays = |minute: i64, value: f64| {
            if let Some(conversion) = scale.take(value) {
                day.convert(conversion);
                side.convert(conversion);
            }
            let at_us = minute * 60_000_000;
            let stays = side.stays(&day, &scale, at_us, value);
            day.error(&scale, at_us, value);
            stays
        };
        for minute in 0..1_440 {
            let value = if minute % 4 < 2 { 1.0 } else { -1.0 };
            assert!(!stays(minute, value), "nothing is usual on the first day");
        }
        // Far longer than the mean of a half-hour needs to follow.
        assert_eq!((1_440..1_560).filter(|&minute| stays(minute, 5.0)).count(), 119);
        let later = [0.0, -5.0, -5.0, 5.0].map(|value| stays(1_560, value));
        assert_eq!(later, [false, false, true, false]);
    }
}
