//! Where the values of the sample before stand: a sender whose numbers keep their lengths repeats that, too.
//!
//! A sample of the same layout is checked as a whole, without a branch for each byte: it is the one expected, or a digit where
//! there was a digit. Then each value is read from its place. All other samples of the same [`shape`](super::shape) are
//! read field by field.

use super::plain::{digits_at, short_decimal_at, string_at};
use crate::decode::draft::DraftSample;
use sigmad_sample::timestamp::{self, Stamp};
use sigmad_sample::{Batch, MetricId, Reading};

/// Bytes that are compared at once: two words of the narrowest vectors.
const CHECK_BYTES: usize = 32;
/// Longer samples have no layout.
const LAYOUT_BYTES_MAX: usize = 1_024;
/// A layout is given up when others come more than a quarter as often; once it was found often, it stays a while.
const CREDIT_FIRST: u8 = 3;
const CREDIT_MAX: u8 = 16;
const CREDIT_OF_OTHER: u8 = 3;
/// Samples without a layout after one that was not repeated until its credit was full: twice as many after each in a row,
/// because the notes of a layout cost as much as reading two samples.
const RESTING_FIRST: u8 = 15;

/// A part of a sample: a byte may differ from the one expected by so much in its bits.
#[derive(Clone, Copy, Debug)]
struct Check {
    expected: [u8; CHECK_BYTES],
    most: [u8; CHECK_BYTES],
}

impl Check {
    const ANYTHING: Self = Self { expected: [0; CHECK_BYTES], most: [u8::MAX; CHECK_BYTES] };
}

/// A value, and what the layout says of its length.
#[derive(Clone, Copy, Debug)]
pub(super) enum PlacedValue {
    /// A reading: digits before and after the point, at most eight bytes with it.
    Number { metric: MetricId, whole: usize, decimals: usize },
    /// A timestamp of so many digits.
    Digits(usize),
    /// A timestamp that is written otherwise: this one.
    Written(Stamp),
    /// The device, and the bytes of its name.
    Device(usize),
}

/// The layout of one sample.
#[derive(Debug, Default)]
pub(super) struct Layout {
    checks: Vec<Check>,
    /// The values, and where they begin.
    places: Vec<(usize, PlacedValue)>,
    length: usize,
    /// How many samples of other layouts it survives, and more.
    credit: u8,
    /// Its credit was full.
    is_repeated: bool,
    /// Samples to come without a layout, and how many after the next that is not repeated.
    resting: u8,
    rest: u8,
}

impl Layout {
    /// Forgets the layout: the shape is another one.
    pub(super) fn clear(&mut self) {
        self.checks.clear();
        self.places.clear();
        (self.length, self.credit, self.is_repeated) = (0, 0, false);
    }

    /// Takes note of a sample that has another layout. True if its own is to be noted.
    pub(super) fn is_to_be_noted(&mut self) -> bool {
        if self.resting > 0 {
            self.resting -= 1;
            return false;
        }
        self.credit = self.credit.saturating_sub(CREDIT_OF_OTHER);
        if self.credit > 0 {
            return false;
        }
        if self.is_repeated {
            self.rest = RESTING_FIRST;
        } else if !self.checks.is_empty() {
            self.resting = self.rest.max(RESTING_FIRST);
            self.rest = self.resting.saturating_mul(2);
        }
        self.clear();
        self.resting == 0
    }

    /// Whether there is one.
    #[cfg(test)]
    pub(super) fn is_noted(&self) -> bool {
        !self.checks.is_empty()
    }

    /// Begins the notes of a sample.
    pub(super) fn begin(&mut self, text: &[u8]) -> bool {
        self.clear();
        if text.len() > LAYOUT_BYTES_MAX {
            return false;
        }
        for part in text.chunks(CHECK_BYTES) {
            let mut check = Check::ANYTHING;
            check.expected[..part.len()].copy_from_slice(part);
            check.most[..part.len()].fill(0);
            self.checks.push(check);
        }
        (self.length, self.credit) = (text.len(), CREDIT_FIRST);
        true
    }

