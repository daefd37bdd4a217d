//! Hold-off: an alarm is worth repeating only when it is clearly louder than what came shortly before.

/// Louder by so much.
const LOUDER: f32 = 1.1;
/// The time held is cut into so many parts, which are forgotten one by one.
const PARTS: usize = 8;

/// The loudest of the latest past.
#[derive(Clone, Debug, Default)]
pub struct Hold {
    loudest: [f32; PARTS],
    part: u8,
    /// How much of the running part is over.
    elapsed: f32,
}

impl Hold {
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
