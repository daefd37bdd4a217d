//! Blocks of snapshots, compressed: states of detectors are mostly alike, and take a quarter of their length.

use crate::analytics::saved::form::{RecordKind, push};
use sigmad_state::CONTENT_BYTES_MAX;
use zstd::bulk::Compressor;

/// The fastest: a snapshot of a gigabyte takes some seconds each minute.
const LEVEL: i32 = 1;

/// Packs block after block with one working memory.
#[derive(Default)]
pub(super) struct Packer(Option<Compressor<'static>>);

impl Packer {
    /// A block of one packed record; the block as it is where it can't be packed.
    pub fn pack(&mut self, block: Vec<u8>) -> Vec<u8> {
        // Err: the system has no memory for it.
        if self.0.is_none() {
            self.0 = Compressor::new(LEVEL).ok();
        }
        let Some(Ok(packed)) = self.0.as_mut().map(|packer| packer.compress(&block)) else {
            return block;
        };
        let mut to = Vec::with_capacity(packed.len() + 8);
        push(&mut to, RecordKind::Packed, |to| to.extend_from_slice(&packed));
        to
    }
}

/// Bytes that [`unpack`] gives back.
pub(super) fn compressed(content: &[u8]) -> std::io::Result<Vec<u8>> {
    zstd::bulk::compress(content, LEVEL)
}

/// The records of a packed one. None for bytes that are none, or of more than a block may have.
pub(super) fn unpack(content: &[u8]) -> Option<Vec<u8>> {
    zstd::bulk::decompress(content, CONTENT_BYTES_MAX).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytics::saved::form::{Record, Records};

    #[test]
    fn blocks_are_unpacked_as_they_were() {
        let mut packer = Packer::default();
        for length in [1, 9, 128 * 1024, 3 * 1024 * 1024] {
            let block: Vec<u8> = (0..length).map(|at| (at % 7) as u8).collect();
            let packed = packer.pack(block.clone());
            let [Record::Known(RecordKind::Packed, content)] =
                Records(&packed).collect::<Vec<_>>()[..]
            else {
                panic!("{packed:?}")
            };
            assert_eq!(unpack(content), Some(block));
            assert!(packed.len() < length / 10 + 40, "{length}: {}", packed.len());
            assert_eq!(unpack(&content[1..]), None);
        }
        let bomb = zstd::bulk::compress(&vec![0; CONTENT_BYTES_MAX + 1], LEVEL);
        assert_eq!(unpack(&bomb.expect("there is memory")), None);
    }
}
