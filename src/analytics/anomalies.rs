//! The latest anomalies, in a ring taken at the start, and how many there were of each metric.

use std::sync::Arc;

use crate::analytics::report::{AnomalyReport, RecentQuery};
use crate::analytics::window::Moments;
use crate::registry::METRICS_MAX;
use crate::sample::{DeviceId, MetricId, Verdict};

/// Anomalies kept for `/anomalies`; older ones are only counted.
pub const ANOMALIES_KEPT: usize = 4_096;

/// One anomaly. It keeps the device's name, and so its due after the device's eviction.
#[derive(Debug)]
pub struct Anomaly {
    /// The device and its name, None for the fleet.
    pub device: Option<(DeviceId, Arc<str>)>,
    /// The metric.
    pub metric: MetricId,
    /// The value.
    pub value: f64,
    /// The window before it.
    pub before: Moments,
    /// The verdict.
    pub verdict: Verdict,
    /// As the client said.
    pub timestamp_us: i64,
    /// When it arrived.
    pub arrived_us: i64,
}

/// The latest anomalies.
#[derive(Debug)]
pub struct Anomalies {
    ring: Vec<Anomaly>,
    total: u64,
    by_metric: Vec<u64>,
}

impl Default for Anomalies {
    fn default() -> Self {
        Self { ring: Vec::with_capacity(ANOMALIES_KEPT), total: 0, by_metric: vec![0; METRICS_MAX] }
    }
}

impl Anomalies {
    /// Anomalies of that metric since the start.
    pub fn count(&self, metric: MetricId) -> u64 {
        self.by_metric[usize::from(metric.0)]
    }

    /// Adds one, in the place of the oldest when the ring is full.
    #[cold]
    pub fn push(&mut self, anomaly: Anomaly) {
        self.by_metric[usize::from(anomaly.metric.0)] += 1;
        if self.ring.len() < ANOMALIES_KEPT {
            self.ring.push(anomaly);
        } else {
            self.ring[self.total as usize % ANOMALIES_KEPT] = anomaly;
        }
        self.total += 1;
    }

    /// Those that `query` asks for, newest first.
    pub fn latest(
        &self,
        query: &RecentQuery,
        metric_name: impl Fn(MetricId) -> Arc<str>,
    ) -> Vec<AnomalyReport> {
        let kept = self.ring.len() as u64;
        (0..kept)
            .map(|back| self.total - back)
            .map(|serial| (serial, &self.ring[(serial - 1) as usize % ANOMALIES_KEPT]))
            .filter(|(_, anomaly)| {
                let of_device = anomaly.device.as_ref().map(|(id, _)| *id);
                anomaly.arrived_us >= query.since_us
                    && (query.device.is_none() || query.device == of_device)
            })
            .take(query.limit)
            .map(|(serial, anomaly)| AnomalyReport {
                serial,
                device: anomaly.device.as_ref().map(|(_, name)| name.clone()),
                metric: metric_name(anomaly.metric),
                value: anomaly.value,
                mean: anomaly.before.mean,
                std_dev: anomaly.before.std_dev(),
                verdict: anomaly.verdict,
                timestamp_us: anomaly.timestamp_us,
                arrived_us: anomaly.arrived_us,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_latest_newest_first() {
        let mut anomalies = Anomalies::default();
        let pushed = ANOMALIES_KEPT as i64 + 10;
        for i in 1..=pushed {
            let device = DeviceId { index: (i % 2) as u32, generation: 0 };
            anomalies.push(Anomaly {
                device: (i % 3 != 0).then(|| (device, Arc::from("d"))),
                metric: MetricId::CPU,
                value: i as f64,
                before: Moments { count: 50, mean: 0.0, variance: 4.0 },
                verdict: Verdict::default(),
                timestamp_us: 0,
                arrived_us: i,
            });
        }
        let ask = |device, limit, since_us| {
            let query = RecentQuery { device, limit, since_us };
            let found = anomalies.latest(&query, |_| Arc::from("cpu"));
            assert!(found.iter().all(|a| a.serial as f64 == a.value && a.std_dev == 2.0));
            found.iter().map(|a| a.arrived_us).collect::<Vec<_>>()
        };
        assert_eq!(ask(None, 3, 0), [pushed, pushed - 1, pushed - 2]);
        assert_eq!(ask(None, usize::MAX, 0), (11..=pushed).rev().collect::<Vec<_>>());
        assert_eq!(ask(None, usize::MAX, pushed - 1), [pushed, pushed - 1]);
        let odd = Some(DeviceId { index: 1, generation: 0 });
        assert!(ask(odd, usize::MAX, 0).iter().all(|i| i % 2 == 1 && i % 3 != 0));
        assert_eq!(ask(Some(DeviceId { index: 1, generation: 1 }), 9, 0), [0; 0]);
    }
}
