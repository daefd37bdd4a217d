//! The shape of the sample before: its text without the values. A sender repeats it.
//!
//! [`scan`](super::scan) notes the shape of a sample that it reads. Where the next sample has the same bytes around its
//! values, they mean the same: no name is looked up, and none can stand there twice. Any other sample is scanned.

use smallvec::SmallVec;

use super::fields::{MOMENT_MIN, is_moment};
use super::layout::{Layout, PlacedValue};
use super::plain::{
    number_at, short_decimal_lengths, string_at, timestamp_at, whole_timestamp_at, wide_word_at,
};
use crate::decode::admission::BodyAdmission;
use crate::decode::draft::DraftSample;
use crate::decode::names::MetricCache;
use crate::registry::mask_of;
use sigmad_sample::timestamp::Stamp;
use sigmad_sample::{Batch, MetricId, NAME_BYTES_MAX, READINGS_MAX, Reading, VALUE_MAX};

/// Fields of a sample whose shape is kept.
const FIELDS_MAX: usize = READINGS_MAX + 2;
/// Longest text between two values of a shape: two words of 16 bytes, so that it is compared without a call.
const PIECE_BYTES_MAX: usize = 32;
const WORD_BYTES: usize = 16;
/// Samples that are scanned without notes after a shape that no sample has repeated.
const SCANNED_UNNOTED: u8 = 15;

/// What stands in a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ShapeValue {
    /// A reading that is no smaller than that.
    Number(MetricId, f64),
    Timestamp,
    Device,
    /// A string that says nothing.
    Ignored,
}

/// Bytes that are expected, padded with zeros, and where there are any.
#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    words: [u128; 2],
    masks: [u128; 2],
    len: usize,
}

impl Piece {
    /// None for a text that is too long.
    fn new(text: &[u8]) -> Option<Self> {
        let mut piece = Self { len: text.len(), ..Self::default() };
        if text.len() > PIECE_BYTES_MAX {
            return None;
        }
        let words = piece.words.iter_mut().zip(&mut piece.masks);
        for ((word, mask), part) in words.zip(text.chunks(WORD_BYTES)) {
            let mut bytes = [0; WORD_BYTES];
            bytes[..part.len()].copy_from_slice(part);
            *word = u128::from_le_bytes(bytes);
            *mask = u128::MAX >> (8 * (WORD_BYTES - part.len()));
        }
        Some(piece)
    }

    /// The index after the piece, if it stands at `at`.
    #[inline(always)]
    fn end(&self, text: &[u8], at: usize) -> Option<usize> {
        let differs = |word: usize| {
            (wide_word_at(text, at + word * WORD_BYTES) ^ self.words[word]) & self.masks[word] != 0
        };
        let is_here = !(differs(0) || self.len > WORD_BYTES && differs(1));
        is_here.then_some(at + self.len)
    }

    /// Whether the piece ends with a name that makes this value a moment.
    #[cold]
    fn names_moment(&self, value: f64) -> bool {
        let bytes: SmallVec<[u8; PIECE_BYTES_MAX]> =
            self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let name = bytes[..self.len].rsplit(|byte| *byte == b'"').nth(1);
        name.is_some_and(|name| is_moment(name, value))
    }
}

#[derive(Clone, Copy, Debug)]
struct ShapeField {
    before: Piece,
    value: ShapeValue,
}

/// The shape of one sample.
#[derive(Debug, Default)]
pub(super) struct Shape {
    fields: Vec<ShapeField>,
    after: Piece,
    /// Bits of its metrics.
    metrics_mask: u64,
    /// The text of the last timestamp, and what it says.
    time: Option<(Piece, Stamp)>,
    layout: Layout,
    is_complete: bool,
    is_repeated: bool,
    /// Samples that are scanned without notes.
    unnoted: u8,
}

impl Shape {
    /// Begins the notes of a sample that is not of this shape. None where it is to be scanned without.
    #[inline]
    pub(super) fn begin(&mut self) -> Option<&mut Self> {
        if self.unnoted > 0 {
            self.unnoted -= 1;
            return None;
        }
        if self.is_complete && !std::mem::take(&mut self.is_repeated) {
            self.unnoted = SCANNED_UNNOTED;
        }
        (self.is_complete, self.metrics_mask, self.time) = (false, 0, None);
        self.fields.clear();
        self.layout.clear();
        Some(self)
    }

    /// Notes a field: the text before its value, since the value before. False if it has no place in a shape.
    pub(super) fn note(&mut self, before: &[u8], value: ShapeValue) -> bool {
        let Some(before) = Piece::new(before) else { return false };
        if let ShapeValue::Number(metric, _) = value {
            if mask_of(metric) == 0 {
                return false;
            }
            self.metrics_mask |= mask_of(metric);
        }
        // Which of two devices counts may depend on their values.
        let is_second = value == ShapeValue::Device
            && self.fields.iter().any(|field| field.value == ShapeValue::Device);
        let has_room = self.fields.len() < FIELDS_MAX && !is_second;
        if has_room {
            self.fields.push(ShapeField { before, value });
        }
        has_room
    }

