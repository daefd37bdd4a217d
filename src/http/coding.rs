//! Content codings of request bodies: gzip, zstd, snappy and identity (RFC 9110 section 8.4).
//!
//! Bytes in, bytes out, a bounded piece at a time. A decoded body never exceeds the limit of the caller, however small
//! the coded body is. A body counts as decoded only when its coding is complete and nothing follows it.

mod gzip;
mod snappy;
mod step;
mod zstd;

use self::gzip::GzipDecoder;
use self::snappy::SnappyDecoder;
use self::zstd::ZstdDecoder;
use super::budget::reserve_within;
use super::head::RequestError;

pub use self::step::CodingError;

/// Bytes written at a time: they fit the stack and the first-level cache.
const OUTPUT_BYTES: usize = 16 * 1024;
/// Bytes read at a time: a coded body need not yield anything for what is read of it.
const INPUT_BYTES: usize = 64 * 1024;
/// The work of a member or a frame, however short: its state is made anew.
const PART_WORK_BYTES: usize = 4 * 1024;

/// The content coding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentCoding {
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
    /// One block of snappy, as Prometheus' remote_write sends it; not the framing format.
    Snappy,
}

impl From<CodingError> for RequestError {
    fn from(error: CodingError) -> Self {
        match error {
            CodingError::Unknown => Self::ContentCoding,
            CodingError::TooLarge => Self::BodyTooLarge,
            CodingError::Corrupt => Self::CodedBody,
        }
    }
}

impl ContentCoding {
    /// Reads the value of `Content-Encoding`; None for identity.
    ///
    /// # Errors
    /// [`CodingError::Unknown`], also for a list: no honest client codes a body twice.
    pub fn parse(value: &[u8]) -> Result<Option<Self>, CodingError> {
        let value = value.trim_ascii();
        let is = |name: &str| value.eq_ignore_ascii_case(name.as_bytes());
        if value.is_empty() || is("identity") {
            Ok(None)
        } else if is("gzip") || is("x-gzip") {
            Ok(Some(Self::Gzip))
        } else if is("zstd") {
            Ok(Some(Self::Zstd))
        } else if is("snappy") {
            Ok(Some(Self::Snappy))
        } else {
            Err(CodingError::Unknown)
        }
    }
}

/// The decoder of one body.
#[derive(Debug)]
pub struct BodyDecoder {
    kind: DecoderKind,
    limit: usize,
}

#[derive(Debug)]
enum DecoderKind {
    Parts(PartsDecoder),
    Block(SnappyDecoder),
}

/// Of a body that may have several members or frames.
#[derive(Debug)]
struct PartsDecoder {
    coding: PartsCoding,
    /// Bytes of the coded body that have been read.
    read: usize,
}

#[derive(Debug)]
enum PartsCoding {
    Gzip(GzipDecoder),
    Zstd(ZstdDecoder),
}

impl BodyDecoder {
    /// A decoder of a body that has at most `limit` bytes when decoded.
    ///
    /// # Errors
    /// [`CodingError::Corrupt`] when there is no memory for it.
    pub fn new(coding: ContentCoding, limit: usize) -> Result<Self, CodingError> {
        let parts = |coding| DecoderKind::Parts(PartsDecoder { coding, read: 0 });
        let kind = match coding {
            ContentCoding::Gzip => parts(PartsCoding::Gzip(GzipDecoder::default())),
            ContentCoding::Zstd => parts(PartsCoding::Zstd(ZstdDecoder::new()?)),
            ContentCoding::Snappy => DecoderKind::Block(SnappyDecoder::default()),
        };
        Ok(Self { kind, limit })
    }

    /// Decodes on, until all of `body` is in `into`, which is true, or `work` is used up: bytes that are read and
    /// written. Every call takes the same `body` and `into`.
    ///
    /// # Errors
    /// When the body is damaged, or larger than the limit; `into` is then freed.
    pub fn advance(
        &mut self,
        body: &[u8],
        into: &mut Vec<u8>,
        work: &mut usize,
    ) -> Result<bool, CodingError> {
        let advanced = match &mut self.kind {
            _ if body.is_empty() => Err(CodingError::Corrupt),
            DecoderKind::Parts(parts) => parts.advance(body, self.limit, into, work),
            DecoderKind::Block(snappy) => snappy.advance(body, self.limit, into, work),
        };
        if advanced.is_err() {
            *into = Vec::new();
        }
        advanced
    }
}

