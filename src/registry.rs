//! Names and ids: which device and which metric an id stands for, and how many streams there are.
//!
//! Shared by all threads. Workers reach it through the small cache of their decoder; the lock is
//! taken for names a worker has not met for a while.

use std::sync::Arc;

use crate::sample::{DeviceId, MetricId};

/// Distinct metric names: each is a label value in the scrape and a window of the fleet.
pub const METRICS_MAX: usize = 1_024;

/// No room for another stream or metric, and no silent device to make some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `--max-streams` are in use.
    Streams,
    /// [`METRICS_MAX`] metrics are known.
    Metrics,
}

/// The names in use.
#[derive(Debug)]
pub struct Registry {}

impl Registry {
    /// Room for `max_streams` streams (device × metric); a device silent for `stream_idle_s` may be
    /// evicted when a new one needs its room.
    pub fn new(max_streams: usize, stream_idle_s: u32) -> Self {
        let _ = (max_streams, stream_idle_s);
        todo!()
    }

    /// The device of that name.
    pub fn find_device(&self, name: &str) -> Option<DeviceId> {
        let _ = name;
        todo!()
    }

    /// The name of a device, None once it has been evicted.
    pub fn device_name(&self, id: DeviceId) -> Option<Arc<str>> {
        let _ = id;
        todo!()
    }

    /// The name of a metric.
    pub fn metric_name(&self, id: MetricId) -> Arc<str> {
        let _ = id;
        todo!()
    }

    /// Streams (device × metric) in use.
    pub fn streams(&self) -> usize {
        todo!()
    }
}
