//! What other replicas have written, as analytics takes it.
//!
//! Two steps: [`Counted`] tells which metrics an owner has, [`Values`] what a window holds; [`share`]
//! makes [`SharedWindows`] of both, with names turned into ids. What is foreign or damaged is left out
//! and counted. Pure: no I/O.

use redis::Value;

use super::keys::{self, Counter, Member, Replica, ReplicaCounters};
use crate::judged_queue::{JudgedCounts, SharedMetric, SharedWindows};
use crate::registry::Registry;
use sigmad_sample::{DeviceId, MetricId, READINGS_MAX};

/// Replicas in a hash of counts that nobody minds: more than are running, and those of a few restarts.
pub const REPLICAS_KEPT: usize = 16;
/// A replica that has not heard from a device for so long has most likely gone. Should it hear again,
/// what it had counted before counts twice.
pub const GONE_AFTER_US: i64 = 24 * 60 * 60 * 1_000_000;

/// What all replicas have counted of a device, or of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Samples and anomalies that the other replicas counted, the past included.
    pub others: JudgedCounts,
    /// When any replica last heard, and the timestamp of that sample.
    pub last: (i64, i64),
    /// By name.
    pub metrics: Vec<CountedMetric>,
    /// Fields that are not ours.
    pub foreign: usize,
    /// When each of the other replicas last heard.
    replicas: Vec<(Replica, i64)>,
}

/// What all replicas have counted of one metric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountedMetric {
    /// Its name.
    pub name: Box<str>,
    /// By the other replicas.
    pub others: JudgedCounts,
    /// Values that this replica had counted.
    pub own_total: u64,
}

impl Counted {
    /// Of the answer to HGETALL.
    pub fn read(reply: &Value, own: Replica) -> Self {
        let mut counted = Self::default();
        match reply {
            Value::Array(parts) => {
                for pair in parts.chunks(2) {
                    counted.field(pair.first(), pair.get(1), own);
                }
            }
            Value::Map(pairs) => {
                for (field, value) in pairs {
                    counted.field(Some(field), Some(value), own);
                }
            }
            _ => counted.foreign += 1,
        }
        counted.metrics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        counted.metrics.dedup_by(|next, kept| {
            let is_same = next.name == kept.name;
            if is_same {
                add(&mut kept.others, next.others);
                kept.own_total += next.own_total;
            }
            is_same
        });
        counted
    }

    fn field(&mut self, field: Option<&Value>, value: Option<&Value>, own: Replica) {
        if self.read_field(field, value, own).is_none() {
            self.foreign += 1;
        }
    }

    fn read_field(
        &mut self,
        field: Option<&Value>,
        value: Option<&Value>,
        own: Replica,
    ) -> Option<()> {
        let (Value::BulkString(field), Value::BulkString(value)) = (field?, value?) else {
            return None;
        };
        let (counter, metric) = keys::read_field(field)?;
        let is_own = counter == Counter::Replica(own);
        if let Some(metric) = metric {
            let counts = keys::read_counts(value)?;
            let (others, own_total) =
                if is_own { (JudgedCounts::default(), counts.total) } else { (counts, 0) };
            self.metrics.push(CountedMetric { name: metric.into(), others, own_total });
            return Some(());
        }
        let heard = ReplicaCounters::read(value)?;
        self.last = self.last.max((heard.time_us, heard.timestamp_us));
        if !is_own {
            add(&mut self.others, heard.counts);
        }
        match counter {
            Counter::Replica(replica) if !is_own => self.replicas.push((replica, heard.time_us)),
            Counter::Replica(_) | Counter::Past => {}
        }
        Some(())
    }

    /// Replicas whose counts are better moved to the past, so that the hash does not grow with every
    /// restart; none while there are few.
    pub fn gone(&self, now_us: i64) -> Vec<Replica> {
        if self.replicas.len() <= REPLICAS_KEPT {
            return Vec::new();
        }
        let is_gone = |&&(_, time_us): &&(Replica, i64)| time_us < now_us - GONE_AFTER_US;
        self.replicas.iter().filter(is_gone).map(|&(replica, _)| replica).collect()
    }
}

fn add(counts: &mut JudgedCounts, other: JudgedCounts) {
    // Saturating: anyone can write any number there.
    counts.total = counts.total.saturating_add(other.total);
    counts.anomalies = counts.anomalies.saturating_add(other.anomalies);
}

