//! The store's commands against a real Redis: a second execution changes nothing, the scripts work, and one
//! replica reads what another writes.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis::{Cmd, Connection, Value};
use sigmad::judged_queue::{
    ByteBudget, ChunkHints, CurrentCounts, JudgedChunk, JudgedCounts, MetricCounts,
};
use sigmad::registry::{NameSource, Registry};
use sigmad::store::batch::CommandBatch;
use sigmad::store::commands::{BatchCursor, CommandEncoder, MARKED_MAX, SampleKeys, StoreOptions};
use sigmad::store::keys::ReplicaId;
use sigmad::store::mark_reply::MarkReply;
use sigmad::store::queue::{Refusals, Segment, StoreQueue};
use sigmad::store::windows::{GONE_AFTER_US, SubjectCounts, WindowMembers, share};
use sigmad_sample::{DeviceId, MetricId, Reading, Sample};

const WAIT: Duration = Duration::from_secs(60);
const WINDOW: usize = 5;
const NOW_US: i64 = 1_800_000_000_000_000;
/// Times after it are of the future.
const LATEST_US: i64 = NOW_US + 3_600_000_000;

/// A Redis of the test's own, without a disk, on a Unix socket that no other process can take.
struct Redis {
    child: Child,
    dir: PathBuf,
}

