//! How numbers are written: as they were sent.

use serde::ser::{Serialize, Serializer};

/// Every whole number below it is exact in an f64.
const EXACT_BELOW: f64 = 9_007_199_254_740_992.0;

/// A number as it was sent: whole numbers without a fraction, others in the shortest form that reads
/// back as the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plain(pub f64);

impl Serialize for Plain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 && self.0.abs() < EXACT_BELOW {
            serializer.serialize_i64(self.0 as i64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}
