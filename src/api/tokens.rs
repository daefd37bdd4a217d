//! Tokens for ingest, for reads and for `/debug/`.
//!
//! A token is presented as `Authorization: Bearer`. Senders of other formats may present theirs as `Token` or as the
//! password of `Basic`, which is what their agents can be set to.
//!
//! A comparison takes constant time: every presented token is compared over the whole padded length,
//! word by word.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::{Choice, ConstantTimeEq};

use crate::http::message::{Headers, Request};

/// Secrets are padded to a multiple of it, so that the time of a comparison hides their length.
const PADDED_WORDS: usize = 8;

/// One secret. Prints as `set`.
#[derive(Clone)]
pub struct BearerToken {
    words: Box<[u64]>,
    length: usize,
}

/// Required tokens; None requires no token.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// For requests that bring samples.
    pub ingest: Option<BearerToken>,
    /// For GET requests that return data of samples.
    pub read: Option<BearerToken>,
    /// For `/debug/`. None admits local requests.
    pub debug: Option<BearerToken>,
    /// For what changes incidents, silences and devices. None admits local requests.
    pub operator: Option<BearerToken>,
}

/// Why a request is not authorized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no token.
    Missing,
    /// The token is another one.
    Wrong,
    /// Another one again, after many of the same address.
    Throttled,
    /// The request is not local, and no token is configured.
    Remote,
    /// The request is of the page of another site.
    ForeignOrigin,
}

impl BearerToken {
    /// A token that is exactly `secret`, which must not be empty.
    pub fn new(secret: &str) -> Self {
        assert!(!secret.is_empty(), "an empty token authorizes everyone");
        let bytes = secret.as_bytes();
        let words = bytes.len().div_ceil(8).next_multiple_of(PADDED_WORDS);
        Self { words: (0..words).map(|at| word(bytes, at)).collect(), length: bytes.len() }
    }

    /// Checks a token that is presented in a way of its own.
    pub fn check(&self, presented: &[u8]) -> Result<(), Denied> {
        if self.matches(presented) { Ok(()) } else { Err(Denied::Wrong) }
    }

    fn matches(&self, presented: &[u8]) -> bool {
        let mut is_same: Choice = (self.length as u64).ct_eq(&(presented.len() as u64));
        for (at, secret) in self.words.iter().enumerate() {
            is_same &= secret.ct_eq(&word(presented, at));
        }
        is_same.into()
    }
}

/// The bytes of one word, zero past the end.
fn word(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at * 8..).unwrap_or_default();
    let mut word = [0; 8];
    let length = rest.len().min(8);
    word[..length].copy_from_slice(&rest[..length]);
    u64::from_ne_bytes(word)
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("set")
    }
}

/// Checks that the request presents `token`, if there is one.
#[inline]
pub fn check(token: Option<&BearerToken>, headers: &Headers<'_>) -> Result<(), Denied> {
    let Some(token) = token else { return Ok(()) };
    token.check(headers.get("authorization").and_then(bearer).ok_or(Denied::Missing)?)
}

/// Checks that a sender presents `token`, if there is one: as a bearer token, as `Token`, or as a password.
#[inline]
pub fn check_sender(token: Option<&BearerToken>, headers: &Headers<'_>) -> Result<(), Denied> {
    let Some(token) = token else { return Ok(()) };
    token.check(&headers.get("authorization").and_then(sender).ok_or(Denied::Missing)?)
}

/// Fields that a proxy adds: the client of such a request is not the peer of its connection.
const PROXY_FIELDS: [&str; 9] = [
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "via",
    "x-forwarded-proto",
    "x-forwarded-host",
    "cf-connecting-ip",
    "true-client-ip",
    "x-envoy-external-address",
];

/// Checks a request to `/debug/`. A configured `token` is required of everyone; without one the request must be local,
/// and of no page.
pub fn check_debug(token: Option<&BearerToken>, request: &Request<'_>) -> Result<(), Denied> {
    match token {
        Some(token) => check(Some(token), &request.headers),
        None if is_local(request) && request.headers.get("origin").is_none() => Ok(()),
        None => Err(Denied::Remote),
    }
}

/// Checks a request that only an operator may send: as [`check_debug`], but our own page may send it too. A page of
/// another site may not, whatever it presents.
pub fn check_operator(token: Option<&BearerToken>, request: &Request<'_>) -> Result<(), Denied> {
    if !is_of_own_origin(&request.headers) {
        return Err(Denied::ForeignOrigin);
    }
    match token {
        Some(token) => check(Some(token), &request.headers),
        None if is_local(request) => Ok(()),
        None => Err(Denied::Remote),
    }
}

