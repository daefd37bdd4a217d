//! Cooldown: after an alarm, only a clearly higher score is another alarm.

use crate::saved::saved;

/// A score passes when it is at least this many times the highest of the period.
const RATIO_MIN: f32 = 1.1;
/// The period is divided into parts, which are forgotten one by one.
const PARTS: usize = 8;

/// The highest scores of the cooldown period.
#[derive(Clone, Debug, Default)]
pub struct Cooldown {
    highest: [f32; PARTS],
    part: u8,
    /// How much of the current part has passed, from 0 to 1.
    elapsed: f32,
}

saved!(Cooldown { highest, part, elapsed } if |it| usize::from(it.part) < PARTS);

impl Cooldown {
    /// The score if it is clearly higher than every score of the period, else 0; then the score is remembered.
    /// `elapsed` is the time since the score before, as a fraction of the period.
    #[inline]
    pub fn pass(&mut self, score: f32, elapsed: f32) -> f32 {
        let highest = self.highest.iter().fold(0.0f32, |a, &b| if b > a { b } else { a });
        let current = &mut self.highest[usize::from(self.part)];
        *current = current.max(score);
        // After a whole period nothing is remembered, however long the time was.
        self.elapsed += (elapsed * PARTS as f32).min(PARTS as f32);
        while self.elapsed >= 1.0 {
            self.elapsed -= 1.0;
            self.part = (self.part + 1) % PARTS as u8;
            self.highest[usize::from(self.part)] = 0.0;
        }
        if score > RATIO_MIN * highest { score } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_higher_scores_pass_until_the_period_ends() {
        let mut cooldown = Cooldown::default();
        let step = 1.0 / 80.0;
        assert_eq!(cooldown.pass(2.0, step), 2.0);
        assert_eq!(cooldown.pass(2.1, step), 0.0);
        assert_eq!(cooldown.pass(2.5, step), 2.5);
        let passes = (0..200).find(|_| cooldown.pass(2.0, step) > 0.0);
        // Each 2.0 is remembered in turn, so the period never ends.
        assert_eq!(passes, None);
        let mut cooldown = Cooldown::default();
        cooldown.pass(2.5, step);
        let quiet = (0..200).find(|_| {
            cooldown.pass(0.0, step);
            cooldown.clone().pass(1.0, step) > 0.0
        });
        assert!((70..=80).contains(&quiet.expect("it ends")), "{quiet:?}");
    }

    #[test]
    fn a_long_gap_forgets_everything() {
        let mut cooldown = Cooldown::default();
        cooldown.pass(9.0, 0.01);
        cooldown.pass(0.0, 100.0);
        assert_eq!(cooldown.pass(1.0, 0.01), 1.0);
    }
}
