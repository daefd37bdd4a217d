//! Errors of bodies and of samples, with their codes and messages.

use std::fmt;

use sigmad_sample::{METRIC_BYTES_MAX, NAME_BYTES_MAX, READINGS_MAX};

/// Characters of a client's name that a message shows.
const NAME_CHARS_SHOWN: usize = 64;

/// The code of a series that is longer than sigmad keeps, which is no fault of its sender.
pub const SERIES_TOO_LONG: &str = "series_too_long";

/// Why a whole body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// Only white space, or an empty batch.
    Empty,
    /// Not in its format.
    Malformed {
        /// Offset in the body, near the error.
        offset: usize,
    },
    /// JSON, but a string, a number or a word where an object or an array is expected.
    NotAnObject,
    /// In another format than the path takes.
    Foreign(ForeignFormat),
    /// More samples than a queue can hold.
    TooManySamples,
    /// In its format, but with something that is not read here: says what to do instead.
    Unsupported(&'static str),
}

/// A format that the JSON paths do not take, known by the shape of a body or of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignFormat {
    /// OTLP metrics as JSON.
    Otlp,
    /// OTLP traces or logs as JSON.
    OtlpOther,
    /// JSON of Telegraf's serializer.
    Telegraf,
    /// JSON of collectd's write_http.
    Collectd,
    /// Commands of collectd's write_http, which are its default.
    CollectdCommand,
    /// Vector's metrics as JSON.
    Vector,
    /// OpenTSDB's JSON or text.
    OpenTsdb,
    /// Datadog's series.
    Datadog,
    /// An answer of Prometheus' query API, or an export in its shape.
    PrometheusApi,
    /// A remote_write request as JSON.
    RemoteWrite,
    /// Prometheus text.
    Exposition,
    /// Influx line protocol.
    Influx,
    /// Graphite's plain text.
    Graphite,
    /// StatsD lines.
    StatsD,
    /// Not text: protobuf, snappy, MessagePack.
    Binary,
    /// gzip or zstd without a Content-Encoding.
    Compressed,
}

impl ForeignFormat {
    /// Says what the format is, and which path takes it.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Otlp => "this is OTLP JSON: POST it to /v1/metrics",
            Self::OtlpOther => {
                "these are OTLP traces or logs; of OTLP sigmad takes metrics, at /v1/metrics"
            }
            Self::Telegraf => "this is Telegraf's JSON, but the body began with something else",
            Self::Collectd => "this is collectd's JSON, but the body began with something else",
            Self::CollectdCommand => {
                "these are collectd's commands: set `Format \"JSON\"` in its write_http"
            }
            Self::Vector => "this is Vector's JSON, but the body began with something else",
            Self::OpenTsdb => {
                "this is OpenTSDB's format, which sigmad does not take: send Influx lines to /write, or samples \
                 like {\"device\":\"a\",\"cpu\":1} here"
            }
            Self::Datadog => {
                "these are Datadog's series, which sigmad does not take: send Influx lines to /write, or OTLP to \
                 /v1/metrics"
            }
            Self::PrometheusApi => {
                "this is JSON of a Prometheus query or export: send remote_write to /api/v1/write, or Prometheus \
                 text to /api/v1/import/prometheus"
            }
            Self::RemoteWrite => "this is remote_write as JSON: send its protobuf to /api/v1/write",
            Self::Exposition => {
                "this is Prometheus text: POST it to /api/v1/import/prometheus or /metrics/job/NAME"
            }
            Self::Influx => {
                "this is the Influx line protocol: POST it to /write, /api/v2/write or /api/v3/write_lp"
            }
            Self::Graphite => {
                "this is Graphite's plain text, which sigmad does not take: let Telegraf or the Collector receive it \
                 and send Influx lines to /write or OTLP to /v1/metrics"
            }
            Self::StatsD => {
                "these are StatsD lines, which sigmad does not take: let Telegraf or the Collector receive them and \
                 send Influx lines to /write or OTLP to /v1/metrics"
            }
            Self::Binary => {
                "the body is not text: POST remote_write to /api/v1/write, OTLP to /v1/metrics, and name any other \
                 format in Content-Type"
            }
            Self::Compressed => "the body is compressed: name gzip or zstd in Content-Encoding",
        }
    }
}

/// One refused sample, or one refused value of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleRefusal {
    /// Index in the batch, from 0.
    pub index: usize,
    /// Error code in snake case.
    pub code: &'static str,
    /// 400 or 429.
    pub status: u16,
    /// Names the field or the limit.
    pub message: String,
}

impl SampleRefusal {
    pub(super) fn new(index: usize, fault: SampleFault<'_>) -> Self {
        Self { index, code: fault.code(), status: fault.status(), message: fault.to_string() }
    }
}

