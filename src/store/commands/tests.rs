use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use redis::{Arg, Cmd};

use super::*;
use crate::judged_queue::{
    ByteBudget, ChunkHints, CurrentCounts, JudgedChunk, JudgedCounts, MetricCounts,
};
use crate::store::batch::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX};
use crate::store::queue::{Refusals, SegmentOutcome, StoreQueue};
use std::sync::Arc;

use sigmad_sample::{DeviceId, MetricId, Reading, Sample};

mod sharded;

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

/// Thousandths: their text is the same with every notation. Of smaller values it has an exponent or many zeros;
/// `crates/sample/src/number.rs` says which.
fn value() -> impl Strategy<Value = f64> {
    (-9_000..9_000_i32).prop_map(|thousandths| f64::from(thousandths) / 1_000.0)
}

fn step() -> impl Strategy<Value = EncoderStep> {
    let device = proptest::option::of((0..4_u32, 0..8_u32));
    let device = device.prop_map(|device| {
        device.map(|(index, odd)| DeviceId { index, generation: u32::from(odd == 0) })
    });
    let metrics = proptest::collection::btree_map(0..5_u16, value(), 1..5)
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

/// Samples or values of a device, or of the fleet, and of a metric.
type Counted = BTreeMap<(Option<(u32, u32)>, Option<u16>), u64>;

fn key(id: DeviceId) -> (u32, u32) {
    (id.index, id.generation)
}

fn counts(total: u64) -> JudgedCounts {
    JudgedCounts { total, anomalies: total / 3 }
}

/// The contents when every sample is written on its own, and windows are trimmed at the end.
#[derive(Default)]
struct ExpectedContents {
    contents: Contents,
    counts: Counted,
    samples: u64,
    time_us: i64,
    sequence: u16,
}

impl ExpectedContents {
    /// Judges samples, and writes each in its final form.
    fn judge(&mut self, samples: &[SentSample], has_history: bool) -> JudgedChunk {
        let (mut chunk, mut hints) = (JudgedChunk::default(), ChunkHints::default());
        for sample in samples {
            if sample.is_same_time && self.sequence < 999 && !chunk.is_empty() {
                self.sequence += 1;
            } else {
                (self.time_us, self.sequence) = (self.time_us.max(1_800_000_000_000_000) + 1, 0);
                chunk.begin_batch(self.time_us, self.samples);
            }
            let id = sample.device.map(key);
            let mut count = |device, metric| *self.counts.entry((device, metric)).or_default() += 1;
            self.samples += 1;
            count(id, None);
            for &(metric, _) in &sample.metrics {
                BTreeSet::from([None, id]).into_iter().for_each(|id| count(id, Some(metric)));
            }
            let reading = |&(metric, value)| Reading { metric: MetricId::new(metric, 0), value };
            let readings: Vec<_> = sample.metrics.iter().map(reading).collect();
            let SentSample { device, timestamp_us, .. } = *sample;
            let judged = Sample { timestamp_us, device, readings: readings.len() as u32 };
            chunk.add(&[judged], &readings, &mut hints);
            self.write(&judged, &readings, has_history);
        }
        chunk.set_counts(self, &mut hints);
        chunk
    }

    /// Writes a judged sample to all its keys.
    fn write(&mut self, sample: &Sample, readings: &[Reading], has_history: bool) {
        let Self { time_us, sequence, samples, .. } = *self;
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
        let Self { contents, counts: all_counts, .. } = self;
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
            let id = sample.device.map(key).filter(|_| device.is_some());
            let of_device = match device {
                Some(_) => counts(all_counts[&(id, None)]),
                None => JudgedCounts { total: samples, anomalies: 0 },
            };
            let hash = contents.hashes.entry(format!("{}:counts", subject(device))).or_default();
            let counters = format!(
                "{time_us}:{}:{}:{}",
                sample.timestamp_us, of_device.total, of_device.anomalies
            );
            hash.insert(field.into(), counters);
            for reading in readings {
                let metric = metric_name(reading.metric);
                let counts = counts(all_counts[&(id, Some(reading.metric.slot() as u16))]);
                let counts = format!("{}:{}", counts.total, counts.anomalies);
                hash.insert(format!("{field}:{metric}"), counts);
                let member = format!("{time_us:016}:{field}:{sequence:03}:{}", reading.value);
                let window = format!("{}:window:{metric}", subject(device));
                contents.windows.entry(window).or_default().insert((time_us, member));
            }
        }
        if has_history {
            let stream = contents.streams.entry(format!("sigmad:history:{field}")).or_default();
            let id = (time_us as u64 / 1_000, time_us as u64 % 1_000 * 1_000 + u64::from(sequence));
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

impl CurrentCounts for ExpectedContents {
    fn of_device(&self, id: DeviceId, streams: &mut [MetricCounts]) -> Option<JudgedCounts> {
        for stream in streams {
            let metric = stream.metric.slot() as u16;
            stream.counts = counts(self.counts[&(Some(key(id)), Some(metric))]);
        }
        Some(counts(self.counts[&(Some(key(id)), None)]))
    }

    fn of_fleet(&self, metric: MetricId) -> JudgedCounts {
        counts(self.counts[&(None, Some(metric.slot() as u16))])
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
                    let chunk = expected_contents.judge(&samples, has_history);
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
fn a_key_has_the_last_sample_whatever_became_of_its_device() {
    let evicted = DeviceId { index: 3, generation: 1 };
    assert_eq!(device_name(evicted), None);
    // The third sample is of the row of the first, and of another time.
    let samples =
        [(None, 2, 7), (Some(evicted), 0, 7), (None, 2, 8)].map(|(device, metric, second)| {
            let metrics = vec![(metric, second as f64)];
            let timestamp_us = second * 1_000_000;
            SentSample { device, timestamp_us, metrics, is_same_time: false }
        });
    let mut queue = StoreQueue::new(Arc::new(ByteBudget::new(64 << 20)), 50, false);
    let mut expected = ExpectedContents::default();
    let chunk = expected.judge(&samples, false);
    assert_eq!(queue.take(&chunk, device_name, |metric| Some(metric_name(metric))), 0);
    let mut contents = Contents::default();
    let mut commands = CommandEncoder::new(options(false));
    flush(&mut commands, queue.begin().expect("a segment"), &mut contents, 0);
    assert_eq!(contents, expected.trimmed());
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
        let chunk = ExpectedContents::default().judge(&samples, false);
        assert_eq!(queue.take(&chunk, device_name, |metric| Some(metric_name(metric))), 0);
        let mut contents = Contents::default();
        flush(&mut commands, queue.begin().expect("a segment"), &mut contents, 0);
        assert!(contents.strings.keys().eq(keys), "{sample_keys:?}: {:?}", contents.strings);
        let device = 1;
        let windows = [device].into();
        let outcome = queue.done(Refusals { windows, ..Refusals::default() });
        // Without keys, the three samples of the device are where their windows are.
        let refused = if sample_keys == SampleKeys::None { 3 } else { 0 };
        let expected = SegmentOutcome { stored: stored - refused, coalesced: 5 - stored, refused };
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
        let sample = |index: u32| SentSample {
            device: Some(DeviceId { index: index % 3, generation: 0 }),
            timestamp_us: i64::from(at * 200 + index) * 1_000_000,
            metrics: vec![(0, 0.5), (1, 1.5)],
            is_same_time: true,
        };
        let chunk = expected_contents.judge(&(0..200).map(sample).collect::<Vec<_>>(), false);
        queue.take(&chunk, device_name, |metric| Some(metric_name(metric)));
    }
    let segment = queue.begin().expect("samples");
    let (mut batch, mut cursor, mut sent) = (CommandBatch::default(), BatchCursor::default(), 0);
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
