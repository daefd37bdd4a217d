//! Segments as commands, and the commands that tell replicas of each other's changes.
//!
//! Every command may be sent twice without harm, and a segment gives the same bytes each time: a batch
//! of which no answer came is sent again as it is. Encoded batch by batch, so that a segment and its
//! commands need not be in memory at once. No I/O.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Pipeline, RedisWrite, Value};

use super::keys::{self, Member, Replica, ReplicaCounters};
use super::queue::{FLEET, Key, Logged, Owner, Refusals, Segment, Stream, TimestampGroup};
use sigmad_sample::{MetricId, Reading};

/// Commands in one batch at most: past a hundred Redis gains nothing more, and the answers of so many
/// fit in the buffers of a socket, so that neither side ever waits for the other to read.
pub const BATCH_COMMANDS_MAX: usize = 512;
/// A batch that takes more is sent: the windows of a few hundred streams, well within a write timeout.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Names in one [`Commands::mark`] at most: a script holds up everyone else while it runs.
pub const MARKED_MAX: usize = 1_000;
/// Names that one [`Commands::mark`] is told at most: what others changed is told page by page.
const CHANGED_MAX: usize = 4_000;
// Those of one number are told together, so a page must have room for one mark and more.
const _: () = assert!(CHANGED_MAX > MARKED_MAX);
/// Commands that a segment's step makes: a window is added to, trimmed, and given its time to live.
const STEP_COMMANDS_MAX: usize = 3;
/// What a command takes in a batch beside its arguments.
const COMMAND_BYTES: usize = 64;

/// Marks names as changed by the next number, and tells who was changed since the last.
///
/// A number is larger than all before, and never smaller than the time: one that comes after Redis has
/// lost its data, or the last second of it in a failover, is still larger than what any replica has
/// seen. What a page has no room for is told from the number of its last whole change on.
const MARK: &str = "\
local time = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local number = math.max(last + 1, time[1] * 1000000 + time[2])
local digits = string.format('%.0f', number)
local page = tonumber(ARGV[2])
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, page)
local told, cursor = #found / 2, digits
if told == page then
  cursor = found[#found]
  while told > 0 and found[2 * told] == cursor do told = told - 1 end
  if told == 0 then told = page else cursor = found[2 * told] end
end
local names = {}
for i = 1, told do names[i] = found[2 * i - 1] end
redis.call('SET', KEYS[1], digits, 'PX', ARGV[3])
local marked = {}
for i = 5, #ARGV do
  marked[#marked + 1] = digits
  marked[#marked + 1] = ARGV[i]
end
if #marked > 0 then
  redis.call('ZADD', KEYS[2], unpack(marked))
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[4])
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {digits, cursor, names}
";

/// Adds what some replicas have counted to the past, and takes their fields away, both or neither.
const FOLD: &str = "\
local fields = redis.call('HGETALL', KEYS[1])
local values, gone = {}, {}
for i = 1, #fields, 2 do values[fields[i]] = fields[i + 1] end
for i = 1, #ARGV do gone[ARGV[i]] = true end
local folded = 0
for i = 1, #fields, 2 do
  local replica, metric = string.match(fields[i], '^(%x%x%x%x%x%x%x%x)(.*)$')
  if replica and gone[replica] then
    local past, sum = 'past' .. metric, nil
    if metric == '' then
      local pattern = '^(%d+):(%d+):(%d+):(%d+)$'
      local time, timestamp, total, anomalies = string.match(fields[i + 1], pattern)
      if time then
        local t, s, n, a = string.match(values[past] or '0:0:0:0', pattern)
        if t and tonumber(t) > tonumber(time) then time, timestamp = t, s end
        sum = string.format('%s:%s:%.0f:%.0f', time, timestamp, total + (n or 0), anomalies + (a or 0))
      end
    else
      local pattern = '^(%d+):(%d+)$'
      local total, anomalies = string.match(fields[i + 1], pattern)
      if total then
        local n, a = string.match(values[past] or '0:0', pattern)
        sum = string.format('%.0f:%.0f', total + (n or 0), anomalies + (a or 0))
      end
    end
    if sum then
      values[past] = sum
      redis.call('HSET', KEYS[1], past, sum)
      redis.call('HDEL', KEYS[1], fields[i])
      folded = folded + 1
    end
  end
end
return folded
";

/// What the commands depend on.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Who we are.
    pub replica: Replica,
    /// Values in a window.
    pub window: usize,
    /// How long a sample's key lives; whole seconds, rounded up.
    pub ttl: Duration,
    /// How long a window lives that nobody adds to.
    pub stream_idle: Duration,
    /// Samples that the history of a replica keeps, or a few more; None without a history.
    pub history_len: Option<usize>,
    /// Devices that are told of; past it those changed longest ago are forgotten.
    pub devices_max: usize,
}

/// Writes commands.
pub struct Commands {
    options: Options,
    metric_name: Box<dyn Fn(MetricId) -> Arc<str> + Send>,
    /// Names asked for so far, by id.
    metrics: Vec<Option<Arc<str>>>,
    key: Vec<u8>,
    id: Vec<u8>,
    text: Vec<u8>,
    /// Arguments that are the same in every command.
    fixed: Fixed,
}

struct Fixed {
    ttl_s: String,
    stream_idle_ms: String,
    /// The last rank, from the end, that a window has no room for.
    trimmed_to: String,
    history_len: Option<String>,
}

/// Commands that are sent together.
#[derive(Debug)]
pub struct Batch {
    /// The commands.
    pub pipeline: Pipeline,
    /// What each of them is for.
    pub purposes: Vec<Purpose>,
    bytes: usize,
}

/// What a command is for, and so what is lost when Redis refuses it for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A window: the values of a stream.
    Window,
    /// The counts of a device, or of the fleet.
    Counts,
    /// The only key of a sample.
    Key,
    /// The second key of a sample: the one without its device.
    SecondKey,
    /// A sample in the history, whose key holds its value as well.
    History,
    /// A sample in the history alone: a later one had its key.
    HistoryAlone,
}

