//! Chunked bodies (RFC 9112 section 7.1), taken apart as they arrive.
//!
//! Strict: no white space around sizes, no bare CR or LF anywhere. Extensions and trailers are
//! checked and dropped. Each byte is looked at once; only data is kept.

use super::head::Refusal;

/// Bytes of all extensions, or of all trailers, of one body: nobody needs more, and it is work unpaid.
const OVERHEAD_BYTES_MAX: usize = 16 * 1024;

/// Hex digits of a chunk size: 2^32 is far beyond any body limit.
const SIZE_DIGITS_MAX: u8 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size { digits: u8 },
    Extension,
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

/// One chunked body on its way.
#[derive(Debug)]
pub struct Chunked {
    state: State,
    /// Of the present chunk: its size while it is read, then what is missing of it.
    remaining: usize,
    overhead_bytes: usize,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { state: State::Size { digits: 0 }, remaining: 0, overhead_bytes: 0 }
    }
}

impl Chunked {
    /// Takes bytes off the front of `input`, adds data to `body`; returns how many were taken.
    /// Fewer than all are taken only when the body is complete.
    ///
    /// # Errors
    /// [`Refusal::Chunk`] when the framing is broken, [`Refusal::BodyTooLarge`] when `body` would
    /// outgrow `body_bytes_max`.
    pub fn feed(
        &mut self,
        input: &[u8],
        body: &mut Vec<u8>,
        body_bytes_max: usize,
    ) -> Result<usize, Refusal> {
        let mut position = 0;
        while position < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let length = self.remaining.min(input.len() - position);
                body.extend_from_slice(&input[position..position + length]);
                position += length;
                self.remaining -= length;
                if self.remaining == 0 {
                    self.state = State::DataReturn;
                }
                continue;
            }
            self.step(input[position])?;
            position += 1;
            if self.state == State::Data && body.len() + self.remaining > body_bytes_max {
                return Err(Refusal::BodyTooLarge);
            }
        }
        Ok(position)
    }

    /// True once the last chunk and the trailers were read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn step(&mut self, byte: u8) -> Result<(), Refusal> {
        self.state = match (self.state, byte) {
            (State::Size { digits }, _) if byte.is_ascii_hexdigit() && digits < SIZE_DIGITS_MAX => {
                let digit = (byte as char).to_digit(16).ok_or(Refusal::Chunk)?;
                self.remaining = (self.remaining << 4) | digit as usize;
                State::Size { digits: digits + 1 }
            }
            (State::Size { digits: 1.. }, b'\r') | (State::Extension, b'\r') => State::SizeLineFeed,
            (State::Size { digits: 1.. }, b';') => State::Extension,
            (State::Extension | State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count_overhead()?;
                self.state
            }
            (State::SizeLineFeed, b'\n') if self.remaining == 0 => State::TrailerStart,
            (State::SizeLineFeed, b'\n') => State::Data,
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Size { digits: 0 },
            (State::TrailerStart, b'\r') => State::EndLineFeed,
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => {
                self.count_overhead()?;
                State::TrailerName
            }
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLineFeed,
            (State::TrailerLineFeed, b'\n') => State::TrailerStart,
            (State::EndLineFeed, b'\n') => State::Done,
            _ => return Err(Refusal::Chunk),
        };
        Ok(())
    }

    fn count_overhead(&mut self) -> Result<(), Refusal> {
        self.overhead_bytes += 1;
        if self.overhead_bytes > OVERHEAD_BYTES_MAX { Err(Refusal::Chunk) } else { Ok(()) }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"5\r\nhello\r\n6;a=\"b\"\r\n world\r\n0\r\nDigest: x\r\n\r\n";

    fn whole(input: &[u8]) -> Result<(usize, Vec<u8>, bool), Refusal> {
        let (mut chunked, mut body) = (Chunked::default(), Vec::new());
        let taken = chunked.feed(input, &mut body, 100)?;
        Ok((taken, body, chunked.is_done()))
    }

    #[test]
    fn every_split_gives_the_same_body() {
        let mut next = GOOD.to_vec();
        next.extend_from_slice(b"GET /");
        assert_eq!(whole(&next), Ok((GOOD.len(), b"hello world".to_vec(), true)));
        for split in 0..GOOD.len() {
            let (mut chunked, mut body) = (Chunked::default(), Vec::new());
            assert_eq!(chunked.feed(&GOOD[..split], &mut body, 100), Ok(split));
            assert!(!chunked.is_done());
            assert_eq!(chunked.feed(&GOOD[split..], &mut body, 100), Ok(GOOD.len() - split));
            assert!(chunked.is_done());
            assert_eq!(body, b"hello world");
        }
    }

    #[test]
    fn broken_framing_is_refused() {
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
            b"123456789\r\n",
            b"0\r\nbad trailer\r\n\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\n\n",
        ] {
            assert_eq!(whole(input), Err(Refusal::Chunk), "{:?}", String::from_utf8_lossy(input));
        }
        assert_eq!(whole(b"65\r\n"), Err(Refusal::BodyTooLarge));
        assert!(whole(b"64\r\n").is_ok());
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let mut input = b"1;".to_vec();
        input.resize(OVERHEAD_BYTES_MAX + 3, b'a');
        assert_eq!(whole(&input), Err(Refusal::Chunk));
    }
}
