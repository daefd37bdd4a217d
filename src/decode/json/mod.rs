//! JSON: one sample object, an array of them, `{"metrics":[…]}`, or a sample a line (NDJSON).
//!
//! JSON of Telegraf, Vector and collectd is told apart by the shape of its first object ([`agents`]).
//!
//! A body is read sample by sample. [`shape`] reads a sample whose fields are those of the one before; [`scan`] reads any of
//! plain strings and numbers; for all others, [`skip`] finds the end of the sample and simd-json parses it ([`tape`]). So an
//! invalid sample is refused alone, by its index, and a body can only make us allocate for one sample, not for all of them.

mod agents;
mod fields;
mod foreign;
mod layout;
mod number;
mod plain;
mod sample;
mod scan;
mod shape;
mod skip;
mod tape;

use memchr::memchr;
use serde::de::IgnoredAny;

use self::agents::Agent;
use self::skip::{SkipError, SkippedValue, key, skip_space, skip_value, start_of};
use self::tape::VALUES_MAX;
use super::admission::{BodyAdmission, Decoded};
use super::draft::DraftSample;
use super::fault::{BodyError, SampleFault};
use super::points::{PointReader, Points};

pub(super) use self::tape::Parser;

/// Reads one body.
struct JsonReader<'p> {
    parser: &'p mut Parser,
    admission: BodyAdmission<'p>,
    points: &'p mut Points,
    /// The body is another agent's: nothing of it has been read.
    agent: Option<Agent>,
    /// Whether the names in the shape of the sample before are known, once that was asked in this body.
    has_shape: Option<bool>,
}

/// Reads a body of any of the JSON shapes; lines are recognized by what follows the first object.
pub(super) fn read<'p>(
    parser: &'p mut Parser,
    admission: BodyAdmission<'p>,
    points: &'p mut Points,
    body: &mut [u8],
) -> Result<Decoded, BodyError> {
    let start = start_of(body);
    let at = skip_space(body, start);
    let mut reader = JsonReader { parser, admission, points, agent: None, has_shape: None };
    let read = match body.get(at) {
        None => Ok(()),
        Some(b'{') => reader.object(body, at),
        Some(b'[') => reader.array(body, at).and_then(|end| reader.check_end(body, end)),
        Some(_) if serde_json::from_slice::<IgnoredAny>(&body[at..]).is_ok() => {
            Err(BodyError::NotAnObject)
        }
        Some(_) => match foreign::text_of(&body[start..]) {
            Some(format) => Err(BodyError::Foreign(format)),
            None => Err(BodyError::Malformed { offset: at }),
        },
    };
    reader.end(body, read)
}

/// Reads a body that has a sample on each line.
pub(super) fn read_lines<'p>(
    parser: &'p mut Parser,
    admission: BodyAdmission<'p>,
    points: &'p mut Points,
    body: &mut [u8],
) -> Result<Decoded, BodyError> {
    let start = start_of(body);
    let mut reader = JsonReader { parser, admission, points, agent: None, has_shape: None };
    let read = reader.lines(body, start);
    reader.end(body, read)
}

impl From<SkipError> for BodyError {
    fn from(error: SkipError) -> Self {
        Self::Malformed { offset: error.offset }
    }
}

/// The position of a sample in its text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SamplePosition {
    /// Only white space may follow.
    Final,
    /// Other elements of an array may follow.
    Element,
}

/// What follows the first value of a body.
enum BodyRest {
    End,
    Line,
    Text { offset: usize },
}

/// An object at the top level that [`scan`] does not read.
enum TopLevel {
    Sample(SkippedValue),
    /// Has a field `metrics` that is an array.
    Wrapper,
}

