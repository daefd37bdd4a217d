//! A cache of one parsed head.
//!
//! A client usually repeats one head, and parsing it costs more than parsing a usual body. Each worker
//! caches one valid head: its bytes, and the position of each part in them. The result of
//! [`head::parse`](super::head::parse) depends only on the bytes and on a constant limit, so equal
//! bytes have an equal result. No rule of HTTP is decided here.

use std::ops::Range;

use httparse::Header;

use super::head::{BodyFraming, Head};
use super::message::{Headers, Method};

/// A longer head is not cached: its cookies or proxy fields differ from request to request.
const BYTES_MAX: usize = 1024;
/// A head with more fields is not cached: each lookup clears this many.
pub const FIELDS_MAX: usize = 12;
/// Room for the fields of a cached head.
pub const EMPTY_FIELDS: [Header<'static>; FIELDS_MAX] = [httparse::EMPTY_HEADER; FIELDS_MAX];
/// One of this many misses replaces the cached head, so that the cost is small where heads differ.
const MISSES_PER_REPLACEMENT: u32 = 16;

/// A part of the head, by its position.
#[derive(Clone, Copy, Debug, Default)]
struct ByteSpan {
    start: u16,
    end: u16,
}

impl ByteSpan {
    /// None when `part` does not lie in `whole`.
    fn of(part: &[u8], whole: &[u8]) -> Option<Self> {
        if part.is_empty() {
            return Some(Self::default());
        }
        let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
        let end = start + part.len();
        (end <= whole.len()).then_some(Self { start: start as u16, end: end as u16 })
    }

    fn range(self) -> Range<usize> {
        usize::from(self.start)..usize::from(self.end)
    }
}
const _: () = assert!(BYTES_MAX <= u16::MAX as usize);

/// A head, its bytes, and what follows them.
pub type SplitHead<'h, 'b> = (Head<'h, 'b>, &'b [u8], &'b mut [u8]);

/// One valid head; none at first.
#[derive(Debug)]
pub struct HeadCache {
    bytes: Vec<u8>,
    method: Method,
    path: ByteSpan,
    query: ByteSpan,
    fields: [(ByteSpan, ByteSpan); FIELDS_MAX],
    field_count: usize,
    framing: BodyFraming,
    keep_alive: bool,
    is_http10: bool,
    expects_continue: bool,
    content_encoding: Option<ByteSpan>,
    misses: u32,
}

impl Default for HeadCache {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            method: Method::Other,
            path: ByteSpan::default(),
            query: ByteSpan::default(),
            fields: [(ByteSpan::default(), ByteSpan::default()); FIELDS_MAX],
            field_count: 0,
            framing: BodyFraming::Length(0),
            keep_alive: false,
            is_http10: false,
            expects_continue: false,
            content_encoding: None,
            misses: 0,
        }
    }
}