impl Redis {
    fn start() -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let serial = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("sigmad-commands-{}-{serial}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).expect("a new directory");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", "redis.sock"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .current_dir(&dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self { child, dir }
    }

    fn connect(&self) -> Connection {
        let address = format!("redis+unix://{}", self.dir.join("redis.sock").display());
        let client = redis::Client::open(address).expect("an address");
        let deadline = Instant::now() + WAIT;
        loop {
            match client.get_connection_with_timeout(WAIT) {
                Ok(connection) => return connection,
                Err(error) if Instant::now() > deadline => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        std::fs::remove_dir_all(&self.dir).expect("it is ours");
    }
}

fn options(replica: u32, history_len: Option<usize>) -> StoreOptions {
    StoreOptions {
        replica: ReplicaId::new(replica),
        window: WINDOW,
        ttl: Duration::from_secs(300),
        stream_idle: Duration::from_secs(3_600),
        history_len,
        devices_max: 5_000,
        sample_keys: SampleKeys::Two,
    }
}

/// One replica with its own registry.
struct Writer {
    commands: CommandEncoder,
    queue: StoreQueue,
    registry: Arc<Registry>,
    time_us: i64,
    totals: Totals,
}

/// Values by device and metric.
#[derive(Default)]
struct Totals(HashMap<(Option<DeviceId>, MetricId), u64>);

impl CurrentCounts for Totals {
    fn of_device(&self, id: DeviceId, streams: &mut [MetricCounts]) -> Option<JudgedCounts> {
        for MetricCounts { metric, counts } in streams {
            *counts = JudgedCounts { total: self.0[&(Some(id), *metric)], anomalies: 1 };
        }
        Some(JudgedCounts { total: 1, anomalies: 1 })
    }

    fn of_fleet(&self, metric: MetricId) -> JudgedCounts {
        JudgedCounts { total: self.0[&(None, metric)], anomalies: 1 }
    }
}

impl Writer {
    fn new(replica: u32, history_len: Option<usize>) -> Self {
        let registry = Arc::new(Registry::new(100_000, 60));
        let options = options(replica, history_len);
        Self {
            queue: StoreQueue::new(
                Arc::new(ByteBudget::new(64 << 20)),
                options.window,
                options.history_len.is_some(),
            ),
            commands: CommandEncoder::new(options),
            registry,
            time_us: NOW_US + i64::from(replica),
            totals: Totals::default(),
        }
    }

    fn replica(&self) -> ReplicaId {
        self.commands.options().replica
    }

    /// Takes samples of two metrics, ten microseconds apart.
    fn take<'a>(&mut self, samples: impl IntoIterator<Item = (Option<&'a str>, i64, f64)>) {
        let (mut chunk, mut hints) = (JudgedChunk::default(), ChunkHints::default());
        for (device, timestamp_us, value) in samples {
            if !chunk.has_room(1, 2) {
                chunk.set_counts(&self.totals, &mut hints);
                self.take_chunk(&chunk);
                chunk.clear();
            }
            let mut names = [("cpu", None), ("r}ps:", None)];
            let admitted =
                self.registry.admit(NameSource::Client, device, &mut names, 1).expect("room");
            let device = admitted.map(|admitted| admitted.device);
            self.time_us += 10;
            let mut readings = [value, 0.5].map(|value| Reading { metric: MetricId::CPU, value });
            for (reading, (_, metric)) in readings.iter_mut().zip(names) {
                reading.metric = metric.expect("known");
                for device in HashSet::from([None, device]) {
                    *self.totals.0.entry((device, reading.metric)).or_default() += 1;
                }
            }
            chunk.begin_batch(self.time_us, 0);
            chunk.add(&[Sample { timestamp_us, device, readings: 2 }], &readings, &mut hints);
        }
        chunk.set_counts(&self.totals, &mut hints);
        self.take_chunk(&chunk);
    }

    fn take_chunk(&mut self, chunk: &JudgedChunk) {
        let Self { queue, registry, .. } = self;
        queue.take(chunk, |id| registry.device_name(id), |id| registry.metric_name(id));
    }

    /// Sends the waiting samples `times` times, and returns the refusals for good.
    fn flush(&mut self, redis: &mut Connection, times: usize) -> Refusals {
        let mut refusals = Refusals::default();
        while let Some(segment) = self.queue.begin() {
            for _ in 0..times {
                refusals = Refusals::default();
                send(&mut self.commands, segment, redis, &mut refusals);
            }
            let samples = segment.samples();
            let fates = self.queue.done(refusals.clone());
            assert_eq!(fates.stored + fates.coalesced + fates.refused, samples);
        }
        refusals
    }

    fn mark(&self, redis: &mut Connection, cursor: u64, names: &[&str]) -> MarkReply {
        let reply = ask(redis, &self.commands.mark(Some(cursor), false, names.iter().copied()));
        MarkReply::read(&reply, Some(cursor)).expect("a reply of the script")
    }

    fn read(
        &mut self,
        redis: &mut Connection,
        device: Option<&str>,
    ) -> (SubjectCounts, Vec<WindowMembers>) {
        let own = self.replica();
        let counted = SubjectCounts::read(
            &ask(redis, &self.commands.read_counts(device)).into(),
            own,
            LATEST_US,
        );
        let windows = counted
            .metrics
            .iter()
            .map(|metric| {
                let reply = ask(redis, &self.commands.read_window(device, &metric.name, 51));
                WindowMembers::read(&reply.into(), LATEST_US)
            })
            .collect();
        (counted, windows)
    }
}

fn send(
    commands: &mut CommandEncoder,
    segment: &Segment,
    redis: &mut Connection,
    refusals: &mut Refusals,
) {
    let (mut batch, mut cursor) = (CommandBatch::default(), BatchCursor::default());
    while commands.fill(segment, &mut cursor, &mut batch) {
        let bytes = batch.pipeline.get_packed_pipeline();
        let replies =
            redis::ConnectionLike::req_packed_commands(redis, &bytes, 0, batch.purposes.len())
                .expect("Redis replies");
        assert_eq!(replies.len(), batch.purposes.len());
        for (reply, purpose) in replies.iter().zip(&batch.purposes) {
            if let Value::ServerError(error) = reply
                && !purpose.is_done_already(error.details().unwrap_or_default())
            {
                purpose.count_refusal(refusals);
            }
        }
    }
}

fn ask(redis: &mut Connection, cmd: &Cmd) -> Value {
    cmd.query(redis).expect("Redis replies")
}

/// The whole contents of Redis, without the times to live.
fn contents(redis: &mut Connection) -> BTreeMap<String, String> {
    let mut contents = BTreeMap::new();
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query(redis).expect("keys");
    for name in names {
        let kind: String = redis::cmd("TYPE").arg(&name).query(redis).expect("a type");
        let cmd = match &*kind {
            "string" => redis::cmd("GET").arg(&name).clone(),
            "zset" => redis::cmd("ZRANGE").arg(&name).arg(0).arg(-1).arg("WITHSCORES").clone(),
            "hash" => redis::cmd("HGETALL").arg(&name).clone(),
            "stream" => redis::cmd("XRANGE").arg(&name).arg("-").arg("+").clone(),
            _ => panic!("{name} is a {kind}"),
        };
        let ttl: i64 = redis::cmd("PTTL").arg(&name).query(redis).expect("a time");
        let limit = if name.starts_with("metric:") { 300_000 } else { 3_600_000 };
        let has_limit = kind != "stream";
        assert!(!has_limit || (limit - 60_000..=limit).contains(&ttl), "{name}: {ttl}");
        let value = match ask(redis, &cmd) {
            Value::Array(mut fields) if kind == "hash" => {
                // Fields have no order.
                let mut pairs: Vec<_> =
                    fields.chunks_mut(2).map(|pair| format!("{pair:?}")).collect();
                pairs.sort_unstable();
                format!("{pairs:?}")
            }
            value => format!("{value:?}"),
        };
        contents.insert(name, value);
    }
    contents
}

/// Samples of a few devices, whose names have characters that are special in keys.
fn samples(count: i64) -> Vec<(Option<&'static str>, i64, f64)> {
    let devices = [None, Some("edge-1"), Some("a:b{}\"%7D"), Some("\u{1f980} \u{2028}")];
    (0..count)
        .map(|at| {
            let timestamp_us = NOW_US + at / 7 * 500_000;
            (devices[at as usize % 4], timestamp_us, at as f64 / 3.0)
        })
        .collect()
}

#[test]
fn twice_is_once() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let mut found = Vec::new();
    for times in [1, 2, 3] {
        redis::cmd("FLUSHALL").exec(&mut connection).expect("emptied");
        let mut writer = Writer::new(7, Some(1_000));
        for part in samples(900).chunks(300) {
            writer.take(part.iter().copied());
            let refusals = writer.flush(&mut connection, times);
            assert_eq!(refusals, Refusals::default());
        }
        found.push(contents(&mut connection));
    }
    let once = &found[0];
    assert!(found.iter().all(|times| times == once));
    assert_eq!(once["metric:edge-1:1800000000"], format!("{:?}", Value::BulkString(
        br#"{"timestamp":1800000000,"device":"edge-1","cpu":1.6666666666666667,"r}ps:":0.5}"#.to_vec()
    )));
    assert!(once.contains_key("sigmad:{a:b{%7D\"%257D}:window:r}ps:"), "{:?}", once.keys());
    let members: usize = redis::cmd("ZCARD")
        .arg("sigmad:fleet:window:cpu")
        .query(&mut connection)
        .expect("a number");
    let history: usize =
        redis::cmd("XLEN").arg("sigmad:history:00000007").query(&mut connection).expect("a number");
    assert_eq!((members, history), (WINDOW + 1, 900));
}

