//! The ring of anomalies for snapshots, and from them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{ANOMALIES_KEPT, AnomalyEntry, AnomalyLog, AnomalyNumbers, OpenAnomaly};
use crate::analytics::saved::form::SavedAnomaly;

/// Anomalies that begin, or change, between two syncs of a journal at most: more than one thread judges in that time.
const NUMBERS_LOST_MAX: u64 = 1 << 20;

impl AnomalyNumbers {
    /// The last serial and the last number of a change that were given out.
    pub fn given(&self) -> (u64, u64) {
        self.last()
    }

    /// Goes on after these.
    pub fn go_on_after(&self, serial: u64, change: u64) {
        self.0.serials.fetch_max(serial, Ordering::Relaxed);
        self.0.changes.fetch_max(change, Ordering::Relaxed);
    }
}

impl AnomalyLog {
    /// Those that have begun since the first start.
    pub fn begun(&self) -> u64 {
        self.begun_before + self.total
    }

    /// The numbers that all shards share.
    pub fn numbers(&self) -> &AnomalyNumbers {
        &self.numbers
    }

    /// Those in the ring, oldest first.
    pub fn saved(&self) -> impl Iterator<Item = SavedAnomaly> {
        let kept = self.ring.len() as u64;
        let oldest_first = (1..=kept).rev();
        oldest_first
            .map(|back| &self.ring[(self.total - back) as usize % ANOMALIES_KEPT])
            .map(saved)
    }

    /// Notes how many have begun that are not restored.
    pub fn restore_begun(&mut self, begun: u64) {
        self.begun_before += begun;
    }

    /// The list of the cluster has what is restored. Anomalies that it has beside are numbered apart: they began after
    /// what the disk has.
    pub fn go_on_as_replica(&mut self) {
        let (serial, change) = self.numbers.last();
        if serial > 0 {
            self.numbers.go_on_after(serial + NUMBERS_LOST_MAX, change + NUMBERS_LOST_MAX);
        }
        self.last_change = self.numbers.last().1;
        (self.listed_change, self.listed_before) = (self.last_change, self.last_change);
    }

    /// Adds one that was saved; they come oldest first. Its place, if it is open.
    pub fn restore(&mut self, saved: SavedAnomaly) -> Option<OpenAnomaly> {
        let is_open = saved.end_us.is_none();
        let device_name = Some(saved.device_name).filter(|name| !name.is_empty());
        let place = self.keep(AnomalyEntry {
            serial: saved.serial,
            subject: (saved.device, saved.metric),
            names: (device_name, saved.metric_name),
            highest: saved.highest,
            start_us: saved.start_us,
            // When its first value arrived is not saved; it is not later than that.
            began_us: saved.highest.arrived_us,
            flags: saved.flags,
            end_us: saved.end_us,
            changed_us: saved.changed_us,
            change: saved.change,
        });
        is_open.then_some(place)
    }
}

fn saved(anomaly: &AnomalyEntry) -> SavedAnomaly {
    let (device_name, metric_name) = &anomaly.names;
    SavedAnomaly {
        serial: anomaly.serial,
        device: anomaly.subject.0,
        metric: anomaly.subject.1,
        device_name: device_name.clone().unwrap_or_else(|| Arc::from("")),
        metric_name: metric_name.clone(),
        highest: anomaly.highest,
        start_us: anomaly.start_us,
        flags: anomaly.flags,
        end_us: anomaly.end_us,
        changed_us: anomaly.changed_us,
        change: anomaly.change,
    }
}
