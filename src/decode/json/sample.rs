//! A sample of any shape, from its tape.

use simd_json::{Node, StaticNode};
use smallvec::SmallVec;

use super::fields::{FieldName, TIME_NAMES, is_moment};
use super::foreign;
use super::tape::{FieldsOf, number, timestamp_of};
use crate::decode::draft::DraftSample;
use crate::decode::fault::SampleFault;
use crate::decode::names::MetricCache;
use crate::decode::rules::SeriesRules;
use sigmad_sample::timestamp;
use sigmad_sample::{Batch, MetricId, READINGS_MAX, VALUE_MAX, is_metric_name, is_name};

/// Fields of one sample that name a device; more need memory.
const DEVICES_EXPECTED: usize = 4;

/// The value of a field that may be a number.
#[derive(Clone, Copy, PartialEq)]
enum FieldValue {
    Number(f64),
    Null,
    Other,
}

fn value_of(node: &Node<'_>) -> FieldValue {
    match (number(node), node) {
        (Some(number), _) => FieldValue::Number(number),
        (None, Node::Static(StaticNode::Null)) => FieldValue::Null,
        (None, _) => FieldValue::Other,
    }
}

/// The fields of a sample that have a meaning. Of several with one name the last one counts.
struct SampleFields<'t, 'a> {
    device: Option<&'t Node<'a>>,
    device_id: Option<&'t Node<'a>>,
    /// By [`SeriesRules::device_rank`]; none where the last value is no text.
    other_devices: SmallVec<[(usize, &'a str, Option<&'a str>); DEVICES_EXPECTED]>,
    times: [Option<(&'a str, &'t Node<'a>)>; TIME_NAMES.len()],
    usual: [(&'static str, MetricId, FieldValue); 2],
    others: SmallVec<[(&'a str, FieldValue); READINGS_MAX]>,
}

impl<'t, 'a> SampleFields<'t, 'a> {
    fn read(tape: &'t [Node<'a>], rules: &SeriesRules) -> Result<Self, SampleFault<'a>> {
        let mut fields = Self {
            device: None,
            device_id: None,
            other_devices: SmallVec::new(),
            times: [None; TIME_NAMES.len()],
            usual: [
                ("cpu", MetricId::CPU, FieldValue::Null),
                ("rps", MetricId::RPS, FieldValue::Null),
            ],
            others: SmallVec::new(),
        };
        for (name, value) in FieldsOf::new(tape) {
            let node = &value[0];
            match FieldName::of(name.as_bytes()) {
                FieldName::Device => fields.device = Some(node),
                FieldName::DeviceId => fields.device_id = Some(node),
                FieldName::Cpu => fields.usual[0].2 = value_of(node),
                FieldName::Rps => fields.usual[1].2 = value_of(node),
                FieldName::Time(rank) => fields.times[rank] = Some((name, node)),
                FieldName::Other => fields.add_other(name, node, rules)?,
            }
        }
        Ok(fields)
    }

    fn add_other(
        &mut self,
        name: &'a str,
        node: &'t Node<'a>,
        rules: &SeriesRules,
    ) -> Result<(), SampleFault<'a>> {
        if let Some(rank) = rules.device_rank(name.as_bytes()) {
            let text = match node {
                Node::String(text) => Some(*text).filter(|text| !text.is_empty()),
                _ => None,
            };
            self.other_devices.retain(|(other, ..)| *other != rank);
            self.other_devices.push((rank, name, text));
        }
        let value = value_of(node);
        if let Some(field) = self.others.iter_mut().find(|(other, _)| *other == name) {
            field.1 = value;
        } else if let FieldValue::Number(_) = value {
            if self.others.len() == READINGS_MAX {
                return Err(SampleFault::TooManyReadings);
            }
            self.others.push((name, value));
        }
        Ok(())
    }

    fn device(&self) -> Result<Option<&'a str>, SampleFault<'a>> {
        let device = self.device.map_or(Ok(None), |node| device_of(node, "device"))?;
        let device_id = self.device_id.map_or(Ok(None), |node| device_of(node, "device_id"))?;
        if device.zip(device_id).is_some_and(|(one, other)| one != other) {
            return Err(SampleFault::DevicesDiffer);
        }
        if let Some(device) = device.or(device_id) {
            return Ok(Some(device));
        }
        let named =
            self.other_devices.iter().filter_map(|&(rank, field, text)| Some((rank, field, text?)));
        match named.min_by_key(|(rank, ..)| *rank) {
            Some((_, _, name)) if is_name(name) => Ok(Some(name)),
            Some((_, field, _)) => Err(SampleFault::DeviceName(field)),
            None => Ok(None),
        }
    }

    /// The time of the first field that has one. Only `timestamp` must not hold anything else.
    fn timestamp(&self) -> Result<timestamp::Stamp, SampleFault<'a>> {
        for (rank, field) in self.times.iter().enumerate() {
            let Some((name, node)) = field else { continue };
            match *node {
                Node::Static(StaticNode::Null) => {}
                Node::Static(StaticNode::Bool(_)) | Node::Object { .. } | Node::Array { .. }
                    if rank > 0 => {}
                node => return timestamp_of(node, name),
            }
        }
        Ok(None)
    }

    /// True if no number is left that is not a moment, but there is one that is.
    fn is_time_only(&self) -> bool {
        let is_number = |value: &FieldValue| matches!(value, FieldValue::Number(_));
        let has_time = self.times.iter().flatten().any(|(_, node)| is_number(&value_of(node)));
        let mut numbers = self.others.iter().filter_map(|&(name, value)| match value {
            FieldValue::Number(number) => Some((name, number)),
            FieldValue::Null | FieldValue::Other => None,
        });
        let mut has_moment = false;
        let are_moments = numbers.all(|(name, number)| {
            has_moment = true;
            is_moment(name.as_bytes(), number)
        });
        let has_usual = self.usual.iter().any(|(_, _, value)| *value != FieldValue::Null);
        !has_usual && are_moments && (has_time || has_moment)
    }

    /// True if there is a number of another name than `own`.
    fn has_numbers_besides(&self, own: &str) -> bool {
        let is_number = |value: FieldValue| matches!(value, FieldValue::Number(_));
        self.usual.iter().any(|&(_, _, value)| is_number(value))
            || self.others.iter().any(|&(name, value)| is_number(value) && name != own)
    }
}

/// Reads a sample from its tape. Readings go to the draft of `batch`, which the caller discards after an error.
pub(super) fn read<'a>(
    tape: &[Node<'a>],
    rules: &SeriesRules,
    metrics: &MetricCache,
    draft: &mut DraftSample<'a>,
    batch: &mut Batch,
) -> Result<(), SampleFault<'a>> {
    let fields = SampleFields::read(tape, rules)?;
    if let Some(format) = foreign::shape_of(tape, |own| fields.has_numbers_besides(own)) {
        return Err(SampleFault::Foreign(format));
    }
    draft.timestamp_us = fields.timestamp()?;
    draft.device = fields.device()?.map(str::as_bytes);
    if fields.is_time_only() {
        return Err(SampleFault::TimeOnly);
    }
    for (name, id, value) in fields.usual {
        match value {
            FieldValue::Number(number) if number < 0.0 => return Err(SampleFault::Negative(name)),
            FieldValue::Number(number) if number > VALUE_MAX => {
                return Err(SampleFault::TooLarge(name));
            }
            FieldValue::Number(number) => draft.push_masked(id, number, batch),
            FieldValue::Null => {}
            FieldValue::Other => return Err(SampleFault::NumberType(name)),
        }
    }
    push_others(&fields.others, metrics, draft, batch)?;
    if draft.readings == 0 { Err(SampleFault::NoNumber) } else { Ok(()) }
}

/// Drafts the readings of metrics other than `cpu` and `rps`.
#[inline]
fn push_others<'a>(
    others: &[(&'a str, FieldValue)],
    metrics: &MetricCache,
    draft: &mut DraftSample<'a>,
    batch: &mut Batch,
) -> Result<(), SampleFault<'a>> {
    for &(name, value) in others {
        let FieldValue::Number(number) = value else { continue };
        if !is_metric_name(name) {
            return Err(SampleFault::MetricName(name));
        }
        if number.abs() > VALUE_MAX {
            return Err(SampleFault::TooLarge(name));
        }
        if draft.readings == READINGS_MAX {
            return Err(SampleFault::TooManyReadings);
        }
        draft.push(name.as_bytes(), metrics.get(name.as_bytes()), number, batch);
    }
    Ok(())
}

fn device_of<'a>(node: &Node<'a>, field: &'static str) -> Result<Option<&'a str>, SampleFault<'a>> {
    match *node {
        Node::Static(StaticNode::Null) => Ok(None),
        Node::String(name) if is_name(name) => Ok(Some(name)),
        Node::String(_) => Err(SampleFault::DeviceName(field)),
        Node::Static(_) | Node::Object { .. } | Node::Array { .. } => {
            Err(SampleFault::DeviceType(field))
        }
    }
}
