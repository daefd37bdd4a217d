//! Bodies to samples; knows no sockets.
//!
//! A body is one sample object, an array of them, `{"metrics":[…]}`, or lines (NDJSON). It is walked
//! sample by sample. The usual shape is read by [`scan`]; for anything else [`skip`] finds where the
//! sample ends and simd-json reads it ([`tape`]). So a wrong sample is refused alone, by its index,
//! and what a body can make us allocate is bounded by one sample, not by the body.
//!
//! Known names are found in caches of the worker ([`names`]); nothing is allocated, and no lock is
//! taken, for a sample whose names have been met.
//!
//! A sample that is refused leaves no trace. A body that turns out to be broken adds nothing to the
//! batch; the names of its good samples stay known until they have been silent for long.

mod fields;
mod names;
mod scan;
mod skip;
mod tape;

use std::fmt;
use std::sync::Arc;

use memchr::memchr;
use smallvec::SmallVec;

use self::fields::{Fault, Fields, VALUES_MAX};
use self::names::{DeviceCache, MetricCache};
use self::skip::{Broken, Extent, skip_space, skip_string, skip_value};
use self::tape::Parser;
use crate::registry::{Admitted, Registry};
use sigmad_clock::Now;
use sigmad_sample::{Batch, MetricId, QUEUE_SAMPLES_MAX, READINGS_MAX};

/// Refusals of single samples that an answer lists; the rest are only counted.
pub const REFUSALS_LISTED_MAX: usize = 10;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads bodies for one worker, with buffers and a cache of names of its own.
pub struct Decoder {
    registry: Arc<Registry>,
    devices: DeviceCache,
    metrics: MetricCache,
    parser: Parser,
    refusals: Vec<SampleRefusal>,
}

/// What became of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// False for a body that is one sample object: its refusal is the answer's error.
    pub is_batch: bool,
    /// Samples added to the batch.
    pub accepted: usize,
    /// Samples refused because they are wrong.
    pub invalid: usize,
    /// Samples refused because there was no room for another stream.
    pub unroomed: usize,
}

/// Why a whole body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// Nothing but white space, or an empty batch.
    Empty,
    /// Not JSON, near that byte of the body.
    Malformed {
        /// Offset in the body.
        offset: usize,
    },
    /// More samples than a queue can hold.
    TooManySamples,
}

impl From<Broken> for BodyError {
    fn from(broken: Broken) -> Self {
        Self::Malformed { offset: broken.offset }
    }
}

/// One refused sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleRefusal {
    /// Its place in the batch, from 0.
    pub index: usize,
    /// Snake-case word for machines.
    pub code: &'static str,
    /// 400 or 429.
    pub status: u16,
    /// Names the field or the limit.
    pub message: String,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("refusals", &self.refusals).finish_non_exhaustive()
    }
}

impl Decoder {
    /// Names are interned in `registry`.
    pub fn new(registry: Arc<Registry>) -> Self {
        let mut metrics = MetricCache::new();
        for id in [MetricId::CPU, MetricId::RPS] {
            metrics.keep(&registry.metric_name(id), id);
        }
        Self {
            registry,
            devices: DeviceCache::new(),
            metrics,
            parser: Parser::new(),
            refusals: Vec::new(),
        }
    }

    /// Adds the good samples of `body` to `batch`. `lines`: the client said that it is NDJSON.
    ///
    /// The body is left in an unspecified state.
    ///
    /// # Errors
    /// When the body as a whole can't be read; nothing is added then.
    pub fn decode(
        &mut self,
        body: &mut [u8],
        lines: bool,
        now: Now,
        batch: &mut Batch,
    ) -> Result<Decoded, BodyError> {
        self.refusals.clear();
        let before = batch.len();
        let mut pass = Pass {
            decoder: self,
            batch,
            now_us: now.wall_us,
            now_s: (now.monotonic_ns / 1_000_000_000) as u32,
            decoded: Decoded { is_batch: true, accepted: 0, invalid: 0, unroomed: 0 },
        };
        let read = match pass.body(body, lines) {
            Ok(()) if pass.index() == 0 => Err(BodyError::Empty),
            read => read,
        };
        let decoded = pass.decoded;
        match read {
            Ok(()) => Ok(decoded),
            Err(error) => {
                self.refusals.clear();
                batch.truncate(before);
                Err(error)
            }
        }
    }

