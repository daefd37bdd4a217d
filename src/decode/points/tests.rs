//! Points as formats give them, and the samples that they become.

use std::sync::Arc;

use super::*;
use crate::decode::{
    Buckets, Decoder, HistogramPoint, PointTables, SampleRefusal, SeriesRules, Temporality,
};
use crate::registry::Registry;
use sigmad_clock::Now;
use sigmad_sample::{Batch, METRIC_BYTES_MAX};

const SECOND_US: i64 = 1_000_000;

/// A point of a test: time in seconds, value, and `name label=value …`.
type TestPoint<'a> = (i64, f64, &'a str);

struct Fixture {
    registry: Arc<Registry>,
    decoder: Decoder,
    batch: Batch,
    second: u64,
}

impl Fixture {
    fn new(max_streams: usize) -> Self {
        let registry = Arc::new(Registry::new(max_streams, 60));
        let decoder = Decoder::new(registry.clone());
        Self { registry, decoder, batch: Batch::default(), second: 5 }
    }

    fn read(&mut self, points: &[TestPoint<'_>]) -> Decoded {
        self.batch.clear();
        let now = Now { monotonic_ns: self.second * 1_000_000_000, wall_us: 9 * SECOND_US };
        let mut reader = self.decoder.points(now, &mut self.batch);
        let read = points.iter().enumerate().try_for_each(|(index, &(second, value, text))| {
            reader.set_index(index);
            reader.value(text.as_bytes(), Some(second * SECOND_US), value, |series| {
                let mut words = text.split(' ');
                series.name(words.next().unwrap_or_default().as_bytes());
                for (name, value) in words.filter_map(|word| word.split_once('=')) {
                    match name.strip_prefix("resource.") {
                        Some(name) => series.resource_label(name.as_bytes(), value.as_bytes()),
                        None => series.label(name.as_bytes(), value.as_bytes()),
                    }
                }
                Ok(())
            })
        });
        reader.end(read).expect("a good body")
    }

    /// Each sample as `second device series=value …`.
    fn samples(&self) -> Vec<String> {
        let text = |(sample, readings): (sigmad_sample::Sample, &[Reading])| {
            let device = sample.device.and_then(|device| self.registry.device_name(device));
            let device = device.as_deref().unwrap_or("-").to_owned();
            let mut text = format!("{} {device}", sample.timestamp_us / SECOND_US);
            for reading in readings {
                let name = self.registry.metric_name(reading.metric).expect("a known name");
                text += &format!(" {name}={}", reading.value);
            }
            text
        };
        self.batch.iter().map(text).collect()
    }
}

#[test]
fn values_of_one_device_and_time_join_a_sample() {
    let mut fixture = Fixture::new(100);
    for _ in 0..3 {
        let decoded = fixture.read(&[
            (1, 1.0, "load host=a zone=z cpu=0"),
            (1, 2.0, "load cpu=1 host=a zone=z"),
            (1, 3.0, "mem host=b"),
            (2, 4.0, "mem host=b"),
            (2, 5.0, "mem host=b"),
            (2, 6.0, "up"),
        ]);
        assert_eq!(
            fixture.samples(),
            [
                r#"1 a load{cpu="0",zone="z"}=1 load{cpu="1",zone="z"}=2"#,
                "1 b mem=3",
                "2 b mem=4",
                "2 b mem=5",
                "2 - up=6",
            ]
        );
        assert_eq!((decoded.accepted, fixture.decoder.values().accepted), (5, 6));
    }
}

#[test]
fn the_device_is_the_first_label_of_the_list() {
    let mut fixture = Fixture::new(100);
    fixture.read(&[
        (1, 1.0, "io device=sda instance=n:9100 job=node"),
        (1, 2.0, "net device=eth0 host=h"),
        (1, 3.0, "x device=d"),
        (1, 4.0, "y host=h resource.host.name=r resource.os=linux resource.node=n"),
        (1, 5.0, "z host="),
    ]);
    assert_eq!(
        fixture.samples(),
        [
            r#"1 n:9100 io{device="sda",job="node"}=1"#,
            r#"1 h net{device="eth0"}=2"#,
            "1 d x=3",
            r#"1 r y{host="h"}=4"#,
            "1 - z=5",
        ]
    );
}

#[test]
fn a_counter_is_its_rate() {
    let mut fixture = Fixture::new(100);
    let body = [(10, 100.0, "hits_total host=a"), (20, 150.0, "hits_total host=a")];
    for _ in 0..3 {
        fixture.read(&body);
        assert_eq!(fixture.samples(), ["20 a hits_total=5"], "also when it is sent again");
    }
    fixture.read(&[
        (30, 10.0, "hits_total host=a"),
        (30, 11.0, "hits_total host=a"),
        (32, 20.0, "hits_total host=a"),
    ]);
    assert_eq!(fixture.samples(), ["32 a hits_total=5"]);
    let counts = ValueCounts { accepted: 1, resets: 1, old: 1, ..ValueCounts::default() };
    assert_eq!(fixture.decoder.values(), counts);
}

#[test]
fn what_says_nothing_is_skipped_and_what_is_wrong_refused() {
    let mut fixture = Fixture::new(100);
    let long = format!("x a={}", "v".repeat(METRIC_BYTES_MAX));
    let points: [TestPoint<'_>; 8] = [
        (1, f64::NAN, "x host=a"),
        (1, f64::INFINITY, "x host=a"),
        (1, 1.8e19, "x_bytes host=a"),
        (1, 1.0, &long),
        (1, 1.0, " host=a"),
        (1, 1.0, "x a=1 a=2"),
        (1, 1.0, "x host=a\u{7}"),
        (1, 7.0, "x host=a"),
    ];
    for _ in 0..2 {
        let decoded = fixture.read(&points);
        assert_eq!(fixture.samples(), ["1 a x=7"]);
        assert_eq!((decoded.accepted, decoded.invalid), (1, 4));
        let counts = ValueCounts { accepted: 1, skipped: 3, ..ValueCounts::default() };
        assert_eq!(fixture.decoder.values(), counts);
        let indexes = fixture.decoder.refusals().iter().map(|refusal| refusal.index);
        assert_eq!(indexes.collect::<Vec<_>>(), [3, 4, 5, 6]);
    }
    assert_eq!(fixture.registry.metrics(), 3, "cpu, rps and x");
}

#[test]
fn values_without_room_are_left_out() {
    let mut fixture = Fixture::new(2);
    let points: Vec<_> = (0..40).map(|n| format!("m{n} host=a")).collect();
    let points: Vec<TestPoint<'_>> = points.iter().map(|text| (1, 1.0, &**text)).collect();
    for _ in 0..2 {
        let decoded = fixture.read(&points);
        assert_eq!(fixture.samples(), ["1 a m0=1 m1=1"]);
        assert_eq!((decoded.accepted, decoded.rejected()), (1, 0));
        assert_eq!(fixture.decoder.values().unroomed, 38);
        let is_listed = |refusal: &SampleRefusal| refusal.code == "too_many_streams";
        assert!(fixture.decoder.refusals().iter().all(is_listed));
        assert_eq!(fixture.decoder.refusals().len(), 10);
    }
    fixture.second = 100;
    fixture.read(&points[20..22]);
    assert_eq!(fixture.samples(), ["1 a m20=1 m21=1"], "m0 and m1 are silent");
    fixture.read(&points[..1]);
    assert_eq!(fixture.samples(), [""; 0]);
}

#[test]
fn a_body_without_points_is_no_error() {
    let mut fixture = Fixture::new(2);
    assert_eq!(fixture.read(&[]).accepted, 0);
    let reader = fixture.decoder.points(Now { monotonic_ns: 0, wall_us: 0 }, &mut fixture.batch);
    let error = BodyError::Malformed { offset: 7 };
    assert_eq!(reader.end(Err(error)), Err(error));
}

/// The parts of a classic histogram at a second: cumulative buckets, sum and count.
fn classic(second: i64, counts: [f64; 3], sum: f64) -> Vec<TestPoint<'static>> {
    let [a, b, all] = counts;
    vec![
        (second, a, "rpc_bucket host=h le=1 p=x"),
        (second, b, "rpc_bucket host=h le=2 p=x"),
        (second, all, "rpc_bucket host=h le=+Inf p=x"),
        (second, sum, "rpc_sum host=h p=x"),
        (second, all, "rpc_count host=h p=x"),
    ]
}

