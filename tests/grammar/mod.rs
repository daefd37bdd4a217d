//! The reference parser of requests: the rules of RFC 9112, 9110 and 3986 as regular expressions.
//!
//! Each rule has the name and the form that the RFC gives it; `{name}` stands for another rule. The parser
//! around them is naive and knows the whole input. Where it is narrower than the RFC, the rule says why.
//! Shared by the property tests, the hostile suite and the fuzz targets.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::bytes::{Captures, Regex};

/// Every rule after those that it uses.
pub const RULES: [(&str, &str); 35] = [
    ("OWS", r"[ \t]*"),
    ("tchar", r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"),
    ("token", r"{tchar}+"),
    ("HEXDIG", r"[0-9A-Fa-f]"),
    ("obs-text", r"[\x80-\xff]"),
    ("qdtext", r"(?:[\t \x21\x23-\x5b\x5d-\x7e]|{obs-text})"),
    ("quoted-pair", r"\\(?:[\t \x21-\x7e]|{obs-text})"),
    ("quoted-string", "\"(?:{qdtext}|{quoted-pair})*\""),
    // RFC 3986, appendix A. A port is at most 65535, which `is_port` checks.
    ("unreserved", r"[A-Za-z0-9\-._~]"),
    ("pct-encoded", r"%{HEXDIG}{HEXDIG}"),
    ("sub-delims", r"[!$&'()*+,;=]"),
    ("reg-name", r"(?:{unreserved}|{pct-encoded}|{sub-delims})+"),
    ("dec-octet", r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"),
    ("IPv4address", r"{dec-octet}\.{dec-octet}\.{dec-octet}\.{dec-octet}"),
    ("h16", r"{HEXDIG}{1,4}"),
    ("ls32", r"(?:{h16}:{h16}|{IPv4address})"),
    (
        "IPv6address",
        r"(?:(?:{h16}:){6}{ls32}|::(?:{h16}:){5}{ls32}|{h16}?::(?:{h16}:){4}{ls32}|(?:(?:{h16}:){0,1}{h16})?::(?:{h16}:){3}{ls32}|(?:(?:{h16}:){0,2}{h16})?::(?:{h16}:){2}{ls32}|(?:(?:{h16}:){0,3}{h16})?::{h16}:{ls32}|(?:(?:{h16}:){0,4}{h16})?::{ls32}|(?:(?:{h16}:){0,5}{h16})?::{h16}|(?:(?:{h16}:){0,6}{h16})?::)",
    ),
    ("IPvFuture", r"[vV]{HEXDIG}+\.(?:{unreserved}|{sub-delims}|:)+"),
    ("IP-literal", r"\[(?:{IPv6address}|{IPvFuture})\]"),
    ("port", r"[0-9]*"),
    ("authority", r"(?:{IP-literal}|{reg-name})(?::{port})?"),
    // Browsers send more characters than RFC 3986 has: any visible one, but a fragment.
    ("path", r"/[\x21\x22\x24-\x3e\x40-\x7e]*"),
    ("query", r"[\x21\x22\x24-\x7e]*"),
    ("origin-form", r"{path}(?:\?{query})?"),
    // Of the absolute forms those that name this kind of server.
    ("absolute-form", r"[Hh][Tt][Tt][Pp][Ss]?://{authority}(?:{path})?(?:\?{query})?"),
    // A longer method is answered 501.
    ("method", r"{tchar}{1,17}"),
    // Later minor versions are served as 1.1; other major ones are answered 505.
    ("HTTP-version", r"HTTP/1\.[0-9]"),
    ("request-line", r"{method} (?:{origin-form}|{absolute-form}|\*) {HTTP-version}"),
    ("field-value", r"(?:[\t \x21-\x7e]|{obs-text})*"),
    // Without obs-fold, which RFC 9112 section 5.2 lets a server refuse.
    ("field-line", r"{token}:{field-value}"),
    ("head", r"{request-line}\r\n(?:{field-line}\r\n)*\r\n"),
    ("chunk-ext-val", r"(?:{token}|{quoted-string})"),
    ("chunk-ext", r"(?:{OWS};{OWS}{token}(?:{OWS}={OWS}{chunk-ext-val})?)*"),
    // RFC 9112 section 7.1 asks for protection from large sizes: eight digits exceed every limit.
    ("chunk-line", r"{HEXDIG}{1,8}{chunk-ext}\r\n"),
    ("trailer-section", r"(?:{field-line}\r\n)*\r\n"),
];

static EXPANDED: LazyLock<HashMap<&str, String>> = LazyLock::new(|| {
    let mut expanded: HashMap<&str, String> = HashMap::new();
    for (name, form) in RULES {
        let mut text = form.to_owned();
        for (other, expansion) in &expanded {
            text = text.replace(&format!("{{{other}}}"), &format!("(?:{expansion})"));
        }
        expanded.insert(name, text);
    }
    expanded
});

/// The rule as one regular expression over bytes.
pub fn rule(name: &str) -> &'static str {
    &EXPANDED[name]
}

fn compile(form: &str) -> Regex {
    let mut form = form.to_owned();
    for (name, expansion) in EXPANDED.iter() {
        form = form.replace(&format!("{{{name}}}"), &format!("(?:{expansion})"));
    }
    regex::bytes::RegexBuilder::new(&format!("^(?s-u:{form})"))
        .unicode(false)
        .size_limit(1 << 26)
        .build()
        .expect("a regular expression")
}

static HEAD: LazyLock<Regex> = LazyLock::new(|| compile(rule("head")));
static REQUEST_LINE: LazyLock<Regex> = LazyLock::new(|| {
    compile(
        r"(?P<method>{method}) (?:[A-Za-z]+://(?P<authority>[^/?# ]+))?(?P<path>{path}|\*|)(?:\?(?P<query>{query}))? HTTP/1\.(?P<minor>[0-9])\r\n",
    )
});
static FIELD: LazyLock<Regex> =
    LazyLock::new(|| compile(r"(?P<name>{token}):{OWS}(?P<value>{field-value})\r\n"));
static AUTHORITY: LazyLock<Regex> = LazyLock::new(|| compile(r"{authority}$"));
static CHUNK: LazyLock<Regex> =
    LazyLock::new(|| compile(r"(?P<size>{HEXDIG}{1,8}){chunk-ext}\r\n"));
static TRAILERS: LazyLock<Regex> = LazyLock::new(|| compile(rule("trailer-section")));

/// The bounds of the engine under test.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub head_bytes: usize,
    pub fields: usize,
    pub body_bytes: usize,
}