    /// The first refusals of the last body.
    pub fn refusals(&self) -> &[SampleRefusal] {
        &self.refusals
    }
}

/// One body on its way into a batch.
struct Pass<'p> {
    decoder: &'p mut Decoder,
    batch: &'p mut Batch,
    now_us: i64,
    now_s: u32,
    decoded: Decoded,
}

/// Where a sample stands in its text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing may follow it but white space.
    Last,
    /// Other elements of an array may follow it.
    Among,
}

/// What follows the first value of a body.
enum After {
    End,
    Line,
    Text { offset: usize },
}

/// An object at the top level that [`scan`] found unusual.
enum TopLevel {
    Sample(Extent),
    /// Has a field `metrics` that is an array.
    Wrapper,
}

impl Pass<'_> {
    fn body(&mut self, body: &mut [u8], lines: bool) -> Result<(), BodyError> {
        let text_at = if body.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let first_at = skip_space(body, text_at);
        let Some(&first) = body.get(first_at) else { return Ok(()) };
        if lines {
            return self.lines(body, text_at);
        }
        match first {
            b'{' => self.object(body, first_at),
            b'[' => {
                let end = self.array(body, first_at)?;
                self.nothing_after(body, end)
            }
            _ => Err(BodyError::Malformed { offset: first_at }),
        }
    }

    /// A body that starts with an object: one sample, a wrapper, or lines.
    fn object(&mut self, body: &mut [u8], at: usize) -> Result<(), BodyError> {
        if self.usual(body, at, Place::Last).is_some() {
            self.decoded.is_batch = false;
            return Ok(());
        }
        match top_level(body, at)? {
            TopLevel::Wrapper => self.wrapper(body, at),
            TopLevel::Sample(extent) => match after(body, extent.end) {
                After::End => {
                    self.decoded.is_batch = false;
                    let wrong = self.sample(&mut body[at..extent.end], extent.values);
                    wrong.map_err(|wrong| BodyError::Malformed { offset: at + wrong.offset })
                }
                After::Line => self.lines(body, at),
                After::Text { offset } => Err(BodyError::Malformed { offset }),
            },
        }
    }

    /// The array that opens at `at`; says where it ends.
    fn array(&mut self, body: &mut [u8], at: usize) -> Result<usize, BodyError> {
        let mut at = skip_space(body, at + 1);
        if body.get(at) == Some(&b']') {
            return Ok(at + 1);
        }
        loop {
            let end = self.element(body, at)?;
            at = skip_space(body, end);
            match body.get(at) {
                Some(b',') => at = skip_space(body, at + 1),
                Some(b']') => return Ok(at + 1),
                _ => return Err(BodyError::Malformed { offset: at }),
            }
        }
    }

    /// The element of an array that starts at `at`; says where it ends.
    #[inline]
    fn element(&mut self, body: &mut [u8], at: usize) -> Result<usize, BodyError> {
        self.count()?;
        if let Some(end) = self.usual(body, at, Place::Among) {
            return Ok(end);
        }
        let Extent { end, values } = skip_value(body, at)?;
        if self.sample(&mut body[at..end], values).is_err() {
            self.refuse(Fault::NotJson);
        }
        Ok(end)
    }

    fn lines(&mut self, body: &mut [u8], mut at: usize) -> Result<(), BodyError> {
        while at < body.len() {
            let end = memchr(b'\n', &body[at..]).map_or(body.len(), |length| at + length);
            self.line(&mut body[at..end])?;
            at = end + 1;
        }
        Ok(())
    }

    #[inline]
    fn line(&mut self, line: &mut [u8]) -> Result<(), BodyError> {
        let at = skip_space(line, 0);
        if at == line.len() {
            return Ok(());
        }
        self.count()?;
        if self.usual(line, at, Place::Last).is_some() {
            return Ok(());
        }
        match skip_value(line, at) {
            Ok(Extent { end, values }) if skip_space(line, end) == line.len() => {
                if self.sample(&mut line[at..end], values).is_err() {
                    self.refuse(Fault::NotJson);
                }
            }
            Ok(_) | Err(_) => self.refuse(Fault::NotJson),
        }
        Ok(())
    }

    /// `{"metrics":[…]}`, with any other fields, which are ignored.
    fn wrapper(&mut self, body: &mut [u8], at: usize) -> Result<(), BodyError> {
        let mut has_metrics = false;
        let mut at = skip_space(body, at + 1);
        loop {
            let (key, value_at) = key(body, at)?;
            let is_metrics = is_metrics(&body[key.clone()]);
            self.valid(body, key.start - 1, Extent { end: key.end + 1, values: 0 })?;
            if is_metrics && body.get(value_at) == Some(&b'[') {
                if std::mem::replace(&mut has_metrics, true) {
                    return Err(BodyError::Malformed { offset: at });
                }
                at = self.array(body, value_at)?;
            } else {
                let extent = skip_value(body, value_at)?;
                self.valid(body, value_at, extent)?;
                at = extent.end;
            }
            at = skip_space(body, at);
            match body.get(at) {
                Some(b',') => at = skip_space(body, at + 1),
                Some(b'}') => return self.nothing_after(body, at + 1),
                _ => return Err(BodyError::Malformed { offset: at }),
            }
        }
    }

    /// Checks that a value which is ignored is JSON.
    fn valid(&mut self, body: &mut [u8], at: usize, extent: Extent) -> Result<(), BodyError> {
        if extent.values > VALUES_MAX {
            return Err(BodyError::Malformed { offset: at });
        }
        match self.decoder.parser.parse(&mut body[at..extent.end]) {
            Ok(tape) => {
                self.decoder.parser.keep(tape);
                Ok(())
            }
            Err(wrong) => Err(BodyError::Malformed { offset: at + wrong.offset }),
        }
    }

    fn nothing_after(&self, body: &[u8], at: usize) -> Result<(), BodyError> {
        let offset = skip_space(body, at);
        if offset < body.len() { Err(BodyError::Malformed { offset }) } else { Ok(()) }
    }

    /// Counts a sample of a batch before it is read.
    #[inline]
    fn count(&self) -> Result<(), BodyError> {
        if self.index() == QUEUE_SAMPLES_MAX { Err(BodyError::TooManySamples) } else { Ok(()) }
    }

    /// How many samples have been read.
    #[inline]
    fn index(&self) -> usize {
        self.decoded.accepted + self.decoded.invalid + self.decoded.unroomed
    }

    /// Keeps the sample at `at` if it is a usual one; says where it ends.
    #[inline]
    fn usual(&mut self, text: &[u8], at: usize, place: Place) -> Option<usize> {
        let mut fields = Fields::new();
        let scanned = scan::scan(text, at, &self.decoder.metrics, &mut fields, self.batch);
        match scanned {
            Some(end) if place == Place::Among || skip_space(text, end) == text.len() => {
                self.accept(&fields);
                Some(end)
            }
            _ => {
                self.batch.discard();
                None
            }
        }
    }

    /// An unusual sample. `Err` when it is not JSON: that is for the caller to judge.
    fn sample(&mut self, text: &mut [u8], values: usize) -> Result<(), tape::NotJson> {
        if text.first() != Some(&b'{') {
            self.refuse(Fault::NotAnObject);
            return Ok(());
        }
        if values > VALUES_MAX {
            self.refuse(Fault::TooManyValues);
            return Ok(());
        }
        let tape = self.decoder.parser.parse(text)?;
        let mut fields = Fields::new();
        match tape::read(&tape.0, &self.decoder.metrics, &mut fields, self.batch) {
            Ok(()) => self.accept(&fields),
            Err(fault) => self.refuse(fault),
        }
        self.decoder.parser.keep(tape);
        Ok(())
    }

    /// Makes a sample of the batch's draft.
    #[inline(always)]
    fn accept(&mut self, fields: &Fields<'_>) {
        if !fields.unmasked.is_empty() {
            return self.admit(fields);
        }
        let mut device = None;
        if let Some(name) = fields.device {
            let hash = self.decoder.registry.hash_name(name);
            match self.decoder.devices.find(hash, name) {
                Some(known)
                    if fields.metrics_mask & !known.metrics_mask == 0
                        && self.decoder.registry.touch(known.device, self.now_s) =>
                {
                    device = Some(known.device);
                }
                _ => return self.admit(fields),
            }
        }
        self.batch.complete(fields.timestamp_us.unwrap_or(self.now_us), device);
        self.decoded.accepted += 1;
    }

    /// Accepts a sample with a name that this worker has not met, if there is room.
    #[cold]
    fn admit(&mut self, fields: &Fields<'_>) {
        let text = |name| str::from_utf8(name).expect("the names of a good sample are UTF-8");
        let mut metrics: SmallVec<[(&str, Option<MetricId>); READINGS_MAX]> = SmallVec::new();
        for reading in self.batch.drafted() {
            metrics.push(("", (reading.metric != fields::UNKNOWN).then_some(reading.metric)));
        }
        for &(place, name) in &fields.unmasked {
            metrics[place].0 = text(name);
        }
        match self.decoder.registry.admit(fields.device.map(text), &mut metrics, self.now_s) {
            Ok(admitted) => {
                for (reading, (name, id)) in self.batch.drafted().iter_mut().zip(metrics) {
                    let id = id.expect("an admitted metric has an id");
                    if reading.metric == fields::UNKNOWN {
                        self.decoder.metrics.keep(name, id);
                        reading.metric = id;
                    }
                }
                if let Some((admitted, name)) = admitted.zip(fields.device) {
                    self.remember(name, admitted);
                }
                let device = admitted.map(|admitted| admitted.device);
                self.batch.complete(fields.timestamp_us.unwrap_or(self.now_us), device);
                self.decoded.accepted += 1;
            }
            Err(full) => self.refuse(Fault::Full(full)),
        }
    }

    fn remember(&mut self, name: &[u8], admitted: Admitted) {
        let hash = self.decoder.registry.hash_name(name);
        self.decoder.devices.keep(hash, name, admitted);
    }

    #[cold]
    fn refuse(&mut self, fault: Fault<'_>) {
        self.batch.discard();
        let index = self.index();
        if self.decoder.refusals.len() < REFUSALS_LISTED_MAX {
            self.decoder.refusals.push(SampleRefusal {
                index,
                code: fault.code(),
                status: fault.status(),
                message: fault.to_string(),
            });
        }
        match fault {
            Fault::Full(_) => self.decoded.unroomed += 1,
            _ => self.decoded.invalid += 1,
        }
    }
}

