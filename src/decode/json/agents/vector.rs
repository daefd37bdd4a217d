//! Vector's metrics as its codec `json` writes them: `{"name":…,"namespace":…,"tags":{…},"kind":…,"gauge":{"value":…}}`
//! (<https://vector.dev/docs/architecture/data-model/metric/>).
//!
//! The series is `namespace_name` with the tags as labels. An absolute counter is judged by its rate, an incremental one as
//! it is. Aggregated histograms become the rate of their count, their mean, and p50 and p99; aggregated summaries the
//! first two, and a gauge a quantile. Sets, distributions and sketches are skipped.

use simd_json::{Node, StaticNode};
use smallvec::SmallVec;

use super::object::{ObjectError, SeriesKey, field, text, text_in, time_in};
use crate::decode::fault::PointFault;
use crate::decode::histograms::{BUCKETS_MAX, Buckets, HistogramPoint, Temporality};
use crate::decode::json::tape::{FieldsOf, ItemsOf, number};
use crate::decode::labels::{SeriesDescription, ValueKind};
use crate::decode::points::PointReader;
use sigmad_sample::timestamp::Stamp;

/// The fields that hold the value.
pub(super) const KINDS: [&[u8]; 7] = [
    b"gauge",
    b"counter",
    b"set",
    b"distribution",
    b"aggregated_histogram",
    b"aggregated_summary",
    b"sketch",
];

const BUCKETS: PointFault = PointFault::Syntax(
    "the buckets of a histogram must be at most 512 objects with ascending `upper_limit` and a `count` each",
);
/// Buckets of a histogram that need no memory of their own: Vector's default has 20.
const BUCKETS_FEW: usize = 32;

/// A metric without its value.
struct Metric<'t, 'a> {
    namespace: &'a str,
    name: &'a str,
    tags: &'t [Node<'a>],
    time: Stamp,
    /// Of values that only grow.
    kind: ValueKind,
}

