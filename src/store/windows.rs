//! Reads what other replicas have written and turns it into updates for analytics.
//!
//! [`SubjectCounts`] has the counts and metrics of a device or of the fleet, [`WindowMembers`] the values of one
//! window. [`share`] makes [`SharedWindows`] of both and admits their names to the registry. Data that sigmad
//! does not write is left out and counts, and so are times that Redis' clock has not reached. Pure: no I/O.

use redis::Value;
use smallvec::SmallVec;

use super::keys::{self, CountSource, Member, ReplicaCounters, ReplicaId};
use super::reply::Reply;
use crate::judged_queue::{JudgedCounts, OtherTakeover, SharedMetric, SharedWindows};
use crate::registry::{NameSource, Registry};
use sigmad_sample::{DeviceId, MetricId, READINGS_MAX};

/// Replicas in a hash of counts that are never folded: those that run, and those of a few restarts.
pub const REPLICAS_KEPT: usize = 16;
/// A replica that has received no sample of a device for this long is taken for gone. If it does receive one
/// later, its earlier samples are counted twice.
pub const GONE_AFTER_US: i64 = 24 * 60 * 60 * 1_000_000;

/// The counts of all replicas of a device, or of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectCounts {
    /// Samples and anomalies that other replicas have counted, replicas that are gone included.
    pub others: JudgedCounts,
    /// Samples that this replica had counted.
    pub own_total: u64,
    /// When the last sample arrived at any replica, by Redis' clock, and its timestamp.
    pub last: (i64, i64),
    /// Its metrics, sorted by name.
    pub metrics: Vec<MetricCounts>,
    /// Fields that sigmad does not write.
    pub foreign: usize,
    /// That by another replica which has the detector states of the device. None if this one has them, or nobody.
    pub other_takeover: Option<OtherTakeover>,
    /// When the last sample arrived at each of the other replicas, and how many each has counted.
    replicas: Vec<(ReplicaId, i64, u64)>,
}

/// The counts of all replicas of one metric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricCounts {
    /// Its name.
    pub name: Box<str>,
    /// Counts of the other replicas.
    pub others: JudgedCounts,
    /// Values that this replica had counted.
    pub own_total: u64,
    /// Whose counts they are.
    pub sources: SmallVec<[CountSource; 6]>,
}

impl MetricCounts {
    /// Values that all replicas have counted.
    pub fn total(&self) -> u64 {
        self.others.total.saturating_add(self.own_total)
    }
}

impl SubjectCounts {
    /// Reads the reply to HGETALL. A time after `latest_us` counts as none: the clock that wrote it was wrong.
    pub fn read(reply: &Reply, own: ReplicaId, latest_us: i64) -> Self {
        let mut counts = Self::default();
        let Reply::Strings(strings) = reply else {
            counts.foreign = 1;
            return counts;
        };
        let mut strings = strings.iter();
        // Each replica has its metrics in the same order, most often.
        let mut probable = 0;
        while let Some(field) = strings.next() {
            let value = strings.next();
            if counts.read_field(field, value, own, latest_us, &mut probable).is_none() {
                counts.foreign += 1;
            }
        }
        counts.metrics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        counts.metrics.dedup_by(|next, kept| {
            let is_same = next.name == kept.name;
            if is_same {
                add(&mut kept.others, next.others);
                kept.own_total += next.own_total;
                kept.sources.append(&mut next.sources);
            }
            is_same
        });
        counts
    }

    /// `probable` is the place of the metric, if the field is of one that was read before.
    fn read_field(
        &mut self,
        field: &[u8],
        value: Option<&[u8]>,
        own: ReplicaId,
        latest_us: i64,
        probable: &mut usize,
    ) -> Option<()> {
        let value = value?;
        if field == keys::OWNER.as_bytes() {
            let (owner, number, before) = keys::read_owner(value)?;
            let takeover = OtherTakeover { number, is_from_here: before == Some(own) };
            self.other_takeover = (owner != own).then_some(takeover);
            return Some(());
        }
        let (source, metric) = keys::read_field(field)?;
        let is_own = source == CountSource::Replica(own);
        if let Some(metric) = metric {
            let counts = keys::read_counts(value)?;
            let counted = self.metric(metric, probable);
            if is_own {
                counted.own_total += counts.total;
            } else {
                add(&mut counted.others, counts);
            }
            counted.sources.push(source);
            return Some(());
        }
        *probable = 0;
        let counters = ReplicaCounters::read(value)?;
        let time_us = if counters.time_us > latest_us { 0 } else { counters.time_us };
        self.last = self.last.max((time_us, counters.timestamp_us));
        if is_own {
            self.own_total = counters.counts.total;
        } else {
            add(&mut self.others, counters.counts);
        }
        match source {
            CountSource::Replica(replica) if !is_own => {
                self.replicas.push((replica, time_us, counters.counts.total));
            }
            CountSource::Replica(_) | CountSource::Past => {}
        }
        Some(())
    }

