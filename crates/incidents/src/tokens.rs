//! The parts of device names that several devices share: site, rack, service.
//!
//! A name is cut at separators, and between letters and digits. Its tokens are the text from the start to each cut, from
//! each cut to the end, words, and words with the number behind them: `ams-2-edge-05` has `ams`, `ams-2`,
//! `ams-2-edge`, `edge-05` and `edge`. A number alone is none: it means nothing without its word.

/// Tokens of one name; a longer name has no use for more.
pub const TOKENS_MAX: usize = 16;
/// Counters in each of two rows: with a million tokens in them a token still counts a few others' devices.
const COUNTERS: usize = 1 << 16;

/// The tokens of a name, each once.
pub fn tokens(name: &str) -> Vec<&str> {
    let parts = parts(name);
    let mut found: Vec<&str> = Vec::new();
    let mut add = |from: usize, to: usize| {
        let token = &name[from..to];
        let is_word = token.bytes().any(|byte| !byte.is_ascii_digit() && !is_separator(byte));
        let is_new = token.len() < name.len() && !found.contains(&token);
        if is_word && is_new && found.len() < TOKENS_MAX {
            found.push(token);
        }
    };
    parts.iter().for_each(|&(_, end)| add(0, end));
    for pair in parts.windows(2) {
        let is_numbered = !is_number(name, pair[0]) && is_number(name, pair[1]);
        if is_numbered {
            add(pair[0].0, pair[1].1);
        }
    }
    parts.iter().for_each(|&(start, end)| add(start, end));
    parts.iter().for_each(|&(start, _)| add(start, name.len()));
    found
}

fn is_number(name: &str, (start, end): (usize, usize)) -> bool {
    name[start..end].bytes().all(|byte| byte.is_ascii_digit())
}

const fn is_separator(byte: u8) -> bool {
    matches!(byte, b'-' | b'.' | b'_' | b'/' | b':' | b' ' | b'@')
}

/// The ranges of runs of digits and of anything else between separators.
fn parts(name: &str) -> Vec<(usize, usize)> {
    let bytes = name.as_bytes();
    let mut parts: Vec<(usize, usize)> = Vec::new();
    let mut start = None;
    for at in 0..=bytes.len() {
        let ends = at == bytes.len()
            || is_separator(bytes[at])
            || (at > 0 && bytes[at].is_ascii_digit() != bytes[at - 1].is_ascii_digit());
        if ends && let Some(from) = start.take() {
            parts.push((from, at));
        }
        if at < bytes.len() && !is_separator(bytes[at]) && start.is_none() {
            start = Some(at);
        }
    }
    parts
}

/// How many devices of the fleet have each token, in fixed memory. A count may be too large, never too small.
#[derive(Clone, Debug, Default)]
pub struct FleetTokens {
    /// Two rows of counters; empty until the first device.
    rows: [Vec<u32>; 2],
    devices: usize,
}

impl FleetTokens {
    /// Adds a device.
    pub fn add(&mut self, name: &str) {
        if self.devices == 0 {
            self.rows.iter_mut().for_each(|row| row.resize(COUNTERS, 0));
        }
        self.devices += 1;
        for token in tokens(name) {
            let places = places(token);
            // Of the two, only the smaller: it is the one that is read.
            let least = self.rows[0][places[0]].min(self.rows[1][places[1]]);
            for (row, place) in self.rows.iter_mut().zip(places) {
                row[place] = row[place].max(least + 1);
            }
        }
    }

    /// Devices that were added.
    pub fn devices(&self) -> usize {
        self.devices
    }

    /// Devices that have this token.
    pub fn with(&self, token: &str) -> usize {
        if self.devices == 0 {
            return 0;
        }
        let [one, other] = places(token);
        self.rows[0][one].min(self.rows[1][other]) as usize
    }

    /// The share of the fleet that has this token, between 0 and 1. 1 for a fleet that is not known.
    pub fn share(&self, token: &str) -> f64 {
        if self.devices == 0 {
            return 1.0;
        }
        self.with(token).clamp(1, self.devices) as f64 / self.devices as f64
    }
}

fn places(token: &str) -> [usize; 2] {
    let hash = hash(token.as_bytes());
    [hash as usize % COUNTERS, (hash >> 32) as usize % COUNTERS]
}

/// FNV-1a with a last mix (murmur3's): the same in every process, unlike std's.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_at_separators_and_digits() {
        assert_eq!(
            tokens("ams-2-edge-05"),
            ["ams", "ams-2", "ams-2-edge", "edge-05", "edge", "2-edge-05"]
        );
        assert_eq!(tokens("web01"), ["web"]);
        assert_eq!(tokens("a.b_c"), ["a", "a.b", "b", "c", "b_c"]);
        for name in ["", "-", "17", "edge", "10.0.0.1"] {
            assert_eq!(tokens(name), [""; 0], "{name}");
        }
        assert!(tokens(&"a-1.".repeat(32)).len() <= TOKENS_MAX);
        assert!(tokens("größe-1-münchen").contains(&"größe-1"));
    }

    #[test]
    fn counts_of_tokens_are_those_of_the_fleet() {
        let mut fleet = FleetTokens::default();
        assert_eq!((fleet.share("ams"), fleet.with("ams")), (1.0, 0));
        for site in 0..10 {
            (0..20).for_each(|n| fleet.add(&format!("ams-{site}-edge-{n}")));
        }
        assert_eq!((fleet.devices(), fleet.with("ams-3"), fleet.with("ams")), (200, 20, 200));
        assert_eq!(fleet.share("ams-3"), 0.1);
    }
}