pub(super) fn read(
    tape: &[Node<'_>],
    key: &mut SeriesKey<'_>,
    points: &mut PointReader<'_>,
) -> Result<(), ObjectError> {
    let is_absolute = text_in(tape, "kind") == Some("absolute");
    let metric = Metric {
        namespace: text_in(tape, "namespace").unwrap_or_default(),
        name: text_in(tape, "name").ok_or(PointFault::Name)?,
        tags: field(tape, "tags").unwrap_or_default(),
        time: time_in(tape, "timestamp")?,
        kind: if is_absolute { ValueKind::Counter } else { ValueKind::Gauge },
    };
    metric.begin_key(key);
    if let Some(gauge) = field(tape, "gauge") {
        return metric.value(gauge, ValueKind::Gauge, key, points);
    }
    if let Some(counter) = field(tape, "counter") {
        return metric.value(counter, metric.kind, key, points);
    }
    if let Some(histogram) = field(tape, "aggregated_histogram") {
        return metric.histogram(histogram, key, points);
    }
    if let Some(summary) = field(tape, "aggregated_summary") {
        return metric.summary(summary, key, points);
    }
    points.skip();
    Ok(())
}

impl Metric<'_, '_> {
    fn begin_key(&self, key: &mut SeriesKey<'_>) {
        key.push(if self.kind == ValueKind::Counter { "c" } else { "g" });
        key.push(self.namespace);
        key.push(self.name);
        self.each_tag(|tag, value| {
            key.push(tag);
            key.push(value);
        });
    }

    /// Of a tag with several values each one; a tag without a value is none.
    fn each_tag(&self, mut take: impl FnMut(&str, &str)) {
        for (tag, value) in FieldsOf::new(self.tags) {
            match text(&value[0]) {
                Some(value) => take(tag, value),
                // A series has a label once.
                None => {
                    if let Some(value) = ItemsOf::new(value).find_map(|value| text(&value[0])) {
                        take(tag, value);
                    }
                }
            }
        }
    }

    fn describe(&self, series: &mut SeriesDescription) {
        if !self.namespace.is_empty() {
            series.name(self.namespace.as_bytes());
            series.name(b"_");
        }
        series.name(self.name.as_bytes());
        self.each_tag(|tag, value| series.label(tag.as_bytes(), value.as_bytes()));
    }

    /// Takes the number `value` of `holder`.
    fn value(
        &self,
        holder: &[Node<'_>],
        kind: ValueKind,
        key: &mut SeriesKey<'_>,
        points: &mut PointReader<'_>,
    ) -> Result<(), ObjectError> {
        let Some(value) = number_in(holder, "value") else {
            // A NaN is null.
            points.skip();
            return Ok(());
        };
        key.push("");
        points.value(key.bytes, self.time, value, |series| {
            self.describe(series);
            series.kind(kind);
            Ok(())
        })?;
        Ok(())
    }

    /// Takes an `aggregated_histogram`.
    fn histogram(
        &self,
        histogram: &[Node<'_>],
        key: &mut SeriesKey<'_>,
        points: &mut PointReader<'_>,
    ) -> Result<(), ObjectError> {
        let count = number_in(histogram, "count");
        let (mut bounds, mut counts) = (BucketNumbers::new(), BucketNumbers::new());
        read_buckets(histogram, count, &mut bounds, &mut counts).ok_or(BUCKETS)?;
        let buckets = if counts.is_empty() {
            Buckets::None
        } else {
            Buckets::Explicit { bounds: &bounds, counts: &counts }
        };
        self.total(histogram, count, buckets, key, points)
    }

    /// Takes an `aggregated_summary`: its quantiles are gauges.
    fn summary(
        &self,
        summary: &[Node<'_>],
        key: &mut SeriesKey<'_>,
        points: &mut PointReader<'_>,
    ) -> Result<(), ObjectError> {
        let shared = key.len();
        self.total(summary, number_in(summary, "count"), Buckets::None, key, points)?;
        for item in ItemsOf::new(field(summary, "quantiles").unwrap_or_default()) {
            let (Some(quantile), Some(value)) =
                (number_in(item, "quantile"), number_in(item, "value"))
            else {
                points.skip();
                continue;
            };
            let quantile = quantile.to_string();
            key.truncate(shared);
            key.push("quantile");
            key.push(&quantile);
            points.value(key.bytes, self.time, value, |series| {
                self.describe(series);
                series.label(b"quantile", quantile.as_bytes());
                series.kind(ValueKind::Gauge);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Takes count, sum and `buckets` of `holder`.
    fn total(
        &self,
        holder: &[Node<'_>],
        count: Option<f64>,
        buckets: Buckets<'_>,
        key: &mut SeriesKey<'_>,
        points: &mut PointReader<'_>,
    ) -> Result<(), ObjectError> {
        let Some(count) = count else {
            points.skip();
            return Ok(());
        };
        let is_absolute = self.kind == ValueKind::Counter;
        let temporality = if is_absolute { Temporality::Cumulative } else { Temporality::Delta };
        let point = HistogramPoint { temporality, count, sum: number_in(holder, "sum"), buckets };
        key.push("total");
        points.histogram(key.bytes, self.time, &point, |series| {
            self.describe(series);
            series.kind(ValueKind::Gauge);
            Ok(())
        })?;
        Ok(())
    }
}

type BucketNumbers = SmallVec<[f64; BUCKETS_FEW]>;

/// Reads `buckets`, each of which counts its own values alone. The bound without a number is infinity, which JSON does
/// not have; without it what `count` has more is past the last bound. None for what are no buckets.
fn read_buckets(
    histogram: &[Node<'_>],
    count: Option<f64>,
    bounds: &mut BucketNumbers,
    counts: &mut BucketNumbers,
) -> Option<()> {
    let items = ItemsOf::new(field(histogram, "buckets").unwrap_or_default());
    if items.left() == 0 {
        return Some(());
    }
    for item in items {
        let is_past_infinity = counts.len() > bounds.len();
        let of_bucket = number_in(item, "count").filter(|count| *count >= 0.0)?;
        if is_past_infinity || counts.len() == BUCKETS_MAX {
            return None;
        }
        match field(item, "upper_limit")?.first()? {
            Node::Static(StaticNode::Null) => {}
            bound => {
                let bound = number(bound)?;
                if bounds.last().is_some_and(|last| *last >= bound) {
                    return None;
                }
                bounds.push(bound);
            }
        }
        counts.push(of_bucket);
    }
    if counts.len() == bounds.len() {
        counts.push((count? - counts.iter().sum::<f64>()).max(0.0));
    }
    Some(())
}

/// A number that an object may have.
fn number_in(tape: &[Node<'_>], name: &str) -> Option<f64> {
    field(tape, name).and_then(|value| number(value.first()?))
}
