//! Segments as Redis commands; [`sharing`] has those by which replicas share their windows, [`lists`] those for lists,
//! [`states`] those for detector states.
//!
//! Every command may be executed twice without harm, and a segment gives the same bytes each time, so that a
//! batch without a reply is sent again as it was. A segment is encoded batch by batch, so that it and all its
//! commands are never in memory at once. No I/O.

pub mod lists;
mod sharing;
mod states;

use std::fmt;
use std::time::Duration;

use super::batch::{CommandBatch, CommandBuilder, Purpose};
use super::keys::{self, Member, ReplicaCounters, ReplicaId};
pub use super::segment::SampleKeys;
use super::segment::{
    FLEET, HistoryEntry, Segment, SegmentKey, SegmentReading, SegmentStream, SegmentSubject,
    TimestampGroup,
};
pub use sharing::MARKED_MAX;

/// What the commands depend on.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// This replica.
    pub replica: ReplicaId,
    /// Values in a window.
    pub window: usize,
    /// Time to live of a sample's key; rounded up to whole seconds.
    pub ttl: Duration,
    /// Time to live of a window that gets no values.
    pub stream_idle: Duration,
    /// Samples that the history of a replica keeps, or a few more. None: no history.
    pub history_len: Option<usize>,
    /// Devices in the set of changes; past it the oldest changes are deleted.
    pub devices_max: usize,
    /// Keys that each sample has, beside the windows.
    pub sample_keys: SampleKeys,
}

/// Encodes segments and queries as commands.
pub struct CommandEncoder {
    options: StoreOptions,
    key: Vec<u8>,
    id: Vec<u8>,
    text: Vec<u8>,
    /// Added to the times of all entries of the history: their order must never step back, for Redis would
    /// refuse the entry. Set by the first one.
    history_base_us: Option<i64>,
    /// Arguments that are the same in every command.
    fixed: Fixed,
}

struct Fixed {
    ttl_s: String,
    stream_idle_ms: String,
    /// By [`trimmed_to`].
    trimmed_to: String,
    history_len: Option<String>,
}

/// How much of a segment is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchCursor {
    /// Index into its streams, subjects, keys, groups and history, as if they were one table.
    at: usize,
}

impl fmt::Debug for CommandEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandEncoder").field("options", &self.options).finish_non_exhaustive()
    }
}

impl CommandEncoder {
    /// Nothing is encoded so far.
    pub fn new(options: StoreOptions) -> Self {
        let StoreOptions { window, ttl, stream_idle, history_len, .. } = options;
        let fixed = Fixed {
            ttl_s: (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).to_string(),
            stream_idle_ms: stream_idle.as_millis().to_string(),
            trimmed_to: trimmed_to(window),
            history_len: history_len.map(|len| len.to_string()),
        };
        let (key, id, text, history_base_us) = Default::default();
        Self { options, key, id, text, history_base_us, fixed }
    }

    /// Sets the largest `--window` in use: so many values of a stream are kept in Redis.
    pub fn set_window(&mut self, largest: usize) {
        self.fixed.trimmed_to = trimmed_to(largest);
    }

    /// The options it was made with.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// Fills `batch` with the next commands of `segment`, from `cursor` on, and advances `cursor`. False once
    /// there are no more.
    pub fn fill(
        &mut self,
        segment: &Segment,
        cursor: &mut BatchCursor,
        batch: &mut CommandBatch,
    ) -> bool {
        batch.clear();
        while batch.has_room() {
            let mut at = cursor.at;
            if let Some(stream) = row_at(&segment.streams, &mut at) {
                self.window(segment, stream, batch);
            } else if let Some(subject) = row_at(&segment.subjects, &mut at) {
                self.counts(segment, subject, batch);
            } else if let Some(key) = row_at(&segment.keys, &mut at) {
                self.sample_key(segment, key, batch);
            } else if let Some(group) = row_at(&segment.groups, &mut at) {
                self.timestamp_key(segment, group, batch);
            } else if let Some(entry) = row_at(&segment.history, &mut at) {
                self.history(segment, entry, batch);
            } else {
                break;
            }
            cursor.at += 1;
        }
        !batch.purposes.is_empty()
    }

    fn window(&mut self, segment: &Segment, stream: &SegmentStream, batch: &mut CommandBatch) {
        let Self { options, key, text, fixed, .. } = self;
        key.clear();
        let subject = &segment.subjects[stream.subject as usize];
        keys::write_window_key(key, subject.device(), segment.metric_name(stream.metric));
        let values = segment.values_of(stream);
        let mut add =
            CommandBuilder::new("ZADD", 2 + 2 * stream.len(), 64 * stream.len() + key.len());
        add.arg(key);
        for value in values {
            text.clear();
            let time_us = segment.redis_us(value.time_us);
            keys::write_number(text, time_us);
            add.arg(text);
            text.clear();
            let member = Member {
                time_us,
                replica: options.replica,
                sequence: value.sequence,
                value: value.value,
            };
            member.write(text);
            add.arg(text);
        }
        batch.push(Purpose::Window(stream.subject), add);
        let trim = [b"ZREMRANGEBYRANK", &key[..], b"0", fixed.trimmed_to.as_bytes()];
        batch.push(Purpose::WindowBound, CommandBuilder::of(&trim));
        let expire = [b"PEXPIRE", &key[..], fixed.stream_idle_ms.as_bytes()];
        batch.push(Purpose::WindowBound, CommandBuilder::of(&expire));
    }