    /// Ends the notes of a sample that was scanned.
    pub(super) fn complete(&mut self, after: &[u8]) {
        if let Some(after) = Piece::new(after) {
            (self.after, self.is_complete) = (after, true);
        }
    }

    /// Whether its names are known in this body.
    #[inline(never)] // once a body
    pub(super) fn is_current(&self, metrics: &MetricCache) -> bool {
        self.is_complete
            && self.fields.iter().all(|field| match field.value {
                ShapeValue::Number(metric, _) => metrics.touch(metric),
                ShapeValue::Timestamp | ShapeValue::Device | ShapeValue::Ignored => true,
            })
    }

    /// Accepts a sample of this shape and of the layout before, and of a known device, whose names are known; returns its end.
    /// None for any other: then nothing has happened.
    #[inline(always)] // in the loop over samples
    pub(super) fn accept(
        &mut self,
        text: &[u8],
        start: usize,
        admission: &mut BodyAdmission<'_>,
    ) -> Option<usize> {
        let end = self.layout.accept(text, start, self.metrics_mask, admission)?;
        self.is_repeated = true;
        Some(end)
    }

    /// Reads a sample of this shape, whose names are known, and returns its end. None for any other; the caller then
    /// discards the draft.
    #[inline]
    pub(super) fn read<'a>(
        &mut self,
        text: &'a [u8],
        start: usize,
        draft: &mut DraftSample<'a>,
        batch: &mut Batch,
    ) -> Option<usize> {
        let Self { fields, time, .. } = self;
        let mut at = start;
        for field in fields.iter() {
            at = field.before.end(text, at)?;
            match field.value {
                ShapeValue::Number(metric, least) => {
                    let (number, end) = number_at::<false>(text, at)?;
                    let value = number.value();
                    let is_moment = value >= MOMENT_MIN && field.before.names_moment(value);
                    if !(least..=VALUE_MAX).contains(&value) || is_moment {
                        return None;
                    }
                    batch.draft(Reading { metric, value: value + 0.0 });
                    draft.readings += 1;
                    at = end;
                }
                ShapeValue::Timestamp => {
                    let same = time
                        .as_ref()
                        .and_then(|(piece, stamp)| Some((*stamp, piece.end(text, at)?)));
                    (draft.timestamp_us, at) = match same {
                        Some(same) => same,
                        None => other_time(text, at, time)?,
                    };
                }
                ShapeValue::Device => {
                    let (device, end) = string_at(text, at)?;
                    if !(1..=NAME_BYTES_MAX).contains(&device.len()) {
                        return None;
                    }
                    draft.device = Some(device);
                    at = end;
                }
                ShapeValue::Ignored => (_, at) = string_at(text, at)?,
            }
        }
        at = self.after.end(text, at)?;
        draft.metrics_mask = self.metrics_mask;
        self.is_repeated = true;
        let has_room_for_next = text.len() - at > at - start;
        if has_room_for_next && self.layout.is_to_be_noted() {
            self.note_layout(&text[start..at]);
        }
        Some(at)
    }

    /// Whether samples with the lengths of the one before are read at once.
    #[cfg(test)]
    pub(super) fn has_layout(&self) -> bool {
        self.layout.is_noted()
    }

    /// Notes the layout of a sample that was read, if it has one.
    #[inline(never)]
    fn note_layout(&mut self, text: &[u8]) {
        if !self.layout.begin(text) || self.note_places(text).is_none() {
            self.layout.clear();
        }
    }

    fn note_places(&mut self, text: &[u8]) -> Option<()> {
        let Self { fields, layout, .. } = self;
        let mut at = 0;
        for field in fields {
            at += field.before.len;
            let (value, end) = match field.value {
                ShapeValue::Number(metric, _) => {
                    let (whole, decimals, end) = short_decimal_lengths(text, at)?;
                    (PlacedValue::Number { metric, whole, decimals }, end)
                }
                ShapeValue::Timestamp => match whole_timestamp_at(text, at) {
                    // A zero is the time of arrival.
                    Some((Some(_), end)) => (PlacedValue::Digits(end - at), end),
                    _ => {
                        let (stamp, end) = timestamp_at(text, at)?;
                        (PlacedValue::Written(stamp), end)
                    }
                },
                ShapeValue::Device => {
                    let (device, end) = string_at(text, at)?;
                    (PlacedValue::Device(device.len()), end)
                }
                // As all bytes that are no value.
                ShapeValue::Ignored => {
                    (_, at) = string_at(text, at)?;
                    continue;
                }
            };
            layout.note(at, value)?;
            at = end;
        }
        Some(())
    }
}