    /// The entry of a metric: the probable one, or a new one.
    fn metric(&mut self, name: &str, probable: &mut usize) -> &mut MetricCounts {
        let is_known = self.metrics.get(*probable).is_some_and(|metric| &*metric.name == name);
        if !is_known {
            *probable = self.metrics.len();
            self.metrics.push(MetricCounts { name: name.into(), ..MetricCounts::default() });
        }
        *probable += 1;
        &mut self.metrics[*probable - 1]
    }

    /// The same counts in parts of at most `metrics_max` metrics. Only the first one names replicas that are gone.
    pub fn parts(mut self, metrics_max: usize) -> Vec<Self> {
        let mut parts = Vec::with_capacity(self.metrics.len().div_ceil(metrics_max));
        while self.metrics.len() > metrics_max {
            let metrics = self.metrics.split_off(metrics_max);
            let rest = Self { metrics, replicas: Vec::new(), ..self };
            parts.push(std::mem::replace(&mut self, rest));
        }
        parts.push(self);
        parts
    }

    /// Replicas whose counts must be folded, so that the hash does not grow with every restart. None while
    /// there are few replicas.
    pub fn gone(&self, now_us: i64) -> Vec<ReplicaId> {
        if self.replicas.len() <= REPLICAS_KEPT {
            return Vec::new();
        }
        let is_gone = |&&(_, time_us, _): &&(ReplicaId, i64, u64)| time_us < now_us - GONE_AFTER_US;
        self.replicas.iter().filter(is_gone).map(|&(replica, ..)| replica).collect()
    }

    /// The other replica that received the last sample of others, and how many it has counted.
    pub fn last_other(&self) -> Option<(ReplicaId, u64)> {
        let last = self.replicas.iter().max_by_key(|&&(replica, time_us, _)| (time_us, replica));
        last.map(|&(replica, _, total)| (replica, total))
    }
}

/// When a replica has received the last sample of a device, by Redis' clock; 0 if its counts don't say.
pub fn heard_last_us(counts: Reply) -> i64 {
    let Value::BulkString(text) = counts.into_value() else { return 0 };
    ReplicaCounters::read(&text).map_or(0, |counters| counters.time_us)
}

fn add(counts: &mut JudgedCounts, other: JudgedCounts) {
    // Saturating: other clients may have written any number.
    counts.total = counts.total.saturating_add(other.total);
    counts.anomalies = counts.anomalies.saturating_add(other.anomalies);
}

/// The values of one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowMembers {
    /// The newest values, oldest first.
    pub members: Vec<Member>,
    /// Members that sigmad does not write.
    pub foreign: usize,
    /// Members left out for their time.
    pub future: usize,
    /// There is no window: no replica has had a value for `--stream-idle`.
    pub is_gone: bool,
}

impl WindowMembers {
    /// Reads the reply to ZRANGE. Members after `latest_us` are left out: they would stay the newest until
    /// Redis' clock gets there.
    pub fn read(reply: &Reply, latest_us: i64) -> Self {
        let mut read = Self::default();
        let Reply::Strings(members) = reply else {
            read.foreign = 1;
            return read;
        };
        read.is_gone = members.is_empty();
        read.members.reserve_exact(members.len());
        for member in members.iter() {
            match Member::read(member) {
                Some(member) if member.time_us > latest_us => read.future += 1,
                Some(member) => read.members.push(member),
                None => read.foreign += 1,
            }
        }
        read
    }
}

