//! Redis: stores samples, and shares windows between replicas.
//!
//! One [`thread`] takes judged samples from the [`judged_queue`](crate::judged_queue) and coalesces them in the
//! store [`queue`]. It writes them in pipelines of [`commands`] that may be executed twice without harm, and
//! reads back the [`windows`] that other replicas have changed. Detector [`states`] follow their device the same way.
//!
//! Every sample has exactly one outcome, counted here: stored, coalesced or dropped. Until then it is queued.

pub mod batch;
mod cluster;
pub mod commands;
mod connection;
pub mod dial;
mod error;
mod families;
mod handover_desk;
mod info;
pub mod keys;
mod known_windows;
pub mod link;
mod list_desk;
pub mod mark_reply;
mod outcome_gate;
pub mod queue;
pub mod redis_clock;
mod replies;
pub mod reply;
mod segment;
mod sentinel;
pub mod states;
pub mod thread;
pub mod url;
pub mod windows;

pub use outcome_gate::OutcomeGate;

use crate::handover::StatesCounters;
use crate::shared_lists::ListKind;
use sigmad_counters::{Counter, Histogram};

/// Counters of the store, written by its thread.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// 1 while flushes succeed.
    pub up: Counter,
    /// Samples taken from the judged-sample queue: each is in the store queue, or has its outcome.
    pub taken_total: Counter,
    /// Samples whose key was written with their value.
    pub stored_total: Counter,
    /// Samples whose key was written with the value of a later one.
    pub coalesced_total: Counter,
    /// Samples dropped, by [`DropReason`].
    pub dropped_total: [Counter; DropReason::ALL.len()],
    /// Samples in the store queue, waiting or in flight.
    pub queue_samples: Counter,
    /// The bytes of the store queue.
    pub queue_bytes: Counter,
    /// Failures, by [`ErrorKind`].
    pub errors_total: [Counter; ErrorKind::ALL.len()],
    /// Segments whose commands are all answered.
    pub flushes_total: Counter,
    /// Commands that Redis has answered.
    pub commands_total: Counter,
    /// Connections made.
    pub connections_total: Counter,
    /// Samples written again because the sentinels named another master.
    pub rewritten_total: Counter,
    /// Samples released before the sentinels had confirmed the master that has them.
    pub unconfirmed_total: Counter,
    /// Keys that Redis has evicted, as it says.
    pub redis_evicted_total: Counter,
    /// Memory that Redis uses.
    pub redis_used_bytes: Counter,
    /// Memory that Redis may use; 0 without a bound.
    pub redis_bytes_max: Counter,
    /// Windows read because another replica has changed them.
    pub windows_read_total: Counter,
    /// Members, counts and names in Redis that sigmad does not write; they are left out.
    pub foreign_entries_total: Counter,
    /// The wall clock of this replica less Redis' clock, in microseconds; the bits of an i64.
    pub clock_offset_us: Counter,
    /// Values that were removed from windows because their time was in the future.
    pub future_values_total: Counter,
    /// Windows of other replicas left out because `--max-streams` streams are in use.
    pub windows_skipped_total: Counter,
    /// Entries of the cluster's lists, by [`ListKind`] and [`ListResult`].
    pub list_entries_total: [[Counter; ListResult::ALL.len()]; ListKind::ALL.len()],
    /// Detector states on their way between replicas.
    pub states: StatesCounters,
    /// From the first command of a segment to its last reply.
    pub flush: Histogram,
    /// From the arrival of a sample until Redis has it; of the oldest sample of each segment.
    pub delay: Histogram,
}

/// Why a sample was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// `--redis-queue` was full, and the sample was among the oldest.
    QueueFull,
    /// Redis refused its key for good.
    Refused,
    /// Redis did not take it before the end of the drain.
    Shutdown,
}

impl DropReason {
    /// All variants, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::QueueFull, Self::Refused, Self::Shutdown];

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Refused => "refused",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What became of an entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListResult {
    /// Redis has it.
    Written,
    /// It found no room, or Redis refused it.
    LeftOut,
    /// It was read, written by whichever replica.
    Read,
    /// It is damaged, or of another version.
    Unreadable,
}

impl ListResult {
    /// All variants, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Written, Self::LeftOut, Self::Read, Self::Unreadable];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::LeftOut => "left_out",
            Self::Read => "read",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Kinds of failures and refusals of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No connection: refused, unreachable, a name that does not resolve, a failed TLS handshake.
    Connect,
    /// No reply in time.
    Timeout,
    /// The connection broke.
    Broken,
    /// NOAUTH, WRONGPASS, NOPERM: wrong user or password, or a missing permission.
    Auth,
    /// LOADING: Redis is reading its data set.
    Loading,
    /// READONLY, or no master: a failover is in progress.
    ReadOnly,
    /// OOM: `maxmemory` is reached.
    OutOfMemory,
    /// CLUSTERDOWN, TRYAGAIN, endless redirections: the cluster is incomplete.
    Cluster,
    /// WRONGTYPE: another client uses the key. Only that command fails.
    WrongType,
    /// Any other error reply.
    Other,
}

impl ErrorKind {
    /// All variants, in the order of their numbers.
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

    /// The name in metrics and logs.
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

    /// True when the same batch may succeed later. Otherwise the refused command never will.
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
