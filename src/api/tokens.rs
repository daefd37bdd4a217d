//! Bearer tokens for ingest, for reads and for `/debug/`.
//!
//! A comparison takes constant time: every presented token is compared over the whole padded length,
//! word by word.

use std::fmt;

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
    /// For POST requests with samples.
    pub ingest: Option<BearerToken>,
    /// For GET requests that return data of samples.
    pub read: Option<BearerToken>,
    /// For `/debug/`, from clients that are not on loopback.
    pub debug: Option<BearerToken>,
}

/// Why a request is not authorized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no bearer token.
    Missing,
    /// The bearer token is another one.
    Wrong,
    /// The client is not on loopback, and no token is configured.
    Remote,
}

impl BearerToken {
    /// A token that is exactly `secret`, which must not be empty.
    pub fn new(secret: &str) -> Self {
        assert!(!secret.is_empty(), "an empty token authorizes everyone");
        let bytes = secret.as_bytes();
        let words = bytes.len().div_ceil(8).next_multiple_of(PADDED_WORDS);
        Self { words: (0..words).map(|at| word(bytes, at)).collect(), length: bytes.len() }
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
    let presented = headers.get("authorization").and_then(bearer).ok_or(Denied::Missing)?;
    if token.matches(presented) { Ok(()) } else { Err(Denied::Wrong) }
}

/// Fields that a proxy adds: the client of such a request is not the peer of its connection.
const PROXY_FIELDS: [&str; 3] = ["x-forwarded-for", "forwarded", "x-real-ip"];

/// Checks a request to `/debug/`: loopback clients need no token, others need `token`.
pub fn check_debug(token: Option<&BearerToken>, request: &Request<'_>) -> Result<(), Denied> {
    let is_proxied = PROXY_FIELDS.iter().any(|name| request.headers.get(name).is_some());
    if request.client.is_loopback() && !is_proxied {
        return Ok(());
    }
    if token.is_none() { Err(Denied::Remote) } else { check(token, &request.headers) }
}

/// The text after the scheme `Bearer`, which may be in any case (RFC 9110 section 11.1).
fn bearer(field: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = field.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            for wrong in [shorter, &format!("{secret}x"), &format!("{secret}\0"), "s3cret2", "x"] {
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
}
