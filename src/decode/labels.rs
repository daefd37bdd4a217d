//! The name and the labels of one series, as a format reads them, and the device among them.
//!
//! A description is written when a series is not in the worker's cache, into memory that is used again.

use std::ops::Range;
use std::sync::Arc;

use super::fault::PointFault;
use super::series::{Label, write_series};
use super::tables::PointTables;
use sigmad_sample::{METRIC_BYTES_MAX, is_name};

/// Bytes of all names and values that are kept: a longer series is refused anyway, whatever its device is called.
const BYTES_MAX: usize = 4 * METRIC_BYTES_MAX;
/// Labels of one series: as many as the shortest ones that a series has room for.
const LABELS_MAX: usize = METRIC_BYTES_MAX / r#"a="b","#.len();

/// How the values of a series are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueKind {
    /// As they are.
    Gauge,
    /// Cumulative and monotonic: by the rate per second.
    Counter,
    /// The sender does not say: by the rules for names ([`super::SeriesRules::is_counter`]).
    #[default]
    Untyped,
}

/// Name, labels and kind of a series.
#[derive(Debug)]
pub struct SeriesDescription {
    tables: Arc<PointTables>,
    bytes: Vec<u8>,
    name: Range<usize>,
    labels: Vec<Label>,
    kind: ValueKind,
    /// The rank of the device among the labels of the resource, and where its name is.
    resource_device: Option<(usize, Range<usize>)>,
    /// The value of the device, once finished.
    device: Option<Range<usize>>,
    is_too_long: bool,
}