/// Makes [`SharedWindows`] of the data of a device (None: the fleet). `windows` are in the order of
/// `counts.metrics`; `own` is this replica. Names are admitted to the registry.
///
/// Returns None when no metric was admitted, and the number of windows for which the registry had no room.
pub fn share(
    device: Option<&str>,
    counts: &SubjectCounts,
    windows: Vec<WindowMembers>,
    own: ReplicaId,
    registry: &Registry,
    now_s: u32,
) -> (Option<SharedWindows>, usize) {
    debug_assert_eq!(windows.len(), counts.metrics.len());
    let mut shared = SharedWindows {
        device: None,
        others: counts.others,
        own_total: counts.own_total,
        last_seen_us: counts.last.0,
        last_timestamp_us: counts.last.1,
        other_takeover: counts.other_takeover,
        metrics: Vec::with_capacity(windows.len()),
    };
    let mut id = None;
    let mut names: Vec<(&str, Option<MetricId>)> =
        counts.metrics.iter().map(|metric| (&*metric.name, None)).collect();
    for names in names.chunks_mut(READINGS_MAX) {
        if admit(registry, device, names, now_s, &mut id) {
            continue;
        }
        // The registry admits all streams of a call or none, so try them one by one.
        for name in names.chunks_mut(1) {
            admit(registry, device, name, now_s, &mut id);
        }
    }
    shared.device = id;
    for ((metric, window), (_, id)) in counts.metrics.iter().zip(windows).zip(&names) {
        if let &Some(id) = id {
            shared.metrics.push(SharedMetric {
                metric: id,
                others: metric.others,
                own_total: metric.own_total,
                own_values: window.members.iter().filter(|member| member.replica == own).count(),
                values: window.members.iter().map(|member| member.value).collect(),
            });
        }
    }
    let no_room = counts.metrics.len() - shared.metrics.len();
    ((!shared.metrics.is_empty()).then_some(shared), no_room)
}