#[test]
fn a_classic_histogram_is_its_rate_mean_and_quantiles() {
    let expected =
        r#"20 h rpc_mean{p="x"}=1.5 rpc_p50{p="x"}=1.5 rpc_p99{p="x"}=1.99 rpc_count{p="x"}=1"#;
    let first = classic(10, [5.0, 5.0, 5.0], 3.0);
    let second = classic(20, [5.0, 15.0, 15.0], 18.0);
    let mut fixture = Fixture::new(100);
    fixture.read(&first);
    assert_eq!(fixture.samples(), [""; 0]);
    // What the first time has is known when the second one begins, with one of its parts.
    for parts in [2, 3] {
        fixture.read(&second);
        assert_eq!(fixture.samples(), [expected], "also when it is sent again");
        assert_eq!((fixture.decoder.values().accepted, fixture.decoder.values().parts), (4, parts));
    }
    fixture.read(&classic(30, [1.0, 2.0, 2.0], 2.0));
    assert_eq!((fixture.samples().len(), fixture.decoder.values().resets), (0, 2));
    // The parts of one time in two bodies.
    let third = classic(40, [1.0, 12.0, 12.0], 17.0);
    fixture.read(&third[..2]);
    assert_eq!(fixture.samples(), [""; 0]);
    fixture.read(&third[2..]);
    let later = expected.replacen("20", "40", 1);
    assert_eq!(fixture.samples(), [later]);
    assert_eq!(fixture.registry.streams(), 4);
}