impl Purpose {
    /// Counts what a refusal for good has cost.
    pub fn refused(self, refusals: &mut Refusals) {
        match self {
            Self::Key => refusals.keys += 1,
            Self::HistoryAlone => refusals.history += 1,
            Self::Window | Self::Counts | Self::SecondKey | Self::History => {}
        }
    }

    /// True when an error of that text says that the command had been done before.
    pub fn is_done_by(self, error: &str) -> bool {
        matches!(self, Self::History | Self::HistoryAlone) && error.contains("equal or smaller")
    }
}

/// How much of a segment has been written as commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Its streams, owners, keys, moments and log as one row.
    at: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            pipeline: Pipeline::with_capacity(BATCH_COMMANDS_MAX),
            purposes: Vec::with_capacity(BATCH_COMMANDS_MAX),
            bytes: 0,
        }
    }
}

impl Batch {
    fn clear(&mut self) {
        self.pipeline.clear();
        self.purposes.clear();
        self.bytes = 0;
    }

    fn has_room(&self) -> bool {
        self.purposes.len() + STEP_COMMANDS_MAX <= BATCH_COMMANDS_MAX
            && self.bytes < BATCH_BYTES_MAX
    }

    fn push(&mut self, purpose: Purpose, command: Command) {
        self.bytes += command.bytes;
        self.pipeline.add_command(command.cmd);
        self.purposes.push(purpose);
    }
}

/// A command that is being written.
struct Command {
    cmd: Cmd,
    bytes: usize,
}

impl Command {
    /// With room for `args` arguments of `bytes` in all.
    fn new(name: &str, args: usize, bytes: usize) -> Self {
        let mut cmd = Cmd::with_capacity(args, bytes);
        cmd.write_arg(name.as_bytes());
        Self { cmd, bytes: COMMAND_BYTES }
    }

    fn arg(&mut self, arg: &(impl AsRef<[u8]> + ?Sized)) -> &mut Self {
        self.cmd.write_arg(arg.as_ref());
        self.bytes += arg.as_ref().len();
        self
    }

