//! Hostile input: malformed framing, limits at their edges, slow and greedy clients, signals.
//!
//! Each case is a row: a name, the bytes, and the response that RFC 9112 and the documented limits
//! require. One law holds for every row: the server's count of samples grows by exactly the number
//! that was acknowledged, so no smuggled request is executed.

mod cases;
mod drain;
mod framing;
mod greedy;
mod json;
mod limits;
mod pipelines;
mod slow;
mod splits;

/// What of so many cases failed, and why: nothing.
#[track_caller]
fn assert_none_failed(failed: &[String], cases: usize) {
    assert!(failed.is_empty(), "{} of {cases} failed:\n{}", failed.len(), failed.join("\n"));
}
