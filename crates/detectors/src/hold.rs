//! Hold: after an alarm, only a clearly higher severity is another alarm.
//!
//! Only alarms begin a hold. A severity that raised none, below the stream's own bar, silences nothing.

use crate::saved::saved;

/// A severity passes when it is at least this many times that of the alarm.
const RATIO_MIN: f32 = 1.3;

/// The last alarm of a stream.
#[derive(Clone, Debug)]
pub struct Hold {
    /// The severity of the alarm.
    severity: f32,
    /// The time since it, in periods.
    elapsed: f32,
}

saved!(Hold { severity, elapsed });

impl Default for Hold {
    fn default() -> Self {
        Self { severity: 0.0, elapsed: 1.0 }
    }
}

impl Hold {
    /// Advances the time by a fraction of the period.
    #[inline]
    pub fn advance(&mut self, elapsed: f32) {
        self.elapsed = (self.elapsed + elapsed).min(1.0);
    }

    /// Whether this severity may be an alarm.
    #[inline]
    pub fn passes(&self, severity: f32) -> bool {
        self.elapsed >= 1.0 || severity > RATIO_MIN * self.severity
    }

    /// Begins with an alarm.
    #[inline]
    pub fn begin(&mut self, severity: f32) {
        *self = Self { severity, elapsed: 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_higher_severities_pass_until_the_period_ends() {
        let mut hold = Hold::default();
        assert!(hold.passes(0.1), "no alarm yet");
        hold.begin(2.0);
        for _ in 0..7 {
            hold.advance(0.125);
            // Asking renews nothing.
            assert!(!hold.passes(2.5) && hold.passes(2.7));
        }
        hold.advance(0.125);
        assert!(hold.passes(0.1));
        hold.begin(3.0);
        hold.advance(100.0);
        assert!(hold.passes(0.1), "after a long gap");
    }
}
