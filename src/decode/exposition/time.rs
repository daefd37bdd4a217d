//! The time of a line.

use crate::decode::decimal::{integer, number};
use crate::decode::fault::PointFault;
use sigmad_sample::VALUE_MAX;
use sigmad_sample::timestamp::Stamp;

/// The time of a point; None for what is no number.
#[inline]
pub(super) fn time(text: &[u8], seconds: bool) -> Option<Result<Stamp, PointFault>> {
    let micros = if seconds {
        let seconds = number(text)?;
        let micros = (seconds * 1e6).round();
        // Past the bound a float has no microseconds anyway.
        if !(0.0..VALUE_MAX * 1e3).contains(&micros) {
            return Some(Err(PointFault::Time));
        }
        micros as i64
    } else {
        match integer(text)?.checked_mul(1_000) {
            Some(micros @ 0..) => micros,
            _ => return Some(Err(PointFault::Time)),
        }
    };
    Some(Ok(Some(micros)))
}
