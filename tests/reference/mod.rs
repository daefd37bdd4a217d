//! What the decoder should say, written for clarity alone, on serde_json. Used by the agreement
//! tests and by the fuzz target `decode`.

use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use sigmad::decode::{BodyError, Decoder, Format};
use sigmad::registry::Registry;
use sigmad_clock::Now;
use sigmad_sample::{Batch, QUEUE_SAMPLES_MAX};

/// One sample by its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub timestamp_us: i64,
    pub device: Option<String>,
    /// In the order of their names.
    pub readings: Vec<(String, f64)>,
}

/// What should become of a body.
#[derive(Debug, PartialEq)]
pub enum Expected {
    Empty,
    TooManySamples,
    Malformed,
    /// Not JSON as a whole: refused as a whole or in part.
    Wrong,
    One(Option<Sample>),
    /// None where one is refused.
    Many(Vec<Option<Sample>>),
}

#[derive(Debug)]
enum Refused {
    NotJson,
    Invalid,
}

/// An object with all its fields, in order, also those of one name.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Fields).map(Object)
    }
}

pub fn expected(body: &[u8], lines: bool, now_us: i64) -> Expected {
    let text = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body).trim_ascii_json();
    if text.is_empty() {
        return Expected::Empty;
    }
    if lines {
        return by_line(text, now_us);
    }
    match text[0] {
        b'{' => {
            let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
            let Some(Ok(first)) = values.next() else { return Expected::Wrong };
            let rest = &text[values.byte_offset()..];
            let blank = &rest[..rest.len() - rest.trim_ascii_json().len()];
            if let Ok(Object(fields)) = serde_json::from_str(first.get())
                && fields.iter().any(|(name, value)| name == "metrics" && is_array(value))
            {
                return if rest.is_empty() {
                    wrapped(&fields, now_us)
                } else {
                    Expected::Malformed
                };
            }
            if rest.is_empty() {
                match sample(first, now_us) {
                    Ok(sample) => Expected::One(Some(sample)),
                    Err(Refused::Invalid) => Expected::One(None),
                    Err(Refused::NotJson) => Expected::Malformed,
                }
            } else if blank.contains(&b'\n') {
                by_line(text, now_us)
            } else {
                Expected::Malformed
            }
        }
        b'[' => match serde_json::from_slice::<Vec<&RawValue>>(text) {
            Ok(elements) => many(elements.into_iter().map(|raw| sample(raw, now_us).ok())),
            Err(_) => Expected::Wrong,
        },
        _ => Expected::Malformed,
    }
}

trait TrimAsciiJson {
    fn trim_ascii_json(&self) -> &[u8];
}

impl TrimAsciiJson for [u8] {
    fn trim_ascii_json(&self) -> &[u8] {
        let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let start = self.iter().position(is_text).unwrap_or(self.len());
        let end = self.iter().rposition(is_text).map_or(start, |last| last + 1);
        &self[start..end]
    }
}

fn is_array(value: &RawValue) -> bool {
    value.get().starts_with('[')
}

fn many(samples: impl Iterator<Item = Option<Sample>>) -> Expected {
    let samples: Vec<_> = samples.collect();
    match samples.len() {
        0 => Expected::Empty,
        1..=QUEUE_SAMPLES_MAX => Expected::Many(samples),
        _ => Expected::TooManySamples,
    }
}

fn by_line(text: &[u8], now_us: i64) -> Expected {
    let lines = text.split(|&byte| byte == b'\n').map(|line| line.trim_ascii_json());
    many(lines.filter(|line| !line.is_empty()).map(|line| {
        let raw: &RawValue = serde_json::from_slice(line).ok()?;
        sample(raw, now_us).ok()
    }))
}

fn wrapped(fields: &[(String, &RawValue)], now_us: i64) -> Expected {
    let mut arrays = fields.iter().filter(|(name, value)| name == "metrics" && is_array(value));
    let array = arrays.next().expect("it is a wrapper").1;
    let ignored_are_valid = fields
        .iter()
        .filter(|(name, value)| name != "metrics" || !is_array(value))
        .all(|(_, value)| values_in(value) <= 16_384 && strings_are_valid(value));
    let elements: Vec<&RawValue> = serde_json::from_str(array.get()).expect("it is an array");
    if arrays.next().is_some() || !ignored_are_valid {
        // Unless there are too many samples before that.
        return Expected::Wrong;
    }
    many(elements.into_iter().map(|raw| sample(raw, now_us).ok()))
}

