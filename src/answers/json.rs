//! What all answers share: a time in seconds, and the writer.

use serde::Serialize;
use serde::ser::Serializer;

/// Microseconds, written as seconds, with a fraction if there is one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seconds(pub(crate) i64);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 % 1_000_000 == 0 {
            serializer.serialize_i64(self.0 / 1_000_000)
        } else {
            // The shortest form of the nearest f64 keeps microseconds until the year 2242.
            serializer.serialize_f64(self.0 as f64 / 1e6)
        }
    }
}

pub(super) fn body(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("every field of a report has a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_a_fraction_only_if_needed() {
        for (us, text) in [
            (1_735_100_000_000_000, "1735100000"),
            (1_735_100_000_000_001, "1735100000.000001"),
            (-1_500_000, "-1.5"),
            (0, "0"),
        ] {
            assert_eq!(serde_json::to_string(&Seconds(us)).expect("JSON"), text);
        }
    }
}
