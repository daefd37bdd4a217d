//! Bytes to requests and answers to bytes; knows nothing of samples or telemetry.
//!
//! [`listen`] opens the sockets; a [`worker`] serves the connections of one of them, each with a
//! [`protocol`] state that reads [`head`]s, unless they are [`head_cache`], and [`chunked`] bodies, undoes their [`coding`], calls the
//! [`message::Service`] and [`encode`]s its answers. [`may`] is another engine for the same service.

pub mod chunked;
pub mod coding;
pub mod counters;
pub mod encode;
pub mod head;
pub mod head_cache;
pub mod listen;
pub mod may;
pub mod message;
pub mod protocol;
pub mod worker;

/// Limits of one server, as in SPEC section 4; the defaults are set in `config`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request head; a larger one is answered 431.
    pub head_bytes_max: usize,
    /// Bytes of a body, as sent and when unpacked; a larger one is answered 413.
    pub body_bytes_max: usize,
    /// Open connections over all workers.
    pub connections_max: usize,
    /// A head must arrive whole within it, and a body must progress within it; else 408.
    pub read_timeout_ms: u64,
    /// A connection without a request is closed after it.
    pub idle_timeout_ms: u64,
    /// While draining, an idle connection may for so long bring the request that was on its way.
    pub drain_idle_ms: u64,
}
