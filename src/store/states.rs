//! Detector states as they are in Redis: one hash a device, a field a stream, and a header.
//!
//! A field is the version of the format (1 byte) and a zstd frame with its checksum. Version 1 has the states of detectors
//! alone; version 2 adds what the stream is judged for incidents by. The header names the replica that
//! wrote the states, and how many samples of the device it had judged by then: its counts in Redis say whether
//! the states are still current. Pure: no I/O.

use std::io;

use zstd::bulk::{Compressor, Decompressor};

use super::keys::{self, ReplicaId};
use super::windows::SubjectCounts;

/// The version of the format. A replica reads the one before it too. It leaves a newer one alone: it neither reads nor replaces it.
pub const VERSION: u8 = 2;
const VERSIONS_READ: std::ops::RangeInclusive<u8> = VERSION - 1..=VERSION;
/// Bytes of the states of one stream in Redis at most: a million streams that move at once take 4 GB there.
pub const STATES_BYTES_MAX: usize = 4_096;
/// Bytes of the same in memory at most: twice the states of all detectors.
const UNPACKED_BYTES_MAX: usize = 16 * 1024;
/// The level of zstd: states hardly get shorter by higher ones.
const LEVEL: i32 = 1;

/// Packs and unpacks the states of streams.
pub struct StatesCodec {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
}

/// Why states can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnpackError {
    /// They are of another version.
    OtherVersion,
    /// They are not what a replica wrote.
    Damaged,
}

impl StatesCodec {
    /// # Errors
    /// When there is no memory for it.
    pub fn new() -> io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        Ok(Self { compressor, decompressor: Decompressor::new()? })
    }

    /// Packs the states of a stream. None if they take too many bytes.
    pub fn pack(&mut self, states: &[u8]) -> Option<Vec<u8>> {
        if states.len() > UNPACKED_BYTES_MAX {
            return None;
        }
        let frame = self.compressor.compress(states).ok()?;
        let packed: Vec<u8> = [&[VERSION], &frame[..]].concat();
        (packed.len() <= STATES_BYTES_MAX).then_some(packed)
    }

    /// Unpacks the states of a stream.
    ///
    /// # Errors
    /// When they are of another version, or damaged.
    pub fn unpack(&mut self, packed: &[u8]) -> Result<Vec<u8>, UnpackError> {
        let (&version, frame) = packed.split_first().ok_or(UnpackError::Damaged)?;
        if !VERSIONS_READ.contains(&version) {
            return Err(UnpackError::OtherVersion);
        }
        if frame.is_empty() {
            return Err(UnpackError::Damaged);
        }
        let unpacked = self.decompressor.decompress(frame, UNPACKED_BYTES_MAX);
        unpacked.map_err(|_| UnpackError::Damaged)
    }
}

/// Whose states a hash has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatesHeader {
    /// Who wrote them.
    pub replica: ReplicaId,
    /// Samples of the device that it had judged.
    pub own_total: u64,
}

impl StatesHeader {
    /// Writes `<version>:<replica>:<samples>`.
    pub fn write(self, text: &mut Vec<u8>) {
        keys::write_number(text, VERSION);
        text.push(b':');
        text.extend_from_slice(self.replica.as_str().as_bytes());
        text.push(b':');
        keys::write_number(text, self.own_total);
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is of another version, or none.
    pub fn read(text: &[u8]) -> Result<Self, UnpackError> {
        let mut parts = text.splitn(3, |&byte| byte == b':');
        let mut next = || parts.next().ok_or(UnpackError::Damaged);
        let version = keys::read_number(next()?).ok_or(UnpackError::Damaged)?;
        if !u8::try_from(version).is_ok_and(|version| VERSIONS_READ.contains(&version)) {
            return Err(UnpackError::OtherVersion);
        }
        let replica = ReplicaId::read(next()?).ok_or(UnpackError::Damaged)?;
        let own_total = keys::read_number(next()?).ok_or(UnpackError::Damaged)? as u64;
        Ok(Self { replica, own_total })
    }
}

/// What Redis has of a device that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatesAt {
    /// The states of the replica that had the device last, as they were after its last sample.
    Current,
    /// That replica has not stated them so far.
    NotYet,
    /// No other replica has had the device since this one.
    Nowhere,
}

/// Compares the header with the counts of all replicas.
pub fn look(header: Option<StatesHeader>, counts: &SubjectCounts, own: ReplicaId) -> StatesAt {
    match (header, counts.last_other()) {
        // Nobody has taken them since.
        (Some(header), _) if header.replica == own => StatesAt::Nowhere,
        (Some(_), None) => StatesAt::Current,
        (None, None) => StatesAt::Nowhere,
        (Some(header), Some((replica, total)))
            if header.replica == replica && header.own_total >= total =>
        {
            StatesAt::Current
        }
        (Some(_) | None, Some(_)) => StatesAt::NotYet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> Vec<u8> {
        (0..3_200u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 28) as u8).collect()
    }

    #[test]
    fn states_are_unpacked_as_they_were_packed() {
        let mut codec = StatesCodec::new().expect("memory");
        for states in [Vec::new(), vec![7], states()] {
            let packed = codec.pack(&states).expect("short enough");
            assert_eq!(codec.unpack(&packed), Ok(states));
        }
    }

    #[test]
    fn a_flipped_bit_or_a_missing_byte_is_noticed() {
        let mut codec = StatesCodec::new().expect("memory");
        let packed = codec.pack(&states()).expect("short enough");
        for at in 0..packed.len() {
            assert!(codec.unpack(&packed[..at]).is_err(), "{at} bytes");
            let mut flipped = packed.clone();
            flipped[at] ^= 1 << (at % 8);
            // A bit that means nothing in the head of a frame changes nothing.
            match codec.unpack(&flipped) {
                Ok(unpacked) => assert_eq!(unpacked, states(), "byte {at}"),
                Err(UnpackError::OtherVersion) => assert_eq!(at, 0),
                Err(UnpackError::Damaged) => assert!(at > 0),
            }
        }
    }

    #[test]
    fn states_past_the_limit_are_not_packed() {
        let mut codec = StatesCodec::new().expect("memory");
        let mut random = 1u32;
        let noise: Vec<u8> = (0..STATES_BYTES_MAX)
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (random >> 24) as u8
            })
            .collect();
        assert_eq!(codec.pack(&noise), None);
        assert!(codec.pack(&noise[..STATES_BYTES_MAX - 64]).is_some());
        assert_eq!(codec.pack(&vec![0; UNPACKED_BYTES_MAX + 1]), None);
    }

    #[test]
    fn headers_of_other_versions_are_left_alone() {
        let header = StatesHeader { replica: ReplicaId::new(0xfeed), own_total: 17 };
        let mut text = Vec::new();
        header.write(&mut text);
        assert_eq!(text, b"2:0000feed:17");
        assert_eq!(StatesHeader::read(&text), Ok(header));
        assert_eq!(StatesHeader::read(b"1:0000feed:17"), Ok(header));
        for other in ["0:0000feed:17", "3:whatever", "300:0000feed:17"] {
            assert_eq!(StatesHeader::read(other.as_bytes()), Err(UnpackError::OtherVersion));
        }
        for text in ["", "1", "1:", "1:0000feed", "1:0000feed:x", "x:0000feed:1", "1:feed:1"] {
            assert_eq!(StatesHeader::read(text.as_bytes()), Err(UnpackError::Damaged), "{text}");
        }
    }
}
