//! Segments as Redis commands, and the commands by which replicas share their windows.
//!
//! Every command may be executed twice without harm, and a segment gives the same bytes each time, so that a
//! batch without a reply is sent again as it was. A segment is encoded batch by batch, so that it and all its
//! commands are never in memory at once. No I/O.

use std::fmt;
use std::time::Duration;

use redis::{Cmd, RedisWrite};

use super::batch::{CommandBatch, CommandBuilder, Purpose};
use super::keys::{self, Member, ReplicaCounters, ReplicaId};
pub use super::segment::SampleKeys;
use super::segment::{
    FLEET, HistoryEntry, Segment, SegmentKey, SegmentReading, SegmentStream, SegmentSubject,
    TimestampGroup,
};
use super::windows::MetricCounts;

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
const MARK: &str = include_str!("scripts/mark.lua");

/// Adds the counts of some replicas to the past and deletes their fields, in one step.
const FOLD: &str = include_str!("scripts/fold.lua");

/// Deletes the values of a window that are newer than a time, by commands that every user of sigmad may execute.
const HEAL: &str = include_str!("scripts/heal.lua");

/// A replica that has not named its `--window` for this long has ended, or does not reach Redis.
const WINDOW_LIFE_MS: u64 = 60_000;

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
    /// The first of the values that are read.
    read_from: String,
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
            read_from: format!("-{}", keys::window_values(window)),
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
        keys::write_sample_key(key, key_device, sample.timestamp_us);
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

    /// Marks names (of a device, or empty for the fleet) as changed by us, and queries the names changed after
    /// `cursor`; None queries nothing. Takes the first [`MARKED_MAX`] names; without names it only queries.
    /// `names_window` also tells the others our `--window`, and queries theirs.
    pub fn mark<'a>(
        &self,
        cursor: Option<u64>,
        names_window: bool,
        names: impl Iterator<Item = &'a str>,
    ) -> Cmd {
        let StoreOptions { devices_max, window, .. } = self.options;
        let window = if names_window { window.to_string() } else { String::new() };
        let cursor = cursor.map_or_else(String::new, |cursor| cursor.to_string());
        let mut cmd = Cmd::new();
        cmd.arg("EVAL").arg(MARK).arg(3).arg(keys::CHANGE).arg(keys::CHANGED).arg(keys::WINDOWS);
        // The fleet counts as one more device.
        cmd.arg(cursor)
            .arg(CHANGED_PER_REPLY_MAX)
            .arg(&self.fixed.stream_idle_ms)
            .arg(devices_max + 1)
            .arg(window)
            .arg(WINDOW_LIFE_MS);
        names.take(MARKED_MAX).for_each(|name| cmd.write_arg(name.as_bytes()));
        cmd
    }

    /// Reads the counts of a device, or of the fleet.
    pub fn read_counts(&mut self, device: Option<&str>) -> Cmd {
        self.key.clear();
        keys::write_counts_key(&mut self.key, device);
        CommandBuilder::of(&[b"HGETALL", &self.key]).cmd
    }

    /// Reads the window of a stream.
    pub fn read_window(&mut self, device: Option<&str>, metric: &str) -> Cmd {
        self.key.clear();
        keys::write_window_key(&mut self.key, device, metric);
        CommandBuilder::of(&[b"ZRANGE", &self.key, self.fixed.read_from.as_bytes(), b"-1"]).cmd
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
    keys::write_sample(text, key.timestamp_us, device, readings);
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use redis::Arg;

    use super::*;
    use crate::judged_queue::{ByteBudget, JudgedChunk, JudgedCounts, JudgedReading, JudgedSample};
    use crate::store::batch::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX};
    use crate::store::queue::{Refusals, SegmentOutcome, StoreQueue};
    use std::sync::Arc;

    use sigmad_sample::{DeviceId, MetricId};

    const WINDOW: usize = 3;

    fn options(has_history: bool) -> StoreOptions {
        StoreOptions {
            replica: ReplicaId::new(0xfeed),
            window: WINDOW,
            ttl: Duration::from_millis(299_001),
            stream_idle: Duration::from_secs(3_600),
            history_len: has_history.then_some(1_000_000),
            devices_max: 10,
            sample_keys: SampleKeys::Two,
        }
    }

    fn device_name(device: DeviceId) -> Option<Arc<str>> {
        // Only the newest generation of an index is there; index 3 was evicted.
        let names = ["a", "b:{}\"", "\u{1f980} 5:17%"];
        let name = names.get(device.index as usize)?;
        (device.generation == 0).then(|| (*name).into())
    }

    fn metric_name(metric: MetricId) -> Arc<str> {
        format!("m{}\":}}", metric.slot()).into()
    }

    /// The contents of Redis after the commands used here, according to their manual.
    #[derive(Debug, Default, PartialEq)]
    struct Contents {
        strings: BTreeMap<String, String>,
        windows: BTreeMap<String, BTreeSet<(i64, String)>>,
        hashes: BTreeMap<String, BTreeMap<String, String>>,
        streams: BTreeMap<String, BTreeMap<(u64, u64), String>>,
    }

    fn args(cmd: &Cmd) -> Vec<String> {
        let text = |arg| match arg {
            Arg::Simple(bytes) => String::from_utf8(Vec::from(bytes)).expect("UTF-8"),
            _ => unreachable!("nothing else is written"),
        };
        cmd.args_iter().map(text).collect()
    }

    impl Contents {
        fn apply(&mut self, cmd: &Cmd) {
            let args = args(cmd);
            let args: Vec<&str> = args.iter().map(|arg| &**arg).collect();
            match args[..] {
                ["SET", key, value, "EX", "300"] => {
                    self.strings.insert(key.into(), value.into());
                }
                ["ZADD", key, ref members @ ..] => {
                    let window = self.windows.entry(key.into()).or_default();
                    for pair in members.chunks(2) {
                        window.insert((pair[0].parse().expect("a score"), pair[1].into()));
                    }
                }
                ["ZREMRANGEBYRANK", key, "0", last] => {
                    let kept = last.parse::<i64>().expect("a rank").unsigned_abs() as usize - 1;
                    let window = self.windows.get_mut(key).expect("added to");
                    while window.len() > kept {
                        window.pop_first();
                    }
                }
                ["PEXPIRE", key, "3600000"] => {
                    assert!(self.windows.contains_key(key) || self.hashes.contains_key(key));
                }
                ["HSET", key, ref fields @ ..] => {
                    let hash = self.hashes.entry(key.into()).or_default();
                    for pair in fields.chunks(2) {
                        hash.insert(pair[0].into(), pair[1].into());
                    }
                }
                ["XADD", key, "MAXLEN", "~", "1000000", id, "sample", sample] => {
                    let stream = self.streams.entry(key.into()).or_default();
                    let (ms, rest) = id.split_once('-').expect("two parts");
                    let id = (ms.parse().expect("ms"), rest.parse().expect("the rest"));
                    // Otherwise Redis refuses it: it was added before.
                    if stream.last_key_value().is_none_or(|(&last, _)| id > last) {
                        stream.insert(id, sample.into());
                    }
                }
                _ => panic!("unknown: {args:?}"),
            }
        }
    }

    #[derive(Clone, Debug)]
    struct SentSample {
        device: Option<DeviceId>,
        timestamp_us: i64,
        metrics: Vec<(u16, f64)>,
        is_same_time: bool,
    }

    #[derive(Clone, Debug)]
    enum EncoderStep {
        Take(Vec<SentSample>),
        Begin,
        Done,
    }

    fn step() -> impl Strategy<Value = EncoderStep> {
        let device = proptest::option::of((0..4_u32, 0..8_u32));
        let device = device.prop_map(|device| {
            device.map(|(index, odd)| DeviceId { index, generation: u32::from(odd == 0) })
        });
        let metrics = proptest::collection::btree_map(0..5_u16, -9.0..9.0, 1..5)
            .prop_map(|metrics| metrics.into_iter().collect::<Vec<_>>())
            .prop_shuffle();
        let sample = (device, 0..4_i64, metrics, any::<bool>()).prop_map(
            |(device, half_seconds, metrics, is_same_time)| SentSample {
                device,
                timestamp_us: 1_735_100_000_000_000 + half_seconds * 500_000,
                metrics,
                is_same_time,
            },
        );
        prop_oneof![
            4 => proptest::collection::vec(sample, 1..12).prop_map(EncoderStep::Take),
            1 => Just(EncoderStep::Begin),
            1 => Just(EncoderStep::Done),
        ]
    }

    /// The contents when every sample is written on its own, and windows are trimmed at the end.
    #[derive(Default)]
    struct ExpectedContents {
        contents: Contents,
        counts: BTreeMap<(Option<u32>, Option<u16>), u64>,
        samples: u64,
        time_us: i64,
        sequence: u16,
    }

    impl ExpectedContents {
        /// Judges a sample, and writes it in its final form.
        fn judge(&mut self, sample: &SentSample, chunk: &mut JudgedChunk, has_history: bool) {
            if sample.is_same_time && self.sequence < 999 && self.time_us > 0 {
                self.sequence += 1;
            } else {
                (self.time_us, self.sequence) = (self.time_us.max(1_800_000_000_000_000) + 1, 0);
            }
            let (time_us, sequence) = (self.time_us, self.sequence);
            let mut count = |device: Option<u32>, metric| {
                let total = self.counts.entry((device, metric)).or_default();
                *total += 1;
                JudgedCounts { total: *total, anomalies: *total / 3 }
            };
            let id = sample.device.map(|device| device.index);
            let of_device = if id.is_some() { count(id, None) } else { JudgedCounts::default() };
            self.samples += 1;
            let of_replica = self.samples;
            let readings: Vec<_> = sample
                .metrics
                .iter()
                .map(|&(metric, value)| JudgedReading {
                    metric: MetricId::new(metric, 0),
                    value,
                    stream: if id.is_some() {
                        count(id, Some(metric))
                    } else {
                        JudgedCounts::default()
                    },
                    fleet: count(None, Some(metric)),
                })
                .collect();
            readings.iter().for_each(|&reading| chunk.push_reading(reading));
            let judged = JudgedSample {
                time_us,
                sequence,
                readings: readings.len() as u16,
                timestamp_us: sample.timestamp_us,
                device: sample.device,
                of_device,
                of_replica,
            };
            chunk.push_sample(judged);
            self.write(judged, &readings, has_history);
        }

        /// Writes a judged sample to all its keys.
        fn write(&mut self, sample: JudgedSample, readings: &[JudgedReading], has_history: bool) {
            let JudgedSample { time_us, sequence, of_device, of_replica, .. } = sample;
            let name = sample.device.and_then(device_name);
            let device = name.as_deref();
            let timestamp = match sample.timestamp_us / 1_000 {
                ms if ms % 1_000 == 0 => (ms / 1_000).to_string(),
                ms => ms.to_string(),
            };
            let mut json = format!("{{\"timestamp\":{timestamp}");
            if let Some(device) = device {
                json += &format!(",\"device\":{}", serde_json::to_string(device).expect("JSON"));
            }
            for reading in readings {
                let metric = serde_json::to_string(&*metric_name(reading.metric)).expect("JSON");
                json += &format!(",{metric}:{}", reading.value);
            }
            json += "}";
            let contents = &mut self.contents;
            let field = "0000feed";
            let subject = |device: Option<&str>| match device {
                Some(name) => {
                    let name = name.replace('%', "%25").replace('}', "%7D");
                    format!("sigmad:{{{name}}}")
                }
                None => "sigmad:fleet".to_owned(),
            };
            contents.strings.insert(format!("metric:{timestamp}"), json.clone());
            if let Some(device) = device {
                contents.strings.insert(format!("metric:{device}:{timestamp}"), json.clone());
            }
            for device in BTreeSet::from([None, device]) {
                let of_fleet = JudgedCounts { total: of_replica, anomalies: 0 };
                let of_device = if device.is_some() { of_device } else { of_fleet };
                let hash =
                    contents.hashes.entry(format!("{}:counts", subject(device))).or_default();
                let counters = format!(
                    "{time_us}:{}:{}:{}",
                    sample.timestamp_us, of_device.total, of_device.anomalies
                );
                hash.insert(field.into(), counters);
                for reading in readings {
                    let metric = metric_name(reading.metric);
                    let counts = if device.is_some() { reading.stream } else { reading.fleet };
                    let counts = format!("{}:{}", counts.total, counts.anomalies);
                    hash.insert(format!("{field}:{metric}"), counts);
                    let member = format!("{time_us:016}:{field}:{sequence:03}:{}", reading.value);
                    let window = format!("{}:window:{metric}", subject(device));
                    contents.windows.entry(window).or_default().insert((time_us, member));
                }
            }
            if has_history {
                let stream = contents.streams.entry(format!("sigmad:history:{field}")).or_default();
                let id =
                    (time_us as u64 / 1_000, time_us as u64 % 1_000 * 1_000 + u64::from(sequence));
                stream.insert(id, json);
            }
        }

        fn trimmed(mut self) -> Contents {
            for window in self.contents.windows.values_mut() {
                while window.len() > WINDOW + 1 {
                    window.pop_first();
                }
            }
            self.contents
        }
    }

    /// The outcome of the samples of a segment.
    fn outcome(segment: &[SentSample], has_history: bool) -> SegmentOutcome {
        let device = |sample: &SentSample| sample.device.and_then(device_name);
        let is_coalesced = |(at, sample): (usize, &SentSample)| {
            segment[at + 1..].iter().any(|later| {
                let is_same = device(sample).is_none() || device(sample) == device(later);
                is_same && later.timestamp_us == sample.timestamp_us
            })
        };
        let coalesced = segment.iter().enumerate().filter(|&each| is_coalesced(each)).count();
        let coalesced = if has_history { 0 } else { coalesced as u64 };
        SegmentOutcome { stored: segment.len() as u64 - coalesced, coalesced, refused: 0 }
    }

    /// Flushes the segment in flight, its first batches twice. Returns how many [`Purpose::Key`]s there were.
    fn flush(
        commands: &mut CommandEncoder,
        segment: &Segment,
        contents: &mut Contents,
        cut: usize,
    ) -> u64 {
        let mut batch = CommandBatch::default();
        let mut bytes = Vec::new();
        let mut cursor = BatchCursor::default();
        for _ in 0..cut {
            if commands.fill(segment, &mut cursor, &mut batch) {
                batch.pipeline.cmd_iter().for_each(|cmd| contents.apply(cmd));
                bytes.push(batch.pipeline.get_packed_pipeline());
            }
        }
        let mut cursor = BatchCursor::default();
        let (mut keys, mut written) = (0, 0);
        while commands.fill(segment, &mut cursor, &mut batch) {
            assert_eq!(batch.purposes.len(), batch.pipeline.len());
            assert!(batch.purposes.len() <= BATCH_COMMANDS_MAX);
            batch.pipeline.cmd_iter().for_each(|cmd| contents.apply(cmd));
            keys += batch.purposes.iter().filter(|&&purpose| purpose == Purpose::Key).count();
            if let Some(before) = bytes.get(written) {
                assert_eq!(*before, batch.pipeline.get_packed_pipeline());
            }
            written += 1;
        }
        keys as u64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn coalescing_does_not_change_the_contents(
            steps in proptest::collection::vec(step(), 1..25),
            has_history in any::<bool>(),
            cut in 0..3_usize,
        ) {
            let options = options(has_history);
            let mut queue = StoreQueue::new(Arc::new(ByteBudget::new(64 << 20)), options.window, options.history_len.is_some());
            let mut commands = CommandEncoder::new(options);
            let (mut expected_contents, mut contents) = (ExpectedContents::default(), Contents::default());
            let (mut flight, mut waiting) = (Vec::new(), Vec::new());
            for step in steps.into_iter().chain([EncoderStep::Done, EncoderStep::Begin, EncoderStep::Done]) {
                match step {
                    EncoderStep::Take(samples) => {
                        let mut chunk = JudgedChunk::default();
                        for sample in &samples {
                            expected_contents.judge(sample, &mut chunk, has_history);
                        }
                        prop_assert_eq!(queue.take(&chunk, device_name, |metric| Some(metric_name(metric))), 0);
                        waiting.extend(samples);
                    }
                    EncoderStep::Begin => if queue.in_flight().is_none() && queue.begin().is_some() {
                        flight = std::mem::take(&mut waiting);
                    },
                    EncoderStep::Done => if let Some(segment) = queue.in_flight() {
                        let keys = flush(&mut commands, segment, &mut contents, cut);
                        let expected = outcome(&flight, has_history);
                        prop_assert_eq!(keys, outcome(&flight, false).stored);
                        prop_assert_eq!(queue.done(Refusals::default()), expected);
                    },
                }
            }
            prop_assert_eq!(queue.samples(), 0);
            prop_assert_eq!(contents, expected_contents.trimmed());
        }
    }

    #[test]
    fn a_sample_has_two_keys_or_one_or_none() {
        let a = Some(DeviceId { index: 0, generation: 0 });
        // The last sample of its timestamp has a device; an earlier one has none.
        let samples =
            [(a, 7), (None, 7), (None, 8), (a, 8), (a, 8)].map(|(device, second)| SentSample {
                device,
                timestamp_us: second * 1_000_000,
                metrics: vec![(0, second as f64)],
                is_same_time: false,
            });
        for (sample_keys, keys, stored) in [
            (SampleKeys::Two, &["metric:7", "metric:8", "metric:a:7", "metric:a:8"][..], 3),
            (SampleKeys::One, &["metric:7", "metric:8", "metric:a:7", "metric:a:8"], 4),
            (SampleKeys::None, &[], 5),
        ] {
            let options = StoreOptions { sample_keys, ..options(false) };
            let budget = Arc::new(ByteBudget::new(64 << 20));
            let mut queue =
                StoreQueue::new(budget, options.window, false).with_sample_keys(sample_keys);
            let mut commands = CommandEncoder::new(options);
            let mut chunk = JudgedChunk::default();
            let mut expected_contents = ExpectedContents::default();
            for sample in &samples {
                expected_contents.judge(sample, &mut chunk, false);
            }
            assert_eq!(queue.take(&chunk, device_name, |metric| Some(metric_name(metric))), 0);
            let mut contents = Contents::default();
            flush(&mut commands, queue.begin().expect("a segment"), &mut contents, 0);
            assert!(contents.strings.keys().eq(keys), "{sample_keys:?}: {:?}", contents.strings);
            let device = 1;
            let windows = [device].into();
            let outcome = queue.done(Refusals { windows, ..Refusals::default() });
            // Without keys, the three samples of the device are where their windows are.
            let refused = if sample_keys == SampleKeys::None { 3 } else { 0 };
            let expected =
                SegmentOutcome { stored: stored - refused, coalesced: 5 - stored, refused };
            assert_eq!(outcome, expected, "{sample_keys:?}");
        }
    }

    #[test]
    fn batches_are_bounded() {
        let options = StoreOptions { window: 10_000, ..options(false) };
        let mut queue = StoreQueue::new(
            Arc::new(ByteBudget::new(256 << 20)),
            options.window,
            options.history_len.is_some(),
        );
        let mut commands = CommandEncoder::new(options);
        let mut expected_contents = ExpectedContents::default();
        for at in 0..200 {
            let mut chunk = JudgedChunk::default();
            for index in 0..200 {
                let sample = SentSample {
                    device: Some(DeviceId { index: index % 3, generation: 0 }),
                    timestamp_us: i64::from(at * 200 + index) * 1_000_000,
                    metrics: vec![(0, 0.5), (1, 1.5)],
                    is_same_time: true,
                };
                expected_contents.judge(&sample, &mut chunk, false);
            }
            queue.take(&chunk, device_name, |metric| Some(metric_name(metric)));
        }
        let segment = queue.begin().expect("samples");
        let (mut batch, mut cursor, mut sent) =
            (CommandBatch::default(), BatchCursor::default(), 0);
        while commands.fill(segment, &mut cursor, &mut batch) {
            assert!(batch.purposes.len() <= BATCH_COMMANDS_MAX);
            let longest = batch.pipeline.cmd_iter().map(|cmd| cmd.get_packed_command().len()).max();
            let bytes = batch.pipeline.get_packed_pipeline().len();
            // The command that fills a batch may be the longest one.
            assert!(bytes < BATCH_BYTES_MAX + longest.expect("commands") + 1_000, "{bytes}");
            sent += batch.purposes.len();
        }
        assert_eq!(sent, 8 * 3 + 4 * 2 + 2 * 40_000);
    }
}
