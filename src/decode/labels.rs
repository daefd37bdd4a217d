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
    is_too_long: bool,
}

/// A described series: its device, if it has one, and its canonical name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Described<'a> {
    pub(super) device: Option<&'a str>,
    /// Without its labels.
    pub(super) name: &'a str,
    pub(super) series: &'a str,
    pub(super) kind: ValueKind,
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
            is_too_long: false,
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.labels.clear();
        self.name = 0..0;
        self.kind = ValueKind::Untyped;
        self.resource_device = None;
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

    /// Finds the device, and writes the series to `series`.
    pub(super) fn finish<'a>(
        &'a mut self,
        series: &'a mut String,
    ) -> Result<Described<'a>, PointFault> {
        if self.is_too_long {
            return Err(PointFault::SeriesTooLong);
        }
        let mut device = self.resource_device.take().map(|(_, value)| value);
        if device.is_none() {
            let ranks = self.labels.iter().enumerate().filter_map(|(at, label)| {
                Some((self.tables.rules.device_rank(&self.bytes[label.name.clone()])?, at))
            });
            if let Some((_, at)) = ranks.min() {
                device = Some(self.labels.remove(at).value);
            }
        }
        let text = str::from_utf8(&self.bytes).map_err(|_| PointFault::NotUtf8)?;
        let part = |range: &Range<usize>| text.get(range.clone()).ok_or(PointFault::NotUtf8);
        self.labels.sort_unstable_by(|a, b| text[a.name.clone()].cmp(&text[b.name.clone()]));
        let name = part(&self.name)?;
        write_series(name, &self.labels, text, series)?;
        let device = device.as_ref().map(part).transpose()?;
        if device.is_some_and(|device| !is_name(device)) {
            return Err(PointFault::Device);
        }
        Ok(Described { device, name, series, kind: self.kind })
    }
}
