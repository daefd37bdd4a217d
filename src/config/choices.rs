//! Settings that are one of a few names, or a number.

use std::fmt;

use clap::ValueEnum;

use crate::shards::SHARDS_MAX;

/// When threads are pinned to cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pin {
    /// If there is no quota and each thread can have a core of its own.
    Auto,
    /// Always, round robin over the cores.
    On,
    /// Never.
    Off,
}

/// Whether something runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It runs.
    On,
    /// It does not, and costs nothing.
    Off,
}

/// When samples are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ack {
    /// Once they are in the queue to analytics.
    Memory,
    /// Once a crash can't lose them any more.
    Disk,
}

/// The implementation of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// sigmad's own event loop.
    Native,
    /// may_minihttp, for comparisons.
    May,
}

impl Engine {
    /// The name in flags and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::May => "may",
        }
    }
}

/// How workers of the native engine wait for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PollerKind {
    /// epoll(7).
    Epoll,
    /// io_uring(7).
    #[value(name = "io_uring")]
    IoUring,
}

/// Whether Redis keeps every sample, or the last one of each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RedisHistory {
    /// The last sample of each key.
    Off,
    /// Every sample as well, in a Redis stream.
    Stream,
}

/// The keys that each sample has in Redis, beside the windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RedisKeys {
    /// `metric:<timestamp>`, and with a device `metric:<device>:<timestamp>` as well.
    Two,
    /// Only the second of these for a sample with a device.
    One,
    /// Windows only.
    None,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `human` on a terminal, `json` elsewhere.
    Auto,
    /// Text for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// How many shards of devices analytics has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shards {
    /// As many as the cores call for.
    Auto,
    /// So many.
    Count(usize),
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(shards) => shards.fmt(f),
        }
    }
}

/// Parses `--analytics`.
pub(super) fn shards(text: &str) -> Result<Shards, String> {
    if text == "auto" {
        return Ok(Shards::Auto);
    }
    let count = text.parse().ok().filter(|count| (1..=SHARDS_MAX).contains(count));
    count.map(Shards::Count).ok_or_else(|| format!("must be auto, or 1 to {SHARDS_MAX}"))
}