#[test]
fn whole_histograms_are_cumulative_or_changes() {
    let mut fixture = Fixture::new(100);
    let mut read = |second: i64, temporality, scale: f64| {
        fixture.batch.clear();
        let now = Now { monotonic_ns: 0, wall_us: 0 };
        let mut reader = fixture.decoder.points(now, &mut fixture.batch);
        let counts = [0.0, 10.0 * scale, 0.0];
        let buckets = Buckets::Explicit { bounds: &[1.0, 2.0], counts: &counts };
        let (count, sum) = (10.0 * scale, Some(15.0 * scale));
        let histogram = HistogramPoint { temporality, count, sum, buckets };
        let key = [b'x', temporality as u8];
        let time = Some(second * SECOND_US);
        let read = reader.histogram(&key, time, &histogram, |series| {
            series.name(if temporality == Temporality::Delta { b"d" } else { b"c" });
            Ok(())
        });
        reader.end(read).expect("a good body");
        fixture.samples()
    };
    assert_eq!(
        read(1, Temporality::Delta, 1.0),
        ["1 - d_count=10 d_mean=1.5 d_p50=1.5 d_p99=1.99"]
    );
    assert_eq!(read(1, Temporality::Cumulative, 1.0), [""; 0]);
    for _ in 0..2 {
        assert_eq!(
            read(3, Temporality::Cumulative, 2.0),
            ["3 - c_count=5 c_mean=1.5 c_p50=1.5 c_p99=1.99"]
        );
    }
    assert_eq!(read(5, Temporality::Cumulative, 2.0), ["5 - c_count=0"]);
    assert_eq!(read(7, Temporality::Cumulative, 1.0), [""; 0]);
}

/// Rules that drop what begins with `drop`.
fn with_rules(max_streams: usize) -> Fixture {
    let mut fixture = Fixture::new(max_streams);
    let drop = vec!["drop*".parse().expect("a pattern")];
    let rules = SeriesRules { drop, ..SeriesRules::default() };
    fixture.decoder.share(Arc::new(PointTables::new(rules, max_streams)));
    fixture
}

#[test]
fn what_the_rules_drop_is_counted_each_time() {
    let mut fixture = with_rules(100);
    for _ in 0..3 {
        fixture.read(&[(1, 1.0, "drop_a host=a"), (1, 2.0, "kept host=a"), (1, 3.0, "drop_b")]);
        assert_eq!(fixture.samples(), ["1 a kept=2"]);
        let counts = ValueCounts { accepted: 1, dropped: 2, ..ValueCounts::default() };
        assert_eq!(fixture.decoder.values(), counts);
    }
}

#[test]
fn histograms_without_a_place_are_counted() {
    let read = |fixture: &mut Fixture, name: &[u8]| {
        fixture.batch.clear();
        let now = Now { monotonic_ns: fixture.second * 1_000_000_000, wall_us: 0 };
        let mut reader = fixture.decoder.points(now, &mut fixture.batch);
        let buckets = Buckets::Explicit { bounds: &[1.0], counts: &[1.0, 0.0] };
        let temporality = Temporality::Delta;
        let point = HistogramPoint { temporality, count: 1.0, sum: Some(1.0), buckets };
        let mut read = Ok(());
        for _ in 0..2 {
            read = read.and_then(|()| {
                reader.histogram(name, None, &point, |series| {
                    series.name(name);
                    series.label(b"host", b"a");
                    Ok(())
                })
            });
        }
        reader.end(read).expect("a good body");
        fixture.decoder.values()
    };
    for _ in 0..2 {
        let dropped = ValueCounts { dropped: 2, ..ValueCounts::default() };
        let mut fixture = with_rules(100);
        assert_eq!(read(&mut fixture, b"drop_h"), dropped);
        assert_eq!(read(&mut fixture, b"drop_h"), dropped, "when it is known");
        // A histogram without room for its four streams has none.
        let mut fixture = with_rules(3);
        let unroomed = ValueCounts { unroomed: 2, ..ValueCounts::default() };
        assert_eq!(read(&mut fixture, b"h"), unroomed);
        assert_eq!(read(&mut fixture, b"h"), unroomed);
        assert_eq!(fixture.decoder.refusals().len(), 2);
    }
}

#[test]
fn names_without_room_are_left_out() {
    // One sender has half of the table at most once it is half full.
    let mut fixture = Fixture::new(1 << 20);
    let max = fixture.registry.metrics_max();
    let names: Vec<_> = (0..=max).map(|at| format!("m{at} host=a")).collect();
    let points: Vec<TestPoint<'_>> = names.iter().map(|text| (1, 1.0, &**text)).collect();
    fixture.read(&points);
    let first = fixture.decoder.values();
    assert!(first.unnamed > 0 && first.unroomed == 0, "{first:?}");
    assert_eq!(first.accepted + first.unnamed, points.len());
    assert_eq!(first.left_out(), first.unnamed);
    let is_listed = |refusal: &SampleRefusal| refusal.code == "too_many_metrics";
    assert!(fixture.decoder.refusals().iter().all(is_listed));
    let refusals = fixture.decoder.refusals().to_vec();
    fixture.read(&points);
    assert_eq!(fixture.decoder.values(), first, "when they are known");
    assert_eq!(fixture.decoder.refusals(), refusals);
}
