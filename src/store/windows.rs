//! What other replicas have written, as analytics takes it.
//!
//! Two steps: [`Counted`] tells which metrics an owner has, [`Values`] what a window holds; [`share`]
//! makes [`SharedWindows`] of both, with names turned into ids. What is foreign or damaged is left out
//! and counted. Pure: no I/O.

use redis::Value;

use super::keys::{self, Counter, Heard, Member, Replica};
use crate::exchange::{Counts, SharedMetric, SharedWindows};
use crate::registry::Registry;
use crate::sample::{DeviceId, MetricId, READINGS_MAX};

/// Replicas in a hash of counts that nobody minds: more than are running, and those of a few restarts.
pub const REPLICAS_KEPT: usize = 16;
/// A replica that has not heard from a device for so long has most likely gone.
pub const GONE_AFTER_US: i64 = 24 * 60 * 60 * 1_000_000;

/// What all replicas have counted of a device, or of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Samples and anomalies that the other replicas counted, the past included.
    pub others: Counts,
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
    pub others: Counts,
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
                if is_own { (Counts::default(), counts.total) } else { (counts, 0) };
            self.metrics.push(CountedMetric { name: metric.into(), others, own_total });
            return Some(());
        }
        let heard = Heard::read(value)?;
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

fn add(counts: &mut Counts, other: Counts) {
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