    fn of(args: &[&[u8]]) -> Self {
        let bytes = args.iter().map(|arg| arg.len()).sum();
        let mut cmd = Cmd::with_capacity(args.len(), bytes);
        args.iter().for_each(|arg| cmd.write_arg(arg));
        Self { cmd, bytes: COMMAND_BYTES + bytes }
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Commands {
    /// `metric_name`: asked once for each metric.
    pub fn new(
        options: Options,
        metric_name: impl Fn(MetricId) -> Arc<str> + Send + 'static,
    ) -> Self {
        let Options { window, ttl, stream_idle, history_len, .. } = options;
        let fixed = Fixed {
            ttl_s: (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).to_string(),
            stream_idle_ms: stream_idle.as_millis().to_string(),
            trimmed_to: format!("-{}", keys::window_values(window) + 1),
            history_len: history_len.map(|len| len.to_string()),
        };
        let metric_name = Box::new(metric_name);
        let (metrics, key, id, text) = Default::default();
        Self { options, metric_name, metrics, key, id, text, fixed }
    }

    /// What they depend on.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Fills `batch` with the commands of `segment` that come after `progress`, and moves that on. False
    /// once there are no more.
    pub fn fill(&mut self, segment: &Segment, progress: &mut Progress, batch: &mut Batch) -> bool {
        batch.clear();
        self.know_metrics(segment);
        while batch.has_room() {
            let mut at = progress.at;
            if let Some(stream) = step(&segment.streams, &mut at) {
                self.window(segment, stream, batch);
            } else if let Some(owner) = step(&segment.owners, &mut at) {
                self.counts(segment, owner, batch);
            } else if let Some(key) = step(&segment.keys, &mut at) {
                self.key(segment, key, batch);
            } else if let Some(moment) = step(&segment.moments, &mut at) {
                self.moment(segment, moment, batch);
            } else if let Some(logged) = step(&segment.log, &mut at) {
                self.logged(segment, logged, batch);
            } else {
                break;
            }
            progress.at += 1;
        }
        !batch.purposes.is_empty()
    }

    /// Asks for the names that the segment needs: each metric in it is one of the fleet.
    fn know_metrics(&mut self, segment: &Segment) {
        for stream in segment.streams_of(&segment.owners[FLEET as usize]) {
            let index = usize::from(stream.metric.0);
            if self.metrics.len() <= index {
                self.metrics.resize(index + 1, None);
            }
            self.metrics[index].get_or_insert_with(|| (self.metric_name)(stream.metric));
        }
    }

    fn window(&mut self, segment: &Segment, stream: &Stream, batch: &mut Batch) {
        let Self { options, metrics, key, text, fixed, .. } = self;
        key.clear();
        let owner = &segment.owners[stream.owner as usize];
        keys::write_window_key(key, owner.device(), name_of(metrics, stream.metric));
        let values = segment.values_of(stream);
        let mut add = Command::new("ZADD", 2 + 2 * stream.len(), 64 * stream.len() + key.len());
        add.arg(key);
        for value in values {
            text.clear();
            keys::write_number(text, value.time_us);
            add.arg(text);
            text.clear();
            let member = Member {
                time_us: value.time_us,
                replica: options.replica,
                sequence: value.sequence,
                value: value.value,
            };
            member.write(text);
            add.arg(text);
        }
        batch.push(Purpose::Window, add);
        let trim = [b"ZREMRANGEBYRANK", &key[..], b"0", fixed.trimmed_to.as_bytes()];
        batch.push(Purpose::Window, Command::of(&trim));
        let expire = [b"PEXPIRE", &key[..], fixed.stream_idle_ms.as_bytes()];
        batch.push(Purpose::Window, Command::of(&expire));
    }

    fn counts(&mut self, segment: &Segment, owner: &Owner, batch: &mut Batch) {
        let Self { options, metrics, key, text, fixed, .. } = self;
        key.clear();
        keys::write_counts_key(key, owner.device());
        let mut set = Command::new("HSET", 12, 256);
        set.arg(key);
        text.clear();
        keys::write_field(text, options.replica, None);
        set.arg(text);
        text.clear();
        let Owner { time_us, timestamp_us, counts, .. } = *owner;
        ReplicaCounters { time_us, timestamp_us, counts }.write(text);
        set.arg(text);
        for stream in segment.streams_of(owner) {
            text.clear();
            keys::write_field(text, options.replica, Some(name_of(metrics, stream.metric)));
            set.arg(text);
            text.clear();
            keys::write_counts(text, stream.counts);
            set.arg(text);
        }
        batch.push(Purpose::Counts, set);
        let expire = [b"PEXPIRE", &key[..], fixed.stream_idle_ms.as_bytes()];
        batch.push(Purpose::Counts, Command::of(&expire));
    }

    /// The key of a sample with a device; that of a timestamp alone comes with its moment.
    fn key(&mut self, segment: &Segment, key: &Key, batch: &mut Batch) {
        if key.owner != FLEET {
            let device = segment.owners[key.owner as usize].device();
            self.set(segment, key, device, Purpose::Key, batch);
        }
    }

    fn moment(&mut self, segment: &Segment, moment: &TimestampGroup, batch: &mut Batch) {
        let key = &segment.keys[moment.newest as usize];
        let purpose = if key.owner == FLEET { Purpose::Key } else { Purpose::SecondKey };
        self.set(segment, key, None, purpose, batch);
    }

    fn set(
        &mut self,
        segment: &Segment,
        sample: &Key,
        key_device: Option<&str>,
        purpose: Purpose,
        batch: &mut Batch,
    ) {
        let Self { metrics, key, text, fixed, .. } = self;
        key.clear();
        keys::write_sample_key(key, key_device, sample.timestamp_us);
        write_sample(text, segment, sample, segment.readings_of(sample), metrics);
        batch.push(purpose, Command::of(&[b"SET", key, text, b"EX", fixed.ttl_s.as_bytes()]));
    }

    fn logged(&mut self, segment: &Segment, logged: &Logged, batch: &mut Batch) {
        let Self { options, metrics, key, id, text, fixed, .. } = self;
        let len = fixed.history_len.as_deref().expect("only a history has a log");
        key.clear();
        keys::write_history_key(key, options.replica);
        id.clear();
        keys::write_history_id(id, logged.time_us, logged.sequence);
        let sample = &segment.keys[logged.key as usize];
        write_sample(text, segment, sample, segment.readings_logged(logged), metrics);
        let is_alone = segment.is_coalesced(logged);
        let purpose = if is_alone { Purpose::HistoryAlone } else { Purpose::History };
        let add = [b"XADD", &key[..], b"MAXLEN", b"~", len.as_bytes(), id, b"sample", text];
        batch.push(purpose, Command::of(&add));
    }

    /// Marks names (a device's, or an empty one for the fleet) as changed by us, and asks who was
    /// changed after `cursor`. Takes the first [`MARKED_MAX`] names; without names it only asks.
    pub fn mark<'a>(&self, cursor: u64, names: impl Iterator<Item = &'a str>) -> Cmd {
        let Options { devices_max, .. } = self.options;
        let mut cmd = Cmd::new();
        cmd.arg("EVAL").arg(MARK).arg(2).arg(keys::CHANGE).arg(keys::CHANGED);
        // One more than the devices: the fleet.
        cmd.arg(cursor).arg(CHANGED_MAX).arg(&self.fixed.stream_idle_ms).arg(devices_max + 1);
        names.take(MARKED_MAX).for_each(|name| cmd.write_arg(name.as_bytes()));
        cmd
    }

    /// Reads the counts of a device, or of the fleet.
    pub fn read_counts(&mut self, device: Option<&str>) -> Cmd {
        self.key.clear();
        keys::write_counts_key(&mut self.key, device);
        Command::of(&[b"HGETALL", &self.key]).cmd
    }

    /// Reads the window of a stream.
    pub fn read_window(&mut self, device: Option<&str>, metric: &str) -> Cmd {
        self.key.clear();
        keys::write_window_key(&mut self.key, device, metric);
        let first = format!("-{}", keys::window_values(self.options.window));
        Command::of(&[b"ZRANGE", &self.key, first.as_bytes(), b"-1"]).cmd
    }

    /// Moves what `gone` have counted of a device, or of the fleet, to the past.
    pub fn fold(&mut self, device: Option<&str>, gone: &[Replica]) -> Cmd {
        self.key.clear();
        keys::write_counts_key(&mut self.key, device);
        let mut cmd = Cmd::new();
        cmd.arg("EVAL").arg(FOLD).arg(1).arg(&self.key);
        gone.iter().for_each(|replica| cmd.write_arg(replica.as_str().as_bytes()));
        cmd
    }
}

/// What stands at `at`; else that counts on from the end.
fn step<'a, T>(row: &'a [T], at: &mut usize) -> Option<&'a T> {
    let found = row.get(*at);
    if found.is_none() {
        *at -= row.len();
    }
    found
}

