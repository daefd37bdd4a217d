//! The request line (RFC 9112 section 3), and the authority of a target or a Host (RFC 3986 section 3.2).
//!
//! Pure and allocation-free. It reads a line or the beginning of one, so that a line that cannot become
//! valid is refused before the rest of it arrives.

use std::net::Ipv6Addr;

use super::message::Method;
use super::request_error::RequestError;

/// The longest registered method is UPDATEREDIRECTREF; a longer one is answered 501.
const METHOD_BYTES_MAX: usize = 17;
/// The form of a version and the end of its line; 0 stands for a digit.
const VERSION_FORM: [u8; 10] = *b"HTTP/0.0\r\n";
const VERSION_MAJOR: usize = 5;
const VERSION_MINOR: usize = 7;

/// A valid request line.
#[derive(Debug)]
pub struct RequestLine<'b> {
    /// The method.
    pub method: Method,
    /// The path of the target, as sent; `*` in asterisk form.
    pub path: &'b str,
    /// What follows the `?`, as sent.
    pub query: &'b str,
    /// True for HTTP/1.0. A later minor version is served as 1.1 (RFC 9110 section 2.5).
    pub is_http10: bool,
    /// Bytes of the line, with its end.
    pub length: usize,
}

/// Parses the line at the start of `data`; None when more of it must arrive.
///
/// # Errors
/// When the line is invalid, or cannot become valid.
pub fn parse(data: &[u8]) -> Result<Option<RequestLine<'_>>, RequestError> {
    let method_length = run_length(data, METHOD_BYTES_MAX + 1, is_token);
    if method_length > METHOD_BYTES_MAX {
        return Err(RequestError::Method);
    }
    let (method, rest) = data.split_at(method_length);
    let Some((&after_method, rest)) = rest.split_first() else { return Ok(None) };
    if after_method == b'\n' {
        return Err(RequestError::LineEnd);
    }
    if method.is_empty() || after_method != b' ' {
        return Err(RequestError::RequestLine);
    }
    let target_length = run_length(rest, usize::MAX, |byte| byte.is_ascii_graphic());
    let (target, rest) = rest.split_at(target_length);
    let Some((&after_target, version)) = rest.split_first() else { return Ok(None) };
    if target.is_empty() || after_target != b' ' {
        return Err(RequestError::RequestLine);
    }
    let Some(is_http10) = parse_version(version)? else { return Ok(None) };
    let target = str::from_utf8(target).map_err(|_| RequestError::RequestLine)?;
    let (path, query) = match method {
        b"CONNECT" if is_connect_target(target) => return Err(RequestError::Method),
        b"CONNECT" => return Err(RequestError::RequestLine),
        b"OPTIONS" if target == "*" => (target, ""),
        _ => split_target(target)?,
    };
    let method = match method {
        b"GET" => Method::Get,
        b"POST" => Method::Post,
        b"HEAD" => Method::Head,
        b"OPTIONS" => Method::Options,
        b"PUT" => Method::Put,
        b"DELETE" => Method::Delete,
        _ => Method::Other,
    };
    let length = method_length + 1 + target_length + 1 + VERSION_FORM.len();
    Ok(Some(RequestLine { method, path, query, is_http10, length }))
}

/// Bytes at the start of `data` that are `of` a kind, at most `max`.
fn run_length(data: &[u8], max: usize, of: impl Fn(u8) -> bool) -> usize {
    data.iter().take(max).take_while(|byte| of(**byte)).count()
}

/// True for HTTP/1.0, false for a later minor version; None when more of the line must arrive.
fn parse_version(data: &[u8]) -> Result<Option<bool>, RequestError> {
    for (&form, &byte) in VERSION_FORM.iter().zip(data) {
        let fits = if form == b'0' { byte.is_ascii_digit() } else { byte == form };
        if !fits {
            let is_line_end = form == b'\r' && byte == b'\n' || form == b'\n';
            let error = if is_line_end { RequestError::LineEnd } else { RequestError::RequestLine };
            return Err(error);
        }
    }
    if data.len() < VERSION_FORM.len() {
        return Ok(None);
    }
    if data[VERSION_MAJOR] != b'1' {
        return Err(RequestError::Version);
    }
    Ok(Some(data[VERSION_MINOR] == b'0'))
}