#[test]
fn a_replica_reads_what_the_others_wrote() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let (mut a, mut b) = (Writer::new(0xa, None), Writer::new(0xb, None));
    a.take([(Some("x"), NOW_US, 1.0), (Some("x"), NOW_US + 5_000_000, 2.0), (None, NOW_US, 3.0)]);
    b.take((0..4).map(|at| (Some("x"), NOW_US, 10.0 + f64::from(at))));
    // The newest arrive first.
    b.flush(&mut connection, 1);
    a.flush(&mut connection, 1);
    let (counted, windows) = a.read(&mut connection, Some("x"));
    assert_eq!((counted.foreign, counted.metrics.len()), (0, 2));
    assert_eq!(counted.others, JudgedCounts { total: 1, anomalies: 1 });
    let (shared, no_room) = share(Some("x"), &counted, windows, a.replica(), &a.registry, 1);
    let shared = shared.expect("there is room");
    assert_eq!((shared.device, no_room), (a.registry.find_device("x"), 0));
    let cpu = shared.metrics.iter().find(|metric| metric.metric == MetricId::CPU).expect("cpu");
    assert_eq!(cpu.values, [1.0, 10.0, 2.0, 11.0, 12.0, 13.0]);
    assert_eq!((cpu.own_total, cpu.own_values), (2, 2));
    assert_eq!(cpu.others, JudgedCounts { total: 4, anomalies: 1 });
    // A third replica sees the counts of both, of the device and of the fleet.
    let mut c = Writer::new(0xc, None);
    let (counted, windows) = c.read(&mut connection, None);
    let (shared, _) = share(None, &counted, windows, c.replica(), &c.registry, 1);
    let shared = shared.expect("the fleet");
    assert_eq!((shared.device, shared.metrics.len()), (None, 2));
    assert_eq!(shared.metrics[0].others, JudgedCounts { total: 7, anomalies: 2 });
    assert_eq!(shared.metrics[0].values, [10.0, 2.0, 11.0, 3.0, 12.0, 13.0]);
    assert_eq!((shared.last_seen_us, shared.last_timestamp_us), (b.time_us, NOW_US));
}

