//! gzip (RFC 1952), any number of members.

use std::fmt;

use flate2::{Decompress, DecompressError, FlushDecompress, Status};

use super::step::{CodingError, Step};

/// The window of every member is allowed: 2^15 bytes.
const WINDOW_BITS: u8 = 15;

/// The member that is being decoded; none between two.
#[derive(Default)]
pub(super) struct GzipDecoder(Option<Decompress>);

impl fmt::Debug for GzipDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GzipDecoder").field(&self.0.is_some()).finish()
    }
}

impl GzipDecoder {
    /// True where the body may end.
    pub fn is_between_parts(&self) -> bool {
        self.0.is_none()
    }

    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, CodingError> {
        let member = self.0.get_or_insert_with(|| Decompress::new_gzip(WINDOW_BITS));
        let (read, written) = (member.total_in(), member.total_out());
        let status = member
            .decompress(input, output, FlushDecompress::None)
            .map_err(|_: DecompressError| CodingError::Corrupt)?;
        let step = Step {
            read: (member.total_in() - read) as usize,
            written: (member.total_out() - written) as usize,
            ends_part: matches!(status, Status::StreamEnd),
        };
        if step.ends_part {
            self.0 = None;
        }
        Ok(step)
    }
}