/// One accepted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub path: String,
    pub query: String,
    pub body: Vec<u8>,
}

/// What a connection that carries these bytes and then ends must bring about.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub accepted: Vec<Accepted>,
    /// The connection ends with a refusal.
    pub is_refused: bool,
}

/// Parses everything that one connection has sent.
pub fn parse(mut data: &[u8], bounds: Bounds) -> Outcome {
    let mut accepted = Vec::new();
    loop {
        while let Some(rest) = data.strip_prefix(b"\r\n") {
            data = rest;
        }
        if matches!(data, b"" | b"\r") {
            return Outcome { accepted, is_refused: false };
        }
        let Some((request, closes, length)) = request(data, bounds) else {
            return Outcome { accepted, is_refused: true };
        };
        accepted.push(request);
        if closes {
            return Outcome { accepted, is_refused: false };
        }
        data = &data[length..];
    }
}

/// The request at the start of `data`, whether it is the last one, and its length.
fn request(data: &[u8], bounds: Bounds) -> Option<(Accepted, bool, usize)> {
    let head_length = HEAD.find(data)?.len();
    let head = &data[..head_length];
    let line = REQUEST_LINE.captures(head)?;
    let (method, path) = (&line["method"], &line["path"]);
    let is_http10 = &line["minor"] == b"0";
    let is_asterisk = path == b"*";
    let authority = line.name("authority");
    if head_length > bounds.head_bytes
        || method == b"CONNECT"
        || (is_asterisk
            && (method != b"OPTIONS" || authority.is_some() || line.name("query").is_some()))
        || authority.is_some_and(|authority| !is_authority(authority.as_bytes()))
    {
        return None;
    }
    let fields = fields(&head[line[0].len()..]);
    let of = |name: &str| -> Vec<&[u8]> {
        let named = fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, value)| *value).collect()
    };
    let hosts = of("host");
    let has_host = match hosts[..] {
        [] => is_http10,
        [host] => is_authority(host),
        _ => false,
    };
    let expects = |value: &&[u8]| value.eq_ignore_ascii_case(b"100-continue");
    if !has_host || fields.len() > bounds.fields || !(is_http10 || of("expect").iter().all(expects))
    {
        return None;
    }
    let rest = &data[head_length..];
    let (body, body_length) =
        body(&of("content-length"), &of("transfer-encoding"), is_http10, rest, bounds)?;
    if !matches!(of("content-encoding")[..], [] | [b"" | b"identity"]) {
        return None;
    }
    let options = of("connection").join(&b","[..]);
    let has_option = |option: &str| {
        let mut options = options.split(|byte| *byte == b',');
        options.any(|one| one.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    };
    let closes = has_option("close") || (is_http10 && !has_option("keep-alive"));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("visible characters");
    let query = line.name("query").map(|query| text(query.as_bytes())).unwrap_or_default();
    let path = if path.is_empty() { "/".to_owned() } else { text(path) };
    Some((Accepted { path, query, body }, closes, head_length + body_length))
}

