//! JSON of collectd's write_http: value lists
//! (<https://www.collectd.org/documentation/manpages/collectd.conf.html>, `format_json.c`).
//!
//! The series is called as collectd's write_prometheus calls it: plugin, `_type` unless it is the same word, and `_dsname`
//! unless that is `value`; `plugin_instance` and `type_instance` are labels. The types `derive` and `counter` are counters.
//! With `StoreRates true` collectd sends their rates under the same types: a fraction tells.

use simd_json::{Node, StaticNode};

use super::object::{ObjectError, SeriesKey, field, text, text_in, time_in};
use crate::decode::fault::PointFault;
use crate::decode::json::tape::{ItemsOf, number};
use crate::decode::labels::ValueKind;
use crate::decode::points::PointReader;

const LENGTHS: &str = "values, dstypes and dsnames must be arrays of one length";
/// The label of the device, and the labels of the series.
const LABELS: [&str; 3] = ["host", "plugin_instance", "type_instance"];

pub(super) fn read(
    tape: &[Node<'_>],
    are_rates: &mut bool,
    key: &mut SeriesKey<'_>,
    points: &mut PointReader<'_>,
) -> Result<(), ObjectError> {
    let plugin = text_in(tape, "plugin").ok_or(PointFault::Name)?;
    let kind = text_in(tape, "type").unwrap_or(plugin);
    let time = time_in(tape, "time")?;
    let items = |name| ItemsOf::new(field(tape, name).unwrap_or_default());
    let (values, types, names) = (items("values"), items("dstypes"), items("dsnames"));
    if values.left() != types.left() || values.left() != names.left() {
        return Err(PointFault::Syntax(LENGTHS).into());
    }
    let labels = LABELS.map(|label| text_in(tape, label).unwrap_or_default());
    *are_rates |= values.clone().zip(types.clone()).any(|(value, source)| {
        is_cumulative(source) && matches!(value[0], Node::Static(StaticNode::F64(_)))
    });
    key.push(plugin);
    key.push(kind);
    labels.iter().for_each(|label| key.push(label));
    let shared = key.len();
    for ((value, source), name) in values.zip(types).zip(names) {
        let name = text(&name[0]).ok_or(PointFault::Syntax(LENGTHS))?;
        // NaN is null.
        let Some(value) = number(&value[0]) else {
            points.skip();
            continue;
        };
        let is_counter = is_cumulative(source) && !*are_rates;
        key.truncate(shared);
        key.push(name);
        key.push(if is_counter { "c" } else { "g" });
        points.value(key.bytes, time, value, |series| {
            series.name(plugin.as_bytes());
            let parts = [(kind != plugin).then_some(kind), (name != "value").then_some(name)];
            for part in parts.into_iter().flatten() {
                series.name(b"_");
                series.name(part.as_bytes());
            }
            for (label, value) in LABELS.iter().zip(labels) {
                series.label(label.as_bytes(), value.as_bytes());
            }
            series.kind(if is_counter { ValueKind::Counter } else { ValueKind::Gauge });
            Ok(())
        })?;
    }
    Ok(())
}

/// True for the type of a source that only grows.
fn is_cumulative(source: &[Node<'_>]) -> bool {
    matches!(source[0], Node::String("derive" | "counter"))
}