#[test]
fn a_key_of_the_wrong_type_loses_only_its_own_data() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let set = |connection: &mut Connection, key: &str| {
        redis::cmd("LPUSH").arg(key).arg("not ours").exec(connection).expect("a list");
    };
    set(&mut connection, "sigmad:{edge-1}:window:cpu");
    set(&mut connection, "sigmad:{edge-1}:counts");
    set(&mut connection, "metric:edge-1:1800000000");
    set(&mut connection, "sigmad:history:00000007");
    let mut writer = Writer::new(7, Some(100));
    writer.take((0..3).map(|at| (Some("edge-1"), NOW_US, f64::from(at))));
    // SET replaces any type; XADD does not, and two samples were in the history only.
    let refusals = writer.flush(&mut connection, 1);
    assert_eq!((refusals.keys, refusals.history, refusals.windows.len()), (0, 2, 1));
    let (counted, windows) = writer.read(&mut connection, None);
    assert_eq!((counted.foreign, windows[0].members.len()), (0, 3));
    let fleet: String =
        redis::cmd("GET").arg("metric:edge-1:1800000000").query(&mut connection).expect("ours");
    assert!(fleet.contains("\"cpu\":2"), "{fleet}");
}

#[test]
fn a_mark_returns_what_others_changed_since() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let (a, b) = (Writer::new(0xa, None), Writer::new(0xb, None));
    let named = |names: &[&str]| -> Vec<Option<Box<str>>> {
        names.iter().map(|&name| (!name.is_empty()).then(|| name.into())).collect()
    };
    let first = a.mark(&mut connection, 0, &["", "x", "y}"]);
    assert_eq!(
        (&first.changed[..], first.is_all, first.has_lost, first.foreign),
        (&[][..], true, false, 0)
    );
    let others = b.mark(&mut connection, 0, &["", "z"]);
    assert_eq!(others.changed, named(&["", "x", "y}"]));
    assert!(others.cursor > first.cursor);
    // Only later changes, and those of others; a query marks nothing.
    let second = a.mark(&mut connection, first.cursor, &[]);
    assert_eq!(second.changed, named(&["", "z"]));
    let third = a.mark(&mut connection, second.cursor, &["x"]);
    assert_eq!((third.changed.len(), third.has_lost), (0, false));
    assert_eq!(b.mark(&mut connection, others.cursor, &[]).changed, named(&["x"]));
    // After a lost reply: a query from the same cursor misses nothing.
    let again = a.mark(&mut connection, first.cursor, &[]);
    assert_eq!(again.changed, named(&["", "z", "x"]));
    // Invalid names are left out.
    redis::cmd("ZADD")
        .arg("{sigmad}:changed")
        .arg(9e15)
        .arg("\u{7}")
        .exec(&mut connection)
        .expect("added");
    let foreign = a.mark(&mut connection, again.cursor, &[]);
    assert_eq!((foreign.changed.len(), foreign.foreign), (0, 1));
}

