//! remote_write 2.0.

use prost::Message;

use super::{Expected, Histogram, Sample};

#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub symbols: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "5")]
    pub timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TimeSeries {
    #[prost(uint32, repeated, tag = "1")]
    pub labels_refs: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub histograms: Vec<Histogram>,
    #[prost(message, optional, tag = "5")]
    pub metadata: Option<Metadata>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Metadata {
    #[prost(int32, tag = "1")]
    pub kind: i32,
    #[prost(uint32, tag = "3")]
    pub help_ref: u32,
    #[prost(uint32, tag = "4")]
    pub unit_ref: u32,
}

impl Request {
    /// The place of a symbol, which is added if it is new.
    pub fn symbol(&mut self, symbol: &str) -> u32 {
        let known = self.symbols.iter().position(|known| known == symbol.as_bytes());
        let place = known.unwrap_or_else(|| {
            self.symbols.push(symbol.into());
            self.symbols.len() - 1
        });
        u32::try_from(place).expect("few symbols")
    }

    /// Adds a series, and returns it.
    pub fn push(
        &mut self,
        kind: i32,
        labels: &[(&str, &str)],
        samples: &[Sample],
    ) -> &mut TimeSeries {
        self.symbol("");
        let refs = labels.iter().flat_map(|&(name, value)| [name, value]);
        let labels_refs = refs.map(|symbol| self.symbol(symbol)).collect();
        self.timeseries.push(TimeSeries {
            labels_refs,
            samples: samples.to_vec(),
            histograms: Vec::new(),
            metadata: Some(Metadata { kind, help_ref: 0, unit_ref: 0 }),
        });
        self.timeseries.last_mut().expect("it was pushed")
    }
}

/// What a body gives, None for what is no `Request` or refers to symbols that it lacks.
pub fn read(body: &[u8]) -> Option<Expected> {
    let request = Request::decode(body).ok()?;
    let mut expected = Expected::default();
    for series in &request.timeseries {
        let texts = series.labels_refs.iter().map(|&place| request.symbols.get(place as usize));
        let texts: Vec<&Vec<u8>> = texts.collect::<Option<_>>()?;
        let (pairs, rest) = texts.as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        let labels: Vec<_> = pairs.iter().map(|[name, value]| (&name[..], &value[..])).collect();
        let name = labels
            .iter()
            .find(|(label, _)| *label == b"__name__")
            .map_or(&b""[..], |(_, name)| name);
        let ends = |ends: &[&[u8]]| ends.iter().any(|end| name.ends_with(end));
        let is_counter = match series.metadata.map_or(0, |metadata| metadata.kind) {
            1 => true,
            3 if ends(&[b"_bucket", b"_sum", b"_count"]) => true,
            5 => ends(&[b"_sum", b"_count"]),
            2 | 4 | 6 | 7 => false,
            _ => ends(&[b"_total"]),
        };
        expected.take(&labels, is_counter, &series.samples);
        expected.histograms += series.histograms.len();
    }
    Some(expected)
}
