//! Bytes to requests and answers to bytes; knows nothing of samples or telemetry.

pub mod message;

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
}
