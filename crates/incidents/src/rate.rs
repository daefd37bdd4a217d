//! How many incidents are usual: their rate over about a day.

/// Older incidents count for little.
const MEMORY_S: f64 = 86_400.0;
/// At the start an incident an hour is usual.
const FIRST_S: f64 = 3_600.0;

/// Incidents opened, the older ones counting for less.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    pub(crate) opened: f64,
    pub(crate) at_us: i64,
    /// Microseconds since 1970 of the first.
    pub(crate) first_us: Option<i64>,
}

impl Rate {
    /// An incident was opened.
    pub fn add(&mut self, now_us: i64) {
        self.opened = self.kept(now_us) + 1.0;
        self.at_us = now_us;
        self.first_us.get_or_insert(now_us);
    }

    /// The last one was a part of another.
    pub fn take_back(&mut self) {
        self.opened = (self.opened - 1.0).max(0.0);
    }

    /// How many are usual in `span_us` microseconds.
    pub fn expected(&self, now_us: i64, span_us: i64) -> f64 {
        let known_us = self.first_us.map_or(0, |first_us| now_us - first_us);
        let known_s = (known_us as f64 / 1e6).clamp(0.0, MEMORY_S) + FIRST_S;
        (self.kept(now_us) + 1.0) / known_s * (span_us as f64 / 1e6)
    }

    fn kept(&self, now_us: i64) -> f64 {
        let since_s = (now_us - self.at_us) as f64 / 1e6;
        self.opened * (-since_s / MEMORY_S).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_day() {
        const HOUR_US: i64 = 3_600_000_000;
        let mut rate = Rate::default();
        assert_eq!(rate.expected(5, HOUR_US), 1.0);
        for hour in 0..240 {
            (0..10).for_each(|_| rate.add(hour * HOUR_US));
        }
        let expected = rate.expected(239 * HOUR_US, HOUR_US);
        assert!((9.0..11.0).contains(&expected), "{expected}");
        let later = rate.expected(239 * HOUR_US + 48 * HOUR_US, HOUR_US);
        assert!(later < 0.15 * expected, "{later}");
    }
}