    /// Notes a value.
    pub(super) fn note(&mut self, at: usize, value: PlacedValue) {
        self.places.push((at, value));
        match value {
            PlacedValue::Number { whole, decimals, .. } => {
                self.note_digits(at, whole);
                self.note_digits(at + whole + 1, decimals);
            }
            PlacedValue::Digits(digits) => self.note_digits(at, digits),
            PlacedValue::Device(length) => {
                for at in at + 1..=at + length {
                    self.checks[at / CHECK_BYTES].most[at % CHECK_BYTES] = u8::MAX;
                }
            }
            PlacedValue::Written(_) => {}
        }
    }

    fn note_digits(&mut self, at: usize, digits: usize) {
        for at in at..at + digits {
            let check = &mut self.checks[at / CHECK_BYTES];
            // Of a digit these bits are its value.
            (check.expected[at % CHECK_BYTES], check.most[at % CHECK_BYTES]) = (b'0', 9);
        }
    }

    /// Reads a sample whose bytes are those of the layout, and returns its end. None for one that is not of it nevertheless; the
    /// caller then discards the draft.
    #[inline(always)] // as Shape::read
    pub(super) fn read<'a>(
        &mut self,
        text: &'a [u8],
        start: usize,
        draft: &mut DraftSample<'a>,
        batch: &mut Batch,
    ) -> Option<usize> {
        for &(at, value) in &self.places {
            let at = start + at;
            match value {
                PlacedValue::Number { metric, whole, decimals } => {
                    let value = short_decimal_at(text, at, whole, decimals)?;
                    batch.draft(Reading { metric, value });
                    draft.readings += 1;
                }
                PlacedValue::Digits(digits) => {
                    draft.timestamp_us =
                        timestamp::from_integer(digits_at(text, at, digits)?).ok()?;
                }
                PlacedValue::Written(stamp) => draft.timestamp_us = stamp,
                PlacedValue::Device(length) => {
                    let (device, end) = string_at(text, at)?;
                    if end != at + length + 2 {
                        return None;
                    }
                    draft.device = Some(device);
                }
            }
        }
        self.credit = (self.credit + 1).min(CREDIT_MAX);
        self.is_repeated |= self.credit == CREDIT_MAX;
        Some(start + self.length)
    }

    /// Whether the bytes there are those expected. False near the end of the text, and without a layout.
    #[inline(always)] // as Shape::read
    pub(super) fn is_at(&self, text: &[u8], start: usize) -> bool {
        if self.checks.is_empty() {
            return false;
        }
        let Some(rest) = text.get(start..) else { return false };
        let (parts, _) = rest.as_chunks::<CHECK_BYTES>();
        if parts.len() < self.checks.len() {
            return false;
        }
        let mut wrong = [0; CHECK_BYTES];
        for (check, part) in self.checks.iter().zip(parts) {
            for at in 0..CHECK_BYTES {
                let differs = part[at] ^ check.expected[at];
                wrong[at] |= differs.saturating_sub(check.most[at]);
            }
        }
        wrong == [0; CHECK_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use proptest::sample::select;

    use crate::decode::{Decoder, Format};
    use crate::registry::Registry;
    use sigmad_clock::Now;
    use sigmad_sample::Batch;

    const TIMES: [&str; 9] = [
        "1735100000123456",
        "1735100000123457",
        "1735100000",
        "0735100000",
        "1735100000.5",
        "\"2024-12-25T04:13:20Z\"",
        "null",
        "0",
        "17351000001234567",
    ];
    const DEVICES: [&str; 7] = [
        "edge-07",
        "edge-08",
        "edge\\-8",
        "edge-8\u{1}",
        "é",
        "",
        "a-long-name-of-32-bytes-or-some-more",
    ];
    const NUMBERS: [&str; 16] = [
        "60.51", "60.52", "07.51", "7.5", "2000", "2001", "0200", "0", "0.25", "00.25", "6a.51",
        "60:51", "-60.5", "1e3", "123456.7", "12345678",
    ];

    fn sample((time, device, numbers, note): &(&str, &str, Vec<&str>, &str)) -> String {
        let (cpu, load) = (numbers[0], numbers[1]);
        format!(
            r#"{{"timestamp":{time},"device":"{device}","cpu":{cpu},"note":"{note}","load":{load}}}"#
        )
    }

    /// Samples accepted and refused. None for a body that is malformed as a whole.
    fn read(decoder: &mut Decoder, body: &str) -> Option<(usize, usize, Batch)> {
        let now = Now { monotonic_ns: 5_000_000_000, wall_us: 1_735_100_000_000_000 };
        let mut batch = Batch::default();
        let decoded = decoder.decode(&mut body.as_bytes().to_vec(), Format::Json, now, &mut batch);
        let decoded = decoded.ok()?;
        Some((decoded.accepted, decoded.invalid, batch))
    }

    /// Mostly the first of them.
    fn mostly(values: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
        prop_oneof![6 => select(&values[..2]), 1 => select(values)]
    }

    proptest! {
        #[test]
        fn a_sample_of_a_batch_says_what_it_says_alone(
            samples in prop::collection::vec(
                (
                    mostly(&TIMES),
                    mostly(&DEVICES),
                    prop::collection::vec(mostly(&NUMBERS), 2),
                    mostly(&["x", "x", "yy"]),
                ),
                1..60,
            ),
        ) {
            let registry = Arc::new(Registry::new(1_000, 60));
            let mut decoder = Decoder::new(registry.clone());
            // So that the names of metrics have their bits.
            read(&mut decoder, r#"[{"device":"edge-07","cpu":1,"load":1},{"device":"edge-08","cpu":1,"load":1}]"#);
            let texts: Vec<_> = samples.iter().map(sample).collect();
            let body = format!("[{}]", texts.join(","));
            let (accepted, invalid, batch) = read(&mut decoder, &body).expect("brackets match");
            let mut alone = (0, 0, Vec::new());
            for text in &texts {
                // An array of one: what is wrong with it is counted.
                let (accepted, invalid, batch) =
                    read(&mut Decoder::new(registry.clone()), &format!("[{text}]"))
                        .expect("brackets match");
                alone.0 += accepted;
                alone.1 += invalid;
                let said = batch.iter().map(|(sample, readings)| (sample, readings.to_vec()));
                alone.2.extend(said);
            }
            prop_assert_eq!((accepted, invalid), (alone.0, alone.1));
            let said: Vec<_> =
                batch.iter().map(|(sample, readings)| (sample, readings.to_vec())).collect();
            prop_assert_eq!(said, alone.2);
        }
    }

    #[test]
    fn each_byte_of_a_layout_is_looked_at() {
        let alike = r#"{"timestamp":1735100000123456,"device":"edge-07","cpu":60.51,"rps":2000}"#;
        let registry = Arc::new(Registry::new(100_000, 60));
        let mut decoder = Decoder::new(registry.clone());
        let after = format!(",{alike}").repeat(3);
        for at in 0..alike.len() {
            for byte in (b' '..=b'~').filter(|byte| *byte != alike.as_bytes()[at]) {
                let mut other = alike.as_bytes().to_vec();
                other[at] = byte;
                let other = String::from_utf8(other).expect("ASCII");
                let alone = read(&mut Decoder::new(registry.clone()), &format!("[{other}]"));
                // None: its brackets and quotes do not match, which is wrong of the whole body.
                let Some((_, wrong, alone)) = alone else { continue };
                let body = format!("[{alike},{alike},{alike},{other}{after}]");
                let (accepted, invalid, batch) = read(&mut decoder, &body).expect("they match");
                assert_eq!((accepted, invalid), (7 - wrong, wrong), "{other}");
                let found = batch.iter().nth(3).filter(|_| wrong == 0);
                assert_eq!(found, alone.iter().next(), "{other}");
            }
        }
        assert!(decoder.json.shape.has_layout());
    }
}
