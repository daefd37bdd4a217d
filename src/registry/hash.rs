//! The hash by which names are found.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;

pub(super) fn hash_name(hasher: &RandomState, name: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(name);
    hasher.finish()
}
