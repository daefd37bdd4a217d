//! HTTP/1.1: bytes to requests and responses to bytes. Knows nothing of samples or telemetry.
//!
//! [`listen`] opens the sockets. Each [`worker`] serves the connections of one of them by a
//! [`poller`]. A connection's [`protocol`] state parses each request ([`head`] or [`head_cache`],
//! [`chunked`], [`coding`]), calls the [`message::Service`], and [`encode`]s the response. Timed
//! requests carry their [`stages`]. [`tls`] reads the certificate for TLS between worker and poller.
//! All connections together have a [`budget`] of memory. [`may`] is another engine for the same service.

pub mod budget;
mod chunked;
pub mod client_address;
mod coding;
pub mod cors;
pub mod counters;
mod drain;
pub mod encode;
pub mod head;
pub mod head_cache;
pub mod listen;
pub mod may;
pub mod message;
pub mod poller;
pub mod protocol;
pub mod request_error;
pub mod request_line;
pub mod stages;
pub mod tls;
pub mod worker;

use self::cors::CorsPolicy;

/// The limits of one server, and what its responses have in common.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request head; a larger one is answered 431.
    pub head_bytes_max: usize,
    /// Bytes of a body, as sent and when decoded; a larger one is answered 413.
    pub body_bytes_max: usize,
    /// Open connections over all workers.
    pub connections_max: usize,
    /// Bytes of memory that all connections together may hold; past it 503 is answered.
    pub memory_bytes_max: usize,
    /// The time for a whole head, and between two parts of a body; past it 408 is answered.
    pub read_timeout_ms: u64,
    /// Bytes per second that a body must bring after `read_timeout_ms`; past it 408 is answered.
    pub body_rate_min: u64,
    /// A client that takes nothing of a response for this time is disconnected.
    pub write_stall_ms: u64,
    /// A connection without a request is closed after this time.
    pub idle_timeout_ms: u64,
    /// During a drain, the time in which an idle connection may still deliver a request.
    pub drain_idle_ms: u64,
    /// The pages of other origins that may read responses.
    pub cors: Option<&'static CorsPolicy>,
}