/// Every value inside, an empty object or array as two.
fn values_in(value: &RawValue) -> usize {
    let mut values = 0;
    let mut in_string = false;
    let mut bytes = value.get().bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => _ = bytes.next(),
            b'"' => in_string = !in_string,
            b',' | b'{' | b'[' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

/// serde_json lets half a surrogate pair stand in a value that nobody reads; simd-json does not.
fn strings_are_valid(value: &RawValue) -> bool {
    let text = value.get();
    let mut at = 0;
    while let Some(open) = text[at..].find('"').map(|found| at + found) {
        let mut end = open + 1;
        while text.as_bytes()[end] != b'"' {
            end += if text.as_bytes()[end] == b'\\' { 2 } else { 1 };
        }
        if serde_json::from_str::<String>(&text[open..=end]).is_err() {
            return false;
        }
        at = end + 1;
    }
    true
}

fn number(value: &RawValue) -> Option<f64> {
    let text = value.get();
    let is_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    is_number.then(|| text.parse().expect("a JSON number"))
}

fn is_name(name: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&name.len()) && !name.chars().any(char::is_control)
}

fn sample(raw: &RawValue, now_us: i64) -> Result<Sample, Refused> {
    if !raw.get().starts_with('{') || values_in(raw) > 16_384 {
        return Err(Refused::Invalid);
    }
    if !strings_are_valid(raw) {
        return Err(Refused::NotJson);
    }
    let Object(fields) = serde_json::from_str(raw.get()).map_err(|_| Refused::NotJson)?;
    // The last of several fields of one name counts.
    let field = |wanted: &str| {
        let found = fields.iter().rev().find(|(name, _)| name == wanted);
        found.map(|(_, value)| *value).filter(|value| value.get() != "null")
    };
    // Of cpu, rps and the names of times the case does not matter.
    let cased = |wanted: &str| {
        let found = fields.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| *value).filter(|value| value.get() != "null")
    };
    let is_scalar = |value: &RawValue| value.get().starts_with('"') || number(value).is_some();
    let times: Vec<_> = TIMES.iter().map(|name| cased(name)).collect();
    let time =
        times[0].or_else(|| times[1..].iter().flatten().copied().find(|time| is_scalar(time)));
    let timestamp_us = match time {
        Some(value) => timestamp(value)?.unwrap_or(now_us),
        None => now_us,
    };
    let name_in = |wanted: &str| match field(wanted) {
        Some(value) => match serde_json::from_str::<String>(value.get()) {
            Ok(name) if is_name(&name, 128) => Ok(Some(name)),
            _ => Err(Refused::Invalid),
        },
        None => Ok(None),
    };
    let (device, device_id) = (name_in("device")?, name_in("device_id")?);
    if device.is_some() && device_id.is_some() && device != device_id {
        return Err(Refused::Invalid);
    }
    let text = |value: &RawValue| serde_json::from_str::<String>(value.get()).ok();
    let device = match device.or(device_id) {
        Some(device) => Some(device),
        None => DEVICES
            .iter()
            .filter_map(|name| field(name).and_then(text))
            .find(|name| !name.is_empty()),
    };
    if device.as_ref().is_some_and(|name| !is_name(name, 128)) || is_foreign(&fields) {
        return Err(Refused::Invalid);
    }
    let mut readings = Vec::new();
    for usual in ["cpu", "rps"] {
        if let Some(value) = cased(usual) {
            let value = number(value).filter(|&value| value >= 0.0).ok_or(Refused::Invalid)?;
            readings.push((usual.to_owned(), value));
        }
    }
    // A name counts as a metric when it ever held a number.
    let mut names: Vec<&str> = Vec::new();
    for (name, value) in &fields {
        let is_special = is_special(name);
        if !is_special && number(value).is_some() && !names.contains(&&**name) {
            names.push(name);
        }
    }
    if names.len() > 32 {
        return Err(Refused::Invalid);
    }
    for name in names {
        if let Some(value) = field(name).and_then(number) {
            if !is_name(name, 1_024) {
                return Err(Refused::Invalid);
            }
            readings.push((name.to_owned(), value));
        }
    }
    if readings.is_empty() || readings.len() > 32 {
        return Err(Refused::Invalid);
    }
    if readings.iter().any(|(_, value)| value.abs() > 1e15) {
        return Err(Refused::Invalid);
    }
    if readings.iter().all(|(name, value)| is_moment(name, *value)) {
        return Err(Refused::Invalid);
    }
    readings.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(Sample { timestamp_us, device, readings })
}