#[test]
fn a_set_of_marks_that_is_lost_alone_begins_again_as_another() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let (a, b) = (Writer::new(0xa, None), Writer::new(0xb, None));
    let first = a.mark(&mut connection, 0, &["x"]);
    assert_eq!(first.set, b.mark(&mut connection, 0, &["y"]).set);
    assert!(!first.set.is_of_older_numbers);
    redis::cmd("DEL").arg("{sigmad}:changed").exec(&mut connection).expect("deleted");
    let after = b.mark(&mut connection, 0, &["z"]);
    assert!(after.set.is_of_older_numbers && after.set.began > first.set.began);
    let seen = a.mark(&mut connection, first.cursor, &[]);
    assert_eq!((seen.set, seen.changed), (after.set, vec![Some("z".into())]));
    // What an earlier version of sigmad has left is a set that is not known.
    redis::cmd("ZREMRANGEBYRANK")
        .arg("{sigmad}:changed")
        .arg(&[0, 0])
        .exec(&mut connection)
        .expect("removed");
    let old = a.mark(&mut connection, seen.cursor, &[]);
    assert!(old.set.is_of_older_numbers && old.set != after.set);
    redis::cmd("FLUSHALL").exec(&mut connection).expect("emptied");
    let new = a.mark(&mut connection, old.cursor, &[]);
    assert!(!new.set.is_of_older_numbers && new.set != old.set);
}

#[test]
fn marks_that_query_nothing_tell_whether_others_have_marked_in_between() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let (a, b) = (Writer::new(0xa, None), Writer::new(0xb, None));
    let only = |connection: &mut Connection, name: &'static str| {
        let reply = ask(connection, &a.commands.mark(None, false, std::iter::once(name)));
        MarkReply::read(&reply, None).expect("a reply of the script")
    };
    let first = a.mark(&mut connection, 0, &["x"]);
    let second = only(&mut connection, "y");
    assert_eq!((second.cursor, second.changed.len()), (first.number, 0));
    let other = b.mark(&mut connection, first.cursor, &["z"]);
    assert_eq!(other.changed, [Some("y".into())]);
    let third = only(&mut connection, "v");
    assert_eq!(third.cursor, other.number);
    assert!(third.cursor > second.number && third.is_all && !third.has_lost);
}

#[test]
fn a_loss_of_data_is_detected_or_harmless() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let (a, b) = (Writer::new(0xa, None), Writer::new(0xb, None));
    let before = a.mark(&mut connection, 0, &["x"]).cursor;
    redis::cmd("FLUSHALL").exec(&mut connection).expect("emptied");
    // Change numbers follow the clock, so later changes are returned as usual.
    b.mark(&mut connection, 0, &["y"]);
    let after = a.mark(&mut connection, before, &[]);
    assert_eq!((after.changed, after.has_lost), (vec![Some("y".into())], false));
    // Unless the clock has stepped back too.
    let future = after.cursor + 3_600_000_000;
    let lost = a.mark(&mut connection, future, &[]);
    assert!(lost.has_lost && lost.changed.is_empty());
    assert_eq!(a.mark(&mut connection, 0, &[]).changed, [Some("y".into())]);
    // A number that no change has had so far is returned once, not by every mark.
    let first = a.mark(&mut connection, 0, &[]).cursor;
    let ahead = first + 3_600_000_000;
    redis::cmd("ZADD")
        .arg("{sigmad}:changed")
        .arg(ahead)
        .arg("z")
        .exec(&mut connection)
        .expect("added");
    let healed = a.mark(&mut connection, first, &[]);
    assert_eq!((healed.changed, healed.has_lost), (vec![Some("z".into())], false));
    assert_eq!(a.mark(&mut connection, healed.cursor, &[]).changed, []);
    assert_eq!(b.mark(&mut connection, first, &[]).changed, [Some("z".into())]);
    // A number that cannot increase is replaced.
    redis::cmd("SET").arg("{sigmad}:change").arg("9e18").exec(&mut connection).expect("set");
    let after = a.mark(&mut connection, healed.cursor, &[]);
    assert!(!after.has_lost && after.cursor < ahead);
    // If only the counter is kept, numbers still increase.
    redis::cmd("SET").arg("{sigmad}:change").arg(future).exec(&mut connection).expect("set");
    assert_eq!(a.mark(&mut connection, after.cursor, &[]).cursor, future + 1);
}