fn after(body: &[u8], end: usize) -> After {
    let offset = skip_space(body, end);
    if offset == body.len() {
        After::End
    } else if body[end..offset].contains(&b'\n') {
        After::Line
    } else {
        After::Text { offset }
    }
}

/// What the object that opens at `at` is, by the names of its fields alone.
fn top_level(body: &mut [u8], at: usize) -> Result<TopLevel, BodyError> {
    // As skip_value counts: one for the bracket, and one for each comma.
    let mut values = 1;
    let mut next = skip_space(body, at + 1);
    loop {
        let Ok((key, value_at)) = key(body, next) else {
            // Not JSON; but it may be a line, and the next one good.
            return Ok(TopLevel::Sample(skip_value(body, at)?));
        };
        if body.get(value_at) == Some(&b'[') && is_metrics(&body[key]) {
            return Ok(TopLevel::Wrapper);
        }
        let Ok(extent) = skip_value(body, value_at) else {
            return Ok(TopLevel::Sample(skip_value(body, at)?));
        };
        values += extent.values;
        next = skip_space(body, extent.end);
        match body.get(next) {
            Some(b',') => {
                values += 1;
                next = skip_space(body, next + 1);
            }
            Some(b'}') => return Ok(TopLevel::Sample(Extent { end: next + 1, values })),
            _ => return Ok(TopLevel::Sample(skip_value(body, at)?)),
        }
    }
}

