//! Which devices began to be wrong together before, in fixed memory.

use crate::tokens::hash;

/// Places for counts. A pair that finds its place taken by others wears them down, so that what is frequent stays.
pub(crate) const PLACES: usize = 1 << 13;

/// Counts of onsets, of devices and of pairs of devices.
#[derive(Clone, Debug, Default)]
pub struct Together {
    /// Tag and count; empty until the first onset.
    pub(crate) places: Vec<(u32, u32)>,
}

impl Together {
    /// Counts an onset of `device`.
    pub fn began(&mut self, device: &str) {
        self.count(hash(device.as_bytes()));
    }

    /// Counts an onset of `device` soon after one of `other`.
    pub fn began_beside(&mut self, device: &str, other: &str) {
        self.count(pair(device, other));
    }

    /// How often both began together, if that is twice or more, and every second time that the rarer of them began.
    pub fn times(&self, device: &str, other: &str) -> Option<u32> {
        let times = self.get(pair(device, other));
        let alone = [device, other].map(|name| self.get(hash(name.as_bytes())));
        let rarer = alone[0].min(alone[1]);
        (times >= 2 && 2 * times >= rarer).then_some(times)
    }

    fn count(&mut self, hash: u64) {
        if self.places.is_empty() {
            self.places.resize(PLACES, (0, 0));
        }
        let place = &mut self.places[hash as usize % PLACES];
        let tag = (hash >> 32) as u32;
        match place {
            (known, count) if *known == tag => *count = count.saturating_add(1),
            (_, count) if *count > 1 => *count -= 1,
            _ => *place = (tag, 1),
        }
    }

    fn get(&self, hash: u64) -> u32 {
        match self.places.get(hash as usize % PLACES) {
            Some((tag, count)) if *tag == (hash >> 32) as u32 => *count,
            _ => 0,
        }
    }
}

fn pair(one: &str, other: &str) -> u64 {
    let hashes = [hash(one.as_bytes()), hash(other.as_bytes())];
    // The same in either order.
    hash(&(hashes[0].wrapping_add(hashes[1])).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_often_begin_together_are_known() {
        let mut together = Together::default();
        assert_eq!(together.times("a", "b"), None);
        for _ in 0..2 {
            together.began("a");
            together.began("b");
            together.began_beside("b", "a");
        }
        assert_eq!(together.times("a", "b"), Some(2));
        assert_eq!(together.times("b", "a"), Some(2));
        assert_eq!(together.times("a", "c"), None);
        // They mostly begin alone.
        for _ in 0..9 {
            together.began("a");
            together.began("b");
        }
        assert_eq!(together.times("a", "b"), None);
    }
}
