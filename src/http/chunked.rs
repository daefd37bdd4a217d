//! Incremental decoder of chunked bodies (RFC 9112 section 7.1).
//!
//! Strict: white space only around the parts of an extension, where its grammar has it, and no bare CR or
//! LF. Extensions and trailers are checked and dropped. Each byte is processed once, and only data is kept.

use super::budget::reserve_within;
use super::head::RequestError;
use super::request_line::is_token;

/// Bytes of the extensions and trailers of one body: no client needs more, and they cost time.
const OVERHEAD_BYTES_MAX: usize = 16 * 1024;

/// Hex digits of a chunk size: 2^32 exceeds any body limit.
const SIZE_DIGITS_MAX: u8 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    Size {
        digits: u8,
    },
    /// White space before the semicolon of an extension.
    ExtensionGap,
    ExtensionStart,
    ExtensionName,
    /// White space behind the name.
    ExtensionNameGap,
    ExtensionValueStart,
    ExtensionValue,
    ExtensionQuoted,
    ExtensionEscape,
    ExtensionQuotedEnd,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    EndLineFeed,
    Done,
}

impl ChunkState {
    const fn is_extension(self) -> bool {
        matches!(
            self,
            Self::ExtensionGap
                | Self::ExtensionStart
                | Self::ExtensionName
                | Self::ExtensionNameGap
                | Self::ExtensionValueStart
                | Self::ExtensionValue
                | Self::ExtensionQuoted
                | Self::ExtensionEscape
                | Self::ExtensionQuotedEnd
        )
    }

    /// `chunk-ext` of RFC 9112 section 7.1.1, byte by byte: `*( BWS ";" BWS token [ BWS "=" BWS value ] )`.
    fn next_of_extension(self, byte: u8) -> Option<Self> {
        let is_gap = matches!(byte, b' ' | b'\t');
        Some(match (self, byte) {
            (Self::ExtensionQuoted, b'"') => Self::ExtensionQuotedEnd,
            (Self::ExtensionQuoted, b'\\') => Self::ExtensionEscape,
            (Self::ExtensionQuoted | Self::ExtensionEscape, b'\t' | b' '..=b'~' | 0x80..) => {
                Self::ExtensionQuoted
            }
            (Self::ExtensionStart | Self::ExtensionValueStart, _) if is_gap => self,
            (Self::ExtensionStart | Self::ExtensionName, _) if is_token(byte) => {
                Self::ExtensionName
            }
            (Self::ExtensionName | Self::ExtensionNameGap, _) if is_gap => Self::ExtensionNameGap,
            (Self::ExtensionName | Self::ExtensionNameGap, b'=') => Self::ExtensionValueStart,
            (Self::ExtensionValueStart, b'"') => Self::ExtensionQuoted,
            (Self::ExtensionValueStart | Self::ExtensionValue, _) if is_token(byte) => {
                Self::ExtensionValue
            }
            (Self::ExtensionValue | Self::ExtensionQuotedEnd | Self::ExtensionGap, _) if is_gap => {
                Self::ExtensionGap
            }
            (
                Self::ExtensionName
                | Self::ExtensionNameGap
                | Self::ExtensionValue
                | Self::ExtensionQuotedEnd
                | Self::ExtensionGap,
                b';',
            ) => Self::ExtensionStart,
            _ => return None,
        })
    }
}

/// The state of one chunked body.
#[derive(Debug)]
pub struct ChunkedDecoder {
    state: ChunkState,
    /// The size of the chunk while it is parsed, then the bytes of it that have not arrived.
    remaining: usize,
    overhead_bytes: usize,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self { state: ChunkState::Size { digits: 0 }, remaining: 0, overhead_bytes: 0 }
    }
}

impl ChunkedDecoder {
    /// Decodes the front of `input`, and appends data to `body`; returns the length of that front. It is
    /// shorter than `input` only when the body is complete.
    ///
    /// # Errors
    /// [`RequestError::Chunk`] when the framing is invalid, [`RequestError::BodyTooLarge`] when `body`
    /// would exceed `body_bytes_max`.
    pub fn feed(
        &mut self,
        input: &[u8],
        body: &mut Vec<u8>,
        body_bytes_max: usize,
    ) -> Result<usize, RequestError> {
        let mut position = 0;
        while position < input.len() && self.state != ChunkState::Done {
            if self.state == ChunkState::Data {
                let length = self.remaining.min(input.len() - position);
                reserve_within(body, length, body_bytes_max);
                body.extend_from_slice(&input[position..position + length]);
                position += length;
                self.remaining -= length;
                if self.remaining == 0 {
                    self.state = ChunkState::DataReturn;
                }
                continue;
            }
            self.step(input[position])?;
            position += 1;
            if self.state == ChunkState::Data && body.len() + self.remaining > body_bytes_max {
                return Err(RequestError::BodyTooLarge);
            }
        }
        Ok(position)
    }