/// Path and query of a target in origin or absolute form.
fn split_target(target: &str) -> Result<(&str, &str), RequestError> {
    let origin = if target.starts_with('/') {
        target
    } else {
        let scheme_length = ["http://", "https://"]
            .into_iter()
            .find(|scheme| {
                target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            })
            .map(str::len)
            .ok_or(RequestError::RequestLine)?;
        let rest = &target[scheme_length..];
        let authority_length = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        if !is_authority(&rest.as_bytes()[..authority_length]) {
            return Err(RequestError::Host);
        }
        &rest[authority_length..]
    };
    // Byte by byte: paths are short, and a vectorised search has a setup cost.
    let path_length = origin.bytes().position(|byte| matches!(byte, b'?' | b'#'));
    let (path, query) = match path_length.map(|length| origin.split_at(length)) {
        None => (origin, ""),
        Some((path, query)) if query.starts_with('?') && !query.contains('#') => {
            (path, &query[1..])
        }
        Some(_) => return Err(RequestError::RequestLine),
    };
    Ok((if path.is_empty() { "/" } else { path }, query))
}

/// Authority form: a host and a port (RFC 9112 section 3.2.3).
fn is_connect_target(target: &str) -> bool {
    let port = target.rsplit(':').next().unwrap_or_default();
    is_authority(target.as_bytes())
        && port.len() < target.len()
        && is_port(port.as_bytes())
        && !port.is_empty()
}

/// True for `uri-host [ ":" port ]` with a host that is not empty (RFC 9110 section 4.2.1).
pub fn is_authority(value: &[u8]) -> bool {
    let host_length = match value.first() {
        None => return false,
        Some(b'[') => match value.iter().position(|byte| *byte == b']') {
            Some(end) if is_ip_literal(&value[1..end]) => end + 1,
            _ => return false,
        },
        Some(_) => match name_length(value) {
            Some(length) if length > 0 => length,
            _ => return false,
        },
    };
    match &value[host_length..] {
        [] => true,
        [b':', port @ ..] => is_port(port),
        _ => false,
    }
}

/// The length of the reg-name or IPv4 address at the start; None when a percent-encoding is invalid.
fn name_length(value: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(&byte) = value.get(at) {
        if is_name_byte(byte) {
            at += 1;
        } else if byte == b'%' {
            let digits = value.get(at + 1..at + 3)?;
            at += 3;
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
        } else {
            break;
        }
    }
    Some(at)
}

/// `IPv6address / IPvFuture`
fn is_ip_literal(literal: &[u8]) -> bool {
    if let Some((b'v' | b'V', future)) = literal.split_first() {
        let version_length = run_length(future, future.len(), |byte| byte.is_ascii_hexdigit());
        return version_length > 0
            && matches!(&future[version_length..], [b'.', rest @ ..]
                if !rest.is_empty() && rest.iter().all(|byte| is_name_byte(*byte) || *byte == b':'));
    }
    str::from_utf8(literal).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// Digits, or nothing; no larger than a port of TCP.
fn is_port(port: &[u8]) -> bool {
    let number = port.iter().try_fold(0_u16, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u16::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    });
    number.is_some()
}

/// `unreserved / sub-delims`
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

