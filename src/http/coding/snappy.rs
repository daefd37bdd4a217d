//! snappy: one block, as Prometheus' remote_write sends it; not the framing format.
//!
//! A block is a list of elements: bytes as they are, or a copy of what was decoded before. `snap` decodes small blocks; it
//! can't do a part of a block, and one of 8 MiB may take it 67 ms, so larger ones are decoded here, element by element
//! (`benches/record/2026-11-30-amd-epyc-2c/snappy.md`).

use snap::raw;

use super::step::CodingError;
use crate::http::budget::reserve_within;

/// The copy of the format that gives most for its own length: 64 bytes for 3 (section 2.2.2 of
/// `format_description.txt`).
const COPIED_BYTES: usize = 64;
const COPY_BYTES: usize = 3;
/// Literals up to this have their length in the tag; longer ones have it in the next 1 to 4 bytes.
const SHORT_LITERAL: usize = 60;

/// Decodes one block.
#[derive(Debug, Default)]
pub(super) struct SnappyDecoder {
    /// Bytes of the block that have been read.
    read: usize,
    /// Bytes of the decoded block, once its head has been read.
    length: usize,
}

impl SnappyDecoder {
    /// Decodes on, until the whole block is in `into`, which is true, or `work` is used up. A literal is not divided.
    pub fn advance(
        &mut self,
        block: &[u8],
        limit: usize,
        into: &mut Vec<u8>,
        work: &mut usize,
    ) -> Result<bool, CodingError> {
        if self.read == 0 {
            self.begin(block, limit)?;
            reserve_within(into, self.length, limit);
            let whole = block.len() + self.length;
            if whole <= *work {
                into.resize(self.length, 0);
                raw::Decoder::new().decompress(block, into).map_err(|_| CodingError::Corrupt)?;
                self.read = block.len();
                *work -= whole;
            }
        }
        while self.read < block.len() {
            if *work == 0 {
                return Ok(false);
            }
            let (read, before) = (self.read, into.len());
            self.element(block, into).ok_or(CodingError::Corrupt)?;
            *work = work.saturating_sub(self.read - read + into.len() - before);
        }
        if into.len() == self.length { Ok(true) } else { Err(CodingError::Corrupt) }
    }

    /// A block begins with its decoded length, which the client chooses: memory is taken only for what the rest of the
    /// block can yield.
    fn begin(&mut self, block: &[u8], limit: usize) -> Result<(), CodingError> {
        self.length = raw::decompress_len(block).map_err(|_| CodingError::Corrupt)?;
        if self.length > limit {
            return Err(CodingError::TooLarge);
        }
        if self.length / COPIED_BYTES * COPY_BYTES > block.len() {
            return Err(CodingError::Corrupt);
        }
        // A varint, which ends with its first byte below 128.
        self.read = block.iter().take_while(|&&byte| byte >= 0x80).count() + 1;
        Ok(())
    }

    /// Decodes the next element. None where it is damaged, or gives more than the block says.
    fn element(&mut self, block: &[u8], into: &mut Vec<u8>) -> Option<()> {
        let tag = self.take(block, 1)? as u8;
        let high = usize::from(tag >> 2);
        let (length, back) = match tag & 3 {
            0 if high < SHORT_LITERAL => return self.literal(high + 1, block, into),
            0 => {
                let length = self.take(block, high + 1 - SHORT_LITERAL)? + 1;
                return self.literal(length, block, into);
            }
            1 => (4 + (high & 7), (high >> 3) << 8 | self.take(block, 1)?),
            2 => (1 + high, self.take(block, 2)?),
            _ => (1 + high, self.take(block, 4)?),
        };
        let mut from = into.len().checked_sub(back).filter(|_| back > 0)?;
        let end = into.len() + length;
        if end > self.length {
            return None;
        }
        // A copy may reach into itself: what is behind `from` is repeated.
        while into.len() < end {
            let part = (into.len() - from).min(end - into.len());
            into.extend_from_within(from..from + part);
            from += part;
        }
        Some(())
    }

    fn literal(&mut self, length: usize, block: &[u8], into: &mut Vec<u8>) -> Option<()> {
        if length > self.length - into.len() {
            return None;
        }
        into.extend_from_slice(block.get(self.read..self.read + length)?);
        self.read += length;
        Some(())
    }