impl JsonReader<'_> {
    fn end(self, body: &mut [u8], read: Result<(), BodyError>) -> Result<Decoded, BodyError> {
        match self.agent {
            Some(agent) => {
                let points = PointReader::new(self.admission, self.points);
                agents::read(self.parser, points, body, agent)
            }
            None => self.admission.end(read),
        }
    }

    /// Looks whether the object at `at`, which [`scan`] does not read, begins the body of an agent. An error ends the reading;
    /// [`JsonReader::end`] begins anew.
    fn check_agent(&mut self, text: &mut [u8], at: usize) -> Result<(), BodyError> {
        if self.admission.is_first() && text.get(at) == Some(&b'{') {
            self.agent = agents::agent_of(text, at);
        }
        if self.agent.is_some() { Err(BodyError::Empty) } else { Ok(()) }
    }

    /// A body that starts with an object: one sample, a wrapper, or lines.
    fn object(&mut self, body: &mut [u8], at: usize) -> Result<(), BodyError> {
        if self.scan(body, at, SamplePosition::Final).is_some() {
            self.admission.set_single();
            return Ok(());
        }
        self.check_agent(body, at)?;
        match top_level(body, at)? {
            TopLevel::Wrapper => self.wrapper(body, at),
            TopLevel::Sample(extent) => match rest_after(body, extent.end) {
                BodyRest::End => {
                    self.admission.set_single();
                    let error = self.parse(&mut body[at..extent.end], extent.values);
                    error.map_err(|error| BodyError::Malformed { offset: at + error.offset })
                }
                BodyRest::Line => self.lines(body, at),
                BodyRest::Text { offset } => Err(BodyError::Malformed { offset }),
            },
        }
    }

    /// Reads the array that opens at `at`; returns its end.
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

    /// Reads the array element that starts at `at`; returns its end.
    #[inline]
    fn element(&mut self, body: &mut [u8], at: usize) -> Result<usize, BodyError> {
        self.admission.check_capacity()?;
        if let Some(end) = self.scan(body, at, SamplePosition::Element) {
            return Ok(end);
        }
        self.check_agent(body, at)?;
        let SkippedValue { end, values } = skip_value(body, at)?;
        if self.parse(&mut body[at..end], values).is_err() {
            self.admission.refuse(SampleFault::NotJson);
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
        self.admission.check_capacity()?;
        if self.scan(line, at, SamplePosition::Final).is_some() {
            return Ok(());
        }
        self.check_agent(line, at)?;
        match skip_value(line, at) {
            Ok(SkippedValue { end, values }) if skip_space(line, end) == line.len() => {
                if self.parse(&mut line[at..end], values).is_err() {
                    self.admission.refuse(SampleFault::NotJson);
                }
            }
            Ok(_) | Err(_) => self.admission.refuse(SampleFault::NotJson),
        }
        Ok(())
    }

    /// Reads `{"metrics":[…]}`; other fields are ignored.
    fn wrapper(&mut self, body: &mut [u8], at: usize) -> Result<(), BodyError> {
        let mut has_metrics = false;
        let mut at = skip_space(body, at + 1);
        loop {
            let (key, value_at) = key(body, at)?;
            let is_metrics = is_metrics(&body[key.clone()]);
            self.check_value(body, key.start - 1, SkippedValue { end: key.end + 1, values: 0 })?;
            if is_metrics && body.get(value_at) == Some(&b'[') {
                if std::mem::replace(&mut has_metrics, true) {
                    return Err(BodyError::Malformed { offset: at });
                }
                at = self.array(body, value_at)?;
            } else {
                let extent = skip_value(body, value_at)?;
                self.check_value(body, value_at, extent)?;
                at = extent.end;
            }
            at = skip_space(body, at);
            match body.get(at) {
                Some(b',') => at = skip_space(body, at + 1),
                Some(b'}') => return self.check_end(body, at + 1),
                _ => return Err(BodyError::Malformed { offset: at }),
            }
        }
    }

    /// Checks that an ignored value is JSON.
    fn check_value(
        &mut self,
        body: &mut [u8],
        at: usize,
        extent: SkippedValue,
    ) -> Result<(), BodyError> {
        if extent.values > VALUES_MAX {
            return Err(BodyError::Malformed { offset: at });
        }
        match self.parser.parse(&mut body[at..extent.end]) {
            Ok(tape) => {
                self.parser.recycle(tape);
                Ok(())
            }
            Err(error) => Err(BodyError::Malformed { offset: at + error.offset }),
        }
    }

    fn check_end(&self, body: &[u8], at: usize) -> Result<(), BodyError> {
        let offset = skip_space(body, at);
        if offset < body.len() { Err(BodyError::Malformed { offset }) } else { Ok(()) }
    }

    /// Accepts the sample at `at` if it has the shape of the one before, or [`scan`] can read it; returns its end.
    #[inline(always)] // in the loop over samples
    fn scan(&mut self, text: &[u8], at: usize, position: SamplePosition) -> Option<usize> {
        let Self { parser, admission, has_shape, .. } = self;
        let shape = &mut parser.shape;
        let has_shape = has_shape.get_or_insert_with(|| shape.is_current(admission.metrics()));
        if *has_shape
            && position == SamplePosition::Element
            && let Some(end) = shape.accept(text, at, admission)
        {
            return Some(end);
        }
        self.scan_fields(text, at, position)
    }

    /// The same for a sample of another layout than the one before.
    #[inline(never)] // so that either way has its registers
    fn scan_fields(&mut self, text: &[u8], at: usize, position: SamplePosition) -> Option<usize> {
        if self.has_shape == Some(true) {
            let (_, batch) = self.admission.draft_parts();
            let mut draft = DraftSample::new();
            if let Some(end) = self.parser.shape.read(text, at, &mut draft, batch)
                && is_whole(text, end, position)
            {
                self.admission.accept(&draft);
                return Some(end);
            }
            batch.discard();
        }
        self.scan_unlike(text, at, position)
    }

    /// The same for a sample of another shape.
    #[inline(never)]
    fn scan_unlike(&mut self, text: &[u8], at: usize, position: SamplePosition) -> Option<usize> {
        let mut draft = DraftSample::new();
        let (metrics, batch) = self.admission.draft_parts();
        let shape = self.parser.shape.begin();
        let rules = self.points.rules();
        let scanned = scan::scan(text, at, rules, shape, metrics, &mut draft, batch);
        self.has_shape = None;
        match scanned {
            Some(end) if is_whole(text, end, position) => {
                self.admission.accept(&draft);
                Some(end)
            }
            _ => {
                self.admission.discard();
                None
            }
        }
    }

    /// Accepts or refuses a sample that [`scan`] does not read. An error is not yet a refusal.
    fn parse(&mut self, text: &mut [u8], values: usize) -> Result<(), tape::NotJson> {
        if text.first() != Some(&b'{') {
            self.admission.refuse(SampleFault::NotAnObject);
            return Ok(());
        }
        if values > VALUES_MAX {
            self.admission.refuse(SampleFault::TooManyValues(VALUES_MAX));
            return Ok(());
        }
        let tape = self.parser.parse(text)?;
        let mut draft = DraftSample::new();
        let (metrics, batch) = self.admission.draft_parts();
        match sample::read(&tape.0, self.points.rules(), metrics, &mut draft, batch) {
            Ok(()) => self.admission.accept(&draft),
            Err(fault) => self.admission.refuse(fault),
        }
        self.parser.recycle(tape);
        Ok(())
    }
}