/// Sets the ids of the `metrics` whose names have room, or of none. False when the registry has no room for
/// any of them, or for their streams.
fn admit(
    registry: &Registry,
    device: Option<&str>,
    metrics: &mut [(&str, Option<MetricId>)],
    now_s: u32,
    id: &mut Option<DeviceId>,
) -> bool {
    match registry.admit(NameSource::Replica, device, metrics, now_s) {
        Ok(admitted) => {
            *id = admitted.map(|admitted| admitted.device);
            true
        }
        // The ids of known metrics are set even then; without a stream they are of no use.
        Err(_) => {
            metrics.iter_mut().for_each(|(_, id)| *id = None);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 0xaaaa_0000;
    const ALL_TIMES: i64 = i64::MAX;

    fn own() -> ReplicaId {
        ReplicaId::new(OWN)
    }

    fn bulk(text: impl AsRef<[u8]>) -> Value {
        Value::BulkString(text.as_ref().to_vec())
    }

    fn array(texts: &[&str]) -> Reply {
        Value::Array(texts.iter().map(bulk).collect()).into()
    }

    fn count(total: u64, anomalies: u64) -> JudgedCounts {
        JudgedCounts { total, anomalies }
    }

    #[test]
    fn counts_of_others_leave_out_our_own() {
        let fields = [
            ("aaaa0000", "50:5:1000:100"),
            ("aaaa0000:rps", "900:90"),
            ("0000bbbb", "60:4:20:2"),
            ("0000bbbb:rps", "10:1"),
            ("0000bbbb:a:b", "7:0"),
            ("0000cccc", "40:9:3:0"),
            ("0000cccc:rps", "2:2"),
            ("past", "30:3:5:1"),
            ("past:rps", "4:4"),
            // Foreign or damaged.
            ("hello", "1:1"),
            ("0000dddd", "1:1"),
            ("0000dddd:rps", "1:x"),
            ("0000dddd:", "1:1"),
        ];
        let flat: Vec<_> = fields.iter().flat_map(|&(field, value)| [field, value]).collect();
        let mut counts = SubjectCounts::read(&array(&flat), own(), ALL_TIMES);
        assert_eq!((counts.others, counts.last), (count(28, 3), (60, 4)));
        let metric = |name: &str, others, own_total| MetricCounts {
            name: name.into(),
            others,
            own_total,
            ..MetricCounts::default()
        };
        let metrics = [metric("a:b", count(7, 0), 0), metric("rps", count(16, 7), 900)];
        let sources = counts.metrics.iter_mut().map(|metric| std::mem::take(&mut metric.sources));
        assert_eq!(sources.map(|sources| sources.len()).collect::<Vec<_>>(), [1, 4]);
        assert_eq!((&counts.metrics[..], counts.foreign), (&metrics[..], 4));
        let read = |reply: Reply| SubjectCounts::read(&reply, own(), ALL_TIMES);
        assert_eq!(read(array(&[])), SubjectCounts::default());
        assert_eq!(read(Value::Okay.into()).foreign, 1);
        assert_eq!(read(array(&["0000bbbb"])).foreign, 1);
    }

    #[test]
    fn huge_counts_saturate() {
        let most = i64::MAX;
        let mut fields = Vec::new();
        for replica in 0..5_u32 {
            let replica = ReplicaId::new(replica);
            fields.extend([bulk(replica.as_str()), bulk(format!("{most}:{most}:{most}:{most}"))]);
            fields.extend([bulk(format!("{replica}:cpu")), bulk(format!("{most}:{most}"))]);
        }
        let counts = SubjectCounts::read(&Value::Array(fields).into(), own(), ALL_TIMES);
        assert_eq!(counts.others, count(u64::MAX, u64::MAX));
        assert_eq!(counts.metrics[0].others, count(u64::MAX, u64::MAX));
        assert_eq!(counts.gone(most), []);
    }

    #[test]
    fn values_are_read_in_order() {
        let member = |replica, value| {
            let member =
                Member { time_us: 7, replica: ReplicaId::new(replica), sequence: 0, value };
            let mut text = Vec::new();
            member.write(&mut text);
            bulk(text)
        };
        let members = vec![member(1, 5.0), member(OWN, -0.5), bulk("junk"), member(2, 1e15)];
        let reply = Value::Array(members).into();
        let mut read = WindowMembers::read(&reply, 7);
        let members = std::mem::take(&mut read.members);
        let values = members.iter().map(|member| (member.replica, member.value));
        let replicas = [1, OWN, 2].map(ReplicaId::new);
        assert!(values.eq(replicas.into_iter().zip([5.0, -0.5, 1e15])));
        assert_eq!(read, WindowMembers { foreign: 1, ..WindowMembers::default() });
        assert_eq!(WindowMembers::read(&Value::Nil.into(), 7).foreign, 1);
        let read = WindowMembers::read(&reply, 6);
        assert_eq!(read, WindowMembers { foreign: 1, future: 3, ..WindowMembers::default() });
    }

    #[test]
    fn a_time_of_the_future_is_none() {
        let now_us = 10 * GONE_AFTER_US;
        let mut fields = vec![bulk(own().as_str()), bulk("50:5:1:0")];
        for replica in 0..17_u32 {
            let time_us = if replica == 3 { now_us + GONE_AFTER_US } else { now_us };
            let replica = ReplicaId::new(replica);
            fields.extend([bulk(replica.as_str()), bulk(format!("{time_us}:9:2:0"))]);
        }
        let counts = SubjectCounts::read(&Value::Array(fields).into(), own(), now_us);
        // Its samples count, and it is the first to be folded.
        assert_eq!((counts.others.total, counts.last), (34, (now_us, 9)));
        assert_eq!(counts.gone(now_us), [ReplicaId::new(3)]);
    }

    #[test]
    fn only_old_replicas_among_many_are_gone() {
        let now_us = 10 * GONE_AFTER_US;
        let hash = |replicas: u32, old: u32| {
            let mut fields = vec![bulk(own().as_str()), bulk("0:0:1:0")];
            for replica in 0..replicas {
                // One that is as old as may be is there.
                let old_us = now_us - GONE_AFTER_US - i64::from(replica < old);
                let replica = ReplicaId::new(replica);
                fields.extend([bulk(replica.as_str()), bulk(format!("{old_us}:0:1:0"))]);
            }
            SubjectCounts::read(&Value::Array(fields).into(), own(), now_us).gone(now_us)
        };
        assert_eq!(hash(16, 16), []);
        assert_eq!(hash(17, 0), []);
        assert_eq!(hash(17, 2), [ReplicaId::new(0), ReplicaId::new(1)]);
        assert_eq!(hash(40, 40).len(), 40);
    }

    #[test]
    fn windows_without_room_are_counted() {
        let registry = Registry::new(40, 60);
        let metrics = |number: usize| {
            (0..number)
                .map(|at| MetricCounts {
                    name: format!("m{at:02}").into(),
                    others: count(at as u64, 0),
                    own_total: 1,
                    ..MetricCounts::default()
                })
                .collect::<Vec<_>>()
        };
        let share = |device, number: usize| {
            let counts = SubjectCounts {
                metrics: metrics(number),
                last: (9, 8),
                ..SubjectCounts::default()
            };
            let member = |at| Member { time_us: 1, replica: own(), sequence: 0, value: at as f64 };
            let window =
                |at| WindowMembers { members: vec![member(at)], ..WindowMembers::default() };
            super::share(device, &counts, (0..number).map(window).collect(), own(), &registry, 5)
        };
        let (shared, no_room) = share(Some("a"), 34);
        let shared = shared.expect("there is room");
        assert_eq!((shared.device, no_room), (registry.find_device("a"), 0));
        assert_eq!((shared.last_seen_us, shared.last_timestamp_us), (9, 8));
        for (at, metric) in shared.metrics.iter().enumerate() {
            assert_eq!(registry.metric_name(metric.metric).as_deref(), Some(&*format!("m{at:02}")));
            assert_eq!((metric.values[0], metric.others.total), (at as f64, at as u64));
            assert_eq!((metric.own_values, metric.own_total), (1, 1));
        }
        // Six streams are left, which the next device gets.
        let (shared, no_room) = share(Some("b"), 10);
        assert_eq!((shared.expect("some").metrics.len(), no_room), (6, 4));
        assert_eq!(share(Some("c"), 3), (None, 3));
        assert_eq!(registry.find_device("c"), None);
        // The fleet needs no streams in the registry, only metrics.
        let (shared, no_room) = share(None, 50);
        let shared = shared.expect("there is room");
        assert_eq!((shared.device, shared.metrics.len(), no_room), (None, 50, 0));
        assert_eq!(share(Some("a"), 0), (None, 0));
    }

    #[test]
    fn metrics_of_replicas_are_joined_in_whatever_order_they_come() {
        let fields = [
            ("aaaa0000", "50:5:14:0"),
            ("aaaa0000:b", "9:0"),
            ("aaaa0000:a", "5:0"),
            ("0000bbbb", "60:4:20:2"),
            ("0000bbbb:a", "10:1"),
            ("0000bbbb:b", "20:2"),
            ("0000bbbb:c", "30:3"),
            ("0000cccc", "70:4:1:1"),
            ("0000cccc:c", "1:1"),
        ];
        for turn in 0..fields.len() {
            let mut turned = fields;
            turned.rotate_left(turn);
            let flat: Vec<_> = turned.iter().flat_map(|&(field, value)| [field, value]).collect();
            let counts = SubjectCounts::read(&array(&flat), own(), ALL_TIMES);
            let metrics = counts.metrics.iter().map(|m| (&*m.name, m.own_total, m.others));
            let expected = [("a", 5, count(10, 1)), ("b", 9, count(20, 2)), ("c", 0, count(31, 4))];
            assert_eq!(metrics.collect::<Vec<_>>(), expected, "from {turn}");
            let sources = counts.metrics.iter().map(|metric| metric.sources.len());
            assert_eq!(sources.collect::<Vec<_>>(), [2, 2, 2]);
        }
    }

    #[test]
    fn the_takeover_of_another_replica_counts() {
        let takeover = |is_from_here| Some(OtherTakeover { number: 7, is_from_here });
        for (owner, other_takeover) in [
            ("aaaa0000:7:0000bbbb", None),
            ("0000bbbb:7:", takeover(false)),
            ("0000bbbb:7:aaaa0000", takeover(true)),
            ("0000bbbb:7:0000cccc", takeover(false)),
        ] {
            let counts = SubjectCounts::read(&array(&[keys::OWNER, owner]), own(), ALL_TIMES);
            assert_eq!((counts.other_takeover, counts.foreign), (other_takeover, 0), "{owner}");
        }
        let counts = SubjectCounts::read(&array(&[keys::OWNER, "x"]), own(), ALL_TIMES);
        assert_eq!((counts.other_takeover, counts.foreign), (None, 1));
    }

    #[test]
    fn parts_have_all_metrics_and_the_first_one_the_replicas() {
        for (metrics, max, sizes) in
            [(7, 3, &[3, 3, 1][..]), (6, 3, &[3, 3]), (3, 3, &[3]), (1, 3, &[1]), (0, 3, &[0])]
        {
            let name = |at: usize| MetricCounts {
                name: format!("m{at}").into(),
                ..MetricCounts::default()
            };
            let whole = SubjectCounts {
                others: count(9, 1),
                own_total: 4,
                last: (5, 6),
                metrics: (0..metrics).map(name).collect(),
                replicas: vec![(ReplicaId::new(1), 5, 9)],
                ..SubjectCounts::default()
            };
            let parts = whole.clone().parts(max);
            let found: Vec<_> = parts.iter().map(|part| part.metrics.len()).collect();
            assert_eq!(found, sizes);
            let joined: Vec<_> = parts.iter().flat_map(|part| part.metrics.clone()).collect();
            assert_eq!(joined, whole.metrics);
            for (at, part) in parts.iter().enumerate() {
                assert_eq!((part.others, part.own_total), (whole.others, whole.own_total));
                assert_eq!(part.last, whole.last);
                assert_eq!(part.replicas.is_empty(), at > 0);
            }
        }
    }
}