/// `tchar` (RFC 9110 section 5.6.2)
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_a_valid_line_is_incomplete() {
        let text = b"POST http://[::1]:80/a?b HTTP/1.1\r\n";
        for end in 0..text.len() {
            assert!(matches!(parse(&text[..end]), Ok(None)), "{end}");
        }
        let line = parse(text).expect("valid").expect("whole");
        assert_eq!((line.method, line.path, line.query), (Method::Post, "/a", "b"));
        assert_eq!((line.is_http10, line.length), (false, text.len()));
    }

    #[test]
    fn methods_are_told_apart() {
        for (name, method) in [
            ("GET", Method::Get),
            ("HEAD", Method::Head),
            ("POST", Method::Post),
            ("PUT", Method::Put),
            ("DELETE", Method::Delete),
            ("OPTIONS", Method::Options),
            ("PATCH", Method::Other),
            ("put", Method::Other),
        ] {
            let text = format!("{name} / HTTP/1.1\r\n");
            let line = parse(text.as_bytes()).expect("valid").expect("whole");
            assert_eq!(line.method, method, "{name}");
        }
    }

    #[test]
    fn lines_are_refused_with_their_status() {
        for (line, status) in [
            ("GET  / HTTP/1.1\r\n", 400),
            ("GET / HTTP/1.1 \r\n", 400),
            ("GET /a b HTTP/1.1\r\n", 400),
            ("GET /\u{e9} HTTP/1.1\r\n", 400),
            ("GET /\r\n", 400),
            ("GET / http/1.1\r\n", 400),
            ("GET / HTTP/1.10\r\n", 400),
            ("GET / HTTP/1.\r\n", 400),
            ("GET / HTTP/1.1\n", 400),
            ("\nGET / HTTP/1.1\r\n", 400),
            ("GET / HTTP/2.0\r\n", 505),
            ("GET / HTTP/0.9\r\n", 505),
            ("CONNECT a:443 HTTP/1.1\r\n", 501),
            ("CONNECT [::1]:443 HTTP/1.1\r\n", 501),
            ("CONNECT a HTTP/1.1\r\n", 400),
            ("CONNECT a: HTTP/1.1\r\n", 400),
            ("CONNECT 8080 HTTP/1.1\r\n", 400),
            ("GET\t/ HTTP/1.1\r\n", 400),
            ("GET /\tHTTP/1.1\r\n", 400),
            ("OPTIONS a HTTP/1.1\r\n", 400),
            ("GET /a?b#c HTTP/1.1\r\n", 400),
            ("GET /a#b HTTP/1.1\r\n", 400),
            ("CONNECT / HTTP/1.1\r\n", 400),
            ("UPDATEREDIRECTREFS", 501),
            ("GET http:///a HTTP/1.1\r\n", 400),
            ("GET http://u@a/ HTTP/1.1\r\n", 400),
            ("GET * HTTP/1.1\r\n", 400),
        ] {
            let refused = parse(line.as_bytes()).expect_err(line);
            assert_eq!(refused.status(), status, "{line:?}: {refused:?}");
        }
        for line in ["GET / HTTP/1.2\r\n", "UPDATEREDIRECTREF / HTTP/1.9\r\n"] {
            assert!(matches!(parse(line.as_bytes()), Ok(Some(_))), "{line}");
        }
    }

    #[test]
    fn an_end_of_line_that_is_no_crlf_is_named() {
        for (line, error) in [
            ("GET\n", RequestError::LineEnd),
            ("GET / HTTP/1.1\n", RequestError::LineEnd),
            ("GET / HTTP/1.1\rx", RequestError::LineEnd),
            ("GET / HTTP/1.1x", RequestError::RequestLine),
            ("GET / HTTP/1\n", RequestError::RequestLine),
            ("GET / XTTP/1.1\r\n", RequestError::RequestLine),
            ("GET /\n", RequestError::RequestLine),
        ] {
            assert_eq!(parse(line.as_bytes()).expect_err(line), error, "{line:?}");
        }
    }

    #[test]
    fn authorities_follow_their_grammar() {
        for valid in [
            "a",
            "a:",
            "a:80",
            "a:065535",
            "a.b-c_~!$&'()*+,;=",
            "%41b",
            "127.0.0.1:1",
            "[::1]",
            "[::ffff:1.2.3.4]:80",
            "[v1.a:b]",
            "999.999.999.999",
        ] {
            assert!(is_authority(valid.as_bytes()), "{valid}");
        }
        for invalid in [
            "",
            ":",
            ":80",
            "a:x",
            "a:65536",
            "a:99999999999999999999",
            "a:b:c[]]:99999",
            "a b",
            "a/b",
            "u@a",
            "%4",
            "%4g",
            "a%",
            "[]",
            "[::1",
            "::1",
            "[::1]x",
            "[::1%25eth0]",
            "[1.2.3.4]",
            "[v.a]",
            "[v1.]",
            "[v1]",
            "a[",
            "a]",
            "\u{e9}",
            "a\\b",
        ] {
            assert!(!is_authority(invalid.as_bytes()), "{invalid}");
        }
    }
}