#[test]
fn a_mark_tells_the_time_and_the_windows_in_use() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let (seconds, _): (i64, i64) = redis::cmd("TIME").query(&mut connection).expect("TIME");
    let (a, mut options) = (Writer::new(0xa, None), options(0xb, None));
    options.window = 70;
    let larger = CommandEncoder::new(options);
    let mut mark = |commands: &CommandEncoder, names_window| {
        let reply = ask(&mut connection, &commands.mark(Some(0), names_window, std::iter::empty()));
        MarkReply::read(&reply, Some(0)).expect("a reply of the script")
    };
    assert!(mark(&a.commands, false).windows.is_empty());
    assert_eq!(mark(&a.commands, true).windows, [WINDOW]);
    let both = mark(&larger, true);
    assert_eq!(both.windows, [WINDOW, 70]);
    assert!((0..60).contains(&(both.time_us / 1_000_000 - seconds)), "{both:?}");
    // One that was named long ago, and one in the future, are not in use. A foreign one is left out.
    for (at_us, window) in [
        (both.time_us - 61_000_000, "80"),
        (both.time_us + 3_600_000_000, "90"),
        (both.time_us, "x"),
    ] {
        redis::cmd("ZADD")
            .arg("{sigmad}:windows")
            .arg(at_us)
            .arg(window)
            .exec(&mut redis.connect())
            .expect("added");
    }
    let mut found = mark(&a.commands, true);
    found.windows.sort_unstable();
    assert_eq!((found.windows, found.foreign), (vec![WINDOW, 70], 1));
}

#[test]
fn values_of_the_future_are_left_out_and_removed() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let mut right = Writer::new(0xa, None);
    right.take((0..3).map(|at| (Some("x"), NOW_US, f64::from(at))));
    right.flush(&mut connection, 1);
    let mut ahead = Writer::new(0xb, None);
    ahead.time_us += 86_400_000_000;
    ahead.take((0..2).map(|_| (Some("x"), NOW_US, 9_000.0)));
    ahead.flush(&mut connection, 1);
    let (counted, windows) = right.read(&mut connection, Some("x"));
    assert!(windows[0].members.iter().map(|member| member.value).eq([0.0, 1.0, 2.0]));
    assert_eq!(windows[0].future, 2);
    assert_eq!((counted.last.0, counted.others.total), (right.time_us, 1));
    let heal = right.commands.heal(Some("x"), "cpu", LATEST_US);
    assert_eq!(ask(&mut connection, &heal), Value::Int(2));
    assert_eq!(ask(&mut connection, &heal), Value::Int(0));
    let (_, windows) = right.read(&mut connection, Some("x"));
    assert_eq!((windows[0].members.len(), windows[0].future), (3, 0));
}