/// The key at `at`, without its quotes, and where its value starts.
fn key(body: &[u8], at: usize) -> Result<(std::ops::Range<usize>, usize), Broken> {
    if body.get(at) != Some(&b'"') {
        return Err(Broken { offset: at });
    }
    let end = skip_string(body, at)?;
    let colon = skip_space(body, end);
    if body.get(colon) != Some(&b':') {
        return Err(Broken { offset: colon });
    }
    Ok((at + 1..end - 1, skip_space(body, colon + 1)))
}

/// True for `metrics`, however it is escaped.
fn is_metrics(key: &[u8]) -> bool {
    /// `metrics` with each of its letters as six bytes.
    const ESCAPED_BYTES_MAX: usize = 42;
    if key == b"metrics" {
        return true;
    }
    if key.len() > ESCAPED_BYTES_MAX || memchr(b'\\', key).is_none() {
        return false;
    }
    let mut quoted = [b"\"", key, b"\""].concat();
    simd_json::to_tape(&mut quoted)
        .is_ok_and(|tape| *tape.0 == [simd_json::Node::String("metrics")])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { monotonic_ns: 5_000_000_000, wall_us: 1_735_100_000_000_000 };

    struct Fixture {
        registry: Arc<Registry>,
        decoder: Decoder,
        batch: Batch,
    }

    impl Fixture {
        fn new(max_streams: usize) -> Self {
            let registry = Arc::new(Registry::new(max_streams, 60));
            let decoder = Decoder::new(registry.clone());
            Self { registry, decoder, batch: Batch::default() }
        }

        fn decode(&mut self, body: impl AsRef<[u8]>) -> Result<Decoded, BodyError> {
            self.decoder.decode(&mut body.as_ref().to_vec(), false, NOW, &mut self.batch)
        }

        fn messages(&self) -> Vec<&str> {
            self.decoder.refusals().iter().map(|refusal| &*refusal.message).collect()
        }
    }

    fn decode(body: impl AsRef<[u8]>) -> Result<Decoded, BodyError> {
        Fixture::new(1_000).decode(body)
    }

    fn batch_of(accepted: usize, invalid: usize) -> Result<Decoded, BodyError> {
        Ok(Decoded { is_batch: true, accepted, invalid, unroomed: 0 })
    }

    const ONE: Result<Decoded, BodyError> =
        Ok(Decoded { is_batch: false, accepted: 1, invalid: 0, unroomed: 0 });

    #[test]
    fn a_refusal_names_what_is_wrong() {
        for (sample, message) in [
            (r#"{}"#, "a sample needs at least one number"),
            (r#"{"cpu":null,"host":"a"}"#, "a sample needs at least one number"),
            (r#"{"cpu":"1"}"#, "cpu must be a number"),
            (r#"{"rps":true,"cpu":1}"#, "rps must be a number"),
            (r#"{"rps":-1}"#, "rps must not be negative"),
            (r#"{"rps":1e308}"#, "rps must be at most 1e15 in magnitude"),
            (r#"{"rps":1e400}"#, "rps must be at most 1e15 in magnitude"),
            (r#"{"rps":1000000000000001}"#, "rps must be at most 1e15 in magnitude"),
            (
                r#"{"x\n":-1e400}"#,
                "the name of a metric must be 1 to 128 bytes without control characters: x\\n",
            ),
            (r#"{"disk":-1e16}"#, "disk must be at most 1e15 in magnitude"),
            (
                r#"{"cpu":1,"timestamp":-5}"#,
                "timestamp must not be before 1970 or past the year 2262",
            ),
            (
                r#"{"cpu":1,"timestamp":1e30}"#,
                "timestamp must not be before 1970 or past the year 2262",
            ),
            (r#"{"cpu":1,"timestamp":[]}"#, "timestamp must be a number or an RFC 3339 string"),
            (
                r#"{"cpu":1,"timestamp":"1735100000"}"#,
                "timestamp must be an RFC 3339 string like 2024-12-25T04:13:20Z, or a number without quotes",
            ),
            (r#"{"cpu":1,"device":7}"#, "device must be a string"),
            (r#"{"cpu":1,"device_id":{}}"#, "device_id must be a string"),
            (
                r#"{"cpu":1,"device":""}"#,
                "device must be 1 to 128 bytes without control characters",
            ),
            (
                r#"{"cpu":1,"device":"a\u0085"}"#,
                "device must be 1 to 128 bytes without control characters",
            ),
            (r#"{"cpu":1,"device":"a","device_id":"b"}"#, "device and device_id differ"),
        ] {
            let mut fixture = Fixture::new(1_000);
            let refused = Decoded { is_batch: false, accepted: 0, invalid: 1, unroomed: 0 };
            assert_eq!(fixture.decode(sample), Ok(refused), "{sample}");
            assert_eq!(fixture.messages(), [message]);
            assert_eq!(fixture.decoder.refusals()[0].status, 400);
            assert_eq!((fixture.registry.streams(), fixture.registry.metrics()), (0, 2));
            assert!(fixture.batch.is_empty());
        }
    }

    #[test]
    fn a_wrong_element_is_refused_alone() {
        let mut fixture = Fixture::new(1_000);
        let body = r#"[{"cpu":1},{"cpu":1e400},[{"cpu":1}],5,{"cpu":tru},{"cpu":12345678901234567890123},{"cpu":2}]"#;
        assert_eq!(fixture.decode(body), batch_of(2, 5));
        let indexes: Vec<_> = fixture.decoder.refusals().iter().map(|r| r.index).collect();
        assert_eq!(indexes, [1, 2, 3, 4, 5]);
        assert_eq!(fixture.batch.iter().map(|(_, readings)| readings[0].value).sum::<f64>(), 3.0);
    }

    #[test]
    fn ten_refusals_are_listed_and_all_are_counted() {
        let mut fixture = Fixture::new(1_000);
        let body = format!("[{}]", vec!["{}"; 100].join(","));
        assert_eq!(fixture.decode(body), batch_of(0, 100));
        assert_eq!(fixture.decoder.refusals().len(), REFUSALS_LISTED_MAX);
    }

    #[test]
    fn a_broken_body_adds_nothing() {
        for (body, offset) in [
            (r#"[{"cpu":1},{"cpu":2}"#, 20),
            (r#"[{"cpu":1},]"#, 11),
            (r#"[{"cpu":1} {"cpu":2}]"#, 11),
            (r#"[{"cpu":1}] x"#, 12),
            (r#"{"cpu":1} {"cpu":2}"#, 10),
            (r#"{"cpu":1"#, 8),
            (r#"{"metrics":[{"cpu":1}],"x":tru}"#, 27),
            ("hello", 0),
        ] {
            let mut fixture = Fixture::new(1_000);
            let kept = fixture.decode(r#"{"cpu":5}"#);
            assert_eq!(kept, ONE);
            assert_eq!(fixture.decode(body), Err(BodyError::Malformed { offset }), "{body}");
            assert_eq!(fixture.batch.len(), 1);
            assert_eq!(fixture.decoder.refusals(), []);
        }
    }

    #[test]
    fn an_empty_body_is_empty() {
        for body in ["", " \r\n\t", "[]", " [ ] ", r#"{"metrics":[]}"#, "\u{feff}", "\u{feff}\n"] {
            assert_eq!(decode(body), Err(BodyError::Empty), "{body}");
        }
    }

    #[test]
    fn lines_are_told_by_their_shape() {
        assert_eq!(decode("{\"cpu\":1}\r\n\r\n {\"cpu\":2} \r\n"), batch_of(2, 0));
        assert_eq!(decode("{\"cpu\":1}\nx\n{\"cpu\":2"), batch_of(1, 2));
        assert_eq!(decode("x\n{\"cpu\":2}"), Err(BodyError::Malformed { offset: 0 }));
        assert_eq!(decode("{\"cpu\":\n1}\n"), ONE);
        let mut fixture = Fixture::new(10);
        let decoded =
            fixture.decoder.decode(&mut br#"{"cpu":1}"#.to_vec(), true, NOW, &mut fixture.batch);
        assert_eq!(decoded, batch_of(1, 0));
    }

    #[test]
    fn a_wrapper_may_have_other_fields() {
        assert_eq!(
            decode(r#"{"a":{"metrics":1},"metrics":[{"cpu":1},{}],"b":[1,2]}"#),
            batch_of(1, 1)
        );
        assert_eq!(decode(r#"{"metrics":7}"#), ONE);
        assert_eq!(decode(r#"{"metri\u0063s" : [{"cpu":1}]}"#), batch_of(1, 0));
    }

    #[test]
    fn nesting_may_be_as_deep_as_there_may_be_values() {
        for depth in [40, 10_000, VALUES_MAX - 2] {
            let nested = format!(r#"{{"x":{}{},"cpu":1}}"#, "[".repeat(depth), "]".repeat(depth));
            assert_eq!(decode(nested), ONE, "{depth}");
        }
        let mut fixture = Fixture::new(10);
        let depth = 1 << 20;
        let nested = format!(r#"{{"x":{}{},"cpu":1}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(fixture.decode(nested).map(|decoded| decoded.invalid), Ok(1));
        assert_eq!(fixture.messages(), ["more than 16384 values in one sample"]);
        assert!(matches!(decode("[".repeat(depth)), Err(BodyError::Malformed { .. })));
        assert!(matches!(decode("{\"a\":".repeat(depth)), Err(BodyError::Malformed { .. })));
    }

    #[test]
    fn one_sample_may_fill_a_body() {
        let megabytes = 8 << 20;
        assert_eq!(decode(format!(r#"{{"x":"{}","cpu":1}}"#, "é".repeat(megabytes / 2))), ONE);
        assert_eq!(decode(format!(r#"{}{{"cpu":1}}"#, " ".repeat(megabytes))), ONE);
        assert_eq!(decode(format!(r#"{{"cpu":{}1}}"#, " ".repeat(megabytes))), ONE);
    }

    #[test]
    fn a_body_holds_no_more_samples_than_a_queue() {
        let body = |count| format!("[{}]", vec![r#"{"cpu":1}"#; count].join(","));
        assert_eq!(decode(body(QUEUE_SAMPLES_MAX)), batch_of(QUEUE_SAMPLES_MAX, 0));
        assert_eq!(decode(body(QUEUE_SAMPLES_MAX + 1)), Err(BodyError::TooManySamples));
        let lines = "{}\n".repeat(QUEUE_SAMPLES_MAX + 1);
        assert_eq!(decode(lines), Err(BodyError::TooManySamples));
    }

    #[test]
    fn a_sample_has_at_most_32_metrics() {
        let wide = |count: usize| {
            let fields: Vec<_> = (0..count).map(|i| format!(r#""m{i}":{i}"#)).collect();
            format!("{{{}}}", fields.join(","))
        };
        assert_eq!(decode(wide(READINGS_MAX)), ONE);
        let mut fixture = Fixture::new(1_000);
        assert_eq!(fixture.decode(wide(READINGS_MAX + 1)).map(|decoded| decoded.invalid), Ok(1));
        assert_eq!(fixture.messages(), ["more than 32 metrics in one sample"]);
    }

    #[test]
    fn what_has_no_room_is_refused_by_its_limit() {
        let mut fixture = Fixture::new(2);
        let body =
            r#"[{"device":"a","cpu":1},{"device":"b","cpu":1,"rps":1},{"device":"b","rps":2}]"#;
        let decoded = fixture.decode(body).expect("a good body");
        assert_eq!((decoded.accepted, decoded.invalid, decoded.unroomed), (2, 0, 1));
        let refusal = &fixture.decoder.refusals()[0];
        assert_eq!((refusal.index, refusal.status, refusal.code), (1, 429, "too_many_streams"));
        assert!(refusal.message.contains("--max-streams"));
    }

    #[test]
    fn an_evicted_device_is_not_found_in_the_cache() {
        let mut fixture = Fixture::new(1);
        let at = |second: u64| Now { monotonic_ns: second * 1_000_000_000, wall_us: 0 };
        let post = |fixture: &mut Fixture, device: &str, second| {
            let mut body = format!(r#"{{"device":"{device}","cpu":1}}"#).into_bytes();
            fixture.batch.clear();
            let decoded = fixture.decoder.decode(&mut body, false, at(second), &mut fixture.batch);
            assert!(decoded.is_ok());
            fixture.batch.iter().next().and_then(|(sample, _)| sample.device)
        };
        let a = post(&mut fixture, "a", 0).expect("room");
        assert_eq!(post(&mut fixture, "a", 30), Some(a));
        assert_eq!(post(&mut fixture, "b", 90), None);
        let b = post(&mut fixture, "b", 91).expect("a was silent");
        assert_eq!((b.index, b.generation), (a.index, a.generation + 1));
        assert_eq!(post(&mut fixture, "a", 92), None);
        let again = post(&mut fixture, "a", 200).expect("b was silent");
        assert_eq!(again.generation, b.generation + 1);
    }
}