    /// The number in the next `bytes`, the lowest first.
    fn take(&mut self, block: &[u8], bytes: usize) -> Option<usize> {
        let taken = block.get(self.read..self.read + bytes)?;
        self.read += bytes;
        Some(taken.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes with `piece` bytes of work at a time; returns the number of pieces, too.
    fn in_pieces(block: &[u8], piece: usize) -> Result<(Vec<u8>, usize), CodingError> {
        let (mut decoder, mut into) = (SnappyDecoder::default(), Vec::new());
        for pieces in 1.. {
            if decoder.advance(block, 1 << 20, &mut into, &mut { piece })? {
                return Ok((into, pieces));
            }
        }
        unreachable!("some piece is the last")
    }

    /// What each way of decoding says: `snap` in one go, and elements in pieces.
    fn assert_agree(block: &[u8]) -> Option<Vec<u8>> {
        let expected = raw::Decoder::new().decompress_vec(block).ok();
        for piece in [1, 20, usize::MAX] {
            let decoded = in_pieces(block, piece).ok().map(|(decoded, _)| decoded);
            assert_eq!(decoded, expected, "{block:x?} in pieces of {piece}");
        }
        expected
    }

    /// A block of these elements: lengths, and how far copies go back.
    fn block(length: usize, elements: &[(u8, usize, usize)]) -> Vec<u8> {
        let mut block = vec![length as u8 | 0x80, (length >> 7) as u8];
        for &(kind, length, back) in elements {
            match kind {
                0 => {
                    let bytes = (0..length).map(|at| at as u8);
                    match length - 1 {
                        short @ 0..60 => block.push((short as u8) << 2),
                        long => block.extend([60 << 2, long as u8]),
                    }
                    block.extend(bytes);
                }
                1 => {
                    let length = (length % 8) as u8;
                    block.push(((back >> 8 & 7) as u8) << 5 | length << 2 | 1);
                    block.push(back as u8);
                }
                2 => {
                    block.push(((length - 1) % 64) as u8 * 4 + 2);
                    block.extend((back as u16).to_le_bytes());
                }
                _ => {
                    block.push(((length - 1) % 64) as u8 * 4 + 3);
                    block.extend((back as u32).to_le_bytes());
                }
            }
        }
        block
    }

    #[test]
    fn elements_are_decoded_as_snap_does() {
        // 70 bytes, then 4 of the byte before, 11 of three bytes before, 64 and 1 from the beginning.
        let block = block(150, &[(0, 70, 0), (1, 0, 1), (1, 7, 3), (2, 64, 85), (3, 1, 149)]);
        let decoded = assert_agree(&block).expect("it is whole");
        assert_eq!(decoded[69..74], [69; 5]);
        assert_eq!(decoded[74..85], decoded[71..82]);
        assert_eq!(decoded[149], 0);
        for end in 0..block.len() {
            assert_eq!(assert_agree(&block[..end]).filter(|_| end > 0), None, "cut at {end}");
        }
    }

    #[test]
    fn a_block_takes_as_many_pieces_as_it_has_work() {
        // One byte, repeated one by one: what takes longest.
        let ones = vec![(2, 1, 1); 10_000];
        let block = block(10_001, &[&[(0, 1, 0)][..], &ones].concat());
        let (decoded, pieces) = in_pieces(&block, 400).expect("whole");
        assert!(decoded == vec![0; 10_001]);
        // Each element is three bytes read and one written; a piece ends with the one that uses up its work.
        assert_eq!(pieces, 100);
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_as_snap_does(bytes in prop::collection::vec(any::<u8>(), 1..40)) {
            assert_agree(&bytes);
        }

        #[test]
        fn any_elements_are_decoded_as_snap_does(
            length in 0..400usize,
            elements in prop::collection::vec((0..4u8, 1..80usize, 0..90usize), 0..9),
            flipped in (any::<usize>(), 0..40u8),
        ) {
            let mut block = block(length, &elements);
            let whole: usize = elements.iter().map(|&(kind, length, _)| match kind {
                0 => length,
                1 => 4 + length % 8,
                _ => 1 + (length - 1) % 64,
            }).sum();
            // Mostly of the length that it says.
            if flipped.1 > 4 {
                (block[0], block[1]) = (whole as u8 | 0x80, (whole >> 7) as u8);
            }
            let at = flipped.0 % block.len();
            if flipped.1 < 8 {
                block[at] ^= 1 << flipped.1;
            }
            assert_agree(&block);
        }
    }
}