fn fields(mut lines: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut fields = Vec::new();
    while lines != b"\r\n" {
        let field: Captures<'_> = FIELD.captures(lines).expect("the head has matched");
        let [name, value] =
            ["name", "value"].map(|part| field.name(part).expect("a part").as_bytes());
        fields.push((name, value.trim_ascii_end()));
        lines = &lines[field[0].len()..];
    }
    fields
}

/// The body and the bytes that it takes (RFC 9112 section 6.3).
fn body(
    lengths: &[&[u8]],
    codings: &[&[u8]],
    is_http10: bool,
    rest: &[u8],
    bounds: Bounds,
) -> Option<(Vec<u8>, usize)> {
    match (lengths, codings) {
        ([], []) => Some((Vec::new(), 0)),
        // A list of equal lengths may be refused, and is.
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let length: usize = str::from_utf8(length).ok()?.parse().ok()?;
            let body = rest.get(..length).filter(|_| length <= bounds.body_bytes)?;
            Some((body.to_vec(), length))
        }
        ([], [coding]) if !is_http10 && coding.eq_ignore_ascii_case(b"chunked") => {
            chunked(rest, bounds.body_bytes)
        }
        _ => None,
    }
}

fn chunked(data: &[u8], body_bytes_max: usize) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let line = CHUNK.captures(&data[at..])?;
        let size = usize::from_str_radix(str::from_utf8(&line["size"]).ok()?, 16).ok()?;
        at += line[0].len();
        if size == 0 {
            return Some((body, at + TRAILERS.find(&data[at..])?.len()));
        }
        body.extend_from_slice(data[at..].get(..size)?);
        if body.len() > body_bytes_max {
            return None;
        }
        at += size;
        at += data[at..].starts_with(b"\r\n").then_some(2)?;
    }
}

/// `uri-host [ ":" port ]` with a port of TCP.
pub fn is_authority(value: &[u8]) -> bool {
    let after_host = value.rsplit(|byte| *byte == b']').next().unwrap_or_default();
    let port = after_host.iter().position(|byte| *byte == b':').map(|at| &after_host[at + 1..]);
    AUTHORITY.is_match(value) && port.is_none_or(is_port)
}

fn is_port(port: &[u8]) -> bool {
    let number = str::from_utf8(port).ok().map(|text| text.trim_start_matches('0'));
    number.is_some_and(|text| text.is_empty() || text.parse::<u16>().is_ok())
}
