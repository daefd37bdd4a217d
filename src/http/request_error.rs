//! Why an engine refuses a request: status, code and message of each reason.

use tracing::debug;

use super::client_address::ClientAddress;

/// Why a request was refused before a service was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Not a request line as in RFC 9112 section 3.
    RequestLine,
    /// A header field that breaks RFC 9112 section 5.
    HeaderField,
    /// A line that ends in a bare CR or LF (RFC 9112 section 2.2).
    LineEnd,
    /// Not HTTP/1.x.
    Version,
    /// CONNECT, or a method longer than any known one.
    Method,
    /// The request line alone is larger than `--max-head`.
    TargetTooLong,
    /// No valid Host, or more than one (RFC 9112 section 3.2).
    Host,
    /// Content-Length is not one decimal number (RFC 9112 section 6.3).
    ContentLength,
    /// Both Content-Length and Transfer-Encoding, or a Transfer-Encoding in HTTP/1.0 (section 6.1).
    TwoFramings,
    /// `chunked` is not the last transfer coding, or is listed twice (section 6.1).
    TransferEncoding,
    /// A transfer coding other than chunked.
    TransferCoding,
    /// The chunked framing is invalid (section 7.1).
    Chunk,
    /// The client stopped sending before the head was complete.
    TruncatedHead,
    /// The client stopped sending before the body was complete.
    TruncatedBody,
    /// The head is larger than `--max-head`.
    HeadTooLarge,
    /// More than [`HEADERS_MAX`](super::head::HEADERS_MAX) header fields.
    TooManyHeaders,
    /// The body is larger than `--max-body`, as sent or when decoded.
    BodyTooLarge,
    /// A Content-Encoding other than gzip, zstd, snappy and identity.
    ContentCoding,
    /// The body cannot be decoded.
    CodedBody,
    /// An Expect other than 100-continue.
    Expectation,
    /// The head or a part of the body did not arrive in time.
    Timeout,
    /// `--max-connections` are open.
    TooManyConnections,
    /// All requests and responses in memory together take too much.
    Memory,
    /// The first bytes are none of TLS, which this port speaks.
    PlainHttp,
}

impl RequestError {
    /// Every error, in the order of the declaration.
    pub const ALL: [Self; 24] = [
        Self::RequestLine,
        Self::HeaderField,
        Self::LineEnd,
        Self::Version,
        Self::Method,
        Self::TargetTooLong,
        Self::Host,
        Self::ContentLength,
        Self::TwoFramings,
        Self::TransferEncoding,
        Self::TransferCoding,
        Self::Chunk,
        Self::TruncatedHead,
        Self::TruncatedBody,
        Self::HeadTooLarge,
        Self::TooManyHeaders,
        Self::BodyTooLarge,
        Self::ContentCoding,
        Self::CodedBody,
        Self::Expectation,
        Self::Timeout,
        Self::TooManyConnections,
        Self::Memory,
        Self::PlainHttp,
    ];

    /// The status code of the answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::RequestLine
            | Self::HeaderField
            | Self::LineEnd
            | Self::Host
            | Self::ContentLength
            | Self::TwoFramings
            | Self::TransferEncoding
            | Self::Chunk
            | Self::TruncatedHead
            | Self::TruncatedBody
            | Self::CodedBody
            | Self::PlainHttp => 400,
            Self::Timeout => 408,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::ContentCoding => 415,
            Self::Expectation => 417,
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::Method | Self::TransferCoding => 501,
            Self::TooManyConnections | Self::Memory => 503,
            Self::Version => 505,
        }
    }

    /// The `code` of the response and the label `reason` of the counter.
    pub const fn code(self) -> &'static str {
        match self {
            Self::RequestLine => "bad_request_line",
            Self::HeaderField => "bad_header",
            Self::LineEnd => "bare_line_end",
            Self::Version => "unsupported_version",
            Self::Method => "unknown_method",
            Self::TargetTooLong => "target_too_long",
            Self::Host => "bad_host",
            Self::ContentLength => "bad_content_length",
            Self::TwoFramings => "two_framings",
            Self::TransferEncoding => "bad_transfer_encoding",
            Self::TransferCoding => "unknown_transfer_coding",
            Self::Chunk => "bad_chunk",
            Self::TruncatedHead => "truncated_head",
            Self::TruncatedBody => "truncated_body",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::BodyTooLarge => "body_too_large",
            Self::ContentCoding => "unknown_content_coding",
            Self::CodedBody => "corrupt_body",
            Self::Expectation => "unknown_expectation",
            Self::Timeout => "timeout",
            Self::TooManyConnections => "too_many_connections",
            Self::Memory => "too_many_bodies",
            Self::PlainHttp => "plain_http",
        }
    }

    /// One line a refusal, at `debug`: strangers must not be able to fill a log at `info`.
    #[cold]
    pub fn log(self, client: ClientAddress) {
        debug!(%client, status = self.status(), reason = self.code(), "refused");
    }

    /// The `message` of the response.
    pub const fn message(self) -> &'static str {
        match self {
            Self::RequestLine => "the request line is not METHOD SP target SP HTTP/1.x",
            Self::HeaderField => "a header field is not `name: value`",
            Self::LineEnd => "a line of the head ends in a bare CR or LF",
            Self::Version => "the HTTP version must be 1.0 or 1.1",
            Self::Method => "this server does not implement the method",
            Self::TargetTooLong => "the request line is larger than --max-head",
            Self::Host => "HTTP/1.1 needs exactly one valid Host header",
            Self::ContentLength => "Content-Length must be one decimal number",
            Self::TwoFramings => {
                "Transfer-Encoding must not be combined with Content-Length or HTTP/1.0"
            }
            Self::TransferEncoding => "`chunked` must be the last transfer coding and occur once",
            Self::TransferCoding => "the only supported transfer coding is chunked",
            Self::Chunk => "the chunked framing is invalid",
            Self::TruncatedHead => "the connection ended before the request head was complete",
            Self::TruncatedBody => "the connection ended before the body was complete",
            Self::HeadTooLarge => "the request head is larger than --max-head",
            Self::TooManyHeaders => "the request has more than 100 header fields",
            Self::BodyTooLarge => "the body is larger than --max-body, as sent or when decoded",
            Self::ContentCoding => {
                "the supported content codings are gzip, zstd, snappy and identity"
            }
            Self::CodedBody => "the body cannot be decoded by its Content-Encoding",
            Self::Expectation => "the only supported expectation is 100-continue",
            Self::Timeout => {
                "the request did not arrive within --read-timeout, or slower than --body-rate-min"
            }
            Self::TooManyConnections => "the server has --max-connections connections open",
            Self::Memory => "the bodies in memory take their whole share of it: try again",
            Self::PlainHttp => "this port speaks HTTPS: use https:// instead of http://",
        }
    }
}
