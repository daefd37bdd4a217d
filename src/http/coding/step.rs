//! What a step of a decoder gives: progress, or why there is none.

/// Why a body was not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodingError {
    /// An unknown coding, or more than one: 415.
    Unknown,
    /// Larger than the limit when decoded: 413.
    TooLarge,
    /// Damaged, cut short, or followed by other bytes: 400.
    Corrupt,
}

/// What one step of a decoder has done.
pub(super) struct Step {
    /// Bytes of the coded body.
    pub(super) read: usize,
    /// Bytes of the decoded body.
    pub(super) written: usize,
    /// A member or a frame is complete.
    pub(super) ends_part: bool,
}