fn name_of(metrics: &[Option<Arc<str>>], metric: MetricId) -> &str {
    metrics[usize::from(metric.0)].as_deref().expect("the fleet has a stream of every metric")
}

fn write_sample(
    text: &mut Vec<u8>,
    segment: &Segment,
    key: &Key,
    readings: &[Reading],
    metrics: &[Option<Arc<str>>],
) {
    text.clear();
    let device = segment.owners[key.owner as usize].device();
    let readings = readings.iter().map(|r| (name_of(metrics, r.metric), r.value));
    keys::write_sample(text, key.timestamp_us, device, readings);
}

/// What Redis answers to [`Commands::mark`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// What to ask from next time.
    pub cursor: u64,
    /// False when more was changed than one answer tells: ask again.
    pub is_all: bool,
    /// True when Redis has lost its data since we asked last: ask again, from 0.
    pub has_lost: bool,
    /// Who was changed: devices, and the fleet as None. Those that this replica changed itself are
    /// only among them when an answer was lost.
    pub changed: Vec<Option<Box<str>>>,
    /// Names that are none.
    pub foreign: usize,
}

impl Marked {
    /// Of the answer to a mark that asked from `cursor`; None for what the script never answers.
    pub fn read(reply: &Value, cursor: u64) -> Option<Self> {
        let Value::Array(parts) = reply else { return None };
        let [number, next, Value::Array(names)] = &parts[..] else { return None };
        let number = read_number(number)?;
        let next = read_number(next)?;
        let mut marked = Self {
            cursor: next,
            is_all: next == number,
            has_lost: number <= cursor,
            changed: Vec::with_capacity(names.len()),
            foreign: 0,
        };
        for name in names {
            match name {
                Value::BulkString(name) if name.is_empty() => marked.changed.push(None),
                Value::BulkString(name) => match keys::read_name(name) {
                    Some(name) => marked.changed.push(Some(name.into())),
                    None => marked.foreign += 1,
                },
                _ => marked.foreign += 1,
            }
        }
        Some(marked)
    }
}

