//! Replies of Redis in the bytes of a connection. No I/O of its own, no clock.
//!
//! The end of a reply is found before it is parsed. So a reply past a bound is refused by its announced length,
//! before memory is taken for it.

use std::io::{self, ErrorKind, Read};

use redis::RedisResult;

use super::reply::{self, Reply, ReplyStrings};

/// The counts of a fleet with 65,536 metrics in five replicas take about 20 MB; no other reply is as large.
pub const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Values in one reply: those counts are 655,360 names and numbers.
pub const REPLY_VALUES_MAX: usize = 1 << 20;
/// A line holds a number, a status or an error. Redis repeats at most some hundred bytes of a command in one.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one read: the replies to a batch.
const READ_BYTES: usize = 64 * 1024;
/// A buffer that has grown past it is given back once it is empty.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// Bytes that were read and not yet returned as replies.
#[derive(Debug, Default)]
pub struct ReplyBuffer {
    bytes: Vec<u8>,
    /// Where the next reply begins.
    begin: usize,
    scan: ReplyScan,
}

/// How much of a reply is scanned.
#[derive(Debug)]
struct ReplyScan {
    /// Bytes of the reply up to the next value in it.
    at: usize,
    /// Values that are still to come.
    missing: usize,
    /// Values so far and to come.
    values: usize,
    /// Where the strings begin, as long as the reply is an array of strings alone.
    strings_from: Option<usize>,
}

impl Default for ReplyScan {
    fn default() -> Self {
        Self { at: 0, missing: 1, values: 1, strings_from: None }
    }
}

impl ReplyBuffer {
    /// Reads once.
    ///
    /// # Errors
    /// When the read fails, or when the other side has closed the connection.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<()> {
        self.bytes.drain(..std::mem::take(&mut self.begin));
        if self.bytes.is_empty() {
            self.bytes.shrink_to(KEPT_BYTES_MAX);
        }
        let len = self.bytes.len();
        self.bytes.resize(len + READ_BYTES, 0);
        let read = from.read(&mut self.bytes[len..]);
        self.bytes.truncate(len + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next reply; None while it is incomplete.
    ///
    /// # Errors
    /// When it is past a bound, or no reply of Redis. The buffer is not used again.
    pub fn next(&mut self) -> RedisResult<Option<Reply>> {
        let bytes = &self.bytes[self.begin..];
        let Some(len) = self.scan.end(bytes)? else { return Ok(None) };
        let (bytes, scan) = (&bytes[..len], std::mem::take(&mut self.scan));
        let reply = match scan.strings_from {
            Some(from) => Reply::Strings(ReplyStrings::new(&bytes[from..], scan.values - 1)),
            None => Reply::Value(match reply::value(bytes) {
                Some(value) => value,
                None => redis::parse_redis_value(bytes)?,
            }),
        };
        self.begin += len;
        Ok(Some(reply))
    }
}

impl ReplyScan {
    /// The length of the reply at the start of `bytes`; None while it is incomplete.
    fn end(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        while self.missing > 0 {
            let rest = &bytes[self.at..];
            let line = &rest[..rest.len().min(LINE_BYTES_MAX)];
            let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
                if rest.first().is_some_and(|kind| !b"+-:$*".contains(kind)) {
                    return Err(foreign(rest));
                }
                let is_short = rest.len() < LINE_BYTES_MAX;
                return if is_short { Ok(None) } else { Err(refused("has an endless line")) };
            };
            let (mut len, mut inner) = (end + 2, 0);
            match rest[0] {
                b'+' | b'-' | b':' => self.strings_from = None,
                b'$' => match length(&line[1..end])? {
                    Some(bytes) => len = len.saturating_add(bytes).saturating_add(2),
                    None => self.strings_from = None,
                },
                b'*' => {
                    let count = length(&line[1..end])?;
                    self.strings_from = count.filter(|_| self.at == 0).map(|_| len);
                    inner = count.unwrap_or(0);
                }
                _ => return Err(foreign(rest)),
            }
            self.values = self.values.saturating_add(inner);
            if self.values > REPLY_VALUES_MAX {
                return Err(refused("has too many values"));
            }
            if self.at.saturating_add(len) > REPLY_BYTES_MAX {
                return Err(refused("is too long"));
            }
            if rest.len() < len {
                return Ok(None);
            }
            if !rest[..len].ends_with(b"\r\n") {
                return Err(refused("has a string without its end"));
            }
            self.at += len;
            self.missing += inner;
            self.missing -= 1;
        }
        Ok(Some(self.at))
    }
}

/// An announced length; None for -1, which stands for nil.
fn length(digits: &[u8]) -> io::Result<Option<usize>> {
    if digits == b"-1" {
        return Ok(None);
    }
    match reply::digits(digits) {
        Some((length, [])) => Ok(Some(length)),
        _ => Err(refused("has no valid length")),
    }
}

fn refused(reason: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("a reply of Redis {reason}"))
}

