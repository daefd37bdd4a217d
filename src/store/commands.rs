//! Segments as commands, and the commands that tell replicas of each other's changes.
//!
//! Every command may be sent twice without harm, and a segment gives the same bytes each time: a batch
//! of which no answer came is sent again as it is. Encoded batch by batch, so that a segment and its
//! commands need not be in memory at once. No I/O.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Pipeline, RedisWrite, Value};

use super::keys::{self, Heard, Member, Replica};
use super::queue::{FLEET, Key, Logged, Moment, Owner, Refusals, Segment, Stream};
use crate::sample::{MetricId, Reading};

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
        Heard { time_us, timestamp_us, counts }.write(text);
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

    fn moment(&mut self, segment: &Segment, moment: &Moment, batch: &mut Batch) {
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
    /// changed after `cursor`. At most [`MARKED_MAX`] names; without names it only asks.
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
