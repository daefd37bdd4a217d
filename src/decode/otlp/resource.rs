//! The identity of a resource: what stands for its attributes in the keys of its series.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::{FoldHasher, RandomState};

/// Bytes of an identity.
pub(super) const IDENTITY_BYTES: usize = 16;

/// Hashes resources. A resource has some hundred bytes and many points: a key with all of them would cost more than
/// the rest of the point.
///
/// Two seeded hashes, 128 bits: that two of a million resources share them has a chance of 2⁻⁸⁸, and who does not
/// know the seeds cannot look for such a pair.
#[derive(Debug, Default)]
pub(super) struct ResourceHasher {
    seeds: [RandomState; 2],
}

impl ResourceHasher {
    /// The identity of a resource, whose parts follow.
    pub(super) fn begin(&self) -> ResourceIdentity<'_> {
        ResourceIdentity(self.seeds.each_ref().map(BuildHasher::build_hasher))
    }
}

/// The identity of the parts that were added.
pub(super) struct ResourceIdentity<'h>([FoldHasher<'h>; 2]);

impl ResourceIdentity<'_> {
    /// Adds a message `Resource`: there is one, unless somebody sends it in parts.
    pub(super) fn add(&mut self, part: &[u8]) {
        for hasher in &mut self.0 {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
    }

    pub(super) fn finish(self) -> [u8; IDENTITY_BYTES] {
        let [low, high] = self.0.map(|hasher| hasher.finish());
        (u128::from(high) << 64 | u128::from(low)).to_ne_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let hasher = ResourceHasher::default();
        let identity = |parts: &[&[u8]]| {
            let mut identity = hasher.begin();
            parts.iter().for_each(|part| identity.add(part));
            identity.finish()
        };
        let same = identity(&[b"ab", b"c"]);
        assert_eq!(same, identity(&[b"ab", b"c"]));
        for other in [&[&b"a"[..], b"bc"][..], &[b"abc"], &[b"c", b"ab"], &[]] {
            assert_ne!(same, identity(other), "{other:?}");
        }
    }
}