/// The values of one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    /// The newest, oldest first.
    pub values: Vec<f64>,
    /// How many of them this replica has written.
    pub own: usize,
    /// Members that are not ours.
    pub foreign: usize,
}

impl Values {
    /// Of the answer to ZRANGE.
    pub fn read(reply: &Value, own: Replica) -> Self {
        let mut read = Self::default();
        let Value::Array(members) = reply else {
            read.foreign = 1;
            return read;
        };
        read.values.reserve_exact(members.len());
        for member in members {
            let member = match member {
                Value::BulkString(text) => Member::read(text),
                _ => None,
            };
            match member {
                Some(member) => {
                    read.values.push(member.value);
                    read.own += usize::from(member.replica == own);
                }
                None => read.foreign += 1,
            }
        }
        read
    }
}

/// Makes [`SharedWindows`] of what was read of a device (None: the fleet), `windows` in the order of
/// `counted.metrics`. Names are admitted to the registry.
///
/// Returns nothing when there is nothing to tell, and how many windows found no room in the registry.
pub fn share(
    device: Option<&str>,
    counted: &Counted,
    windows: Vec<Values>,
    registry: &Registry,
    now_s: u32,
) -> (Option<SharedWindows>, usize) {
    debug_assert_eq!(windows.len(), counted.metrics.len());
    let mut shared = SharedWindows {
        device: None,
        others: counted.others,
        last_seen_us: counted.last.0,
        last_timestamp_us: counted.last.1,
        metrics: Vec::with_capacity(windows.len()),
    };
    let mut id = None;
    let mut names: Vec<(&str, Option<MetricId>)> =
        counted.metrics.iter().map(|metric| (&*metric.name, None)).collect();
    for names in names.chunks_mut(READINGS_MAX) {
        if admit(registry, device, names, now_s, &mut id) {
            continue;
        }
        // All or nothing: one by one those find their place that have one.
        for name in names.chunks_mut(1) {
            admit(registry, device, name, now_s, &mut id);
        }
    }
    shared.device = id;
    for ((metric, window), (_, id)) in counted.metrics.iter().zip(windows).zip(&names) {
        if let &Some(id) = id {
            shared.metrics.push(SharedMetric {
                metric: id,
                others: metric.others,
                own_total: metric.own_total,
                own_values: window.own,
                values: window.values,
            });
        }
    }
    let no_room = counted.metrics.len() - shared.metrics.len();
    ((!shared.metrics.is_empty()).then_some(shared), no_room)
}

