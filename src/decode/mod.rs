//! Bodies to samples; knows no sockets.

use std::sync::Arc;

use crate::clock::Now;
use crate::registry::Registry;
use crate::sample::Batch;

/// Refusals of single samples that an answer lists; the rest are only counted.
pub const REFUSALS_LISTED_MAX: usize = 10;

/// Reads bodies for one worker, with buffers and a cache of names of its own.
#[derive(Debug)]
pub struct Decoder {}

/// What became of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// False for a body that is one sample object: its refusal is the answer's error.
    pub is_batch: bool,
    /// Samples added to the batch.
    pub accepted: usize,
    /// Samples refused because they are wrong.
    pub invalid: usize,
    /// Samples refused because there was no room for another stream.
    pub unroomed: usize,
}

/// Why a whole body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// Nothing but white space, or an empty batch.
    Empty,
    /// Not JSON, near that byte of the body.
    Malformed {
        /// Offset in the body.
        offset: usize,
    },
    /// More samples than a queue can hold.
    TooManySamples,
}

/// One refused sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its place in the batch, from 0.
    pub index: usize,
    /// Snake-case word for machines.
    pub code: &'static str,
    /// 400 or 429.
    pub status: u16,
    /// Names the field or the limit.
    pub message: String,
}

impl Decoder {
    /// Names are interned in `registry`.
    pub fn new(registry: Arc<Registry>) -> Self {
        let _ = registry;
        todo!()
    }

    /// Adds the good samples of `body` to `batch`. `lines`: the client said that it is NDJSON.
    ///
    /// # Errors
    /// When the body as a whole can't be read; nothing is added then.
    pub fn decode(
        &mut self,
        body: &mut [u8],
        lines: bool,
        now: Now,
        batch: &mut Batch,
    ) -> Result<Decoded, BodyError> {
        let _ = (body, lines, now, batch);
        todo!()
    }

    /// The first refusals of the last body.
    pub fn refusals(&self) -> &[Refusal] {
        todo!()
    }
}