fn read_number(value: &Value) -> Option<u64> {
    let Value::BulkString(digits) = value else { return None };
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use redis::Arg;

    use super::*;
    use crate::judged_queue::{ByteBudget, JudgedChunk, JudgedCounts, JudgedReading, JudgedSample};
    use crate::store::queue::{Fates, Queue};
    use sigmad_sample::DeviceId;

    const WINDOW: usize = 3;

    fn options(has_history: bool) -> Options {
        Options {
            replica: Replica::new(0xfeed),
            window: WINDOW,
            ttl: Duration::from_millis(299_001),
            stream_idle: Duration::from_secs(3_600),
            history_len: has_history.then_some(1_000_000),
            devices_max: 10,
        }
    }

    fn device_name(device: DeviceId) -> Option<Arc<str>> {
        // Of one index only the newest generation is still there; index 3 has gone.
        let names = ["a", "b:{}\"", "\u{1f980} 5:17%"];
        let name = names.get(device.index as usize)?;
        (device.generation == 0).then(|| (*name).into())
    }

    fn metric_name(metric: MetricId) -> Arc<str> {
        format!("m{}\":}}", metric.0).into()
    }

    /// What Redis would hold: of the commands used here, as their manual says.
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
                    // Else it is refused: it has been added before.
                    if stream.last_key_value().is_none_or(|(&last, _)| id > last) {
                        stream.insert(id, sample.into());
                    }
                }
                _ => panic!("unknown: {args:?}"),
            }
        }
    }

    #[derive(Clone, Debug)]
    struct Sample {
        device: Option<DeviceId>,
        timestamp_us: i64,
        metrics: Vec<(u16, f64)>,
        is_same_time: bool,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(Vec<Sample>),
        Begin,
        Done,
    }

    fn step() -> impl Strategy<Value = Step> {
        let device = proptest::option::of((0..4_u32, 0..8_u32));
        let device = device.prop_map(|device| {
            device.map(|(index, odd)| DeviceId { index, generation: u32::from(odd == 0) })
        });
        let metrics = proptest::collection::btree_map(0..5_u16, -9.0..9.0, 1..5)
            .prop_map(|metrics| metrics.into_iter().collect::<Vec<_>>())
            .prop_shuffle();
        let sample = (device, 0..4_i64, metrics, any::<bool>()).prop_map(
            |(device, half_seconds, metrics, is_same_time)| Sample {
                device,
                timestamp_us: 1_735_100_000_000_000 + half_seconds * 500_000,
                metrics,
                is_same_time,
            },
        );
        prop_oneof![
            4 => proptest::collection::vec(sample, 1..12).prop_map(Step::Take),
            1 => Just(Step::Begin),
            1 => Just(Step::Done),
        ]
    }

    /// Everything written at once, sample by sample, and trimmed at the end.
    #[derive(Default)]
    struct Naive {
        contents: Contents,
        counts: BTreeMap<(Option<u32>, Option<u16>), u64>,
        samples: u64,
        time_us: i64,
        sequence: u16,
    }

    impl Naive {
        /// Judges a sample, and writes it as it should be found in the end.
        fn judge(&mut self, sample: &Sample, block: &mut JudgedChunk, has_history: bool) {
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
                    metric: MetricId(metric),
                    value,
                    stream: if id.is_some() {
                        count(id, Some(metric))
                    } else {
                        JudgedCounts::default()
                    },
                    fleet: count(None, Some(metric)),
                })
                .collect();
            readings.iter().for_each(|&reading| block.push_reading(reading));
            block.push_sample(JudgedSample {
                time_us,
                sequence,
                readings: readings.len() as u16,
                timestamp_us: sample.timestamp_us,
                device: sample.device,
                of_device,
                of_replica,
            });

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
            for reading in &readings {
                let metric = serde_json::to_string(&*metric_name(reading.metric)).expect("JSON");
                json += &format!(",{metric}:{}", reading.value);
            }
            json += "}";
            let contents = &mut self.contents;
            let field = "0000feed";
            let owner = |device: Option<&str>| match device {
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
                let hash = contents.hashes.entry(format!("{}:counts", owner(device))).or_default();
                let heard = format!(
                    "{time_us}:{}:{}:{}",
                    sample.timestamp_us, of_device.total, of_device.anomalies
                );
                hash.insert(field.into(), heard);
                for reading in &readings {
                    let metric = metric_name(reading.metric);
                    let counts = if device.is_some() { reading.stream } else { reading.fleet };
                    let counts = format!("{}:{}", counts.total, counts.anomalies);
                    hash.insert(format!("{field}:{metric}"), counts);
                    let member = format!("{time_us:016}:{field}:{sequence:03}:{}", reading.value);
                    let window = format!("{}:window:{metric}", owner(device));
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

    /// Which fates the samples of a segment have.
    fn fates(segment: &[Sample], has_history: bool) -> Fates {
        let device = |sample: &Sample| sample.device.and_then(device_name);
        let is_coalesced = |(at, sample): (usize, &Sample)| {
            segment[at + 1..].iter().any(|later| {
                let is_same = device(sample).is_none() || device(sample) == device(later);
                is_same && later.timestamp_us == sample.timestamp_us
            })
        };
        let coalesced = segment.iter().enumerate().filter(|&each| is_coalesced(each)).count();
        let coalesced = if has_history { 0 } else { coalesced as u64 };
        Fates { stored: segment.len() as u64 - coalesced, coalesced, refused: 0 }
    }

    /// Flushes what is in flight, the first batches twice; returns how many `Key`s were written.
    fn flush(
        commands: &mut Commands,
        segment: &Segment,
        contents: &mut Contents,
        cut: usize,
    ) -> u64 {
        let mut batch = Batch::default();
        let mut bytes = Vec::new();
        let mut progress = Progress::default();
        for _ in 0..cut {
            if commands.fill(segment, &mut progress, &mut batch) {
                batch.pipeline.cmd_iter().for_each(|cmd| contents.apply(cmd));
                bytes.push(batch.pipeline.get_packed_pipeline());
            }
        }
        let mut progress = Progress::default();
        let (mut keys, mut written) = (0, 0);
        while commands.fill(segment, &mut progress, &mut batch) {
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
        fn coalesced_or_not_the_contents_are_the_same(
            steps in proptest::collection::vec(step(), 1..25),
            has_history in any::<bool>(),
            cut in 0..3_usize,
        ) {
            let options = options(has_history);
            let mut queue = Queue::new(Arc::new(ByteBudget::new(64 << 20)), &options);
            let mut commands = Commands::new(options, metric_name);
            let (mut naive, mut contents) = (Naive::default(), Contents::default());
            let (mut flight, mut waiting) = (Vec::new(), Vec::new());
            for step in steps.into_iter().chain([Step::Done, Step::Begin, Step::Done]) {
                match step {
                    Step::Take(samples) => {
                        let mut block = JudgedChunk::default();
                        for sample in &samples {
                            naive.judge(sample, &mut block, has_history);
                        }
                        prop_assert_eq!(queue.take(&block, device_name), 0);
                        waiting.extend(samples);
                    }
                    Step::Begin => if queue.in_flight().is_none() && queue.begin().is_some() {
                        flight = std::mem::take(&mut waiting);
                    },
                    Step::Done => if let Some(segment) = queue.in_flight() {
                        let keys = flush(&mut commands, segment, &mut contents, cut);
                        let expected = fates(&flight, has_history);
                        prop_assert_eq!(keys, fates(&flight, false).stored);
                        prop_assert_eq!(queue.done(Refusals::default()), expected);
                    },
                }
            }
            prop_assert_eq!(queue.samples(), 0);
            prop_assert_eq!(contents, naive.trimmed());
        }
    }

    #[test]
    fn batches_are_small() {
        let options = Options { window: 10_000, ..options(false) };
        let mut queue = Queue::new(Arc::new(ByteBudget::new(256 << 20)), &options);
        let mut commands = Commands::new(options, metric_name);
        let mut naive = Naive::default();
        for at in 0..200 {
            let mut block = JudgedChunk::default();
            for index in 0..200 {
                let sample = Sample {
                    device: Some(DeviceId { index: index % 3, generation: 0 }),
                    timestamp_us: i64::from(at * 200 + index) * 1_000_000,
                    metrics: vec![(0, 0.5), (1, 1.5)],
                    is_same_time: true,
                };
                naive.judge(&sample, &mut block, false);
            }
            queue.take(&block, device_name);
        }
        let segment = queue.begin().expect("samples");
        let (mut batch, mut progress, mut sent) = (Batch::default(), Progress::default(), 0);
        while commands.fill(segment, &mut progress, &mut batch) {
            assert!(batch.purposes.len() <= BATCH_COMMANDS_MAX);
            let longest = batch.pipeline.cmd_iter().map(|cmd| cmd.get_packed_command().len()).max();
            let bytes = batch.pipeline.get_packed_pipeline().len();
            // The command that fills a batch may be the longest there is.
            assert!(bytes < BATCH_BYTES_MAX + longest.expect("commands") + 1_000, "{bytes}");
            sent += batch.purposes.len();
        }
        assert_eq!(sent, 8 * 3 + 4 * 2 + 2 * 40_000);
    }

    #[test]
    fn refusals_cost_what_was_lost() {
        let mut refusals = Refusals::default();
        for purpose in [Purpose::Window, Purpose::Counts, Purpose::SecondKey, Purpose::History] {
            purpose.refused(&mut refusals);
        }
        assert_eq!(refusals, Refusals::default());
        Purpose::Key.refused(&mut refusals);
        Purpose::HistoryAlone.refused(&mut refusals);
        assert_eq!(refusals, Refusals { keys: 1, history: 1 });
        let error = "The ID specified in XADD is equal or smaller than the target stream top item";
        assert!(Purpose::HistoryAlone.is_done_by(error) && !Purpose::Key.is_done_by(error));
        assert!(!Purpose::History.is_done_by("Operation against a key holding the wrong kind"));
    }
}