impl SeriesDescription {
    pub(super) fn new(tables: Arc<PointTables>) -> Self {
        Self {
            tables,
            bytes: Vec::new(),
            name: 0..0,
            labels: Vec::new(),
            kind: ValueKind::Untyped,
            resource_device: None,
            device: None,
            is_too_long: false,
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.labels.clear();
        self.name = 0..0;
        self.kind = ValueKind::Untyped;
        self.resource_device = None;
        self.device = None;
        self.is_too_long = false;
    }

    /// The name of the metric, in parts if it is called several times.
    pub fn name(&mut self, part: &[u8]) {
        debug_assert!(self.labels.is_empty() || self.name.is_empty(), "parts follow each other");
        let added = self.keep(part);
        if self.name.is_empty() {
            self.name = added;
        } else {
            debug_assert_eq!(self.name.end, added.start);
            self.name.end = added.end;
        }
    }

    /// A label of the point. One without a value is none, as in Prometheus.
    pub fn label(&mut self, name: &[u8], value: &[u8]) {
        if value.is_empty() {
            return;
        }
        if self.labels.len() == LABELS_MAX {
            self.is_too_long = true;
            return;
        }
        let label = Label { name: self.keep(name), value: self.keep(value) };
        self.labels.push(label);
    }

    /// The device, whatever the labels are called.
    pub(super) fn set_device(&mut self, value: &[u8]) {
        let value = self.keep(value);
        self.resource_device = Some((0, value));
    }

    /// Whether the value of a label of that name can be the device.
    pub(super) fn is_device(&self, name: &[u8]) -> bool {
        self.tables.rules.device_rank(name).is_some()
    }

    /// An attribute of what sends the point: it can be the device, before any label of the point, and is otherwise
    /// no part of the series.
    pub fn resource_label(&mut self, name: &[u8], value: &[u8]) {
        let Some(rank) = self.tables.rules.device_rank(name) else { return };
        if !value.is_empty() && self.resource_device.as_ref().is_none_or(|(known, _)| rank < *known)
        {
            let value = self.keep(value);
            self.resource_device = Some((rank, value));
        }
    }

    /// How the values are judged.
    pub fn kind(&mut self, kind: ValueKind) {
        self.kind = kind;
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        if bytes.len() > BYTES_MAX - start {
            self.is_too_long = true;
            return start..start;
        }
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Finds the device, and sorts the other labels.
    pub(super) fn finish(&mut self) -> Result<(), PointFault> {
        if self.is_too_long {
            return Err(PointFault::SeriesTooLong);
        }
        self.device = self.resource_device.take().map(|(_, value)| value);
        if self.device.is_none() {
            let ranks = self.labels.iter().enumerate().filter_map(|(at, label)| {
                Some((self.tables.rules.device_rank(&self.bytes[label.name.clone()])?, at))
            });
            if let Some((_, at)) = ranks.min() {
                self.device = Some(self.labels.remove(at).value);
            }
        }
        let bytes = &self.bytes;
        self.labels.sort_unstable_by(|a, b| bytes[a.name.clone()].cmp(&bytes[b.name.clone()]));
        let text = str::from_utf8(bytes).map_err(|_| PointFault::NotUtf8)?;
        let ranges = self.labels.iter().flat_map(|label| [&label.name, &label.value]);
        let mut ranges = ranges.chain([&self.name]).chain(&self.device);
        if ranges.any(|range| text.get(range.clone()).is_none()) {
            return Err(PointFault::NotUtf8);
        }
        if self.device().is_some_and(|device| !is_name(device)) {
            return Err(PointFault::Device);
        }
        Ok(())
    }

    /// The text of a finished description.
    fn text(&self) -> &str {
        str::from_utf8(&self.bytes).expect("finished descriptions are UTF-8")
    }

    /// The device of a finished description.
    pub(super) fn device(&self) -> Option<&str> {
        self.device.as_ref().map(|range| &self.text()[range.clone()])
    }

    /// The name of the metric of a finished description.
    pub(super) fn metric(&self) -> &str {
        &self.text()[self.name.clone()]
    }

    /// How its values are judged.
    pub(super) fn value_kind(&self) -> ValueKind {
        self.kind
    }

    /// Writes the series of a finished description, with `suffix` after the name of its metric.
    pub(super) fn write(&self, suffix: &str, series: &mut String) -> Result<(), PointFault> {
        write_series((self.metric(), suffix), &self.labels, self.text(), series)
    }

    /// Removes the end of the name of the metric, if it is `suffix`.
    pub(super) fn strip(&mut self, suffix: &str) -> bool {
        let is_stripped = self.bytes[self.name.clone()].ends_with(suffix.as_bytes());
        if is_stripped {
            self.name.end -= suffix.len();
        }
        is_stripped
    }

    /// Puts `suffix` back, which [`SeriesDescription::strip`] has removed.
    pub(super) fn unstrip(&mut self, suffix: &str) {
        self.name.end += suffix.len();
    }

    /// Makes a bucket the histogram that it is part of: removes `_bucket` and the label `le`, and returns the bound.
    pub(super) fn take_bucket(&mut self) -> Option<f64> {
        if self.kind == ValueKind::Gauge || !self.strip("_bucket") {
            return None;
        }
        let bound = self.labels.iter().enumerate().find_map(|(at, label)| {
            let is_bound = &self.bytes[label.name.clone()] == b"le";
            let value = str::from_utf8(&self.bytes[label.value.clone()]).ok()?;
            let bound = value.parse::<f64>().ok().filter(|bound| is_bound && !bound.is_nan())?;
            Some((at, bound))
        });
        match bound {
            Some((at, bound)) => {
                self.labels.remove(at);
                Some(bound)
            }
            None => {
                self.unstrip("_bucket");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::decode::SeriesRules;

    fn series(name: &str, labels: &[(&String, &String)]) -> Result<String, PointFault> {
        let tables = Arc::new(PointTables::new(SeriesRules::default(), 10));
        let mut description = SeriesDescription::new(tables);
        description.name(name.as_bytes());
        for (name, value) in labels {
            description.label(name.as_bytes(), value.as_bytes());
        }
        let mut series = String::new();
        description.finish()?;
        description.write("", &mut series)?;
        Ok(series)
    }

    /// Reads a quoted text; returns it with what follows.
    fn unquote(text: &str) -> (String, &str) {
        let mut chars = text.strip_prefix('"').expect("a quote").chars();
        let mut read = String::new();
        loop {
            match chars.next().expect("a quote at the end") {
                '"' => return (read, chars.as_str()),
                '\\' => read.push(match chars.next().expect("an escaped character") {
                    'n' => '\n',
                    other => other,
                }),
                other => read.push(other),
            }
        }
    }

    /// Reads a name, quoted or not, up to one of `ends`.
    fn name<'a>(text: &'a str, ends: &[char]) -> (String, &'a str) {
        if text.starts_with('"') {
            return unquote(text);
        }
        let end = text.find(ends).unwrap_or(text.len());
        (text[..end].to_owned(), &text[end..])
    }

    /// Reads a series as Prometheus reads its text format, names in quotes included.
    fn parse(text: &str) -> (String, BTreeMap<String, String>) {
        let (mut metric, rest) = name(text, &['{']);
        let mut labels = BTreeMap::new();
        let Some(mut rest) = rest.strip_prefix('{') else { return (metric, labels) };
        while !rest.starts_with('}') {
            let (label, after) = name(rest, &['=']);
            rest = after;
            if let Some(after) = rest.strip_prefix('=') {
                let (value, after) = unquote(after);
                rest = after;
                assert_eq!(labels.insert(label, value), None);
            } else {
                metric = label;
            }
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        assert_eq!(rest, "}");
        (metric, labels)
    }

    proptest! {
        #[test]
        fn a_series_is_read_back_whatever_the_order_of_its_labels(
            metric in "[a-z{}=,\" \\\\é.]{1,6}",
            labels in proptest::collection::btree_map(
                "[a-c{}=,\" \\\\é.\n]{1,3}", "[a-c{}=,\"\\\\é\n]{1,5}", 0..6),
            seed in any::<u64>(),
        ) {
            let sorted: Vec<_> = labels.iter().collect();
            let mut shuffled = sorted.clone();
            shuffled.sort_by_key(|(name, _)| seed.wrapping_mul(name.len() as u64 + u64::from(name.as_bytes()[0])));
            let text = series(&metric, &sorted).expect("a series");
            prop_assert_eq!(&series(&metric, &shuffled).expect("a series"), &text);
            let (read_metric, read_labels) = parse(&text);
            prop_assert_eq!(read_metric, metric);
            prop_assert_eq!(read_labels, labels);
        }
    }
}