/// True when a request is of no page, or of one that has the Host of the request (Fetch, section 3.2: an origin is
/// scheme, host, and port).
fn is_of_own_origin(headers: &Headers<'_>) -> bool {
    let Some(origin) = headers.get("origin") else { return true };
    let scheme_end = origin.windows(3).position(|part| part == b"://");
    let authority = scheme_end.map(|end| &origin[end + 3..]);
    authority.zip(headers.get("host")).is_some_and(|(one, host)| one.eq_ignore_ascii_case(host))
}

/// True when the request was made on this machine, and not by a proxy or by a page of another site that names itself.
///
/// A proxy on this machine is a local client too, by TCP or by a Unix socket. It shows by what it adds, by the name that its clients use, or
/// by HTTP/1.0, which nginx speaks unless told otherwise.
fn is_local(request: &Request<'_>) -> bool {
    let field = |name| request.headers.get(name);
    let is_proxied = request.is_http10 || PROXY_FIELDS.iter().any(|name| field(name).is_some());
    let is_of_another_site =
        field("sec-fetch-site").is_some_and(|site| site != b"none" && site != b"same-origin");
    request.client.is_local()
        && field("host").is_some_and(names_loopback)
        && !is_proxied
        && !is_of_another_site
}

/// True when a Host field names this machine, with or without a port. A name that DNS resolves to a loopback address
/// does not count: any site can have one.
fn names_loopback(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let (name, port) = match host.rfind(':').filter(|_| !host.ends_with(']')) {
        Some(colon) => host.split_at(colon),
        None => (host, ""),
    };
    let is_loopback = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback()),
        None => {
            name.eq_ignore_ascii_case("localhost")
                || name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
        }
    };
    is_loopback && port.bytes().skip(1).all(|byte| byte.is_ascii_digit())
}

/// The text after the scheme `Bearer`.
fn bearer(field: &[u8]) -> Option<&[u8]> {
    after_scheme(field, b"Bearer ")
}

/// The text after a scheme and its space. Its name may be in any case (RFC 9110 section 11.1).
fn after_scheme<'f>(field: &'f [u8], scheme: &[u8]) -> Option<&'f [u8]> {
    let (start, rest) = field.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then(|| rest.trim_ascii())
}

/// The token of a sender: `Bearer TOKEN`, `Token TOKEN` (InfluxDB), or the password of `Basic` (RFC 7617).
fn sender(field: &[u8]) -> Option<Cow<'_, [u8]>> {
    let bare = bearer(field).or_else(|| after_scheme(field, b"Token "));
    bare.map(Cow::Borrowed).or_else(|| password(after_scheme(field, b"Basic ")?).map(Cow::Owned))
}

