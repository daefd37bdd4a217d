//! The canonical name of a series: `name{a="b",c="d"}`, as Prometheus writes it.
//!
//! Labels are sorted by name, and values are escaped (`\\`, `\"`, `\n`) as in Prometheus's text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>, "Comments, help text, and type information").
//! Without labels there are no braces. A name with a character that has a meaning here is quoted as Prometheus 3
//! quotes names of UTF-8 (`{"my metric","my label"="x"}`), so two different series never have the same text.

use std::ops::Range;

use super::fault::PointFault;
use sigmad_sample::{METRIC_BYTES_MAX, is_metric_name};

/// Where the name and the value of a label are.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub(super) name: Range<usize>,
    pub(super) value: Range<usize>,
}

/// Writes the series of `name` and `suffix` with `labels`, which are sorted and whose ranges are in `text`.
pub(super) fn write_series(
    (name, suffix): (&str, &str),
    labels: &[Label],
    text: &str,
    series: &mut String,
) -> Result<(), PointFault> {
    series.clear();
    if name.is_empty() {
        return Err(PointFault::Name);
    }
    let is_quoted = !is_plain(name);
    if !is_quoted {
        series.push_str(name);
        series.push_str(suffix);
    }
    if is_quoted || !labels.is_empty() {
        series.push('{');
    }
    if is_quoted {
        push_quoted(name, series);
        series.insert_str(series.len() - 1, suffix);
    }
    let mut previous = None;
    for label in labels {
        let part = |range: &Range<usize>| text.get(range.clone());
        let (name, value) = part(&label.name).zip(part(&label.value)).ok_or(PointFault::NotUtf8)?;
        if name.is_empty() {
            return Err(PointFault::Label);
        }
        if previous == Some(name) {
            return Err(PointFault::LabelTwice);
        }
        if is_quoted || previous.is_some() {
            series.push(',');
        }
        previous = Some(name);
        if is_plain(name) {
            series.push_str(name);
        } else {
            push_quoted(name, series);
        }
        series.push('=');
        push_quoted(value, series);
    }
    if is_quoted || !labels.is_empty() {
        series.push('}');
    }
    if series.len() > METRIC_BYTES_MAX {
        return Err(PointFault::SeriesTooLong);
    }
    if is_metric_name(series) { Ok(()) } else { Err(PointFault::Control) }
}

/// True for a name that needs no quotes.
fn is_plain(name: &str) -> bool {
    !name
        .bytes()
        .any(|byte| matches!(byte, b'{' | b'}' | b'"' | b'=' | b',' | b'\\' | b' ' | b'\n'))
}

fn push_quoted(text: &str, series: &mut String) {
    series.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        series.push_str(&rest[..at]);
        series.push_str(match rest.as_bytes()[at] {
            b'\\' => r"\\",
            b'"' => "\\\"",
            _ => r"\n",
        });
        rest = &rest[at + 1..];
    }
    series.push_str(rest);
    series.push('"');
}
