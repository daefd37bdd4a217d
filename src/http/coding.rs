//! Content codings of request bodies: gzip, zstd, snappy and identity (RFC 9110 section 8.4).
//!
//! Bytes in, bytes out: a decoded body never exceeds the limit of the caller, however small the coded
//! body is. A body counts as decoded only when its coding is complete and nothing follows it.

use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;
use snap::raw;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::budget::reserve_within;
use super::head::RequestError;

/// RFC 8878 section 3.1.1.1.2 lets a decoder refuse windows above 8 MiB: 2^23 bytes.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Bytes decoded at a time: they fit the stack and the first-level cache.
const PIECE_BYTES: usize = 16 * 1024;
/// The copy of snappy's format that gives most for its own length: 64 bytes for 3 (section 2.2.2 of
/// `format_description.txt`).
const SNAPPY_COPIED_BYTES: usize = 64;
const SNAPPY_COPY_BYTES: usize = 3;

/// The content coding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentCoding {
    /// None.
    Identity,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
    /// One block of snappy, as Prometheus' remote_write sends it; not the framing format.
    Snappy,
}

/// Why a body was not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodingError {
    /// An unknown coding, or more than one: 415.
    Unknown,
    /// Larger than the limit when decoded: 413.
    TooLarge,
    /// Damaged, cut short, or followed by other bytes: 400.
    Corrupt,
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
    /// Reads the value of `Content-Encoding`.
    ///
    /// # Errors
    /// [`CodingError::Unknown`], also for a list: no honest client codes a body twice.
    pub fn parse(value: &[u8]) -> Result<Self, CodingError> {
        let value = value.trim_ascii();
        let is = |name: &str| value.eq_ignore_ascii_case(name.as_bytes());
        if value.is_empty() || is("identity") {
            Ok(Self::Identity)
        } else if is("gzip") || is("x-gzip") {
            Ok(Self::Gzip)
        } else if is("zstd") {
            Ok(Self::Zstd)
        } else if is("snappy") {
            Ok(Self::Snappy)
        } else {
            Err(CodingError::Unknown)
        }
    }
}

/// The body without its content coding, of at most `limit` bytes. `buffer` takes what had to be decoded.
///
/// # Errors
/// When the coding is unknown, the body is damaged, or it is too large; `buffer` is then freed.
#[inline]
pub fn decode<'a>(
    content_encoding: Option<&[u8]>,
    body: &'a mut [u8],
    limit: usize,
    buffer: &'a mut Vec<u8>,
) -> Result<&'a mut [u8], CodingError> {
    // Nearly every body; a call for it would cost more than it does.
    let Some(value) = content_encoding else { return Ok(body) };
    decode_coded(value, body, limit, buffer)
}

fn decode_coded<'a>(
    value: &[u8],
    body: &[u8],
    limit: usize,
    buffer: &'a mut Vec<u8>,
) -> Result<&'a mut [u8], CodingError> {
    buffer.clear();
    let coding = ContentCoding::parse(value);
    if let Err(error) = coding.and_then(|coding| decode_as(coding, body, limit, buffer)) {
        *buffer = Vec::new();
        return Err(error);
    }
    Ok(buffer)
}

fn decode_as(
    coding: ContentCoding,
    body: &[u8],
    limit: usize,
    into: &mut Vec<u8>,
) -> Result<(), CodingError> {
    match coding {
        ContentCoding::Identity => read_bounded(body, limit, into),
        ContentCoding::Gzip => read_bounded(MultiGzDecoder::new(body), limit, into),
        ContentCoding::Zstd if body.is_empty() => Err(CodingError::Corrupt),
        ContentCoding::Zstd => {
            let decoder = ZstdDecoder::with_buffer(body).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Ok(decoder)
            });
            read_bounded(decoder.map_err(|_: io::Error| CodingError::Corrupt)?, limit, into)
        }
        ContentCoding::Snappy => decode_snappy(body, limit, into),
    }
}