#[test]
fn many_changes_are_returned_page_by_page() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let (a, b) = (Writer::new(0xa, None), Writer::new(0xb, None));
    let names: Vec<String> = (0..8_000).map(|at| format!("device-{at:04}")).collect();
    let mut own = 0;
    for chunk in names.chunks(MARKED_MAX - 1) {
        let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
        let marked = a.mark(&mut connection, own, &chunk);
        assert!(marked.is_all && marked.changed.is_empty());
        own = marked.cursor;
    }
    let (mut cursor, mut found, mut pages) = (0, Vec::new(), 0);
    loop {
        let page = b.mark(&mut connection, cursor, &[]);
        assert!(!page.has_lost);
        pages += 1;
        (cursor, found) = (page.cursor, [found, page.changed].concat());
        if page.is_all {
            break;
        }
    }
    // As many as the maximum of devices, and the fleet; the oldest changes are deleted.
    let expected: Vec<_> =
        names[8_000 - 5_001..].iter().map(|name| Some((&**name).into())).collect();
    assert_eq!((found.len(), pages), (5_001, 2));
    assert!(found == expected);
}

#[test]
fn folding_moves_counts_to_the_past() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let mut own = Writer::new(0xffff, None);
    let mut gone = Vec::new();
    for replica in 0..20 {
        let mut writer = Writer::new(replica, None);
        writer.take((0..=i64::from(replica)).map(|at| (Some("x"), NOW_US + at, 1.0)));
        writer.flush(&mut connection, 1);
        gone.push(writer.replica());
    }
    own.take([(Some("x"), NOW_US, 1.0)]);
    own.flush(&mut connection, 1);
    let (before, _) = own.read(&mut connection, Some("x"));
    assert_eq!(before.gone(NOW_US + GONE_AFTER_US), []);
    // The last sample of replica n arrived 11 · n + 10 microseconds after the first.
    let now_us = NOW_US + GONE_AFTER_US + 10 * 11;
    let old = before.gone(now_us);
    assert_eq!(old, gone[..10]);
    let fold = own.commands.fold(Some("x"), &old);
    assert_eq!(ask(&mut connection, &fold), Value::Int(3 * 10));
    let (after, _) = own.read(&mut connection, Some("x"));
    let fields: usize =
        redis::cmd("HLEN").arg("sigmad:{x}:counts").query(&mut connection).expect("a number");
    assert_eq!(fields, 3 * (10 + 1 + 1));
    let counted = |counts: &SubjectCounts| {
        let metrics = counts.metrics.iter();
        let metrics: Vec<_> = metrics.map(|m| (m.name.clone(), m.others, m.own_total)).collect();
        (counts.others, counts.last, metrics)
    };
    assert_eq!(counted(&after), counted(&before));
    assert_eq!(after.metrics[0].others.total, (1..=20).sum::<u64>());
    assert_eq!(after.gone(now_us), []);
    // A second time: nothing is left to move.
    assert_eq!(ask(&mut connection, &fold), Value::Int(0));
    // The others are added to the past; the time is that of the last sample.
    let rest = own.commands.fold(Some("x"), &gone);
    assert_eq!(ask(&mut connection, &rest), Value::Int(3 * 10));
    let (after, _) = own.read(&mut connection, Some("x"));
    assert_eq!(counted(&after), counted(&before));
    let past: String = redis::cmd("HGET")
        .arg("sigmad:{x}:counts")
        .arg("past")
        .query(&mut connection)
        .expect("there");
    assert!(past.ends_with(":20:20"), "{past}");
    let metric: String = redis::cmd("HGET")
        .arg("sigmad:{x}:counts")
        .arg("past:r}ps:")
        .query(&mut connection)
        .expect("there");
    assert_eq!(metric, "210:20");
    // Of a metric whose window has expired, the counts of all are deleted.
    let forget = own.commands.forget(Some("x"), &after.metrics[0]);
    assert_eq!(ask(&mut connection, &forget), Value::Int(2));
    let (rest, _) = own.read(&mut connection, Some("x"));
    assert_eq!(rest.metrics.len(), 1);
}
