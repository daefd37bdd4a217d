//! Who may take the lease, and who has it. Pure: time is an argument.
//!
//! The replica that had it last may take it at once: it knows most. Another one waits until it has seen it free for
//! some time, so that after an outage of Redis the same replica goes on.

/// Life of the lease without renewal: a holder that has died is followed after this time and [`FREE_NS`].
pub const LEASE_MS: u64 = 5_000;
/// A free lease is left to its last holder for this long.
const FREE_NS: u64 = 3_000_000_000;
/// A holder that has not renewed the lease for this long by its own clock has lost it. Sooner than Redis says so.
const HELD_NS: u64 = 4_000_000_000;
const _: () = assert!(HELD_NS < LEASE_MS * 1_000_000);

/// Whether a free lease is taken: the argument of the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Not by this replica.
    No,
    /// If there was no holder before.
    First,
    /// By this replica.
    Yes,
}

impl Take {
    /// As the script expects it.
    pub const fn argument(self) -> &'static str {
        match self {
            Self::No => "0",
            Self::First => "1",
            Self::Yes => "2",
        }
    }
}

/// What a replica knows of the lease.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// The term of this replica, as the holder by all that it knows.
    term: Option<u64>,
    renewed_ns: u64,
    knows_others: bool,
    free_since_ns: Option<u64>,
    /// This replica cannot read the book.
    is_unable: bool,
}

impl Lease {
    /// Whether to take it, if it is free at `now_ns`.
    pub fn take(&self, now_ns: u64) -> Take {
        let is_left = self.free_since_ns.is_some_and(|since_ns| now_ns >= since_ns + FREE_NS);
        match self.term {
            _ if self.is_unable => Take::No,
            Some(_) => Take::Yes,
            None if is_left => Take::Yes,
            None if self.knows_others => Take::No,
            None => Take::First,
        }
    }

    /// Redis says who has it: by what was sent at `sent_ns`. `term`: that of this replica, if it has it.
    pub fn heard(&mut self, sent_ns: u64, is_free: bool, term: Option<u64>) {
        self.term = term;
        self.renewed_ns = sent_ns;
        self.knows_others |= term.is_none() && !is_free;
        if is_free {
            self.free_since_ns.get_or_insert(sent_ns);
        } else {
            self.free_since_ns = None;
        }
    }

    /// The turns are interrupted: how long it is free is not known.
    pub fn interrupted(&mut self) {
        self.free_since_ns = None;
    }

    /// Until when this replica has the lease, as far as it knows by itself; 0 without it.
    pub fn held_until_ns(&self) -> u64 {
        self.term.map_or(0, |_| self.renewed_ns + HELD_NS)
    }

    /// This replica is not able to hold it, or is again.
    pub fn set_unable(&mut self, is_unable: bool) {
        self.is_unable = is_unable;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn the_first_replica_takes_it_at_once_and_the_last_holder_again() {
        let mut lease = Lease::default();
        assert_eq!(lease.take(0), Take::First);
        lease.heard(S, false, Some(7));
        assert_eq!((lease.take(S), lease.held_until_ns()), (Take::Yes, 5 * S));
        // Redis is away: others may have it by now.
        lease.interrupted();
        assert_eq!((lease.held_until_ns(), lease.take(6 * S)), (5 * S, Take::Yes));
        lease.heard(60 * S, false, None);
        assert_eq!((lease.held_until_ns(), lease.take(60 * S)), (0, Take::No));
    }

    #[test]
    fn others_leave_a_free_lease_to_its_last_holder_for_a_time() {
        let mut lease = Lease::default();
        lease.heard(S, false, None);
        lease.heard(2 * S, true, None);
        assert_eq!(lease.take(2 * S), Take::No);
        assert_eq!(lease.take(2 * S + FREE_NS), Take::Yes);
        // Free for how long is only known while Redis answers.
        lease.interrupted();
        assert_eq!(lease.take(20 * S), Take::No);
        lease.heard(21 * S, true, None);
        assert_eq!(lease.take(21 * S + FREE_NS), Take::Yes);
        lease.set_unable(true);
        assert_eq!(lease.take(21 * S + FREE_NS), Take::No);
    }
}