/// A block begins with its decoded length, which the client chooses: memory is taken only for what the rest of the
/// block can yield.
fn decode_snappy(body: &[u8], limit: usize, into: &mut Vec<u8>) -> Result<(), CodingError> {
    let corrupt = |_: snap::Error| CodingError::Corrupt;
    if body.is_empty() {
        return Err(CodingError::Corrupt);
    }
    let length = raw::decompress_len(body).map_err(corrupt)?;
    if length > limit {
        return Err(CodingError::TooLarge);
    }
    if length / SNAPPY_COPIED_BYTES * SNAPPY_COPY_BYTES > body.len() {
        return Err(CodingError::Corrupt);
    }
    reserve_within(into, length, limit);
    into.resize(length, 0);
    let decoded = raw::Decoder::new().decompress(body, into).map_err(corrupt)?;
    debug_assert_eq!(decoded, length, "a block that yields another length is an error");
    Ok(())
}

fn read_bounded(
    mut source: impl Read,
    limit: usize,
    into: &mut Vec<u8>,
) -> Result<(), CodingError> {
    let start = into.len();
    let mut piece = [0; PIECE_BYTES];
    loop {
        let length = source.read(&mut piece).map_err(|_: io::Error| CodingError::Corrupt)?;
        if length == 0 {
            return Ok(());
        }
        let needed = into.len() + length;
        if needed - start > limit {
            return Err(CodingError::TooLarge);
        }
        // A decompression bomb must not take twice the limit.
        reserve_within(into, length, start + limit);
        into.extend_from_slice(&piece[..length]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    const PACKED: [ContentCoding; 3] =
        [ContentCoding::Gzip, ContentCoding::Zstd, ContentCoding::Snappy];
    /// Those of any number of parts, each with an end of its own.
    const JOINED: [ContentCoding; 2] = [ContentCoding::Gzip, ContentCoding::Zstd];

    fn pack(coding: ContentCoding, body: &[u8]) -> Vec<u8> {
        match coding {
            ContentCoding::Identity => body.to_vec(),
            ContentCoding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory")
            }
            ContentCoding::Zstd => zstd::encode_all(body, 3).expect("memory"),
            ContentCoding::Snappy => raw::Encoder::new().compress_vec(body).expect("it is small"),
        }
    }

    fn unpacked(coding: ContentCoding, body: &[u8], limit: usize) -> Result<Vec<u8>, CodingError> {
        let mut into = Vec::new();
        let result = decode_as(coding, body, limit, &mut into);
        assert!(into.len() <= limit + 1, "{} bytes for a limit of {limit}", into.len());
        result.map(|()| into)
    }

    #[test]
    fn names_are_read_in_any_case_and_one_at_a_time() {
        for (value, coding) in [
            ("gzip", Ok(ContentCoding::Gzip)),
            ("X-GZip", Ok(ContentCoding::Gzip)),
            (" zstd\t", Ok(ContentCoding::Zstd)),
            ("Snappy", Ok(ContentCoding::Snappy)),
            ("identity", Ok(ContentCoding::Identity)),
            ("", Ok(ContentCoding::Identity)),
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
        for coding in [ContentCoding::Identity].into_iter().chain(PACKED) {
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
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("memory");
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
        let decoded = decode_as(ContentCoding::Snappy, &packed, 8 << 20, &mut into);
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
            let name = format!("{coding:?}");
            let decoded = decode_coded(name.as_bytes(), &packed, 1 << 20, &mut buffer);
            assert_eq!(decoded.map(|body| body.len()), Ok(100_000), "{coding:?}");
            assert_eq!(buffer.as_ptr(), address, "{coding:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(body in prop::collection::vec(any::<u8>(), 0..5000)) {
            for coding in PACKED {
                prop_assert_eq!(unpacked(coding, &pack(coding, &body), 5000), Ok(body.clone()));
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
