//! snappy: one block, as Prometheus' remote_write sends it; not the framing format.

use snap::raw;

use super::step::CodingError;
use crate::http::budget::reserve_within;

/// The copy of the format that gives most for its own length: 64 bytes for 3 (section 2.2.2 of
/// `format_description.txt`).
const COPIED_BYTES: usize = 64;
const COPY_BYTES: usize = 3;

/// Decodes the block in one go: `snap` cannot do a part of it.
///
/// A block begins with its decoded length, which the client chooses: memory is taken only for what the rest of the
/// block can yield.
pub(super) fn decode(body: &[u8], limit: usize, into: &mut Vec<u8>) -> Result<(), CodingError> {
    let corrupt = |_: snap::Error| CodingError::Corrupt;
    let length = raw::decompress_len(body).map_err(corrupt)?;
    if length > limit {
        return Err(CodingError::TooLarge);
    }
    if length / COPIED_BYTES * COPY_BYTES > body.len() {
        return Err(CodingError::Corrupt);
    }
    reserve_within(into, length, limit);
    into.resize(length, 0);
    let decoded = raw::Decoder::new().decompress(body, into).map_err(corrupt)?;
    debug_assert_eq!(decoded, length, "a block that yields another length is an error");
    Ok(())
}