const TIMES: [&str; 6] = ["timestamp", "ts", "time", "date", "@timestamp", "datetime"];
const DEVICES: [&str; 8] = [
    "deviceId",
    "sensor_id",
    "host",
    "hostname",
    "host.name",
    "instance",
    "node",
    "service.instance.id",
];

/// True for the names of fields that are no metrics, `cpu` and `rps` among them.
fn is_special(name: &str) -> bool {
    let is = |special: &&str| name.eq_ignore_ascii_case(special);
    TIMES.iter().any(is) || ["cpu", "rps"].iter().any(is) || ["device", "device_id"].contains(&name)
}

fn is_moment(name: &str, value: f64) -> bool {
    let name = name.to_ascii_lowercase();
    let is_named = ["time", "date", "epoch"].iter().any(|word| name.contains(word));
    (is_named || name.ends_with("_at"))
        && [1e0, 1e3, 1e6, 1e9].iter().any(|unit| (1e9..=4e9).contains(&(value / unit)))
}

/// True for the shape of another format, unless it has numbers of its own.
fn is_foreign(fields: &[(String, &RawValue)]) -> bool {
    let is = |name: &str, opening: &[char]| {
        let found = fields.iter().rev().find(|(other, _)| other == name);
        found.is_some_and(|(_, value)| value.get().starts_with(opening))
    };
    let (text, object, array) = (&['"'][..], &['{'][..], &['['][..]);
    let scalar: Vec<char> = "\"-0123456789".chars().collect();
    let vector =
        ["gauge", "counter", "set", "distribution", "aggregated_histogram", "aggregated_summary"];
    let is_any = |names: &[&str], opening: &[char]| names.iter().any(|name| is(name, opening));
    let of_agents = is_any(&["resourceMetrics", "resourceSpans", "resourceLogs"], array)
        || is("name", text) && is("fields", object)
        || is("metric", text) && is("points", array)
        || is("metric", object) && (is("value", array) || is("values", array))
        || is("status", text) && is("data", object)
        || is_any(&["series", "timeseries"], array);
    // The number that is its own. The order is the decoder's: it matters where a sample looks like two formats.
    let owns = [
        (is_any(&["resourceMetrics", "resourceSpans", "resourceLogs"], array), ""),
        (is("name", text) && is("fields", object), ""),
        (is("plugin", text) && is("values", array), "interval"),
        (is("name", text) && is_any(&vector, object), "interval_ms"),
        (is("metric", text) && is("value", &scalar), "value"),
        (of_agents, ""),
    ];
    let Some((_, own)) = owns.into_iter().find(|(is_it, _)| *is_it) else { return false };
    let last = |name: &str| fields.iter().rev().find(|(other, _)| other.eq_ignore_ascii_case(name));
    let is_number = |(_, value): &(String, &RawValue)| number(value).is_some();
    let usual = ["cpu", "rps"].iter().any(|name| last(name).is_some_and(is_number));
    let others = fields.iter().filter(|(name, _)| !is_special(name) && *name != own);
    let mut lasts =
        others.filter_map(|(name, _)| fields.iter().rev().find(|(other, _)| other == name));
    !usual && !lasts.any(is_number)
}

fn timestamp(value: &RawValue) -> Result<Option<i64>, Refused> {
    let text = value.get();
    if text.starts_with('"') {
        let text: String = serde_json::from_str(text).map_err(|_| Refused::NotJson)?;
        let format = &time::format_description::well_known::Rfc3339;
        let moment = time::OffsetDateTime::parse(&text, format).map_err(|_| Refused::Invalid)?;
        let micros = moment.unix_timestamp_nanos().div_euclid(1_000);
        return if micros < 0 { Err(Refused::Invalid) } else { Ok(Some(micros as i64)) };
    }
    let float = number(value).ok_or(Refused::Invalid)?;
    if float == 0.0 {
        return Ok(None);
    }
    // Whole numbers are kept exactly, as far as they are in range.
    if let Ok(whole) = text.parse::<i64>() {
        return match whole {
            ..0 => Err(Refused::Invalid),
            0 => Ok(None),
            1..100_000_000_000 => Ok(Some(whole * 1_000_000)),
            100_000_000_000..100_000_000_000_000 => Ok(Some(whole * 1_000)),
            100_000_000_000_000..100_000_000_000_000_000 => Ok(Some(whole)),
            _ => Ok(Some(whole / 1_000)),
        };
    }
    let micros = match float {
        ..0.0 => return Err(Refused::Invalid),
        ..1e11 => float * 1e6,
        ..1e14 => float * 1e3,
        ..1e17 => float,
        ..9_223_372_036_854_775_808.0 => float / 1e3,
        _ => return Err(Refused::Invalid),
    };
    Ok(Some(micros.round() as i64))
}