    /// True once the last chunk and the trailers have been decoded.
    pub fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }

    fn step(&mut self, byte: u8) -> Result<(), RequestError> {
        self.state = match (self.state, byte) {
            (ChunkState::Size { digits }, _)
                if byte.is_ascii_hexdigit() && digits < SIZE_DIGITS_MAX =>
            {
                let digit = (byte as char).to_digit(16).ok_or(RequestError::Chunk)?;
                self.remaining = (self.remaining << 4) | digit as usize;
                ChunkState::Size { digits: digits + 1 }
            }
            (ChunkState::Size { digits: 1.. }, b'\r') => ChunkState::SizeLineFeed,
            (ChunkState::Size { digits: 1.. }, b';') => ChunkState::ExtensionStart,
            (ChunkState::Size { digits: 1.. }, b' ' | b'\t') => ChunkState::ExtensionGap,
            (ChunkState::ExtensionName, b'\r')
            | (ChunkState::ExtensionValue, b'\r')
            | (ChunkState::ExtensionQuotedEnd, b'\r') => ChunkState::SizeLineFeed,
            (state, _) if state.is_extension() => {
                self.count_overhead()?;
                state.next_of_extension(byte).ok_or(RequestError::Chunk)?
            }
            (ChunkState::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count_overhead()?;
                self.state
            }
            (ChunkState::SizeLineFeed, b'\n') if self.remaining == 0 => ChunkState::TrailerStart,
            (ChunkState::SizeLineFeed, b'\n') => ChunkState::Data,
            (ChunkState::DataReturn, b'\r') => ChunkState::DataLineFeed,
            (ChunkState::DataLineFeed, b'\n') => ChunkState::Size { digits: 0 },
            (ChunkState::TrailerStart, b'\r') => ChunkState::EndLineFeed,
            (ChunkState::TrailerStart | ChunkState::TrailerName, _) if is_token(byte) => {
                self.count_overhead()?;
                ChunkState::TrailerName
            }
            (ChunkState::TrailerName, b':') => ChunkState::TrailerValue,
            (ChunkState::TrailerValue, b'\r') => ChunkState::TrailerLineFeed,
            (ChunkState::TrailerLineFeed, b'\n') => ChunkState::TrailerStart,
            (ChunkState::EndLineFeed, b'\n') => ChunkState::Done,
            _ => return Err(RequestError::Chunk),
        };
        Ok(())
    }

    fn count_overhead(&mut self) -> Result<(), RequestError> {
        self.overhead_bytes += 1;
        if self.overhead_bytes > OVERHEAD_BYTES_MAX { Err(RequestError::Chunk) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"5\r\nhello\r\n6;a=\"b\"\r\n world\r\n0\r\nDigest: x\r\n\r\n";

    fn whole(input: &[u8]) -> Result<(usize, Vec<u8>, bool), RequestError> {
        let (mut chunked, mut body) = (ChunkedDecoder::default(), Vec::new());
        let taken = chunked.feed(input, &mut body, 100)?;
        Ok((taken, body, chunked.is_done()))
    }

    #[test]
    fn every_split_gives_the_same_body() {
        let mut next = GOOD.to_vec();
        next.extend_from_slice(b"GET /");
        assert_eq!(whole(&next), Ok((GOOD.len(), b"hello world".to_vec(), true)));
        for split in 0..GOOD.len() {
            let (mut chunked, mut body) = (ChunkedDecoder::default(), Vec::new());
            assert_eq!(chunked.feed(&GOOD[..split], &mut body, 100), Ok(split));
            assert!(!chunked.is_done());
            assert_eq!(chunked.feed(&GOOD[split..], &mut body, 100), Ok(GOOD.len() - split));
            assert!(chunked.is_done());
            assert_eq!(body, b"hello world");
        }
    }

    #[test]
    fn invalid_framing_is_refused() {
        for input in [
            &b"\r\n"[..],
            b"-1\r\n",
            b"0x1\r\n",
            b" 1\r\na",
            b"1 \r\na",
            b"1\na\r\n",
            b"1\r\nab\r\n",
            b"1\r\na\n",
            b"1;a\nb\r\n",
            b"1;a\rb\r\n",
            b"1;\r\na",
            b"1;a=\r\na",
            b"1;a \r\na",
            b"1;a=b c\r\na",
            b"1;a=\"b\r\na",
            b"1;a=\"b\"c\r\na",
            b"1;a=\"b\\\r\n",
            b"1;=b\r\na",
            b"123456789\r\n",
            b"0\r\nbad trailer\r\n\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\n\n",
        ] {
            assert_eq!(
                whole(input),
                Err(RequestError::Chunk),
                "{:?}",
                String::from_utf8_lossy(input)
            );
        }
        assert_eq!(whole(b"65\r\n"), Err(RequestError::BodyTooLarge));
        assert!(whole(b"64\r\n").is_ok());
    }

    #[test]
    fn extensions_follow_their_grammar() {
        for extension in [
            ";a",
            ";a=b",
            " ;a",
            "\t ; a \t=  b ;c",
            ";a=\"\"",
            ";a=\"q;\\\"r\u{e9}\t\" ;b=c",
            ";a;b;c=d",
        ] {
            let input = format!("1{extension}\r\nx\r\n0{extension}\r\n\r\n");
            let expected = Ok((input.len(), b"x".to_vec(), true));
            assert_eq!(whole(input.as_bytes()), expected, "{extension}");
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let at_most = "a".repeat(OVERHEAD_BYTES_MAX);
        for (before, after) in [("1;", "\r\nx\r\n0\r\n\r\n"), ("1\r\nx\r\n0\r\n", ":\r\n\r\n")] {
            let input = format!("{before}{at_most}{after}");
            assert_eq!(whole(input.as_bytes()), Ok((input.len(), b"x".to_vec(), true)));
            let input = format!("{before}a{at_most}{after}");
            assert_eq!(whole(input.as_bytes()), Err(RequestError::Chunk));
        }
    }
}
