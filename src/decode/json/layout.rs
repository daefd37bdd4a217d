//! Where the values of the sample before stand: a sender whose numbers keep their lengths repeats that, too.
//!
//! A sample of the same layout is checked as a whole, without a branch for each byte: it is the one expected, or a digit where
//! there was a digit. Then each value is read from its place. All other samples of the same [`shape`](super::shape) are
//! read field by field.

use std::ops::Range;

use super::plain::{DecimalForm, LongForm, SHORT_BYTES, WORD_BYTES};
use crate::decode::admission::BodyAdmission;
use sigmad_sample::timestamp::{self, Stamp};
use sigmad_sample::{MetricId, Reading};

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

/// A part of a sample: each byte is at most so far above the least.
#[derive(Clone, Copy, Debug)]
struct Check {
    least: [u8; CHECK_BYTES],
    range: [u8; CHECK_BYTES],
}

impl Check {
    const ANYTHING: Self = Self { least: [0; CHECK_BYTES], range: [u8::MAX; CHECK_BYTES] };
}

/// A value, and what the layout says of its length.
#[derive(Clone, Copy, Debug)]
pub(super) enum PlacedValue {
    /// A reading: digits before and after the point, at most [`WORD_BYTES`] with it.
    Number { metric: MetricId, whole: usize, decimals: usize },
    /// A timestamp of so many digits.
    Digits(usize),
    /// A timestamp that is written otherwise: this one.
    Written(Stamp),
    /// The device, and the bytes of its name.
    Device(usize),
}

/// A reading, and where it ends.
#[derive(Clone, Copy, Debug)]
struct PlacedReading {
    metric: MetricId,
    end: usize,
    form: DecimalForm,
}

/// The time of a sample.
#[derive(Clone, Copy, Debug)]
enum PlacedTime {
    Fixed(Stamp),
    /// A number that ends there, and the microseconds that one is.
    Digits {
        end: usize,
        form: LongForm,
        unit_us: i64,
    },
}

/// The layout of one sample.
#[derive(Debug)]
pub(super) struct Layout {
    checks: Vec<Check>,
    readings: Vec<PlacedReading>,
    time: PlacedTime,
    device: Option<Range<usize>>,
    length: usize,
    /// How many samples of other layouts it survives, and more.
    credit: u8,
    /// Its credit was full.
    is_repeated: bool,
    /// Samples to come without a layout, and how many after the next that is not repeated.
    resting: u8,
    rest: u8,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            checks: Vec::new(),
            readings: Vec::new(),
            time: PlacedTime::Fixed(None),
            device: None,
            length: 0,
            credit: 0,
            is_repeated: false,
            resting: 0,
            rest: 0,
        }
    }
}