/// Reads another timestamp than the last one, and its end.
#[inline(never)]
fn other_time(text: &[u8], at: usize, last: &mut Option<(Piece, Stamp)>) -> Option<(Stamp, usize)> {
    let (stamp, end) = timestamp_at(text, at)?;
    *last = Piece::new(&text[at..end]).map(|piece| (piece, stamp));
    Some((stamp, end))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::decode::{Decoder, Format};
    use crate::registry::Registry;
    use sigmad_clock::Now;

    const NAMES: [&str; 14] = [
        "cpu",
        "rps",
        "load",
        "temperature_of_the_outer_case",
        "created_at",
        "device",
        "device_id",
        "host",
        "node",
        "region",
        "timestamp",
        "ts",
        "CPU",
        "metric",
    ];
    const VALUES: [&str; 18] = [
        "60.5",
        "2000",
        "0",
        "-0",
        "-7.25",
        "1e3",
        "1735100000",
        "1735100000123",
        "12345678901234567",
        "4000000000000000",
        "1e16",
        "007",
        "null",
        "\"a\"",
        "\"edge-07\"",
        "\"\"",
        "\"a\\n\"",
        "\"2024-12-25T04:13:20Z\"",
    ];
    /// Before and after a colon, and between fields.
    const SPACES: [(&str, &str, &str); 3] = [("", "", ","), ("", " ", ", "), (" ", "", " ,\n")];

    fn sample(names: &[&str], values: &[&str], spaces: (&str, &str, &str)) -> String {
        let (before, after, between) = spaces;
        let fields = names.iter().zip(values);
        let fields: Vec<_> =
            fields.map(|(name, value)| format!("\"{name}\"{before}:{after}{value}")).collect();
        format!("{{{}}}", fields.join(between))
    }

    fn read(decoder: &mut Decoder, body: &str, batch: &mut Batch) -> String {
        let now = Now { monotonic_ns: 5_000_000_000, wall_us: 1_735_100_000_000_000 };
        let decoded = decoder.decode(&mut body.as_bytes().to_vec(), Format::Json, now, batch);
        let refusals: Vec<_> = decoder.refusals().iter().map(|r| (r.status, &r.message)).collect();
        format!("{:?} {refusals:?}", decoded.map(|decoded| decoded.accepted))
    }

    proptest! {
        #[test]
        fn a_sample_says_the_same_whatever_came_before(
            names in prop::collection::vec(select(&NAMES[..]), 1..6),
            others in prop::collection::vec(select(&NAMES[..]), 1..6),
            values in prop::collection::vec(
                (prop::collection::vec(select(&VALUES[..]), 6), 0..10_u8, select(&SPACES[..])), 1..8),
        ) {
            let registry = Arc::new(Registry::new(1_000, 60));
            let mut decoder = Decoder::new(registry.clone());
            for (values, which, spaces) in &values {
                let names = if *which == 0 { &others } else { &names };
                let spaces = if *which < 8 { SPACES[0] } else { *spaces };
                let body = sample(names, values, spaces);
                let (mut batch, mut alone) = (Batch::default(), Batch::default());
                let answer = read(&mut decoder, &body, &mut batch);
                prop_assert_eq!(answer, read(&mut Decoder::new(registry.clone()), &body, &mut alone));
                prop_assert!(batch.iter().eq(alone.iter()), "{}", body);
            }
        }
    }

    #[test]
    fn a_shape_is_read_again_and_given_up_where_nobody_repeats_it() {
        let mut decoder = Decoder::new(Arc::new(Registry::new(1_000, 60)));
        let mut batch = Batch::default();
        let alike = r#"{"device":"a","timestamp":1735100000,"cpu":1,"load":2.5}"#;
        for body in [alike, alike, alike] {
            read(&mut decoder, body, &mut batch);
        }
        assert!(decoder.json.shape.is_repeated);
        // Known names are in shapes, and the second time all are known.
        for key in (0..5).chain(0..5) {
            read(&mut decoder, &format!("{{\"key{key}\":1}}"), &mut batch);
        }
        assert_eq!((decoder.json.shape.is_repeated, decoder.json.shape.unnoted), (false, 12));
    }

    #[test]
    fn a_piece_ends_with_the_text_or_before() {
        for length in 0..=PIECE_BYTES_MAX {
            let bytes: Vec<u8> = (1..=length as u8).collect();
            let piece = Piece::new(&bytes).expect("it is short");
            for after in [0, 1, 15, 40] {
                let text = [&bytes[..], &vec![b'x'; after]].concat();
                assert_eq!(piece.end(&text, 0), Some(length));
                let shifted = [b"12345", &text[..]].concat();
                assert_eq!(piece.end(&shifted, 5), Some(length + 5));
                if length > 0 {
                    assert_eq!(piece.end(&text[1..], 0), None);
                    assert_eq!(piece.end(&text[..length - 1], 0), None);
                }
            }
        }
        assert!(Piece::new(&[b'x'; PIECE_BYTES_MAX + 1]).is_none());
    }
}