impl PartsDecoder {
    fn advance(
        &mut self,
        body: &[u8],
        limit: usize,
        into: &mut Vec<u8>,
        work: &mut usize,
    ) -> Result<bool, CodingError> {
        let mut output = [0; OUTPUT_BYTES];
        while self.read < body.len() || !self.coding.is_between_parts() {
            if *work == 0 {
                return Ok(false);
            }
            let input = &body[self.read..];
            let input = &input[..input.len().min(INPUT_BYTES)];
            let step = match &mut self.coding {
                PartsCoding::Gzip(gzip) => gzip.step(input, &mut output)?,
                PartsCoding::Zstd(zstd) => zstd.step(input, &mut output)?,
            };
            if step.read + step.written == 0 && !step.ends_part {
                // Nothing is left to read, and the part is incomplete.
                return Err(CodingError::Corrupt);
            }
            if into.len() + step.written > limit {
                return Err(CodingError::TooLarge);
            }
            // A decompression bomb must not take twice the limit.
            reserve_within(into, step.written, limit);
            into.extend_from_slice(&output[..step.written]);
            self.read += step.read;
            let part_work = if step.ends_part { PART_WORK_BYTES } else { 0 };
            *work = work.saturating_sub(step.read + step.written + part_work);
        }
        Ok(true)
    }
}

