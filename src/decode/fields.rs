//! What one sample says, before its names become ids; and what can be wrong with it.

use std::fmt;

use smallvec::SmallVec;

use crate::registry::{Full, METRICS_MAX, mask_of};
use sigmad_sample::timestamp::Stamp;
use sigmad_sample::{Batch, MetricId, NAME_BYTES_MAX, READINGS_MAX, Reading};

/// Values in one sample, ignored ones included: simd-json takes some 100 bytes for each.
pub(super) const VALUES_MAX: usize = 16_384;
/// Of a field's name in a message.
const NAME_CHARS_SHOWN: usize = 64;
/// In a reading whose metric this worker has not met.
pub(super) const UNKNOWN: MetricId = MetricId(u16::MAX);
const _: () = assert!(METRICS_MAX < UNKNOWN.0 as usize);

/// One sample, found good; its readings are the draft of the batch.
pub(super) struct Fields<'a> {
    /// None for the time of arrival.
    pub(super) timestamp_us: Stamp,
    pub(super) device: Option<&'a [u8]>,
    /// The metrics that have a bit in a device's mask.
    pub(super) metrics_mask: u64,
    /// How many readings are drafted.
    pub(super) readings: usize,
    /// The others, by their place in the draft. Memory in place: an array would be filled each time.
    pub(super) unmasked: SmallVec<[(usize, &'a [u8]); READINGS_MAX]>,
}

impl<'a> Fields<'a> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self {
            timestamp_us: None,
            device: None,
            metrics_mask: 0,
            readings: 0,
            unmasked: SmallVec::new(),
        }
    }

    /// Drafts the reading of a metric with a bit in the mask.
    #[inline(always)]
    pub(super) fn push_masked(&mut self, metric: MetricId, value: f64, batch: &mut Batch) {
        self.metrics_mask |= mask_of(metric);
        self.readings += 1;
        // Plus zero: -0 is stored as 0.
        batch.draft(Reading { metric, value: value + 0.0 });
    }

    /// Drafts the reading of any metric; `known` when this worker has met it.
    pub(super) fn push(
        &mut self,
        name: &'a [u8],
        known: Option<MetricId>,
        value: f64,
        batch: &mut Batch,
    ) {
        match known {
            Some(metric) if mask_of(metric) != 0 => self.push_masked(metric, value, batch),
            _ => {
                self.unmasked.push((self.readings, name));
                self.readings += 1;
                batch.draft(Reading { metric: known.unwrap_or(UNKNOWN), value: value + 0.0 });
            }
        }
    }
}

/// Why a sample is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault<'a> {
    NotJson,
    NotAnObject,
    TooManyValues,
    TooManyReadings,
    NoNumber,
    TimestampType,
    TimestampText,
    TimestampRange,
    DeviceType(&'static str),
    DeviceName(&'static str),
    DevicesDiffer,
    NumberType(&'static str),
    Negative(&'static str),
    TooLarge(&'a str),
    MetricName(&'a str),
    Full(Full),
}

impl Fault<'_> {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::NotJson => "malformed",
            Self::Full(Full::Streams) => "too_many_streams",
            Self::Full(Full::Metrics) => "too_many_metrics",
            _ => "invalid_sample",
        }
    }

    pub(super) fn status(self) -> u16 {
        if let Self::Full(_) = self { 429 } else { 400 }
    }
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson => f.write_str("the sample is not valid JSON"),
            Self::NotAnObject => f.write_str("a sample must be a JSON object"),
            Self::TooManyValues => write!(f, "more than {VALUES_MAX} values in one sample"),
            Self::TooManyReadings => write!(f, "more than {READINGS_MAX} metrics in one sample"),
            Self::NoNumber => f.write_str("a sample needs at least one number"),
            Self::TimestampType => {
                f.write_str("timestamp must be a number or an RFC 3339 string")
            }
            Self::TimestampText => f.write_str(
                "timestamp must be an RFC 3339 string like 2024-12-25T04:13:20Z, or a number without quotes",
            ),
            Self::TimestampRange => {
                f.write_str("timestamp must not be before 1970 or past the year 2262")
            }
            Self::DeviceType(field) => write!(f, "{field} must be a string"),
            Self::DeviceName(field) => write!(
                f,
                "{field} must be 1 to {NAME_BYTES_MAX} bytes without control characters"
            ),
            Self::DevicesDiffer => f.write_str("device and device_id differ"),
            Self::NumberType(field) => write!(f, "{field} must be a number"),
            Self::Negative(field) => write!(f, "{field} must not be negative"),
            Self::TooLarge(name) => {
                write!(f, "{} must be at most 1e15 in magnitude", Shown(name))
            }
            Self::MetricName(name) => write!(
                f,
                "the name of a metric must be 1 to {NAME_BYTES_MAX} bytes without control characters: {}",
                Shown(name)
            ),
            Self::Full(Full::Streams) => f.write_str(
                "no room for another stream (device and metric): the limit is --max-streams",
            ),
            Self::Full(Full::Metrics) => {
                write!(f, "no room for another metric: the limit is {METRICS_MAX}")
            }
        }
    }
}

/// A client's own name for a field, fit for a message.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for shown in self.0.chars().take(NAME_CHARS_SHOWN).flat_map(char::escape_debug) {
            write!(f, "{shown}")?;
        }
        if self.0.chars().nth(NAME_CHARS_SHOWN).is_some() { f.write_str("…") } else { Ok(()) }
    }
}
