//! Line protocol read in the plainest way, and a decoder that is held against it.

use std::collections::BTreeMap;
use std::sync::Arc;

use sigmad::decode::{DEVICE_LABELS, Decoder, Format, LineOptions, LinePrecision, SeriesRules};
use sigmad::registry::Registry;
use sigmad_clock::Now;
use sigmad_sample::{Batch, is_metric_name, is_name};

const NOW_US: i64 = 1_735_100_000_654_321;
const OPTIONS: LineOptions =
    LineOptions { precision: LinePrecision::Nanosecond, accepts_partial: true };

/// Device, series, time in microseconds, value.
type Value = (Option<String>, String, i64, f64);

/// What a body should become.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    values: Vec<Value>,
    skipped: usize,
    /// The line of each refusal.
    refused: Vec<usize>,
    /// A counter has no value of its own, and its rules are tested elsewhere.
    has_counter: bool,
}

/// A line whose syntax is right.
struct Line {
    measurement: Vec<u8>,
    /// None if they can't be read.
    tags: Option<Vec<(Vec<u8>, Vec<u8>)>>,
    fields: Vec<(Vec<u8>, Option<f64>)>,
    time_us: Option<i64>,
}

/// Reads bytes one by one.
struct Text<'b> {
    body: &'b [u8],
    at: usize,
}

impl Text<'_> {
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    /// Up to an unescaped one of `ends` or a line end; escapes of `escaped` are undone.
    fn part(&mut self, ends: &[u8], escaped: &[u8]) -> Vec<u8> {
        let mut part = Vec::new();
        while let Some(byte) = self.peek() {
            let next = self.body.get(self.at + 1);
            if byte == b'\\' && next.is_some_and(|next| b",= ".contains(next)) {
                let next = self.body[self.at + 1];
                if !escaped.contains(&next) {
                    part.push(byte);
                }
                part.push(next);
                self.at += 2;
            } else if byte == b'\n' || ends.contains(&byte) {
                break;
            } else {
                part.push(byte);
                self.at += 1;
            }
        }
        part
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    fn is_line_end(&self) -> bool {
        matches!(self.peek(), None | Some(b'\n'))
    }

    fn line(&mut self) -> Option<Line> {
        let measurement = self.part(b", ", b", ");
        let mut tags = (!measurement.is_empty()).then(Vec::new);
        while self.take(b',') {
            let name = self.part(b",= ", b",= ");
            let value = if self.take(b'=') { self.part(b",= ", b",= ") } else { Vec::new() };
            if self.peek() == Some(b'=') {
                // Not a tag; where the fields begin is known all the same.
                self.part(b", ", b"");
                tags = None;
            } else if name.is_empty() || value.is_empty() {
                tags = None;
            } else if let Some(tags) = &mut tags {
                tags.push((name, value));
            }
        }
        if self.is_line_end() {
            return None;
        }
        self.blank();
        let mut fields = Vec::new();
        loop {
            let key = self.part(b",= ", b",= ");
            if key.is_empty() || !self.take(b'=') || fields.len() == 1_024 {
                return None;
            }
            fields.push((key, self.value()?));
            if !self.take(b',') {
                break;
            }
        }
        if !matches!(self.peek(), None | Some(b' ' | b'\t' | b'\r' | b'\n')) {
            return None;
        }
        self.blank();
        let mut time_us = None;
        if !self.is_line_end() {
            let start = self.at;
            while !matches!(self.peek(), None | Some(b' ' | b'\t' | b'\r' | b'\n' | b',')) {
                self.at += 1;
            }
            let time = std::str::from_utf8(&self.body[start..self.at]).ok()?.parse::<i64>().ok()?;
            if time < 0 {
                return None;
            }
            time_us = Some(time / 1_000);
            self.blank();
        }
        self.is_line_end().then_some(Line { measurement, tags, fields, time_us })
    }

    /// A value; None within if it is no number.
    fn value(&mut self) -> Option<Option<f64>> {
        let start = self.at;
        if self.take(b'"') {
            loop {
                match self.peek() {
                    None => {
                        // Never closed: the line is the one in which it opens.
                        self.at = start;
                        return None;
                    }
                    Some(b'\\') if matches!(self.body.get(self.at + 1), Some(b'"' | b'\\')) => {
                        self.at += 2;
                    }
                    Some(b'"') => break,
                    Some(_) => self.at += 1,
                }
            }
            self.at += 1;
            return Some(None);
        }
        while !matches!(self.peek(), None | Some(b' ' | b'\t' | b'\r' | b'\n' | b',')) {
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.body[start..self.at]).ok()?;
        let word = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
        if ["t", "T", "true", "True", "TRUE", "f", "F", "false", "False", "FALSE"].contains(&text)
            || text.len() - word.len() <= 1 && ["nan", "inf", "infinity"].contains(&&*word)
        {
            return Some(None);
        }
        if let Some(digits) = text.strip_suffix('i') {
            return Some(Some(digits.parse::<i64>().ok()? as f64));
        }
        if let Some(digits) = text.strip_suffix('u') {
            let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            return is_plain.then(|| digits.parse::<u64>().ok()).flatten().map(|n| Some(n as f64));
        }
        Some(Some(text.parse().ok()?))
    }
}