impl PartsCoding {
    /// True where the body may end.
    fn is_between_parts(&self) -> bool {
        match self {
            Self::Gzip(gzip) => gzip.is_between_parts(),
            Self::Zstd(zstd) => zstd.is_between_parts(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use snap::raw;

    use super::*;

    const PACKED: [ContentCoding; 3] =
        [ContentCoding::Gzip, ContentCoding::Zstd, ContentCoding::Snappy];
    /// Those of any number of parts, each with an end of its own.
    const JOINED: [ContentCoding; 2] = [ContentCoding::Gzip, ContentCoding::Zstd];

    fn pack(coding: ContentCoding, body: &[u8]) -> Vec<u8> {
        match coding {
            ContentCoding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory")
            }
            ContentCoding::Zstd => ::zstd::encode_all(body, 3).expect("memory"),
            ContentCoding::Snappy => raw::Encoder::new().compress_vec(body).expect("it is small"),
        }
    }

    /// Decodes with `piece` bytes of work at a time; returns how many pieces it took, too.
    fn unpacked_in(
        coding: ContentCoding,
        body: &[u8],
        limit: usize,
        piece: usize,
    ) -> Result<(Vec<u8>, usize), CodingError> {
        let mut decoder = BodyDecoder::new(coding, limit)?;
        let mut into = Vec::new();
        for pieces in 1.. {
            let before = into.len();
            let mut work = piece;
            let advanced = decoder.advance(body, &mut into, &mut work);
            assert!(into.len() <= limit, "{} bytes for a limit of {limit}", into.len());
            if coding != ContentCoding::Snappy {
                assert!(
                    into.len().saturating_sub(before) <= OUTPUT_BYTES.saturating_add(piece),
                    "{pieces}"
                );
            }
            match advanced {
                Ok(true) => return Ok((into, pieces)),
                Ok(false) => assert_eq!(work, 0),
                Err(error) => {
                    assert_eq!(into.capacity(), 0, "{error:?}");
                    return Err(error);
                }
            }
        }
        unreachable!("some piece is the last")
    }

    fn unpacked(coding: ContentCoding, body: &[u8], limit: usize) -> Result<Vec<u8>, CodingError> {
        unpacked_in(coding, body, limit, usize::MAX).map(|(into, _)| into)
    }

    #[test]
    fn names_are_read_in_any_case_and_one_at_a_time() {
        for (value, coding) in [
            ("gzip", Ok(Some(ContentCoding::Gzip))),
            ("X-GZip", Ok(Some(ContentCoding::Gzip))),
            (" zstd\t", Ok(Some(ContentCoding::Zstd))),
            ("Snappy", Ok(Some(ContentCoding::Snappy))),
            ("identity", Ok(None)),
            ("", Ok(None)),
            ("gzip, gzip", Err(CodingError::Unknown)),
            ("identity, gzip", Err(CodingError::Unknown)),
            ("deflate", Err(CodingError::Unknown)),
            ("br", Err(CodingError::Unknown)),
            ("x-snappy-framed", Err(CodingError::Unknown)),
            ("snappy, snappy", Err(CodingError::Unknown)),
            ("gzip\u{0}", Err(CodingError::Unknown)),
        ] {
            assert_eq!(ContentCoding::parse(value.as_bytes()), coding, "{value:?}");
        }
    }

    #[test]
    fn the_limit_is_exact_and_bombs_stop_at_it() {
        for coding in PACKED {
            let packed = pack(coding, &[b'a'; 1000]);
            assert_eq!(unpacked(coding, &packed, 1000).map(|body| body.len()), Ok(1000));
            assert_eq!(unpacked(coding, &packed, 999), Err(CodingError::TooLarge));
        }
        for coding in PACKED {
            let bomb = pack(coding, &vec![0; 64 << 20]);
            assert!(bomb.len() < 4 << 20, "a bomb of {} bytes", bomb.len());
            assert_eq!(unpacked(coding, &bomb, 8 << 20), Err(CodingError::TooLarge));
        }
        for coding in JOINED {
            let many = pack(coding, &[0; 4096]).repeat(100);
            assert_eq!(unpacked(coding, &many, 4096 * 99), Err(CodingError::TooLarge));
        }
    }

    #[test]
    fn members_and_frames_are_joined_and_garbage_behind_them_is_refused() {
        for coding in JOINED {
            let mut packed = pack(coding, b"one ");
            packed.extend(pack(coding, b""));
            packed.extend(pack(coding, b"two"));
            assert_eq!(unpacked(coding, &packed, 100), Ok(b"one two".to_vec()));
            for garbage in [&b"x"[..], b"\0", b"{\"cpu\":1}", &packed[..3]] {
                let mut packed = packed.clone();
                packed.extend(garbage);
                assert_eq!(
                    unpacked(coding, &packed, 100),
                    Err(CodingError::Corrupt),
                    "{coding:?} {garbage:?}"
                );
            }
        }
    }

    #[test]
    fn a_cut_or_damaged_body_is_refused() {
        let body: Vec<u8> = (0..=255).cycle().take(2000).collect();
        for coding in PACKED {
            let packed = pack(coding, &body);
            for end in 0..packed.len() {
                let result = unpacked(coding, &packed[..end], 10_000);
                assert_eq!(result, Err(CodingError::Corrupt), "{coding:?} cut at {end}");
            }
        }
        let mut damaged = pack(ContentCoding::Gzip, &body);
        let checksum = damaged.len() - 8;
        damaged[checksum] ^= 1;
        assert_eq!(unpacked(ContentCoding::Gzip, &damaged, 10_000), Err(CodingError::Corrupt));
    }

    #[test]
    fn a_zstd_window_above_8_mib_is_refused() {
        let mut encoder = ::zstd::Encoder::new(Vec::new(), 1).expect("memory");
        encoder.window_log(24).expect("a valid window");
        encoder.write_all(&[b'a'; 1000]).expect("memory");
        let packed = encoder.finish().expect("memory");
        assert_eq!(unpacked(ContentCoding::Zstd, &packed, 10_000), Err(CodingError::Corrupt));
    }

    #[test]
    fn a_snappy_block_of_another_length_than_it_says_is_refused() {
        let body: Vec<u8> = (0..=255).cycle().take(2000).collect();
        let packed = pack(ContentCoding::Snappy, &body);
        // 2,000 is a varint of two bytes.
        let with_length = |length: &[u8]| [length, &packed[2..]].concat();
        let unpacked = |packed: &[u8]| unpacked(ContentCoding::Snappy, packed, 10_000);
        assert_eq!(unpacked(&with_length(&[0xd0, 0x0f])), Ok(body));
        for (length, error) in [
            (&[0xcf, 0x0f][..], CodingError::Corrupt), // 1,999
            (&[0xd1, 0x0f], CodingError::Corrupt),     // 2,001
            (&[0], CodingError::Corrupt),              // none
            (&[0x90, 0x4e], CodingError::Corrupt),     // 10,000, the limit
            (&[0x91, 0x4e], CodingError::TooLarge),    // 10,001
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], CodingError::TooLarge), // 2^32 - 1
            (&[0xff, 0xff, 0xff, 0xff, 0x1f], CodingError::Corrupt), // no length of the format
            (&[0x80; 12], CodingError::Corrupt),       // an endless varint
        ] {
            assert_eq!(unpacked(&with_length(length)), Err(error), "{length:x?}");
        }
        let garbage_behind = [&packed[..], b"\0x"].concat();
        assert_eq!(unpacked(&garbage_behind), Err(CodingError::Corrupt));
        assert_eq!(unpacked(&[0]), Ok(Vec::new()), "a block of nothing");
    }