/// True where the first object may be an agent's: what is read then has tests of its own.
fn is_agents(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let has = |name: &str| text.contains(&format!("\"{name}\""));
    let has_kind = ["fields", "gauge", "counter", "set", "distribution", "sketch"]
        .iter()
        .any(|kind| has(kind));
    has("name") && (has_kind || text.contains("\"aggregated_")) || has("plugin") && has("values")
}

/// A decoder under test, with what it has met.
pub struct Checked {
    registry: Arc<Registry>,
    decoder: Decoder,
    batch: Batch,
}

const NOW_US: i64 = 1_735_100_000_654_321;

impl Checked {
    pub fn new() -> Self {
        let registry = Arc::new(Registry::new(1 << 20, 3_600));
        let decoder = Decoder::new(registry.clone());
        Self { registry, decoder, batch: Batch::default() }
    }

    /// Decodes `body` and panics where the decoder and the reference differ.
    pub fn check(&mut self, body: &[u8], lines: bool) {
        // Room for the metrics of one more body: what happens when there is none is tested elsewhere.
        if self.registry.metrics() > 128 || self.registry.streams() > 1 << 19 {
            *self = Self::new();
        }
        let now = Now { monotonic_ns: 5_000_000_000, wall_us: NOW_US };
        let mut bytes = body.to_vec();
        self.batch.clear();
        let format = if lines { Format::JsonLines } else { Format::Json };
        let decoded = self.decoder.decode(&mut bytes, format, now, &mut self.batch);
        if is_agents(body) {
            return;
        }
        let expected = expected(body, lines, NOW_US);
        if decoded.is_ok_and(|decoded| decoded.unroomed > 0) {
            assert!(body.len() > 512, "that few names have room");
            return;
        }
        let samples = match (&expected, decoded) {
            (Expected::Empty, Err(BodyError::Empty))
            | (Expected::TooManySamples, Err(BodyError::TooManySamples))
            | (
                Expected::Malformed,
                Err(BodyError::Malformed { .. } | BodyError::NotAnObject | BodyError::Foreign(_)),
            ) => &[],
            (Expected::Wrong, Err(_)) => &[],
            (Expected::Wrong, Ok(decoded)) if decoded.invalid > 0 => return,
            (Expected::One(sample), Ok(decoded)) if !decoded.is_batch => {
                assert_eq!(decoded.accepted, usize::from(sample.is_some()), "{expected:?}");
                assert_eq!(decoded.invalid, usize::from(sample.is_none()), "{expected:?}");
                std::slice::from_ref(sample)
            }
            (Expected::Many(samples), Ok(decoded)) if decoded.is_batch => {
                let refused: Vec<_> =
                    (0..samples.len()).filter(|&index| samples[index].is_none()).collect();
                let listed: Vec<_> = self.decoder.refusals().iter().map(|r| r.index).collect();
                assert_eq!(listed, refused[..refused.len().min(10)]);
                assert_eq!(decoded.invalid, refused.len());
                assert_eq!(decoded.accepted, samples.len() - refused.len());
                samples
            }
            _ => panic!("{decoded:?} {:?}, expected {expected:?}", self.decoder.refusals()),
        };
        let kept: Vec<_> = self.samples();
        let expected: Vec<_> = samples.iter().flatten().cloned().collect();
        assert_eq!(kept, expected);
    }

    fn samples(&self) -> Vec<Sample> {
        let named = self.batch.iter().map(|(sample, readings)| {
            let mut readings: Vec<_> = readings
                .iter()
                .map(|reading| {
                    let name = self.registry.metric_name(reading.metric);
                    (name.expect("nothing is evicted here").to_string(), reading.value)
                })
                .collect();
            readings.sort_by(|one, other| one.0.cmp(&other.0));
            let device = sample.device.map(|id| {
                self.registry.device_name(id).expect("nothing is evicted here").to_string()
            });
            Sample { timestamp_us: sample.timestamp_us, device, readings }
        });
        named.collect()
    }
}