/// Whether a sample that ends there may do so.
#[inline]
fn is_whole(text: &[u8], end: usize, position: SamplePosition) -> bool {
    position == SamplePosition::Element || skip_space(text, end) == text.len()
}

fn rest_after(body: &[u8], end: usize) -> BodyRest {
    let offset = skip_space(body, end);
    if offset == body.len() {
        BodyRest::End
    } else if body[end..offset].contains(&b'\n') {
        BodyRest::Line
    } else {
        BodyRest::Text { offset }
    }
}

/// Classifies the object that opens at `at` by the names of its fields.
fn top_level(body: &mut [u8], at: usize) -> Result<TopLevel, BodyError> {
    // The count of skip_value: one for the bracket, and one for each comma.
    let mut values = 1;
    let mut next = skip_space(body, at + 1);
    loop {
        let Ok((key, value_at)) = key(body, next) else {
            // Not JSON, but it may be one line of several.
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
            Some(b'}') => return Ok(TopLevel::Sample(SkippedValue { end: next + 1, values })),
            _ => return Ok(TopLevel::Sample(skip_value(body, at)?)),
        }
    }
}

/// True for `metrics`, escaped or not.
fn is_metrics(key: &[u8]) -> bool {
    /// Each letter of `metrics` as an escape of six bytes.
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