    #[test]
    fn a_snappy_block_takes_no_memory_that_it_cannot_fill() {
        // It announces 8 MiB, and copies the byte before 1,000 times.
        let mut packed = vec![0x80, 0x80, 0x80, 0x04, 0, b'a'];
        packed.extend([0xfe, 1, 0].repeat(1_000));
        let mut into = Vec::new();
        let mut snappy = SnappyDecoder::default();
        let decoded = snappy.advance(&packed, 8 << 20, &mut into, &mut { usize::MAX });
        assert_eq!((decoded, into.capacity()), (Err(CodingError::Corrupt), 0));
        // The most that so many bytes can yield is not refused.
        let mut packed = vec![0x81, 0xf4, 0x03, 0, b'a']; // 64,001
        packed.extend([0xfe, 1, 0].repeat(1_000));
        assert_eq!(unpacked(ContentCoding::Snappy, &packed, 64_001), Ok(vec![b'a'; 64_001]));
    }

    #[test]
    fn a_buffer_that_is_large_enough_is_kept() {
        let mut buffer = Vec::with_capacity(1 << 20);
        let address = buffer.as_ptr();
        for coding in PACKED {
            let packed = pack(coding, &[b'a'; 100_000]);
            let mut decoder = BodyDecoder::new(coding, 1 << 20).expect("memory");
            buffer.clear();
            assert_eq!(decoder.advance(&packed, &mut buffer, &mut 1_000_000), Ok(true));
            assert_eq!((buffer.len(), buffer.as_ptr()), (100_000, address), "{coding:?}");
        }
    }

    #[test]
    fn a_piece_is_bounded_by_what_is_read_and_what_is_written() {
        const PIECE: usize = 100_000;
        let empty = |coding| pack(coding, b"").repeat(10_000);
        for coding in JOINED {
            for (body, length) in [(pack(coding, &[0; 1 << 20]), 1 << 20), (empty(coding), 0)] {
                let (into, pieces) = unpacked_in(coding, &body, 1 << 20, PIECE).expect("good");
                assert_eq!(into.len(), length);
                let least = (body.len() + length) / (PIECE + OUTPUT_BYTES + INPUT_BYTES);
                assert!(pieces > least.max(1), "{coding:?}: {pieces} pieces");
            }
            // A part costs more than its bytes.
            let (_, pieces) = unpacked_in(coding, &empty(coding), 0, PIECE).expect("good");
            assert!(pieces >= 10_000 * PART_WORK_BYTES / (2 * PIECE), "{pieces} pieces");
        }
        // Blocks of nothing, for which deflate reads five bytes each.
        let mut idle = pack(ContentCoding::Gzip, b"")[..10].to_vec();
        idle.extend([0, 0, 0, 0xff, 0xff].repeat(100_000));
        idle.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        let (into, pieces) = unpacked_in(ContentCoding::Gzip, &idle, 0, PIECE).expect("good");
        assert_eq!(into, b"");
        assert!(pieces >= 3, "{pieces} pieces");
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(body in prop::collection::vec(any::<u8>(), 0..5000)) {
            for coding in PACKED {
                prop_assert_eq!(unpacked(coding, &pack(coding, &body), 5000), Ok(body.clone()));
            }
        }

        #[test]
        fn pieces_do_not_matter(
            body in prop::collection::vec(any::<u8>(), 0..50_000),
            cut in any::<prop::sample::Index>(),
            piece in 1..30_000_usize,
        ) {
            for coding in JOINED {
                let packed = pack(coding, &body).repeat(2);
                let whole = unpacked_in(coding, &packed, 80_000, usize::MAX).map(|(into, _)| into);
                let pieces = unpacked_in(coding, &packed, 80_000, piece).map(|(into, _)| into);
                prop_assert_eq!(whole, pieces);
                let cut = &packed[..cut.index(packed.len())];
                let whole = unpacked_in(coding, cut, 200_000, usize::MAX).map(|(into, _)| into);
                let pieces = unpacked_in(coding, cut, 200_000, piece).map(|(into, _)| into);
                prop_assert_eq!(whole, pieces);
            }
        }

        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..500)) {
            for coding in PACKED {
                let _ = unpacked(coding, &noise, 1000);
            }
        }
    }
}