impl HeadCache {
    /// The cached head with its bytes, and what follows them.
    ///
    /// # Errors
    /// Returns `data` when it does not start with that head.
    #[inline]
    pub fn split<'h, 'b>(
        &self,
        data: &'b mut [u8],
        fields: &'h mut [Header<'b>; FIELDS_MAX],
    ) -> Result<SplitHead<'h, 'b>, &'b mut [u8]> {
        if self.bytes.is_empty() || !data.starts_with(&self.bytes) {
            return Err(data);
        }
        let (bytes, rest) = data.split_at_mut(self.bytes.len());
        let bytes = &*bytes;
        // SAFETY: they equal the cached bytes, and `replace` takes only ASCII. To check that again costs as much as
        // six such comparisons.
        let text = unsafe { str::from_utf8_unchecked(bytes) };
        let fields = &mut fields[..self.field_count];
        for (field, (name, value)) in fields.iter_mut().zip(&self.fields) {
            *field = Header { name: &text[name.range()], value: &bytes[value.range()] };
        }
        let head = Head {
            method: self.method,
            path: &text[self.path.range()],
            query: &text[self.query.range()],
            headers: Headers(fields),
            framing: self.framing,
            keep_alive: self.keep_alive,
            is_http10: self.is_http10,
            expects_continue: self.expects_continue,
            content_encoding: self.content_encoding.map(|span| &bytes[span.range()]),
        };
        Ok((head, bytes, rest))
    }

    /// Takes note of a miss: caches the head if it is the turn of one.
    #[inline]
    pub fn insert(&mut self, bytes: &[u8], head: &Head<'_, '_>) {
        if self.misses.is_multiple_of(MISSES_PER_REPLACEMENT) {
            self.replace(bytes, head);
        }
        self.misses = self.misses.wrapping_add(1);
    }

    /// Caches the head, unless it is unusual.
    #[cold]
    fn replace(&mut self, bytes: &[u8], head: &Head<'_, '_>) -> Option<()> {
        // A secret must be compared in constant time, which `find` does not do.
        let has_secret = head.headers.get("authorization").is_some();
        let is_large = bytes.len() > BYTES_MAX || head.headers.0.len() > FIELDS_MAX;
        if has_secret || is_large || !bytes.is_ascii() {
            return None;
        }
        let (path, query) = (head.path.as_bytes(), head.query.as_bytes());
        let (path, query) = (ByteSpan::of(path, bytes)?, ByteSpan::of(query, bytes)?);
        let mut fields = [(ByteSpan::default(), ByteSpan::default()); FIELDS_MAX];
        for (spans, field) in fields.iter_mut().zip(head.headers.0) {
            *spans =
                (ByteSpan::of(field.name.as_bytes(), bytes)?, ByteSpan::of(field.value, bytes)?);
        }
        let content_encoding = match head.content_encoding {
            Some(value) => Some(ByteSpan::of(value, bytes)?),
            None => None,
        };
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        *self = Self {
            bytes: std::mem::take(&mut self.bytes),
            method: head.method,
            path,
            query,
            fields,
            field_count: head.headers.0.len(),
            framing: head.framing,
            keep_alive: head.keep_alive,
            is_http10: head.is_http10,
            expects_continue: head.expects_continue,
            content_encoding,
            misses: self.misses,
        };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::{EMPTY_SLOTS, HeadSearch, find_end, parse};
    use super::*;

    const HEADS: [&str; 9] = [
        "POST /ingest?a=1 HTTP/1.1\r\nHost: x:80\r\nContent-Length: 47\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
        "GET /stats? HTTP/1.1\r\nHost: x\r\nConnection: te, close\r\n\r\n",
        "GET http://a.b:1/stats?x HTTP/1.1\r\nHost: c\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 7\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 7\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: Chunked\r\n\r\n",
        "OPTIONS /a HTTP/1.1\r\nHost: c\r\nA: \r\nB:b\r\n\r\n",
    ];

    fn finds(cache: &HeadCache, data: &[u8]) -> bool {
        cache.split(&mut data.to_vec(), &mut EMPTY_FIELDS.clone()).is_ok()
    }

    /// Parses a head and offers it to the cache.
    fn read(cache: &mut HeadCache, data: &[u8]) -> String {
        let length =
            find_end(data, &mut HeadSearch::default(), 16_384).expect("valid").expect("whole");
        let mut slots = EMPTY_SLOTS;
        let head = parse(&data[..length], &mut slots, 1_000).expect("valid");
        cache.insert(&data[..length], &head);
        format!("{head:?}")
    }

    #[test]
    fn a_cached_head_equals_the_parsed_one() {
        for text in HEADS {
            let mut cache = HeadCache::default();
            assert!(!finds(&cache, text.as_bytes()));
            let expected = read(&mut cache, text.as_bytes());
            // The same bytes at another address, followed by a body.
            let mut again = format!("{text}{{}}").into_bytes();
            let mut fields: [Header<'_>; _] = EMPTY_FIELDS;
            let (head, bytes, rest) = cache.split(&mut again, &mut fields).expect("cached");
            assert_eq!(format!("{head:?}"), expected);
            assert_eq!((bytes, &*rest), (text.as_bytes(), &b"{}"[..]));
            for end in 0..text.len() {
                assert!(!finds(&cache, &text.as_bytes()[..end]), "{end} of {text}");
                let mut other = text.as_bytes().to_vec();
                other[end] ^= 1;
                assert!(!finds(&cache, &other), "{end} of {text}");
            }
        }
    }

    #[test]
    fn one_miss_in_sixteen_replaces_the_head() {
        let mut cache = HeadCache::default();
        read(&mut cache, HEADS[0].as_bytes());
        for _ in 1..MISSES_PER_REPLACEMENT {
            read(&mut cache, HEADS[3].as_bytes());
            assert!(finds(&cache, HEADS[0].as_bytes()));
        }
        read(&mut cache, HEADS[3].as_bytes());
        assert!(finds(&cache, HEADS[3].as_bytes()));
    }

    #[test]
    fn unusual_heads_are_not_cached() {
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_MAX));
        let long = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(BYTES_MAX));
        let unwritten = "GET http://a.b?x HTTP/1.1\r\nHost: c\r\n\r\n".to_owned();
        let latin = "GET / HTTP/1.1\r\nHost: x\r\nA: é\r\n\r\n".to_owned();
        let secret = "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s\r\n\r\n".to_owned();
        for text in [many, long, unwritten, latin, secret] {
            let mut cache = HeadCache::default();
            read(&mut cache, text.as_bytes());
            assert!(!finds(&cache, text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_head_of_as_many_fields_or_bytes_as_fit_is_cached() {
        let host = "GET / HTTP/1.1\r\nHost: x\r\n";
        let many = format!("{host}{}\r\n", "A: b\r\n".repeat(FIELDS_MAX - 1));
        let value = "a".repeat(BYTES_MAX - host.len() - "A: \r\n\r\n".len());
        let long = format!("{host}A: {value}\r\n\r\n");
        assert_eq!(long.len(), BYTES_MAX);
        for text in [many, long] {
            let mut cache = HeadCache::default();
            read(&mut cache, text.as_bytes());
            assert!(finds(&cache, text.as_bytes()), "{text}");
        }
    }
}
