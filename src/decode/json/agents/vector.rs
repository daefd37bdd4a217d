//! Vector's metrics as its codec `json` writes them: `{"name":…,"namespace":…,"tags":{…},"kind":…,"gauge":{"value":…}}`
//! (<https://vector.dev/docs/architecture/data-model/metric/>).
//!
//! The series is `namespace_name` with the tags as labels. An absolute counter is judged by its rate, an incremental one as
//! it is. Histograms and summaries become `_count` and `_sum`; sets and distributions are skipped.

use simd_json::Node;

use super::object::{ObjectError, SeriesKey, field, text, text_in, time_in};
use crate::decode::fault::PointFault;
use crate::decode::json::tape::{FieldsOf, ItemsOf, number};
use crate::decode::labels::ValueKind;
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
        return metric.value(gauge, "value", "", ValueKind::Gauge, key, points);
    }
    if let Some(counter) = field(tape, "counter") {
        return metric.value(counter, "value", "", metric.kind, key, points);
    }
    for name in ["aggregated_histogram", "aggregated_summary"] {
        if let Some(summed) = field(tape, name) {
            metric.value(summed, "count", "_count", metric.kind, key, points)?;
            return metric.value(summed, "sum", "_sum", metric.kind, key, points);
        }
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

    /// Takes the number `field` of `holder` as the series with that suffix.
    fn value(
        &self,
        holder: &[Node<'_>],
        field_name: &str,
        suffix: &str,
        kind: ValueKind,
        key: &mut SeriesKey<'_>,
        points: &mut PointReader<'_>,
    ) -> Result<(), ObjectError> {
        let Some(value) = field(holder, field_name).and_then(|value| number(&value[0])) else {
            // A NaN is null.
            points.skip();
            return Ok(());
        };
        let shared = key.len();
        key.push(suffix);
        points.value(key.bytes, self.time, value, |series| {
            if !self.namespace.is_empty() {
                series.name(self.namespace.as_bytes());
                series.name(b"_");
            }
            series.name(self.name.as_bytes());
            series.name(suffix.as_bytes());
            self.each_tag(|tag, value| series.label(tag.as_bytes(), value.as_bytes()));
            series.kind(kind);
            Ok(())
        })?;
        key.truncate(shared);
        Ok(())
    }
}