/// The password of `user:password` in base64; the user is whoever it likes.
fn password(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut pair = STANDARD.decode(encoded).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair.split_off(colon + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::request;

    fn present(token: &BearerToken, field: &str) -> Result<(), Denied> {
        let fields = [httparse::Header { name: "authorization", value: field.as_bytes() }];
        check(Some(token), &Headers(&fields))
    }

    #[test]
    fn only_the_exact_secret_is_authorized() {
        let long = "x".repeat(200);
        for secret in ["s3cret", "exactly-sixty-four", &"y".repeat(64), &"y".repeat(65), &long] {
            let token = BearerToken::new(secret);
            assert_eq!(present(&token, &format!("Bearer {secret}")), Ok(()));
            assert_eq!(present(&token, &format!("bearer  {secret} ")), Ok(()));
            let shorter = &secret[1..];
            let other_end = format!("{}#", &secret[..secret.len() - 1]);
            for wrong in
                [shorter, &other_end, &format!("{secret}x"), &format!("{secret}\0"), "s3cret2", "x"]
            {
                assert_eq!(present(&token, &format!("Bearer {wrong}")), Err(Denied::Wrong));
            }
            for absent in ["", "Bearer", "Basic czNjcmV0", secret] {
                assert_eq!(present(&token, absent), Err(Denied::Missing), "{absent}");
            }
            assert_eq!(check(Some(&token), &Headers(&[])), Err(Denied::Missing));
            assert_eq!(format!("{token:?}"), "set");
        }
        assert_eq!(check(None, &Headers(&[])), Ok(()));
    }

    #[test]
    fn a_sender_may_present_its_token_as_influx_and_basic_do() {
        let token = BearerToken::new("pass:word");
        let present = |field: &str| {
            let fields = [httparse::Header { name: "authorization", value: field.as_bytes() }];
            check_sender(Some(&token), &Headers(&fields))
        };
        let basic = |pair: &str| format!("basic {}", STANDARD.encode(pair));
        for right in ["Bearer pass:word", "Token pass:word", "token  pass:word"] {
            assert_eq!(present(right), Ok(()), "{right}");
        }
        for user in ["", "telegraf"] {
            assert_eq!(present(&basic(&format!("{user}:pass:word"))), Ok(()));
        }
        for wrong in ["Token word", &basic("pass:word"), &basic(":"), &basic("pass:word:")] {
            assert_eq!(present(wrong), Err(Denied::Wrong), "{wrong}");
        }
        for absent in ["Tokenpass:word", "Basic ?", "Basic", &basic("pass"), "Digest pass:word"] {
            assert_eq!(present(absent), Err(Denied::Missing), "{absent}");
        }
        assert_eq!(check_sender(None, &Headers(&[])), Ok(()));
    }

    #[test]
    fn an_origin_is_that_of_the_host_or_foreign() {
        let is_own = |origin: Option<&str>, host: &str| {
            let host = httparse::Header { name: "Host", value: host.as_bytes() };
            let origin =
                origin.map(|origin| httparse::Header { name: "Origin", value: origin.as_bytes() });
            let fields: Vec<_> = [host].into_iter().chain(origin).collect();
            is_of_own_origin(&Headers(&fields))
        };
        assert!(is_own(None, "a") && is_own(Some("http://a:80"), "A:80"));
        assert!(is_own(Some("https://[::1]:8080"), "[::1]:8080"));
        for origin in
            ["", "null", "a", "http://b", "http://a:8080", "http://a.b", "http://a/", "://"]
        {
            assert!(!is_own(Some(origin), "a"), "{origin}");
        }
    }

    #[test]
    fn only_loopback_names_and_addresses_are_local_hosts() {
        for host in ["localhost", "LocalHost:8080", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:80"]
        {
            assert!(names_loopback(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            ":",
            ":8080",
            "localhost.example.com",
            "xlocalhost",
            "localhost:8080:1",
            "localhost:x",
            "localhost@example.com",
            "127.0.0.1.nip.io",
            "128.0.0.1",
            "0.0.0.0",
            "::1",
            "[::2]",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "[localhost]",
            "[127.0.0.1]",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "sigmad:8080",
            "localhost.",
        ] {
            assert!(!names_loopback(host.as_bytes()), "{host}");
        }
        assert!(!names_loopback(b"localhost\xff"));
    }

    #[test]
    fn an_operator_is_local_or_has_the_token_and_is_of_our_own_page() {
        let token = BearerToken::new("s3cret");
        let bearer = ("authorization", "Bearer s3cret");
        let local = ("host", "localhost:8080");
        for (with_token, fields, expected) in [
            (false, &[local][..], Ok(())),
            (false, &[local, ("origin", "http://localhost:8080")], Ok(())),
            (false, &[local, ("origin", "http://evil.example")], Err(Denied::ForeignOrigin)),
            (false, &[local, ("origin", "null")], Err(Denied::ForeignOrigin)),
            (false, &[("host", "sigmad.example")], Err(Denied::Remote)),
            (false, &[local, ("via", "1.1 proxy")], Err(Denied::Remote)),
            (true, &[local], Err(Denied::Missing)),
            (true, &[("host", "sigmad.example"), bearer], Ok(())),
            (
                true,
                &[("host", "sigmad.example"), bearer, ("origin", "https://sigmad.example")],
                Ok(()),
            ),
            (true, &[local, bearer, ("origin", "http://evil.example")], Err(Denied::ForeignOrigin)),
            (true, &[local, ("authorization", "Bearer s3cre")], Err(Denied::Wrong)),
        ] {
            let fields: Vec<_> = fields
                .iter()
                .map(|&(name, value)| httparse::Header { name, value: value.as_bytes() })
                .collect();
            let request = Request { headers: Headers(&fields), ..request("", &mut []) };
            let token = with_token.then_some(&token);
            assert_eq!(check_operator(token, &request), expected, "{fields:?}");
        }
    }
}
