//! The commands by which replicas share their windows: marks of what has changed, reads, and repairs.

use redis::{Cmd, RedisWrite};

use super::{CommandEncoder, StoreOptions};
use crate::store::batch::CommandBuilder;
use crate::store::keys::{self, ReplicaId};
use crate::store::windows::MetricCounts;

/// Names in one [`CommandEncoder::mark`] at most: a script blocks all other clients while it runs.
pub const MARKED_MAX: usize = 1_000;
/// Names in one reply to a mark at most; the rest follows page by page.
const CHANGED_PER_REPLY_MAX: usize = 4_000;
// Names of one change are sent together, so a page must have room for more than one mark.
const _: () = assert!(CHANGED_PER_REPLY_MAX > MARKED_MAX);

/// Marks names as changed by the next change number, and returns the names changed since a cursor, unless it is empty.
///
/// A change number is larger than all before and never smaller than the time in microseconds. After Redis
/// has lost its data, or its last second in a failover, the next number is therefore still larger than any
/// that a replica has seen. If a page is full, the cursor is the number of its last complete change. A set that is
/// lost begins again with another first member.
const MARK: &str = include_str!("../scripts/mark.lua");

/// Adds the counts of some replicas to the past and deletes their fields, in one step.
const FOLD: &str = include_str!("../scripts/fold.lua");

/// Deletes the values of a window that are newer than a time, by commands that every user of sigmad may execute.
const HEAL: &str = include_str!("../scripts/heal.lua");

/// A replica that has not named its `--window` for this long has ended, or does not reach Redis.
const WINDOW_LIFE_MS: u64 = 60_000;

impl CommandEncoder {
    /// Marks names (of a device, or empty for the fleet) as changed by us, and queries the names changed after
    /// `cursor`; None queries nothing. Takes the first [`MARKED_MAX`] names; without names it only queries.
    /// `names_window` also tells the others our `--window` and that we live, and queries their windows.
    pub fn mark<'a>(
        &self,
        cursor: Option<u64>,
        names_window: bool,
        names: impl Iterator<Item = &'a str>,
    ) -> Cmd {
        let StoreOptions { devices_max, window, replica, .. } = self.options;
        let window = if names_window { window.to_string() } else { String::new() };
        let cursor = cursor.map_or_else(String::new, |cursor| cursor.to_string());
        let mut cmd = Cmd::new();
        cmd.arg("EVAL").arg(MARK).arg(4);
        cmd.arg(keys::CHANGE).arg(keys::CHANGED).arg(keys::WINDOWS).arg(keys::ALIVE);
        // The fleet counts as one more device.
        cmd.arg(cursor)
            .arg(CHANGED_PER_REPLY_MAX)
            .arg(&self.fixed.stream_idle_ms)
            .arg(devices_max + 1)
            .arg(window)
            .arg(WINDOW_LIFE_MS)
            .arg(replica.as_str());
        names.take(MARKED_MAX).for_each(|name| cmd.write_arg(name.as_bytes()));
        cmd
    }

    /// Reads the counts of a device, or of the fleet.
    pub fn read_counts(&mut self, device: Option<&str>) -> Cmd {
        self.key.clear();
        keys::write_counts_key(&mut self.key, device);
        CommandBuilder::of(&[b"HGETALL", &self.key]).cmd
    }

    /// Reads the newest values of a stream, so many.
    pub fn read_window(&mut self, device: Option<&str>, metric: &str, values: u32) -> Cmd {
        let Self { key, text, .. } = self;
        key.clear();
        keys::write_window_key(key, device, metric);
        text.clear();
        keys::write_number(text, -i64::from(values));
        CommandBuilder::of(&[b"ZRANGE", key, text, b"-1"]).cmd
    }

    /// Deletes the values of a window that are newer than `latest_us`.
    pub fn heal(&mut self, device: Option<&str>, metric: &str, latest_us: i64) -> Cmd {
        self.key.clear();
        keys::write_window_key(&mut self.key, device, metric);
        let mut cmd = Cmd::new();
        cmd.arg("EVAL").arg(HEAL).arg(1).arg(&self.key).arg(latest_us);
        cmd
    }

    /// Deletes the counts of a metric whose window has expired, so that the names of the past fill no hash. A
    /// replica that gets a value just then writes its counts again with the next one.
    pub fn forget(&mut self, device: Option<&str>, metric: &MetricCounts) -> Cmd {
        self.key.clear();
        keys::write_counts_key(&mut self.key, device);
        let mut cmd = Cmd::new();
        cmd.arg("HDEL").arg(&self.key);
        for source in &metric.sources {
            self.text.clear();
            keys::write_metric_field(&mut self.text, source, &metric.name);
            cmd.write_arg(&self.text);
        }
        cmd
    }

    /// Moves the counts that `gone_replicas` have of a device, or of the fleet, to the past.
    pub fn fold(&mut self, device: Option<&str>, gone_replicas: &[ReplicaId]) -> Cmd {
        self.key.clear();
        keys::write_counts_key(&mut self.key, device);
        let mut cmd = Cmd::new();
        cmd.arg("EVAL").arg(FOLD).arg(1).arg(&self.key);
        gone_replicas.iter().for_each(|replica| cmd.write_arg(replica.as_str().as_bytes()));
        cmd
    }
}