/// What answers is not Redis.
fn foreign(bytes: &[u8]) -> io::Error {
    let message = match bytes {
        // Some answer a request without a version with the page alone, as to a client of HTTP/0.9.
        [b'H', b'T', b'T', b'P', ..] | [b'<', ..] => {
            "an HTTP server answers at this address, and no Redis"
        }
        [0x15 | 0x16, 0x03, ..] => "the other side speaks TLS: use rediss:// instead of redis://",
        _ => "what answers at this address is no Redis",
    };
    io::Error::new(ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis::Value;

    use super::*;

    /// All replies in bytes that come in pieces of that length.
    fn replies(bytes: &[u8], piece: usize) -> RedisResult<Vec<Reply>> {
        let mut buffer = ReplyBuffer::default();
        let mut replies = Vec::new();
        for piece in bytes.chunks(piece) {
            buffer.fill(&mut &*piece)?;
            while let Some(reply) = buffer.next()? {
                replies.push(reply);
            }
        }
        assert_eq!(buffer.begin, buffer.bytes.len(), "{buffer:?}");
        Ok(replies)
    }

    #[test]
    fn replies_are_found_wherever_the_bytes_are_cut() {
        let bytes = b"+OK\r\n:-7\r\n$5\r\na\r\nb\0\r\n$-1\r\n*-1\r\n*0\r\n-ERR no\r\n\
            *3\r\n*2\r\n+a\r\n*1\r\n:1\r\n$0\r\n\r\n-WRONGTYPE x\r\n+PONG\r\n";
        let whole = replies(bytes, bytes.len()).expect("replies");
        let values = [Value::Okay, Value::Int(-7), Value::BulkString(b"a\r\nb\0".to_vec())];
        assert_eq!((whole.len(), &whole[..3]), (9, &values.map(Reply::Value)[..]));
        for piece in 1..bytes.len() {
            assert_eq!(replies(bytes, piece).expect("replies"), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn a_reply_past_a_bound_is_refused_before_memory_is_taken() {
        let nested = b"*1000\r\n".repeat(1_100);
        let endless = [&b"+"[..], &[b'a'; LINE_BYTES_MAX]].concat();
        for bytes in [
            &b"$2147483647\r\n"[..],
            b"$18446744073709551615\r\n",
            b"*1000000000\r\n",
            b"*18446744073709551615\r\n",
            b"*2\r\n+a\r\n$2147483647\r\n",
            b"$-2\r\n",
            b"*x\r\n",
            &nested,
            &endless,
        ] {
            let mut buffer = ReplyBuffer::default();
            let mut rest = bytes;
            let error = loop {
                buffer.fill(&mut rest).expect("bytes");
                if let Err(error) = buffer.next() {
                    break error;
                }
            };
            assert!(error.to_string().contains("a reply of Redis"), "{error}");
            assert!(buffer.bytes.capacity() <= 4 * READ_BYTES);
        }
    }

    #[test]
    fn what_is_no_redis_is_named() {
        for (bytes, named) in [
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "HTTP server"),
            (b"<!DOCTYPE HTML>\r\n", "HTTP server"),
            (b"\x15\x03\x03\x00\x02\x02\x46", "rediss://"),
            (b"SSH-2.0-OpenSSH_9.6\r\n", "no Redis"),
        ] {
            let error = replies(bytes, bytes.len()).expect_err("no replies");
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    proptest! {
        #[test]
        fn arrays_of_strings_are_those_of_the_crate(
            texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..20),
            is_nil in any::<bool>(),
            cut in 0..600_usize,
            foreign in any::<u8>(),
        ) {
            let mut bytes = format!("*{}\r\n", texts.len() + usize::from(is_nil)).into_bytes();
            for text in &texts {
                bytes.extend(format!("${}\r\n", text.len()).bytes());
                bytes.extend(text.iter().chain(b"\r\n"));
            }
            if is_nil {
                bytes.extend(b"$-1\r\n");
            }
            let found = replies(&bytes, bytes.len()).expect("a reply").remove(0);
            prop_assert_eq!(matches!(found, Reply::Strings(_)), !is_nil);
            if let Reply::Strings(strings) = &found {
                prop_assert!(strings.iter().eq(&texts));
                prop_assert_eq!((strings.len(), strings.is_empty()), (texts.len(), texts.is_empty()));
            }
            prop_assert_eq!(Some(found.into_value()), redis::parse_redis_value(&bytes).ok());
            // A damaged one is what the crate says, or is refused.
            let at = cut % bytes.len();
            bytes[at] = foreign;
            let mut buffer = ReplyBuffer::default();
            buffer.fill(&mut &bytes[..]).expect("bytes");
            if let Ok(Some(found)) = buffer.next() {
                let whole = &bytes[..buffer.begin];
                prop_assert_eq!(Some(found.into_value()), redis::parse_redis_value(whole).ok());
            }
        }

        #[test]
        fn any_bytes_are_replies_or_an_error(
            bytes in proptest::collection::vec(proptest::sample::select(b"+-:$*019\r\nab".to_vec()), 1..200),
            piece in 1..20_usize,
        ) {
            let mut buffer = ReplyBuffer::default();
            for piece in bytes.chunks(piece) {
                buffer.fill(&mut &*piece).expect("bytes");
                loop {
                    match buffer.next() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
            }
        }
    }
}
