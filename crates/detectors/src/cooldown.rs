//! Cooldown-off: an alarm is worth repeating only when it is clearly louder than what came shortly before.

/// Louder by so much.
const LOUDER: f32 = 1.1;
/// The time held is cut into so many parts, which are forgotten one by one.
const PARTS: usize = 8;

/// The loudest of the latest past.
#[derive(Clone, Debug, Default)]
pub struct Cooldown {
    loudest: [f32; PARTS],
    part: u8,
    /// How much of the running part is over.
    elapsed: f32,
}

impl Cooldown {
    /// The score if it is louder than everything held, else 0; then it is held. `elapsed` is the part of
    /// the time to hold that has passed since the score before.
    #[inline]
    pub fn pass(&mut self, score: f32, elapsed: f32) -> f32 {
        let loudest = self.loudest.iter().fold(0.0f32, |a, &b| if b > a { b } else { a });
        let running = &mut self.loudest[usize::from(self.part)];
        *running = running.max(score);
        // However long it took: once round, and nothing is held.
        self.elapsed += (elapsed * PARTS as f32).min(PARTS as f32);
        while self.elapsed >= 1.0 {
            self.elapsed -= 1.0;
            self.part = (self.part + 1) % PARTS as u8;
            self.loudest[usize::from(self.part)] = 0.0;
        }
        if score > LOUDER * loudest { score } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_louder_ones_pass_until_the_time_is_over() {
        let mut hold = Cooldown::default();
        let step = 1.0 / 80.0;
        assert_eq!(hold.pass(2.0, step), 2.0);
        assert_eq!(hold.pass(2.1, step), 0.0);
        assert_eq!(hold.pass(2.5, step), 2.5);
        let passes = (0..200).find(|_| hold.pass(2.0, step) > 0.0);
        // In parts of an eighth, and 2.0 itself is held on the way.
        assert_eq!(passes, None);
        let mut hold = Cooldown::default();
        hold.pass(2.5, step);
        let quiet = (0..200).find(|_| {
            hold.pass(0.0, step);
            hold.clone().pass(1.0, step) > 0.0
        });
        assert!((70..=80).contains(&quiet.expect("it ends")), "{quiet:?}");
    }

    #[test]
    fn a_long_silence_forgets_everything() {
        let mut hold = Cooldown::default();
        hold.pass(9.0, 0.01);
        hold.pass(0.0, 100.0);
        assert_eq!(hold.pass(1.0, 0.01), 1.0);
    }
}
