//! zstd (RFC 8878), any number of frames.

use std::fmt;
use std::io;

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::step::{CodingError, Step};

/// RFC 8878 section 3.1.1.1.2 lets a decoder refuse windows above 8 MiB: 2^23 bytes.
const WINDOW_LOG_MAX: u32 = 23;

/// The frame that is being decoded.
pub(super) struct ZstdDecoder {
    context: Decoder<'static>,
    is_in_frame: bool,
}

impl fmt::Debug for ZstdDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ZstdDecoder").field(&self.is_in_frame).finish()
    }
}

impl ZstdDecoder {
    /// # Errors
    /// When there is no memory for it.
    pub fn new() -> Result<Self, CodingError> {
        let corrupt = |_: io::Error| CodingError::Corrupt;
        let mut context = Decoder::new().map_err(corrupt)?;
        context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(corrupt)?;
        Ok(Self { context, is_in_frame: false })
    }

    /// True where the body may end.
    pub fn is_between_parts(&self) -> bool {
        !self.is_in_frame
    }

    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, CodingError> {
        let (mut input, mut output) = (InBuffer::around(input), OutBuffer::around(output));
        let run = self.context.run(&mut input, &mut output);
        // 0: the frame has ended, and all of it has been written.
        let ends_part = run.map_err(|_: io::Error| CodingError::Corrupt)? == 0;
        self.is_in_frame = !ends_part;
        Ok(Step { read: input.pos(), written: output.pos(), ends_part })
    }
}
