//! Telegraf's serializer `json`: `{"name":…,"tags":{…},"fields":{…},"timestamp":…}`
//! (<https://docs.influxdata.com/telegraf/v1/data_formats/output/json/>).
//!
//! The series is that of its line protocol: `name_field` with the tags as labels. Fields that are no numbers are skipped.

use simd_json::Node;

use super::object::{ObjectError, SeriesKey, field, text, text_in, time_in};
use crate::decode::fault::PointFault;
use crate::decode::json::tape::{FieldsOf, number};
use crate::decode::labels::ValueKind;
use crate::decode::points::PointReader;

pub(super) fn read(
    tape: &[Node<'_>],
    key: &mut SeriesKey<'_>,
    points: &mut PointReader<'_>,
) -> Result<(), ObjectError> {
    let name = text_in(tape, "name").ok_or(PointFault::Name)?;
    let Some(fields) = field(tape, "fields") else {
        return Err(PointFault::Syntax("a metric of Telegraf needs an object `fields`").into());
    };
    let time = time_in(tape, "timestamp")?;
    let tags = field(tape, "tags").unwrap_or_default();
    key.push(name);
    for (tag, value) in FieldsOf::new(tags) {
        key.push(tag);
        key.push(text(&value[0]).unwrap_or_default());
    }
    let shared = key.len();
    for (field, value) in FieldsOf::new(fields) {
        let Some(value) = number(&value[0]) else {
            points.skip();
            continue;
        };
        key.truncate(shared);
        key.push(field);
        points.value(key.bytes, time, value, |series| {
            series.name(name.as_bytes());
            series.name(b"_");
            series.name(field.as_bytes());
            for (tag, value) in FieldsOf::new(tags) {
                series.label(tag.as_bytes(), text(&value[0]).unwrap_or_default().as_bytes());
            }
            series.kind(ValueKind::Untyped);
            Ok(())
        })?;
    }
    Ok(())
}