/// Why a sample is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SampleFault<'a> {
    NotJson,
    NotAnObject,
    /// Holds the limit.
    TooManyValues(usize),
    TooManyReadings,
    NoNumber,
    /// All its numbers are moments.
    TimeOnly,
    /// It is no sample but this.
    Foreign(ForeignFormat),
    /// With the name of the field, as the next ones.
    TimestampType(&'a str),
    TimestampText(&'a str),
    TimestampRange(&'a str),
    DeviceType(&'static str),
    DeviceName(&'a str),
    DevicesDiffer,
    NumberType(&'static str),
    Negative(&'static str),
    TooLarge(&'a str),
    MetricName(&'a str),
    NoStream,
    /// No room for the name of a metric; with the number of names that have room.
    NoName(&'a str, usize),
    Point(PointFault),
}

/// Why a point is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointFault {
    /// A text that is not UTF-8.
    NotUtf8,
    /// No name of a metric.
    Name,
    /// A label without a name.
    Label,
    /// Two labels of one name.
    LabelTwice,
    /// A control character in the series.
    Control,
    /// The series is longer than a name may be.
    SeriesTooLong,
    /// The label that is the device is no name of a device.
    Device,
    /// The time is before 1970 or past the year 2262.
    Time,
    /// What a format says of its own syntax.
    Syntax(&'static str),
}

impl fmt::Display for PointFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("names and labels must be UTF-8"),
            Self::Name => f.write_str("the metric has no name"),
            Self::Label => f.write_str("a label has no name"),
            Self::LabelTwice => f.write_str("two labels have the same name"),
            Self::Control => f.write_str("a name or a label has a control character"),
            Self::SeriesTooLong => {
                write!(f, "a series with its labels must be at most {METRIC_BYTES_MAX} bytes")
            }
            Self::Device => write!(
                f,
                "the label of the device must be 1 to {NAME_BYTES_MAX} bytes without control characters"
            ),
            Self::Time => f.write_str("the time must not be before 1970 or past the year 2262"),
            Self::Syntax(message) => f.write_str(message),
        }
    }
}

impl SampleFault<'_> {
    fn code(self) -> &'static str {
        match self {
            Self::NotJson => "malformed",
            Self::Foreign(_) => "wrong_format",
            Self::NoStream => "too_many_streams",
            Self::NoName(..) => "too_many_metrics",
            Self::Point(PointFault::SeriesTooLong) => SERIES_TOO_LONG,
            _ => "invalid_sample",
        }
    }

    fn status(self) -> u16 {
        if matches!(self, Self::NoStream | Self::NoName(..)) { 429 } else { 400 }
    }
}

impl fmt::Display for SampleFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson => f.write_str("the sample is not valid JSON"),
            Self::NotAnObject => f.write_str("a sample must be a JSON object"),
            Self::TooManyValues(max) => write!(f, "more than {max} values in one sample"),
            Self::TooManyReadings => write!(f, "more than {READINGS_MAX} metrics in one sample"),
            Self::NoNumber => f.write_str("a sample needs at least one number"),
            Self::TimeOnly => f.write_str("a sample needs at least one number that is not a time"),
            Self::Foreign(format) => f.write_str(format.message()),
            Self::TimestampType(field) => {
                write!(f, "{field} must be a number or an RFC 3339 string")
            }
            Self::TimestampText(field) => write!(
                f,
                "{field} must be an RFC 3339 string like 2024-12-25T04:13:20Z, or a number without quotes",
            ),
            Self::TimestampRange(field) => {
                write!(f, "{field} must not be before 1970 or past the year 2262")
            }
            Self::DeviceType(field) => write!(f, "{field} must be a string"),
            Self::DeviceName(field) => {
                write!(f, "{field} must be 1 to {NAME_BYTES_MAX} bytes without control characters")
            }
            Self::DevicesDiffer => f.write_str("device and device_id differ"),
            Self::NumberType(field) => write!(f, "{field} must be a number"),
            Self::Negative(field) => write!(f, "{field} must not be negative"),
            Self::TooLarge(name) => {
                write!(f, "{} must be at most 1e15 in magnitude", EscapedName(name))
            }
            Self::MetricName(name) => write!(
                f,
                "the name of a metric must be 1 to {METRIC_BYTES_MAX} bytes without control characters: {}",
                EscapedName(name)
            ),
            Self::Point(fault) => fault.fmt(f),
            Self::NoStream => f.write_str(
                "no room for another stream (device and metric): the limit is --max-streams",
            ),
            Self::NoName(name, max) => write!(
                f,
                "no room for the metric {}: the limit is {max} names, and 1/16 of them for one device once half are in use",
                EscapedName(name)
            ),
        }
    }
}

/// A name that a client sent, escaped and cut for a message.
struct EscapedName<'a>(&'a str);

impl fmt::Display for EscapedName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for shown in self.0.chars().take(NAME_CHARS_SHOWN).flat_map(char::escape_debug) {
            write!(f, "{shown}")?;
        }
        if self.0.chars().nth(NAME_CHARS_SHOWN).is_some() { f.write_str("…") } else { Ok(()) }
    }
}
