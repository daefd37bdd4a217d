//! `/history` as JSON.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::day::DayColumns;
use super::message::json;
use super::streams::{HistoryQuery, HistoryReport};
use crate::answers::json::Seconds;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HistoryJson<'a> {
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded_since: Option<Seconds>,
    device: Option<&'a str>,
    /// Seconds of a point.
    step: i64,
    /// When each point begins, in seconds since 1970.
    at: Vec<i64>,
    series: ColumnsByName<'a>,
    /// Samples per second: the whole server's, all series together.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<ColumnsJson<'a>>,
    /// Values flagged in each point, in all series.
    #[serde(skip_serializing_if = "Option::is_none")]
    anomalies: Option<&'a [u64]>,
}

struct ColumnsByName<'a>(&'a HistoryReport);

impl Serialize for ColumnsByName<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.series.len()))?;
        for (name, columns) in &self.0.series {
            map.serialize_entry(&**name, &ColumnsJson::with_flags(columns))?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct ColumnsJson<'a> {
    min: &'a [Option<f64>],
    mean: &'a [Option<f64>],
    max: &'a [Option<f64>],
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<&'a [u64]>,
}

impl<'a> ColumnsJson<'a> {
    fn new(columns: &'a DayColumns) -> Self {
        let DayColumns { min, mean, max, .. } = columns;
        Self { min, mean, max, flags: None }
    }

    fn with_flags(columns: &'a DayColumns) -> Self {
        Self { flags: Some(&columns.flags), ..Self::new(columns) }
    }
}

/// The answer of `GET /history`.
pub fn history(asked: &HistoryQuery, report: &HistoryReport) -> Vec<u8> {
    json(&HistoryJson {
        scope: report.scope.name(),
        degraded_since: report.scope.degraded_since_us.map(Seconds),
        device: asked.device.as_deref(),
        step: asked.range.step_s(),
        at: asked.range.starts(),
        series: ColumnsByName(report),
        accepted: report.load.as_ref().map(ColumnsJson::new),
        anomalies: report.load.as_ref().map(|load| &*load.flags),
    })
    .into_bytes()
}