/// Fills in the ids of all `metrics`, or of none; false when there is no room for them.
fn admit(
    registry: &Registry,
    device: Option<&str>,
    metrics: &mut [(&str, Option<MetricId>)],
    now_s: u32,
    id: &mut Option<DeviceId>,
) -> bool {
    match registry.admit(device, metrics, now_s) {
        Ok(admitted) => {
            *id = admitted.map(|admitted| admitted.device);
            true
        }
        // Known metrics have been looked up all the same; without a stream they count for nothing.
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

    fn own() -> Replica {
        Replica::new(OWN)
    }

    fn bulk(text: impl AsRef<[u8]>) -> Value {
        Value::BulkString(text.as_ref().to_vec())
    }

    fn array(texts: &[&str]) -> Value {
        Value::Array(texts.iter().map(bulk).collect())
    }

    fn counts(total: u64, anomalies: u64) -> JudgedCounts {
        JudgedCounts { total, anomalies }
    }

    #[test]
    fn the_others_are_all_but_us() {
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
            // Not ours, or damaged.
            ("hello", "1:1"),
            ("0000dddd", "1:1"),
            ("0000dddd:rps", "1:x"),
            ("0000dddd:", "1:1"),
        ];
        let flat: Vec<_> = fields.iter().flat_map(|&(field, value)| [field, value]).collect();
        let counted = Counted::read(&array(&flat), own());
        let pairs = fields.iter().map(|&(field, value)| (bulk(field), bulk(value))).collect();
        assert_eq!(counted, Counted::read(&Value::Map(pairs), own()));
        assert_eq!((counted.others, counted.last), (counts(28, 3), (60, 4)));
        let metric =
            |name: &str, others, own_total| CountedMetric { name: name.into(), others, own_total };
        let metrics = [metric("a:b", counts(7, 0), 0), metric("rps", counts(16, 7), 900)];
        assert_eq!((&counted.metrics[..], counted.foreign), (&metrics[..], 4));
        assert_eq!(Counted::read(&Value::Array(vec![]), own()), Counted::default());
        assert_eq!(Counted::read(&Value::Okay, own()).foreign, 1);
        assert_eq!(Counted::read(&array(&["0000bbbb"]), own()).foreign, 1);
    }

    #[test]
    fn numbers_without_end_stay_numbers() {
        let most = i64::MAX;
        let mut fields = Vec::new();
        for replica in 0..5_u32 {
            let replica = Replica::new(replica);
            fields.extend([bulk(replica.as_str()), bulk(format!("{most}:{most}:{most}:{most}"))]);
            fields.extend([bulk(format!("{replica}:cpu")), bulk(format!("{most}:{most}"))]);
        }
        let counted = Counted::read(&Value::Array(fields), own());
        assert_eq!(counted.others, counts(u64::MAX, u64::MAX));
        assert_eq!(counted.metrics[0].others, counts(u64::MAX, u64::MAX));
        assert_eq!(counted.gone(most), []);
    }

    #[test]
    fn values_are_read_in_order() {
        let member = |replica, value| {
            let member = Member { time_us: 7, replica: Replica::new(replica), sequence: 0, value };
            let mut text = Vec::new();
            member.write(&mut text);
            bulk(text)
        };
        let reply =
            Value::Array(vec![member(1, 5.0), member(OWN, -0.5), bulk("junk"), member(2, 1e15)]);
        let read = Values::read(&reply, own());
        assert_eq!(read, Values { values: vec![5.0, -0.5, 1e15], own: 1, foreign: 1 });
        assert_eq!(Values::read(&Value::Nil, own()).foreign, 1);
    }

    #[test]
    fn only_old_replicas_among_many_have_gone() {
        let now_us = 10 * GONE_AFTER_US;
        let hash = |replicas: u32, old: u32| {
            let mut fields = vec![bulk(own().as_str()), bulk("0:0:1:0")];
            for replica in 0..replicas {
                let old_us = if replica < old { now_us - GONE_AFTER_US - 1 } else { now_us };
                let replica = Replica::new(replica);
                fields.extend([bulk(replica.as_str()), bulk(format!("{old_us}:0:1:0"))]);
            }
            Counted::read(&Value::Array(fields), own()).gone(now_us)
        };
        assert_eq!(hash(16, 16), []);
        assert_eq!(hash(17, 0), []);
        assert_eq!(hash(17, 2), [Replica::new(0), Replica::new(1)]);
        assert_eq!(hash(40, 40).len(), 40);
    }

    #[test]
    fn windows_without_room_are_counted() {
        let registry = Registry::new(40, 60);
        let metrics = |count: usize| {
            (0..count)
                .map(|at| CountedMetric {
                    name: format!("m{at:02}").into(),
                    others: counts(at as u64, 0),
                    own_total: 1,
                })
                .collect::<Vec<_>>()
        };
        let share = |device, count: usize| {
            let counted = Counted { metrics: metrics(count), last: (9, 8), ..Counted::default() };
            let window = |at| Values { values: vec![at as f64], own: 1, foreign: 0 };
            super::share(device, &counted, (0..count).map(window).collect(), &registry, 5)
        };
        let (shared, no_room) = share(Some("a"), 34);
        let shared = shared.expect("there is room");
        assert_eq!((shared.device, no_room), (registry.find_device("a"), 0));
        assert_eq!((shared.last_seen_us, shared.last_timestamp_us), (9, 8));
        for (at, metric) in shared.metrics.iter().enumerate() {
            assert_eq!(&*registry.metric_name(metric.metric), format!("m{at:02}"));
            assert_eq!((metric.values[0], metric.others.total), (at as f64, at as u64));
            assert_eq!((metric.own_values, metric.own_total), (1, 1));
        }
        // Six streams are left: of the next device as many find room.
        let (shared, no_room) = share(Some("b"), 10);
        assert_eq!((shared.expect("some").metrics.len(), no_room), (6, 4));
        assert_eq!(share(Some("c"), 3), (None, 3));
        assert_eq!(registry.find_device("c"), None);
        // The fleet takes no streams, but metrics are known.
        let (shared, no_room) = share(None, 50);
        let shared = shared.expect("there is room");
        assert_eq!((shared.device, shared.metrics.len(), no_room), (None, 50, 0));
        assert_eq!(share(Some("a"), 0), (None, 0));
    }
}
