//! Cross-origin requests: which pages of other origins a browser lets read the responses (Fetch, section 3.3).
//!
//! The fields of every response are made once, at start; a request chooses among them by its `Origin`.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use super::message::{Method, is_name};
use super::request_line::is_authority;

/// Fields of a response that are the same for the life of the process.
pub type FixedFields = &'static [(&'static str, &'static str)];

/// Caches must not give the response to one origin to another.
const VARY: (&str, &str) = ("vary", "origin");
/// What a preflight request is told; a path refuses the methods that it does not have.
const PREFLIGHT: [(&str, &str); 3] = [
    ("access-control-allow-methods", "GET, HEAD, POST, PUT, DELETE"),
    ("access-control-allow-headers", "authorization, content-type, content-encoding"),
    ("access-control-max-age", "3600"),
];

/// An origin that may read: `*` for every one, or as browsers send it: scheme, host, and port unless it is the usual one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin(String);

/// Not an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginError;

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be `*`, or an origin such as https://example.com, without a path")
    }
}

impl Error for OriginError {}

impl FromStr for AllowedOrigin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let is_origin = text.split_once("://").is_some_and(|(scheme, authority)| {
            !scheme.is_empty()
                && scheme.bytes().all(|byte| byte.is_ascii_lowercase())
                && is_authority(authority.as_bytes())
        });
        (is_origin || text == "*").then(|| Self(text.to_owned())).ok_or(OriginError)
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The fields for one origin: for a simple request the first ones, for a preflight request all.
#[derive(Debug)]
struct OriginFields {
    origin: String,
    fields: FixedFields,
}

/// The origins that may read.
#[derive(Debug)]
pub struct CorsPolicy {
    origins: Vec<OriginFields>,
    is_any: bool,
}

impl CorsPolicy {
    /// The policy of these origins, for the life of the process; None without an origin.
    pub fn new(origins: &[AllowedOrigin]) -> Option<&'static Self> {
        let is_any = origins.iter().any(|origin| origin.0 == "*");
        let fields = |AllowedOrigin(origin): &AllowedOrigin| {
            let value: &'static str = origin.clone().leak();
            let allow = ("access-control-allow-origin", if is_any { "*" } else { value });
            let fields = [&[allow, VARY][..], &PREFLIGHT].concat().leak();
            OriginFields { origin: origin.clone(), fields }
        };
        let origins: Vec<_> = origins.iter().map(fields).collect();
        (!origins.is_empty()).then(|| &*Box::leak(Box::new(Self { origins, is_any })))
    }

    /// The fields of the response to a request.
    pub fn fields(&self, origin: Option<&[u8]>, method: Method) -> FixedFields {
        let may_read = |one: &&OriginFields| self.is_any || Some(one.origin.as_bytes()) == origin;
        match self.origins.iter().find(may_read) {
            Some(one) if method == Method::Options => one.fields,
            Some(one) => &one.fields[..one.fields.len() - PREFLIGHT.len()],
            None => &[VARY],
        }
    }
}

/// The first `Origin` of a head that may be invalid or cut short: its refusal, too, is for a page to read.
pub(super) fn origin_in(head: &[u8]) -> Option<&[u8]> {
    let lines = head.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    let fields = lines.skip(1).take_while(|line| !line.is_empty());
    let is_origin = |name: &[u8]| str::from_utf8(name).is_ok_and(|name| is_name(name, "origin"));
    let (_, value) = fields
        .filter_map(|line| line.split_at_checked(line.iter().position(|&byte| byte == b':')?))
        .find(|(name, _)| is_origin(name))?;
    Some(value[1..].trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(origins: &[&str]) -> &'static CorsPolicy {
        let parse = |text: &&str| text.parse().expect("an origin");
        let origins: Vec<AllowedOrigin> = origins.iter().map(parse).collect();
        CorsPolicy::new(&origins).expect("a policy")
    }

    #[test]
    fn an_origin_is_allowed_by_its_name_alone() {
        let policy = policy(&["https://a.example", "http://b:8080"]);
        let allowed = |origin: &str| policy.fields(Some(origin.as_bytes()), Method::Get);
        assert_eq!(
            allowed("http://b:8080"),
            [("access-control-allow-origin", "http://b:8080"), VARY]
        );
        for other in ["https://a.example.org", "http://a.example", "https://A.example", "null", ""]
        {
            assert_eq!(allowed(other), [VARY], "{other}");
        }
        assert_eq!(policy.fields(None, Method::Post), [VARY]);
        let preflight = policy.fields(Some(b"https://a.example"), Method::Options);
        assert_eq!(preflight[2..], PREFLIGHT);
    }

    #[test]
    fn a_star_allows_every_origin() {
        let fields = policy(&["*"]).fields(Some(b"https://x"), Method::Get);
        assert_eq!(fields[0], ("access-control-allow-origin", "*"));
        assert!(CorsPolicy::new(&[]).is_none());
    }

    #[test]
    fn the_origin_of_a_refused_head_is_found() {
        for (head, origin) in [
            ("GET / HTTP/1.1\r\nHost: a\r\nORIGIN:\thttps://a \r\n\r\n", Some("https://a")),
            ("GET / HTTP/1.1\r\nno field\r\nOrigin: https://a:1\r\nHos", Some("https://a:1")),
            ("GET / HTTP/1.1\nOrigin: a\r\nOrigin: b\r\n\r\n", Some("a")),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nOrigin: https://a\r\n", None),
            ("Origin: https://a\r\n", None),
            ("GET / HTTP/1.1\r\nX-Origin: a\r\nOrigin : a\r\nOrigin", None),
            ("", None),
        ] {
            assert_eq!(origin_in(head.as_bytes()), origin.map(str::as_bytes), "{head}");
        }
    }

    #[test]
    fn only_origins_are_taken() {
        for text in ["", "a.example", "https://a/", "https://", "https://a b", "HTTPS://a", "null"]
        {
            assert_eq!(text.parse::<AllowedOrigin>(), Err(OriginError), "{text}");
        }
    }
}
