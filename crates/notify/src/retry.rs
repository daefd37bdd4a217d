//! What an answer means, and when a target that failed is tried again. Pure: no clock.

use std::time::Duration;

use sigmad_backoff::Backoff;
use sigmad_clock::Now;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// Restarts of receivers are about this short.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait: somebody is told at most this long after the target is back.
const LONGEST: Duration = Duration::from_secs(60);
/// A target that asks for more is asked again after this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target has it.
    Delivered,
    /// The target never takes this body: it is not sent again.
    Refused,
    /// It is sent again.
    Failed {
        /// The least wait that the target asks for.
        retry_after: Option<Duration>,
    },
}

impl Outcome {
    /// The meaning of a status. Only those that condemn the body itself end the attempts; a wrong token or path (401,
    /// 404, a redirect) can be mended at the target while the messages wait.
    pub const fn of(status: u16, retry_after: Option<Duration>) -> Self {
        match status {
            200..=299 => Self::Delivered,
            400 | 413 | 415 | 422 => Self::Refused,
            _ => Self::Failed { retry_after },
        }
    }
}

/// The header Retry-After (RFC 9110, 10.2.3): seconds, or a date. None for what is neither.
pub fn retry_after(value: &str, now: Now) -> Option<Duration> {
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    // The date of RFC 9110 (IMF-fixdate) is one of RFC 2822; the obsolete forms are not read.
    let at = OffsetDateTime::parse(value, &Rfc2822).ok()?;
    let wait_s = at.unix_timestamp() - now.wall_s();
    Some(Duration::from_secs(u64::try_from(wait_s).unwrap_or(0)))
}

/// When the next request to one target may leave.
#[derive(Clone, Debug)]
pub struct Retry {
    backoff: Backoff,
    /// Milliseconds of monotonic time.
    not_before_ms: u64,
    /// The last answer was a failure.
    is_failing: bool,
}

impl Retry {
    /// Each target of each process needs a different seed.
    pub fn new(seed: u64) -> Self {
        Self { backoff: Backoff::new(seed, FIRST, LONGEST), not_before_ms: 0, is_failing: false }
    }

    /// Whether the last request failed.
    pub const fn is_failing(&self) -> bool {
        self.is_failing
    }

    /// Milliseconds until a request may leave.
    pub const fn wait_ms(&self, now: Now) -> u64 {
        self.not_before_ms.saturating_sub(now.monotonic_ns / 1_000_000)
    }

    /// Takes the outcome of a request that ended `now`.
    pub fn record(&mut self, outcome: Outcome, now: Now) {
        let Outcome::Failed { retry_after } = outcome else {
            self.backoff.succeeded();
            self.is_failing = false;
            return;
        };
        let asked = retry_after.unwrap_or(Duration::ZERO).min(RETRY_AFTER_MAX);
        let wait = self.backoff.after_failure().max(asked);
        self.not_before_ms = now.monotonic_ms() + wait.as_millis() as u64;
        self.is_failing = true;
    }

    /// The process stops: one more attempt, at once.
    pub const fn end_wait(&mut self) {
        self.not_before_ms = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at_s;

    #[test]
    fn only_a_status_that_condemns_the_body_ends_the_attempts() {
        assert_eq!(Outcome::of(204, None), Outcome::Delivered);
        for status in [400, 413, 415, 422] {
            assert_eq!(Outcome::of(status, None), Outcome::Refused, "{status}");
        }
        for status in [301, 308, 401, 403, 404, 408, 410, 429, 500, 503] {
            let expected = Outcome::Failed { retry_after: None };
            assert_eq!(Outcome::of(status, None), expected, "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // Of RFC 9110, 5.6.7.
        let now = Now { monotonic_ns: 0, wall_us: 784_111_777_000_000 };
        let wait = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(wait("120"), Some(120));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:47 GMT"), Some(10));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:27 GMT"), Some(0));
        for value in ["", "-1", "1.5", "soon", "Sunday, 06-Nov-94 08:49:37 GMT"] {
            assert_eq!(wait(value), None, "{value}");
        }
    }

    #[test]
    fn waits_grow_to_a_minute_and_a_target_can_ask_for_more() {
        let failed = Outcome::Failed { retry_after: None };
        let mut retry = Retry::new(3);
        let mut ceiling_ms = 1_000;
        for second in 0..20 {
            let now = at_s(second * 100);
            assert_eq!(retry.wait_ms(now), 0);
            retry.record(failed, now);
            let wait_ms = retry.wait_ms(now);
            assert!((ceiling_ms / 2..=ceiling_ms).contains(&wait_ms), "{wait_ms} of {ceiling_ms}");
            ceiling_ms = (ceiling_ms * 2).min(60_000);
        }
        let now = at_s(5_000);
        retry.record(Outcome::Delivered, now);
        assert!(!retry.is_failing());
        for (asked_s, wait_s) in [(90, 90), (1_000_000, 3_600)] {
            let retry_after = Some(Duration::from_secs(asked_s));
            retry.record(Outcome::Failed { retry_after }, now);
            assert_eq!((retry.wait_ms(now), retry.is_failing()), (wait_s * 1_000, true));
        }
        retry.end_wait();
        assert_eq!(retry.wait_ms(now), 0);
    }
}
