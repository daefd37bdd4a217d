//! A `Metric`: its name, and what it says of its points.

use super::super::histograms::Temporality;
use super::super::labels::ValueKind;
use super::super::protobuf::{Fields, Malformed, take_part};

/// The field of `Metric` that holds the points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Gauge = 5,
    Sum = 7,
    Histogram = 9,
    ExponentialHistogram = 10,
    Summary = 11,
}

impl Data {
    fn from_field(number: u32) -> Option<Self> {
        [Self::Gauge, Self::Sum, Self::Histogram, Self::ExponentialHistogram, Self::Summary]
            .into_iter()
            .find(|data| *data as u32 == number)
    }
}

/// What the fields of a `Metric`, and of a `Gauge` or a `Sum` in it, begin with.
const NAME_KEY: u8 = 1 << 3 | 2;
const DESCRIPTION_KEY: u8 = 2 << 3 | 2;
const UNIT_KEY: u8 = 3 << 3 | 2;
const GAUGE_KEY: u8 = (Data::Gauge as u8) << 3 | 2;
const SUM_KEY: u8 = (Data::Sum as u8) << 3 | 2;
pub(super) const POINT_KEY: u8 = 1 << 3 | 2;
const TEMPORALITY_KEY: u8 = 2 << 3;
const MONOTONIC_KEY: u8 = 3 << 3;

/// What a `Metric` says of its points.
pub(super) struct Metric<'a> {
    pub(super) name: &'a [u8],
    pub(super) data: Option<Data>,
    /// The bytes of the metric from the first field that holds its points.
    pub(super) fields: Fields<'a>,
    /// The content of the only such field as far as it is points, if they come first; empty if there may be several.
    pub(super) points: &'a [u8],
    pub(super) temporality: u64,
    pub(super) is_monotonic: bool,
}

/// `AggregationTemporality`.
const DELTA: u64 = 1;

impl<'a> Metric<'a> {
    #[inline(always)] // so that it stays in registers
    pub(super) fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        Self::usual(message).map_or_else(|| Self::any(message), Ok)
    }

    /// Reads a gauge or a sum whose fields stand in the order of their numbers, as senders write them: its points are
    /// not read for that, and those of a sum are skipped by their lengths. None for any other metric.
    #[inline(always)]
    fn usual(message: &'a [u8]) -> Option<Self> {
        let (name, mut rest) = take_part(message, NAME_KEY)?;
        while let [DESCRIPTION_KEY | UNIT_KEY, ..] = rest {
            (_, rest) = take_part(rest, rest[0])?;
        }
        let (key, data) = match rest {
            [GAUGE_KEY, ..] => (GAUGE_KEY, Data::Gauge),
            [SUM_KEY, ..] => (SUM_KEY, Data::Sum),
            _ => return None,
        };
        let (mut points, []) = take_part(rest, key)? else { return None };
        let (mut temporality, mut is_monotonic) = (0, false);
        if data == Data::Sum {
            let mut rest = points;
            while let [POINT_KEY, ..] = rest {
                (_, rest) = take_part(rest, POINT_KEY)?;
            }
            let flags = rest;
            // A field that is 0 is left out.
            if let [TEMPORALITY_KEY, number @ ..0x80, after @ ..] = rest {
                (temporality, rest) = (u64::from(*number), after);
            }
            if let [MONOTONIC_KEY, flag @ ..0x80, after @ ..] = rest {
                (is_monotonic, rest) = (*flag != 0, after);
            }
            let [] = rest else { return None };
            points = &points[..points.len() - flags.len()];
        }
        let fields = Fields::new(&[]);
        Some(Self { name, data: Some(data), fields, points, temporality, is_monotonic })
    }

    /// Reads a metric whose fields stand anyhow.
    #[inline(never)]
    fn any(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(message);
        let mut metric = Self {
            name: &[],
            data: None,
            fields,
            points: &[],
            temporality: 0,
            is_monotonic: false,
        };
        loop {
            let before = fields;
            let Some((number, value)) = fields.next()? else { return Ok(metric) };
            if number == 1 {
                metric.name = value.bytes()?;
            } else if let Some(data) = Data::from_field(number) {
                // Parts of one message join; another one replaces it.
                if metric.data != Some(data) {
                    metric.data = Some(data);
                    metric.fields = before;
                    (metric.temporality, metric.is_monotonic) = (0, false);
                }
                metric.read_data(data, value.bytes()?)?;
            }
        }
    }

    /// Reads what follows the points in a `Sum` or a histogram.
    fn read_data(&mut self, data: Data, message: &[u8]) -> Result<(), Malformed> {
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match (number, data) {
                (2, Data::Sum | Data::Histogram | Data::ExponentialHistogram) => {
                    self.temporality = value.varint()?;
                }
                (3, Data::Sum) => self.is_monotonic = value.varint()? != 0,
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn kind(&self) -> ValueKind {
        let is_counter =
            self.data == Some(Data::Sum) && self.is_monotonic && self.temporality != DELTA;
        if is_counter { ValueKind::Counter } else { ValueKind::Gauge }
    }

    pub(super) fn temporality(&self) -> Temporality {
        if self.temporality == DELTA { Temporality::Delta } else { Temporality::Cumulative }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::request::each_part;
    use super::*;

    /// A field that has a length, of less than 128 bytes.
    fn part(key: u8, content: &[u8]) -> Vec<u8> {
        [&[key, content.len() as u8], content].concat()
    }

    /// The messages in field 1 of all fields of the data.
    fn points<'a>(metric: &Metric<'a>) -> Result<Vec<&'a [u8]>, Malformed> {
        let mut points = Vec::new();
        let mut add = |message| {
            each_part(message, |point| {
                points.push(point);
                Ok::<_, Malformed>(())
            })
        };
        add(metric.points)?;
        let mut fields = metric.fields;
        while let Some((number, value)) = fields.next()? {
            if Some(number) == metric.data.map(|data| data as u32) {
                add(value.bytes()?)?;
            }
        }
        Ok(points)
    }

    proptest! {
        #[test]
        fn a_usual_metric_is_read_as_any_other(
            keys in vec(prop_oneof![Just(NAME_KEY), Just(DESCRIPTION_KEY), Just(UNIT_KEY)], 0..4),
            data in prop_oneof![Just(GAUGE_KEY), Just(SUM_KEY), Just(0x4a)],
            lengths in vec(0_usize..20, 0..4),
            flags in vec((prop_oneof![Just(TEMPORALITY_KEY), Just(MONOTONIC_KEY), Just(0x20)], 0..3_u8), 0..3),
            end in vec(any::<u8>(), 0..3),
            cut in 0..4_usize,
        ) {
            let mut content: Vec<u8> =
                lengths.iter().flat_map(|length| part(POINT_KEY, &vec![0x10; *length])).collect();
            content.extend(flags.iter().flat_map(|(key, flag)| [*key, *flag]));
            let mut message: Vec<u8> = keys.iter().flat_map(|key| part(*key, b"name")).collect();
            message.extend(part(data, &content));
            message.extend(end);
            message.truncate(message.len() - cut.saturating_sub(2).min(message.len()));
            if let Some(usual) = Metric::usual(&message) {
                let any = Metric::any(&message).expect("no part is malformed");
                prop_assert_eq!(usual.name, any.name);
                prop_assert_eq!(usual.data, any.data);
                prop_assert_eq!(usual.kind(), any.kind());
                prop_assert_eq!(usual.temporality, any.temporality);
                prop_assert_eq!(points(&usual), points(&any));
            }
        }
    }
}
