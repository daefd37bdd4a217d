//! Wrong tokens by address: a few are answered, further ones throttled, and the log says who sends them.
//!
//! A right token is never throttled, as many clients can share an address. So this limits noise and names who
//! guesses; the length of a token is what makes guessing hopeless. Each worker counts on its own.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::fast::RandomState;
use sigmad_clock::Now;
use tracing::warn;

use super::tokens::Denied;
use crate::http::client_address::ClientAddress;

/// Wrong tokens of one address in a minute that are answered 403; a client whose token has changed sends some.
const WRONG_PER_MINUTE_MAX: u32 = 10;
/// Addresses counted apart. Others share a count, which costs a client with a wrong token a 429 instead of a 403.
const SLOTS: usize = 1_024;
/// Log lines in a minute: strangers with many addresses must not fill the log.
const LINES_PER_MINUTE_MAX: u32 = 20;
const NS_PER_MINUTE: u64 = 60_000_000_000;

/// A count that starts again every minute.
#[derive(Clone, Copy, Debug, Default)]
struct MinuteCount {
    minute: u64,
    count: u32,
}

impl MinuteCount {
    /// Adds one; returns the count of this minute.
    fn add(&mut self, minute: u64) -> u32 {
        if self.minute != minute {
            *self = Self { minute, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

/// The wrong tokens of the last minute. Fixed memory.
#[derive(Debug)]
pub struct WrongTokens {
    /// Seeded per process, so that nobody can choose addresses that share a count.
    hasher: RandomState,
    counts: Box<[MinuteCount]>,
    lines: MinuteCount,
}

impl Default for WrongTokens {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            counts: vec![MinuteCount::default(); SLOTS].into_boxed_slice(),
            lines: MinuteCount::default(),
        }
    }
}

impl WrongTokens {
    /// Counts a wrong token of `client`. The result is how to answer it.
    pub fn count(&mut self, client: ClientAddress, now: Now) -> Denied {
        let minute = now.monotonic_ns / NS_PER_MINUTE;
        let slot = self.hasher.hash_one(network(client)) as usize % SLOTS;
        let count = self.counts[slot].add(minute);
        let is_news = count == 1 || count == WRONG_PER_MINUTE_MAX + 1;
        let is_throttled = count > WRONG_PER_MINUTE_MAX;
        if is_news && self.may_log(minute) {
            warn!(%client, is_throttled, "wrong token");
        }
        if is_throttled { Denied::Throttled } else { Denied::Wrong }
    }

    /// Whether there may be another line in this minute.
    fn may_log(&mut self, minute: u64) -> bool {
        self.lines.add(minute) <= LINES_PER_MINUTE_MAX
    }
}

/// The part of an address that its owner can't choose: an IPv6 host has a /64.
fn network(client: ClientAddress) -> u64 {
    match client {
        ClientAddress::Ip(IpAddr::V4(address)) => u64::from(address.to_bits()),
        ClientAddress::Ip(IpAddr::V6(address)) => (address.to_bits() >> 64) as u64,
        // No host has it: a multicast network.
        ClientAddress::Unix => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_throttled_for_the_rest_of_a_minute() {
        let at = |minute: u64| Now { monotonic_ns: minute * NS_PER_MINUTE, wall_us: 0 };
        let mut wrong = WrongTokens::default();
        for minute in 0..3 {
            for host in 0..5_u16 {
                // Addresses of one /64 are one client.
                let client = IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, host]).into();
                for _ in 0..WRONG_PER_MINUTE_MAX / 5 {
                    assert_eq!(wrong.count(client, at(minute)), Denied::Wrong);
                }
            }
            let client = IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, 99]).into();
            assert_eq!(wrong.count(client, at(minute)), Denied::Throttled);
        }
    }

    #[test]
    fn many_addresses_write_few_lines_and_no_more_memory() {
        let mut wrong = WrongTokens::default();
        for host in 0..100_000_u32 {
            wrong.count(IpAddr::from(host.to_be_bytes()).into(), Now::default());
        }
        assert_eq!(wrong.counts.len(), SLOTS);
        assert!(wrong.lines.count > LINES_PER_MINUTE_MAX, "further lines are left out");
    }

    #[test]
    fn each_minute_has_its_lines_and_each_network_its_count() {
        let mut wrong = WrongTokens::default();
        for minute in 0..2 {
            assert!((0..LINES_PER_MINUTE_MAX).all(|_| wrong.may_log(minute)));
            assert!(!wrong.may_log(minute));
        }
        let of = |network: u16| network_of([0x2001, 0xdb8, 0, network, 0, 0, 0, 1]);
        let network_of_v4 = |last| network(IpAddr::from([192, 0, 2, last]).into());
        assert!(of(1) != of(2) && network_of_v4(1) != network_of_v4(2));
    }

    fn network_of(address: [u16; 8]) -> u64 {
        network(IpAddr::from(address).into())
    }

    #[test]
    fn the_first_token_of_an_address_and_the_first_throttled_one_are_logged() {
        let mut wrong = WrongTokens::default();
        let client = || IpAddr::from([192, 0, 2, 1]).into();
        for count in 1..=3 * WRONG_PER_MINUTE_MAX {
            wrong.count(client(), Now::default());
            let lines = 1 + u32::from(count > WRONG_PER_MINUTE_MAX);
            assert_eq!(wrong.lines.count, lines, "after {count}");
        }
    }
}