impl Layout {
    /// Forgets the layout: the shape is another one.
    pub(super) fn clear(&mut self) {
        self.checks.clear();
        self.readings.clear();
        (self.time, self.device) = (PlacedTime::Fixed(None), None);
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

    /// Begins the notes of a sample. False for one that is too long.
    pub(super) fn begin(&mut self, text: &[u8]) -> bool {
        self.clear();
        if text.len() > LAYOUT_BYTES_MAX {
            return false;
        }
        for part in text.chunks(CHECK_BYTES) {
            let mut check = Check::ANYTHING;
            check.least[..part.len()].copy_from_slice(part);
            check.range[..part.len()].fill(0);
            self.checks.push(check);
        }
        (self.length, self.credit) = (text.len(), CREDIT_FIRST);
        true
    }

    /// Notes a value. None for one that has no place in a layout.
    pub(super) fn note(&mut self, at: usize, value: PlacedValue) -> Option<()> {
        match value {
            PlacedValue::Number { metric, whole, decimals } => {
                self.note_whole(at, whole);
                let decimals_at = at + whole + 1;
                (decimals_at..decimals_at + decimals).for_each(|at| self.note_digit(at, b'0'));
                let end = if decimals == 0 { at + whole } else { decimals_at + decimals };
                let form = DecimalForm::new(whole, decimals);
                (end >= WORD_BYTES).then(|| {
                    self.readings.push(PlacedReading { metric, end, form });
                })
            }
            PlacedValue::Digits(digits) => {
                self.note_whole(at, digits);
                let (end, form) = (at + digits, LongForm::new(digits));
                let unit_us = timestamp::unit_us(digits)?;
                self.time = PlacedTime::Digits { end, form, unit_us };
                (end >= SHORT_BYTES).then_some(())
            }
            PlacedValue::Device(length) => {
                let name = at + 1..at + 1 + length;
                for at in name.clone() {
                    self.checks[at / CHECK_BYTES].range[at % CHECK_BYTES] = u8::MAX;
                }
                self.device = Some(name);
                Some(())
            }
            PlacedValue::Written(stamp) => {
                self.time = PlacedTime::Fixed(stamp);
                Some(())
            }
        }
    }

    /// Notes the digits of a number without decimals: the first of several is no zero.
    fn note_whole(&mut self, at: usize, digits: usize) {
        self.note_digit(at, if digits > 1 { b'1' } else { b'0' });
        (at + 1..at + digits).for_each(|at| self.note_digit(at, b'0'));
    }

    fn note_digit(&mut self, at: usize, least: u8) {
        let check = &mut self.checks[at / CHECK_BYTES];
        (check.least[at % CHECK_BYTES], check.range[at % CHECK_BYTES]) = (least, b'9' - least);
    }

    /// Accepts the sample at `start` if it has this layout and a known device, and returns its end. `mask` has the bits of its
    /// metrics. None for any other: then nothing has happened.
    #[inline(always)] // as Shape::accept
    pub(super) fn accept(
        &mut self,
        text: &[u8],
        start: usize,
        mask: u64,
        admission: &mut BodyAdmission<'_>,
    ) -> Option<usize> {
        let sample = self.sample_at(text, start)?;
        let device = match &self.device {
            Some(name) => Some(admission.known_plain_device(sample.get(name.clone())?, mask)?),
            None => None,
        };
        let time_us = match self.time {
            PlacedTime::Fixed(stamp) => stamp,
            PlacedTime::Digits { end, form, unit_us } => Some(form.value(sample, end) * unit_us),
        };
        let reading = |&PlacedReading { metric, end, form }: &PlacedReading| Reading {
            metric,
            value: form.value(sample, end),
        };
        admission.take(time_us, device, self.readings.iter().map(reading));
        if self.credit < CREDIT_MAX {
            self.credit += 1;
            self.is_repeated |= self.credit == CREDIT_MAX;
        }
        Some(start + sample.len())
    }

    /// The sample there if its bytes are those expected. None near the end of the text, and without a layout.
    #[inline(always)] // as Shape::accept
    fn sample_at<'t>(&self, text: &'t [u8], start: usize) -> Option<&'t [u8]> {
        let rest = text.get(start..)?;
        let (parts, _) = rest.as_chunks::<CHECK_BYTES>();
        if self.checks.is_empty() || parts.len() < self.checks.len() {
            return None;
        }
        let mut wrong = [0; CHECK_BYTES];
        for (check, part) in self.checks.iter().zip(parts) {
            for at in 0..CHECK_BYTES {
                let above = part[at].wrapping_sub(check.least[at]);
                wrong[at] |= above.saturating_sub(check.range[at]);
            }
        }
        if wrong == [0; CHECK_BYTES] { rest.get(..self.length) } else { None }
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

    /// Its bytes may be the name of another one, which is written with more of them.
    #[test]
    fn a_name_with_escapes_is_no_other_device() {
        let sample = |device: &str| {
            format!(
                r#"{{"timestamp":1735100000123456,"device":"{device}","cpu":60.51,"rps":2000}}"#
            )
        };
        let registry = Arc::new(Registry::new(1_000, 60));
        let mut decoder = Decoder::new(registry.clone());
        let alike = sample("edge-7");
        let (longer, shorter) = (sample(r"a\\\\b-7"), sample(r"a\\b-7"));
        read(&mut decoder, &format!("[{longer}]")).expect("it is JSON");
        read(&mut decoder, &format!("[{alike},{alike},{alike},{alike}]")).expect("it is JSON");
        assert!(decoder.json.shape.has_layout());
        let body = format!("[{shorter},{alike},{alike}]");
        let (_, _, batch) = read(&mut decoder, &body).expect("it is JSON");
        let device = batch.iter().next().and_then(|(sample, _)| sample.device);
        assert!(device.is_some() && device == registry.find_device(r"a\b-7"));
        assert_ne!(device, registry.find_device(r"a\\b-7"));
    }
}
