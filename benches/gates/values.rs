//! Values of points through decoding and admission, for an instrument that counts instructions: what a value costs in
//! each format once its series is known, without HTTP and without judging.
//!
//! Bodies have 2,000 values, as those of `benches/formats.py`. callgrind counts in [`measured`] alone.

use std::hint::black_box;
use std::sync::Arc;

use crate::bodies::{self, METRICS, Row};
use sigmad::decode::{Decoder, Exposition, Format, LineOptions, LinePrecision};
use sigmad::registry::Registry;
use sigmad_clock::Now;
use sigmad_sample::Batch;

const VALUES_A_BODY: usize = 2_000;
const BODIES_MEASURED: usize = 20;
/// Every stream twice, and so all buffers have their size.
const ROUNDS_WARM: usize = 2;

type Encode = fn(&[Row]) -> Vec<u8>;

fn format_of(name: &str) -> Option<(Format, Encode)> {
    let lines = Format::LineProtocol(LineOptions {
        precision: LinePrecision::Nanosecond,
        accepts_partial: true,
    });
    Some(match name {
        "json" => (Format::Json, bodies::json),
        "telegraf" => (Format::Json, bodies::telegraf),
        "lp_1" => (lines, bodies::lines_of_one),
        "lp_10" => (lines, bodies::lines_of_ten),
        "rw_1" => (Format::RemoteWrite1, bodies::remote_write_1),
        "rw_2" => (Format::RemoteWrite2, bodies::remote_write_2),
        "otlp" => (Format::OtlpProtobuf, bodies::otlp),
        "otlp_json" => (Format::OtlpJson, bodies::otlp_json),
        "text" => {
            (Format::Exposition(Exposition { seconds: false, strict: false }), bodies::exposition)
        }
        "arrow" => (Format::Arrow, bodies::arrow),
        _ => return None,
    })
}

/// The rows of the bodies, in order: whole rounds of all hosts, or the next part of one.
struct Rows {
    hosts: usize,
    row: usize,
    random: u64,
}

impl Rows {
    fn body(&mut self) -> Vec<Row> {
        (0..VALUES_A_BODY / METRICS).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Row {
        let (host, second) = (self.row % self.hosts, self.row / self.hosts);
        self.row += 1;
        let values = std::array::from_fn(|_| {
            // Knuth's MMIX generator: two decimals, as agents send them.
            self.random = self
                .random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((self.random >> 33) % 10_000) as f64 / 100.0
        });
        let time_ms = 1_735_100_000_000 + second as u64 * 1_000;
        Row { host: format!("host-{host:05}"), time_ms, values }
    }
}

/// The bodies that count.
#[inline(never)]
fn measured(
    decoder: &mut Decoder,
    batch: &mut Batch,
    format: Format,
    bodies: &mut [Vec<u8>],
) -> usize {
    let mut readings = 0;
    for (second, body) in bodies.iter_mut().enumerate() {
        batch.clear();
        let wall_us = 1_735_100_000_000_000 + second as i64;
        let now = Now { monotonic_ns: second as u64 * 1_000_000_000, wall_us };
        let decoded = decoder.decode(black_box(body), format, now, batch);
        assert!(decoded.is_ok());
        readings += batch.readings();
    }
    readings
}

/// Counts the values of one format in bodies of as many streams; returns bodies and values. None without such a format.
pub fn run(name: &str, streams: usize) -> Option<(usize, usize)> {
    let (format, encode) = format_of(name)?;
    let mut rows = Rows { hosts: (streams / METRICS).max(1), row: 0, random: 1 };
    let mut decoder = Decoder::new(Arc::new(Registry::new(1_000_000, 3_600)));
    let mut batch = Batch::default();
    let warm = ROUNDS_WARM * streams.div_ceil(VALUES_A_BODY);
    let mut bodies: Vec<_> = (0..warm).map(|_| encode(&rows.body())).collect();
    warm_up(&mut decoder, &mut batch, format, &mut bodies);
    let sent: Vec<_> = (0..BODIES_MEASURED).map(|_| rows.body()).collect();
    let mut bodies: Vec<_> = sent.iter().map(|rows| encode(rows)).collect();
    let readings = measured(&mut decoder, &mut batch, format, &mut bodies);
    // The answer: every value was read, and those of the last body are what was sent.
    assert_eq!(readings, BODIES_MEASURED * VALUES_A_BODY);
    let read = batch.iter().flat_map(|(_, readings)| readings).map(|reading| reading.value);
    assert!(read.eq(sent.last().into_iter().flatten().flat_map(|row| row.values)));
    Some((BODIES_MEASURED, readings))
}

/// The same for the bodies that do not count.
#[inline(never)]
fn warm_up(decoder: &mut Decoder, batch: &mut Batch, format: Format, bodies: &mut [Vec<u8>]) {
    for body in bodies {
        batch.clear();
        let now = Now { monotonic_ns: 0, wall_us: 1_735_100_000_000_000 };
        assert!(decoder.decode(body, format, now, batch).is_ok());
    }
}
