//! The last ten minutes of the fleet, one point per second, for a page that opens.

use std::collections::VecDeque;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::figures::{FleetMetric, rounded};

/// Ten minutes: some 40 kB of JSON with two metrics, once for each page that opens.
pub const POINTS_MAX: usize = 600;
/// Interval between points.
pub const POINT_MS: u64 = 1_000;

/// One second of the fleet.
#[derive(Clone, Debug)]
struct HistoryPoint {
    at_ms: u64,
    wall_us: i64,
    accepted: f64,
    anomalies: f64,
    metrics: Vec<FleetMetric>,
}

/// The points of the last ten minutes.
#[derive(Debug, Default)]
pub struct History {
    points: VecDeque<HistoryPoint>,
}

impl History {
    /// True when the next point is due.
    pub fn is_due(&self, at_ms: u64) -> bool {
        // A tick may be a little early and must not skip a second.
        self.points.back().is_none_or(|last| at_ms + POINT_MS / 10 >= last.at_ms + POINT_MS)
    }

    /// Adds a point: rates per second, and the fleet's windows.
    pub fn push(
        &mut self,
        at_ms: u64,
        wall_us: i64,
        accepted: f64,
        anomalies: f64,
        metrics: &[FleetMetric],
    ) {
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        let metrics = metrics.to_vec();
        self.points.push_back(HistoryPoint { at_ms, wall_us, accepted, anomalies, metrics });
    }

    /// The points after a moment, as columns.
    pub fn after(&self, at_ms: u64) -> HistoryColumns<'_> {
        let from = self.points.partition_point(|point| point.at_ms <= at_ms);
        HistoryColumns(self.points.range(from..).collect())
    }

    /// The time of the oldest point, milliseconds since the start.
    pub fn oldest_ms(&self) -> u64 {
        self.points.front().map_or(0, |point| point.at_ms)
    }
}

/// Points as JSON: one array per figure, all of the same length.
#[derive(Debug)]
pub struct HistoryColumns<'a>(Vec<&'a HistoryPoint>);

impl Serialize for HistoryColumns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct MetricColumns {
            mean: Vec<Option<f64>>,
            std_dev: Vec<Option<f64>>,
        }
        struct MetricsByName<'a>(&'a [&'a HistoryPoint]);
        impl Serialize for MetricsByName<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                // Metrics are never removed, so the last point has all of them.
                let names: Vec<&str> = self.0.last().map_or_else(Vec::new, |point| {
                    point.metrics.iter().map(|metric| &*metric.name).collect()
                });
                serializer.collect_map(names.into_iter().map(|name| {
                    let of = |figure: fn(&FleetMetric) -> f64| {
                        let find = |point: &&HistoryPoint| {
                            let found = point.metrics.iter().find(|metric| *metric.name == *name);
                            found.map(figure)
                        };
                        self.0.iter().map(find).collect()
                    };
                    let metric = MetricColumns { mean: of(|m| m.mean), std_dev: of(|m| m.std_dev) };
                    (name, metric)
                }))
            }
        }
        let points = &self.0;
        let column = |figure: fn(&HistoryPoint) -> f64| -> Vec<f64> {
            points.iter().map(|point| figure(point)).collect()
        };
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("at", &column(|point| (point.wall_us / 10_000) as f64 / 100.0))?;
        map.serialize_entry("accepted", &column(|point| rounded(point.accepted)))?;
        map.serialize_entry("anomalies", &column(|point| rounded(point.anomalies)))?;
        map.serialize_entry("metrics", &MetricsByName(points))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metric(name: &str, mean: f64) -> FleetMetric {
        FleetMetric { name: name.into(), mean, std_dev: 1.0, last: mean, z_score: 0.0 }
    }

    #[test]
    fn points_become_columns() {
        let mut history = History::default();
        for second in 0..POINTS_MAX as u64 + 10 {
            assert!(history.is_due(second * 1_000));
            let mut metrics = vec![metric("rps", second as f64)];
            if second > 607 {
                metrics.push(metric("cpu", 5.0));
            }
            history.push(second * 1_000, second as i64 * 1_000_000, 3.0, 0.5, &metrics);
            assert!(!history.is_due(second * 1_000 + 800));
        }
        assert_eq!(history.oldest_ms(), 10_000);
        assert_eq!(history.after(0).0.len(), POINTS_MAX);
        let columns = serde_json::to_value(history.after(606_000)).expect("JSON");
        let expected = json!({
            "at": [607.0, 608.0, 609.0], "accepted": [3.0, 3.0, 3.0], "anomalies": [0.5, 0.5, 0.5],
            "metrics": {
                "rps": {"mean": [607.0, 608.0, 609.0], "stdDev": [1.0, 1.0, 1.0]},
                "cpu": {"mean": [null, 5.0, 5.0], "stdDev": [null, 1.0, 1.0]},
            },
        });
        assert_eq!(columns, expected);
    }
}