fn plain(name: &str) -> bool {
    !name.contains(['{', '}', '"', '=', ',', '\\', ' ', '\n'])
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// Device and series, and whether it is a counter; None if they are refused.
fn series(line: &Line, field: &[u8]) -> Option<(Option<String>, String, bool)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let mut labels = Vec::new();
    for (name, value) in line.tags.as_ref()? {
        labels.push((text(name)?, text(value)?));
    }
    let rank = |name: &str| DEVICE_LABELS.split(',').position(|known| known == name);
    let ranked = labels.iter().enumerate().filter_map(|(at, (name, _))| Some((rank(name)?, at)));
    let device = ranked.min().map(|(_, at)| labels.remove(at).1);
    if device.as_ref().is_some_and(|device| !is_name(device)) {
        return None;
    }
    let count = labels.len();
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    if labels.len() < count {
        return None;
    }
    let name = format!("{}_{}", text(&line.measurement)?, text(field)?);
    let mut parts = Vec::new();
    if !plain(&name) {
        parts.push(quoted(&name));
    }
    for (name, value) in &labels {
        let name = if plain(name) { name.clone() } else { quoted(name) };
        parts.push(format!("{name}={}", quoted(value)));
    }
    let before = if plain(&name) { &*name } else { "" };
    let braces = if parts.is_empty() { String::new() } else { format!("{{{}}}", parts.join(",")) };
    let series = format!("{before}{braces}");
    let is_counter = SeriesRules::default().is_counter(&name);
    is_metric_name(&series).then_some((device, series, is_counter))
}

fn expected(body: &[u8]) -> Expected {
    let mut expected = Expected::default();
    let mut text = Text { body, at: 0 };
    loop {
        text.blank();
        let index = body[..text.at].iter().filter(|byte| **byte == b'\n').count();
        match text.peek() {
            None => return expected,
            Some(b'\n') => {
                text.at += 1;
                continue;
            }
            Some(b'#') => {}
            Some(_) => match text.line() {
                None => expected.refused.push(index),
                Some(line) => expect_line(&line, index, &mut expected),
            },
        }
        while !text.is_line_end() {
            text.at += 1;
        }
    }
}

fn expect_line(line: &Line, index: usize, expected: &mut Expected) {
    let is_number = |value: &Option<f64>| value.is_some_and(f64::is_finite);
    if line.tags.is_none() && !line.fields.iter().any(|(_, value)| is_number(value)) {
        expected.skipped += line.fields.len();
        expected.refused.push(index);
        return;
    }
    for (field, value) in &line.fields {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            expected.skipped += 1;
            continue;
        };
        let Some((device, series, is_counter)) = series(line, field) else {
            expected.refused.push(index);
            if line.tags.is_none() {
                return;
            }
            continue;
        };
        expected.has_counter |= is_counter;
        if value.abs() > 1e15 {
            expected.skipped += 1;
        } else {
            expected.values.push((device, series, line.time_us.unwrap_or(NOW_US), value));
        }
    }
}

/// A decoder under test, with what it has met.
pub struct Checked {
    registry: Arc<Registry>,
    decoder: Decoder,
    batch: Batch,
}

impl Checked {
    pub fn new() -> Self {
        let registry = Arc::new(Registry::new(1 << 20, 3_600));
        let decoder = Decoder::new(registry.clone());
        Self { registry, decoder, batch: Batch::default() }
    }

    /// Decodes `body` and panics where the decoder and the plain reader differ.
    pub fn check(&mut self, body: &[u8]) {
        // Room for the series of one more body: what happens when there is none is tested elsewhere.
        if self.registry.metrics() > 1_024 {
            *self = Self::new();
        }
        let now = Now { monotonic_ns: 5_000_000_000, wall_us: NOW_US };
        self.batch.clear();
        let format = Format::LineProtocol(OPTIONS);
        let decoded = self.decoder.decode(&mut body.to_vec(), format, now, &mut self.batch);
        let counts = self.decoder.values();
        let expected = expected(body);
        let Ok(decoded) = decoded else {
            assert!(expected.values.len() > 65_536, "{decoded:?}");
            return;
        };
        if expected.has_counter || counts.left_out() > 0 {
            return;
        }
        assert_eq!(self.values(), expected.values);
        assert_eq!(counts.skipped, expected.skipped);
        assert_eq!(decoded.invalid, expected.refused.len());
        let listed: Vec<_> = self.decoder.refusals().iter().map(|refusal| refusal.index).collect();
        assert_eq!(listed, expected.refused[..expected.refused.len().min(10)]);
    }

    fn values(&self) -> Vec<Value> {
        let mut values = Vec::new();
        for (sample, readings) in self.batch.iter() {
            let device = sample.device.map(|id| {
                self.registry.device_name(id).expect("nothing is evicted here").to_string()
            });
            for reading in readings {
                let series = self.registry.metric_name(reading.metric);
                let series = series.expect("nothing is evicted here").to_string();
                values.push((device.clone(), series, sample.timestamp_us, reading.value));
            }
        }
        values
    }
}
