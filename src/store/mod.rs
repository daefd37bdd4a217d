//! What outlives a moment: samples and windows, in memory or in Redis.
//!
//! One thread takes judged samples from the [`judged_queue`](crate::judged_queue), coalesces them (queue), writes them as pipelines
//! of commands that can be sent twice without harm (commands), and reads back the windows that other
//! replicas have changed.
//!
//! Every sample has one outcome, counted here: stored, coalesced or dropped. Until then it is queued.

pub mod backoff;
mod cluster;
pub mod commands;
pub mod keys;
pub mod link;
pub mod queue;
pub mod thread;
pub mod url;
pub mod windows;
mod wire;

use sigmad_counters::{Counter, Histogram};

/// What is counted of the store; written by its thread.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// 1 while Redis does what it is asked.
    pub up: Counter,
    /// Samples taken over from analytics.
    pub taken_total: Counter,
    /// Samples whose key was written with their value.
    pub stored_total: Counter,
    /// Samples whose key was written with the value of a later one.
    pub coalesced_total: Counter,
    /// Samples dropped, by [`DropReason`].
    pub dropped_total: [Counter; DropReason::ALL.len()],
    /// Samples held: waiting, or on their way to Redis.
    pub queue_samples: Counter,
    /// The bytes they take.
    pub queue_bytes: Counter,
    /// Failures, by [`ErrorKind`].
    pub errors_total: [Counter; ErrorKind::ALL.len()],
    /// Flushes that reached Redis whole.
    pub flushes_total: Counter,
    /// Commands that Redis has answered.
    pub commands_total: Counter,
    /// Connections made.
    pub connections_total: Counter,
    /// Windows read because another replica had changed them.
    pub windows_read_total: Counter,
    /// Members, counts and names in Redis that are not what a replica writes; left out.
    pub foreign_entries_total: Counter,
    /// Windows of other replicas left out because `--max-streams` are in use here.
    pub windows_skipped_total: Counter,
    /// From the first command of a flush to its last answer.
    pub flush: Histogram,
    /// From a sample's arrival to the moment that Redis had it; of the oldest sample of each flush.
    pub delay: Histogram,
}

/// Why a sample was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// `--redis-queue` was full, and it was the oldest.
    QueueFull,
    /// Redis refuses its key for good, whatever is tried.
    Refused,
    /// Redis could not be reached before the end of the drain.
    Shutdown,
}

impl DropReason {
    /// All of them, each at its number.
    pub const ALL: [Self; 3] = [Self::QueueFull, Self::Refused, Self::Shutdown];

    /// As metrics and logs call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Refused => "refused",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What went wrong between here and Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No connection: refused, unreachable, a name that does not resolve, TLS that does not agree.
    Connect,
    /// No answer in time.
    Timeout,
    /// The connection broke.
    Broken,
    /// NOAUTH, WRONGPASS, NOPERM: the user or password is not right, or may not do this.
    Auth,
    /// LOADING: Redis is reading its data set.
    Loading,
    /// READONLY, or no master: a failover is going on.
    ReadOnly,
    /// OOM: `maxmemory` is reached.
    OutOfMemory,
    /// CLUSTERDOWN, TRYAGAIN, redirections without end: the cluster is not whole.
    Cluster,
    /// WRONGTYPE: a key holds what is not ours. Only its command fails, the others count.
    WrongType,
    /// Anything else that Redis says.
    Other,
}

impl ErrorKind {
    /// All of them, each at its number.
    pub const ALL: [Self; 10] = [
        Self::Connect,
        Self::Timeout,
        Self::Broken,
        Self::Auth,
        Self::Loading,
        Self::ReadOnly,
        Self::OutOfMemory,
        Self::Cluster,
        Self::WrongType,
        Self::Other,
    ];

    /// As metrics and logs call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Auth => "auth",
            Self::Loading => "loading",
            Self::ReadOnly => "read_only",
            Self::OutOfMemory => "out_of_memory",
            Self::Cluster => "cluster",
            Self::WrongType => "wrong_type",
            Self::Other => "other",
        }
    }

    /// True when the same batch may succeed later; else the command that failed never will.
    pub const fn is_passing(self) -> bool {
        match self {
            Self::Connect
            | Self::Timeout
            | Self::Broken
            | Self::Auth
            | Self::Loading
            | Self::ReadOnly
            | Self::OutOfMemory
            | Self::Cluster => true,
            Self::WrongType | Self::Other => false,
        }
    }
}
