//! Values of points through decoding and admission, for an instrument that counts instructions: what a value costs in
//! each format once its series is known, without HTTP and without judging.
//!
//! Bodies have 2,000 values, as those of `benches/formats.py`. `instructions.py --values` runs it under callgrind, which
//! counts in [`measured`] alone.
//!
//! Usage: `values FORMAT STREAMS`; prints the bodies and the values that were measured.

mod bodies;

use std::hint::black_box;
use std::sync::Arc;

use bodies::{METRICS, Row};
use mimalloc::MiMalloc;
use sigmad::decode::{Decoder, Exposition, Format, LineOptions, LinePrecision};
use sigmad::registry::Registry;
use sigmad_clock::Now;
use sigmad_profile::heap::Sampled;
use sigmad_sample::Batch;

#[global_allocator]
static ALLOCATOR: Sampled<MiMalloc> = Sampled(MiMalloc);

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
        "lp_1" => (lines, bodies::lines_of_one),
        "lp_10" => (lines, bodies::lines_of_ten),
        "rw_1" => (Format::RemoteWrite1, bodies::remote_write_1),
        "rw_2" => (Format::RemoteWrite2, bodies::remote_write_2),
        "otlp" => (Format::OtlpProtobuf, bodies::otlp),
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

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let streams = arguments.next().and_then(|streams| streams.parse::<usize>().ok());
    let (Some((format, encode)), Some(streams)) = (format_of(&name), streams) else {
        eprintln!("usage: values json|lp_1|lp_10|rw_1|rw_2|otlp|text|arrow STREAMS");
        std::process::exit(2);
    };
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
    println!("{BODIES_MEASURED} {readings}");
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
