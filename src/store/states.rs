//! Detector states as they are in Redis: one hash a device, a field a stream, and a header.
//!
//! A field is the version of the format (1 byte) and a zstd frame with its checksum. Version 1 has the states of detectors
//! alone; version 2 adds what the stream is judged for incidents by. The header names the replica that
//! wrote the states, how many samples of the device it had judged by then, the number of its takeover, if it has one, and how often it
//! heard the device.
//!
//! A replica that hears a device *takes it over*. The takeovers of a device have numbers, and each names the replica that had
//! taken the device over before, whose states are the ones to wait for. So who has what depends on no clock, and on no
//! sample that is not written so far. Pure: no I/O.

use std::io;

use redis::Value;
use zstd::bulk::{Compressor, Decompressor};

use super::keys::{self, ReplicaId};
use super::windows::SubjectCounts;
use sigmad_incidents::silence::cadence::LearnedCadence;

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
    /// The number of its takeover; 0 for none.
    pub takeover: u32,
    /// How often it heard the device, if it looks for silence.
    pub cadence: Option<LearnedCadence>,
}

impl StatesHeader {
    /// Writes `<version>:<replica>:<samples>:<takeover>:<cadence>`, with the cadence in hex digits, if there is one.
    pub fn write(self, text: &mut Vec<u8>) {
        keys::write_number(text, VERSION);
        text.push(b':');
        text.extend_from_slice(self.replica.as_str().as_bytes());
        text.push(b':');
        keys::write_number(text, self.own_total);
        text.push(b':');
        keys::write_number(text, self.takeover);
        if let Some(cadence) = self.cadence {
            text.push(b':');
            for byte in cadence {
                text.extend(
                    [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[digit as usize]),
                );
            }
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is of another version, or none.
    pub fn read(text: &[u8]) -> Result<Self, UnpackError> {
        let mut parts = text.splitn(5, |&byte| byte == b':');
        let mut next = || parts.next().ok_or(UnpackError::Damaged);
        let version = keys::read_number(next()?).ok_or(UnpackError::Damaged)?;
        if !u8::try_from(version).is_ok_and(|version| VERSIONS_READ.contains(&version)) {
            return Err(UnpackError::OtherVersion);
        }
        let replica = ReplicaId::read(next()?).ok_or(UnpackError::Damaged)?;
        let own_total = keys::read_number(next()?).ok_or(UnpackError::Damaged)? as u64;
        let takeover = match parts.next() {
            None => 0,
            Some(takeover) => keys::read_number(takeover)
                .and_then(|takeover| takeover.try_into().ok())
                .ok_or(UnpackError::Damaged)?,
        };
        let cadence = match parts.next() {
            None => None,
            Some(digits) => Some(read_cadence(digits).ok_or(UnpackError::Damaged)?),
        };
        Ok(Self { replica, own_total, takeover, cadence })
    }
}

fn read_cadence(digits: &[u8]) -> Option<LearnedCadence> {
    let mut cadence = LearnedCadence::default();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if digits.len() != 2 * cadence.len() {
        return None;
    }
    for (byte, pair) in cadence.iter_mut().zip(digits.chunks(2)) {
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(cadence)
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

/// A takeover by this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// Larger than those of all takeovers of the device before.
    pub number: u32,
    /// Who had taken the device over before. None for nobody, or a replica of the version before.
    pub before: Option<ReplicaId>,
    /// Nobody can have states of it.
    pub is_first: bool,
}

impl Takeover {
    /// Nobody takes anything over: Redis refuses it.
    pub const NONE: Self = Self { number: 0, before: None, is_first: true };

    /// Reads the reply of the script. None for what it never returns.
    pub fn read(reply: &Value) -> Option<Self> {
        let Value::Array(parts) = reply else { return None };
        let [Value::BulkString(number), Value::BulkString(before), Value::Int(is_first)] =
            &parts[..]
        else {
            return None;
        };
        let number = keys::read_number(number)?.try_into().ok()?;
        Some(Self { number, before: ReplicaId::read(before), is_first: *is_first == 1 })
    }

    /// Where the states are, by their header. `counts` are those of the device; of a device that was taken over before, they
    /// are of no account.
    pub fn look(
        self,
        header: Option<StatesHeader>,
        counts: &SubjectCounts,
        own: ReplicaId,
    ) -> StatesAt {
        let Self { number, before, is_first } = self;
        match header {
            _ if is_first => StatesAt::Nowhere,
            // Nobody has taken the device over since this replica stated them.
            Some(header) if header.replica == own && header.takeover == number => StatesAt::Nowhere,
            _ if before.is_none() => look_by_counts(header, counts, own),
            Some(header) if header.takeover > 0 && header.takeover + 1 == number => {
                StatesAt::Current
            }
            _ => StatesAt::NotYet,
        }
    }
}

/// The same of a device that nobody has taken over before: replicas of the version before do not, and Redis may have lost
/// its data. Compares the header with the counts of all replicas.
fn look_by_counts(
    header: Option<StatesHeader>,
    counts: &SubjectCounts,
    own: ReplicaId,
) -> StatesAt {
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
        let header = StatesHeader {
            replica: ReplicaId::new(0xfeed),
            own_total: 17,
            takeover: 5,
            cadence: None,
        };
        let mut text = Vec::new();
        header.write(&mut text);
        assert_eq!(text, b"2:0000feed:17:5");
        assert_eq!(StatesHeader::read(&text), Ok(header));
        let with_cadence = StatesHeader { cadence: Some([0, 1, 127, 128, 255, 9, 16]), ..header };
        text.clear();
        with_cadence.write(&mut text);
        assert_eq!(text, b"2:0000feed:17:5:00017f80ff0910");
        assert_eq!(StatesHeader::read(&text), Ok(with_cadence));
        let new = StatesHeader { takeover: 0, ..header };
        assert_eq!(StatesHeader::read(b"1:0000feed:17"), Ok(new));
        for other in ["0:0000feed:17", "3:whatever", "300:0000feed:17"] {
            assert_eq!(StatesHeader::read(other.as_bytes()), Err(UnpackError::OtherVersion));
        }
        for text in [
            "",
            "1",
            "1:",
            "1:0000feed",
            "1:0000feed:x",
            "x:0000feed:1",
            "1:feed:1",
            "2:0000feed:1:x",
            "2:0000feed:1:",
            "2:0000feed:1:5:",
            "2:0000feed:1:5:00017f80ff09",
            "2:0000feed:1:5:00017f80ff091x",
        ] {
            assert_eq!(StatesHeader::read(text.as_bytes()), Err(UnpackError::Damaged), "{text}");
        }
    }

    #[test]
    fn states_are_those_of_the_takeover_before() {
        let [own, other] = [1, 2].map(ReplicaId::new);
        let counts = SubjectCounts::default();
        let header = |replica, takeover| {
            Some(StatesHeader { replica, own_total: 9, takeover, cadence: None })
        };
        let second = Takeover { number: 2, before: Some(other), is_first: false };
        for (header, expected) in [
            (None, StatesAt::NotYet),
            (header(other, 1), StatesAt::Current),
            // Of an earlier time, or after this replica had the device before; then the other one is waited for.
            (header(other, 0), StatesAt::NotYet),
            (header(own, 1), StatesAt::Current),
            // This replica has stated them for nobody.
            (header(own, 2), StatesAt::Nowhere),
            (header(other, 3), StatesAt::NotYet),
        ] {
            assert_eq!(second.look(header, &counts, own), expected, "{header:?}");
        }
        let first = Takeover { number: 1, before: None, is_first: true };
        assert_eq!(first.look(None, &counts, own), StatesAt::Nowhere);
        // The version before.
        let after = Takeover { number: 1, before: None, is_first: false };
        assert_eq!(after.look(header(other, 0), &counts, own), StatesAt::Current);
    }
}