    fn counts(&mut self, segment: &Segment, subject: &SegmentSubject, batch: &mut CommandBatch) {
        if subject.device().is_none() && !segment.has_fleet {
            // Samples of devices alone: those of the fleet's shard are in another segment.
            return;
        }
        let Self { options, key, text, fixed, .. } = self;
        key.clear();
        keys::write_counts_key(key, subject.device());
        let mut set = CommandBuilder::new("HSET", 12, 256);
        set.arg(key);
        text.clear();
        keys::write_field(text, options.replica, None);
        set.arg(text);
        text.clear();
        let SegmentSubject { time_us, timestamp_us, counts, .. } = *subject;
        let time_us = segment.redis_us(time_us);
        ReplicaCounters { time_us, timestamp_us, counts }.write(text);
        set.arg(text);
        for stream in segment.streams_of(subject) {
            text.clear();
            keys::write_field(text, options.replica, Some(segment.metric_name(stream.metric)));
            set.arg(text);
            text.clear();
            keys::write_counts(text, stream.counts);
            set.arg(text);
        }
        batch.push(Purpose::Counts, set);
        let expire = [b"PEXPIRE", &key[..], fixed.stream_idle_ms.as_bytes()];
        batch.push(Purpose::Counts, CommandBuilder::of(&expire));
    }

    /// The key of a sample with a device; if samples have one key, of every sample. With two, the key of a
    /// timestamp alone comes with its group.
    fn sample_key(&mut self, segment: &Segment, key: &SegmentKey, batch: &mut CommandBatch) {
        let has_key = match segment.sample_keys {
            SampleKeys::Two => key.subject != FLEET,
            SampleKeys::One => true,
            SampleKeys::None => false,
        };
        if has_key {
            let device = segment.subjects[key.subject as usize].device();
            self.set(segment, key, device, Purpose::Key, batch);
        }
    }

    fn timestamp_key(
        &mut self,
        segment: &Segment,
        group: &TimestampGroup,
        batch: &mut CommandBatch,
    ) {
        if segment.sample_keys != SampleKeys::Two {
            return;
        }
        let key = &segment.keys[group.newest as usize];
        let purpose = if key.subject == FLEET { Purpose::Key } else { Purpose::SecondKey };
        self.set(segment, key, None, purpose, batch);
    }

    fn set(
        &mut self,
        segment: &Segment,
        sample: &SegmentKey,
        key_device: Option<&str>,
        purpose: Purpose,
        batch: &mut CommandBatch,
    ) {
        let Self { key, text, fixed, .. } = self;
        key.clear();
        keys::write_sample_key(key, key_device, segment.timestamp_us(sample));
        write_sample(text, segment, sample, segment.readings_of(sample));
        batch
            .push(purpose, CommandBuilder::of(&[b"SET", key, text, b"EX", fixed.ttl_s.as_bytes()]));
    }

    fn history(&mut self, segment: &Segment, entry: &HistoryEntry, batch: &mut CommandBatch) {
        let Self { options, key, id, text, history_base_us, fixed } = self;
        let len = fixed.history_len.as_deref().expect("entries exist only with a history");
        key.clear();
        keys::write_history_key(key, options.replica);
        id.clear();
        let base_us = *history_base_us.get_or_insert(segment.redis_us(0));
        keys::write_history_id(id, base_us + entry.time_us, entry.sequence);
        let sample = &segment.keys[entry.key as usize];
        write_sample(text, segment, sample, segment.readings_of_entry(entry));
        let is_alone = segment.is_coalesced(entry);
        let purpose = if is_alone { Purpose::HistoryAlone } else { Purpose::History };
        let add = [b"XADD", &key[..], b"MAXLEN", b"~", len.as_bytes(), id, b"sample", text];
        batch.push(purpose, CommandBuilder::of(&add));
    }
}

/// The last rank, from the end, that is deleted from a window.
fn trimmed_to(window: usize) -> String {
    format!("-{}", keys::window_values(window) + 1)
}

/// The row at index `at`. If the table is shorter, `at` becomes the index into the next table.
fn row_at<'a, T>(table: &'a [T], at: &mut usize) -> Option<&'a T> {
    let found = table.get(*at);
    if found.is_none() {
        *at -= table.len();
    }
    found
}

fn write_sample(
    text: &mut Vec<u8>,
    segment: &Segment,
    key: &SegmentKey,
    readings: &[SegmentReading],
) {
    text.clear();
    let device = segment.subjects[key.subject as usize].device();
    let readings = readings.iter().map(|r| (segment.metric_name(r.metric), r.value));
    keys::write_sample(text, segment.timestamp_us(key), device, readings);
}

#[cfg(test)]
mod tests;
