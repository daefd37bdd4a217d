//! Bodies as the agents write them, and what is read of them.

use std::sync::Arc;

use crate::decode::{BodyError, Decoded, Decoder, Format};
use crate::registry::Registry;
use sigmad_clock::Now;
use sigmad_sample::Batch;

const NOW: Now = Now { monotonic_ns: 5_000_000_000, wall_us: 1_735_100_000_000_000 };

struct Fixture {
    registry: Arc<Registry>,
    decoder: Decoder,
    batch: Batch,
}

impl Fixture {
    fn new() -> Self {
        let registry = Arc::new(Registry::new(1_000, 60));
        Self { decoder: Decoder::new(registry.clone()), registry, batch: Batch::default() }
    }

    fn decode(&mut self, body: &str) -> Result<Decoded, BodyError> {
        self.batch.clear();
        self.decoder.decode(&mut body.as_bytes().to_vec(), Format::Json, NOW, &mut self.batch)
    }

    /// Each value: second, device, series and value.
    fn values(&self) -> Vec<String> {
        let mut values = Vec::new();
        for (sample, readings) in self.batch.iter() {
            let device = sample.device.and_then(|id| self.registry.device_name(id));
            for reading in readings {
                let series = self.registry.metric_name(reading.metric).expect("known");
                let second = sample.timestamp_us / 1_000_000;
                let device = device.as_deref().unwrap_or("-");
                values.push(format!("{second} {device} {series} {}", reading.value));
            }
        }
        values
    }

    #[track_caller]
    fn check(&mut self, body: &str, expected: &[&str]) {
        let decoded = self.decode(body).expect("a good body");
        assert_eq!(decoded.invalid, 0, "{body} {:?}", self.decoder.refusals());
        assert_eq!(self.values(), expected, "{body}");
    }
}

const TELEGRAF: &str = r#"{"fields":{"usage_idle":91.5,"state":"up"},"name":"cpu","tags":{"cpu":"cpu0","host":"a"},"timestamp":1735100001}"#;
const COLLECTD: &str = r#"{"values":[197141504,175136768],"dstypes":["counter","derive"],"dsnames":["read","write"],"time":1735100001.265,"interval":10.000,"host":"a","plugin":"disk","plugin_instance":"sda","type":"disk_octets","type_instance":""}"#;
const VECTOR: &str = r#"{"name":"cpu_seconds_total","namespace":"host","tags":{"host":"a","mode":"idle"},"timestamp":"2024-12-25T04:13:21Z","kind":"absolute","counter":{"value":7.5}}"#;

#[test]
fn telegraf_is_read_in_every_framing() {
    let value = r#"1735100001 a cpu_usage_idle{cpu="cpu0"} 91.5"#;
    let pretty = TELEGRAF.replace(",\"", ",\n \"");
    for (body, count) in [
        (TELEGRAF.to_owned(), 1),
        (pretty, 1),
        (format!("[{TELEGRAF}]"), 1),
        (format!("[{TELEGRAF},{TELEGRAF} , {TELEGRAF}]"), 3),
        (format!(r#"{{"metrics":[{TELEGRAF},{TELEGRAF}]}}"#), 2),
        (format!(r#"{{"source":"a\n","metrics":[{TELEGRAF}]}}"#), 1),
        (format!("{TELEGRAF}\n{TELEGRAF}\n"), 2),
        (TELEGRAF.replace("1735100001", "\"2024-12-25T04:13:21Z\""), 1),
        (TELEGRAF.replace("1735100001", "1735100001000000000"), 1),
    ] {
        Fixture::new().check(&body, &vec![value; count]);
    }
}

#[test]
fn values_of_a_host_at_one_time_are_one_sample() {
    let mut fixture = Fixture::new();
    let other =
        r#"{"fields":{"used":5,"free":7},"name":"mem","tags":{"host":"a"},"timestamp":1735100001}"#;
    let decoded = fixture.decode(&format!(r#"{{"metrics":[{TELEGRAF},{other}]}}"#));
    assert_eq!(decoded.map(|decoded| decoded.accepted), Ok(1));
    assert_eq!(fixture.values().len(), 3);
    assert_eq!(fixture.decoder.values().skipped, 1, "the text");
}

#[test]
fn counters_of_collectd_are_rates() {
    let mut fixture = Fixture::new();
    fixture.check(&format!("[{COLLECTD}]"), &[]);
    let later = COLLECTD
        .replace("1735100001.265", "1735100011.265")
        .replace("197141504", "197141514")
        .replace("175136768", "175136788");
    fixture.check(
        &format!("[{later}]"),
        &[
            r#"1735100011 a disk_disk_octets_read{plugin_instance="sda"} 1"#,
            r#"1735100011 a disk_disk_octets_write{plugin_instance="sda"} 2"#,
        ],
    );
    // StoreRates true: the types stay, the values have fractions.
    let rates = COLLECTD.replace("197141504", "0").replace("175136768", "1.5");
    Fixture::new().check(
        &format!("[{rates}]"),
        &[
            r#"1735100001 a disk_disk_octets_read{plugin_instance="sda"} 0"#,
            r#"1735100001 a disk_disk_octets_write{plugin_instance="sda"} 1.5"#,
        ],
    );
}

#[test]
fn collectd_series_are_named_as_its_prometheus_plugin_names_them() {
    let load = r#"{"values":[0.5,null],"dstypes":["gauge","gauge"],"dsnames":["shortterm","midterm"],"time":1735100001.265,"interval":10,"host":"a","plugin":"load","plugin_instance":"","type":"load","type_instance":"","meta":{"network:received":true}}"#;
    let cpu = r#"{"values":[99],"dstypes":["gauge"],"dsnames":["value"],"time":1735100001.265,"interval":10,"host":"a","plugin":"cpu","plugin_instance":"0","type":"percent","type_instance":"idle"}"#;
    Fixture::new().check(
        &format!("[{load},{cpu}]"),
        &[
            "1735100001 a load_shortterm 0.5",
            r#"1735100001 a cpu_percent{plugin_instance="0",type_instance="idle"} 99"#,
        ],
    );
}

#[test]
fn vector_has_gauges_and_two_kinds_of_counters() {
    let mut fixture = Fixture::new();
    fixture.check(VECTOR, &[]);
    let later = VECTOR.replace("04:13:21Z", "04:13:31Z").replace("7.5", "27.5");
    let gauge = r#"{"name":"load1","namespace":"host","tags":{"host":"a"},"timestamp":"2024-12-25T04:13:31Z","kind":"absolute","gauge":{"value":0.25}}"#;
    let added = r#"{"name":"requests","tags":{"host":"a","codes":["200","204"]},"kind":"incremental","counter":{"value":3.0}}"#;
    fixture.check(
        &format!("[{later},{gauge},{added}]"),
        &[
            r#"1735100011 a host_cpu_seconds_total{mode="idle"} 2"#,
            "1735100011 a host_load1 0.25",
            r#"1735100000 a requests{codes="200"} 3"#,
        ],
    );
}

#[test]
fn vector_histograms_have_a_mean_and_quantiles() {
    let histogram = |kind: &str, second: u32, parts: &str| {
        format!(
            r#"{{"name":"request","tags":{{"host":"a"}},"timestamp":"2024-12-25T04:13:{second}Z","kind":"{kind}","aggregated_histogram":{{{parts}}}}}"#
        )
    };
    let before = r#""buckets":[{"upper_limit":1.0,"count":7},{"upper_limit":2.0,"count":1},{"upper_limit":null,"count":0}],"count":8,"sum":9.0"#;
    let after = r#""buckets":[{"upper_limit":1.0,"count":17},{"upper_limit":2.0,"count":11},{"upper_limit":null,"count":0}],"count":28,"sum":39.0"#;
    let mut fixture = Fixture::new();
    fixture.check(&histogram("absolute", 20, before), &[]);
    fixture.check(
        &histogram("absolute", 30, after),
        &[
            "1735100010 a request_count 2",
            "1735100010 a request_mean 1.5",
            "1735100010 a request_p50 1",
            "1735100010 a request_p99 1.98",
        ],
    );
    // As it is; what the last bound leaves is past it.
    let delta = r#""buckets":[{"upper_limit":1.0,"count":1}],"count":4,"sum":null"#;
    Fixture::new().check(
        &histogram("incremental", 30, delta),
        &[
            "1735100010 a request_count 4",
            "1735100010 a request_p50 1",
            "1735100010 a request_p99 1",
        ],
    );
    let within = r#""buckets":[{"upper_limit":1.0,"count":4}],"count":5,"sum":null"#;
    Fixture::new().check(
        &histogram("incremental", 30, within),
        &[
            "1735100010 a request_count 5",
            "1735100010 a request_p50 0.625",
            "1735100010 a request_p99 1",
        ],
    );
    for wrong in [
        r#""buckets":[{"upper_limit":2.0,"count":1},{"upper_limit":1.0,"count":1}],"count":2,"sum":1"#,
        r#""buckets":[{"upper_limit":null,"count":1},{"upper_limit":1.0,"count":1}],"count":2,"sum":1"#,
        r#""buckets":[{"upper_limit":2.0,"count":-1}],"count":2,"sum":1"#,
        r#""buckets":[5],"count":2,"sum":1"#,
    ] {
        let decoded = fixture.decode(&histogram("absolute", 40, wrong));
        assert_eq!(decoded.map(|decoded| decoded.invalid), Ok(1), "{wrong}");
    }
}

#[test]
fn vector_summaries_have_a_mean_and_their_quantiles() {
    let summary = r#"{"name":"request","tags":{"host":"a"},"timestamp":"2024-12-25T04:13:30Z","kind":"incremental","aggregated_summary":{"quantiles":[{"quantile":0.5,"value":1.25},{"quantile":0.99,"value":null}],"count":4,"sum":6.0}}"#;
    let mut fixture = Fixture::new();
    fixture.check(
        summary,
        &[
            "1735100010 a request_count 4",
            "1735100010 a request_mean 1.5",
            r#"1735100010 a request{quantile="0.5"} 1.25"#,
        ],
    );
    assert_eq!(fixture.decoder.values().skipped, 1, "the null");
}

#[test]
fn a_wrong_object_is_refused_alone() {
    let mut fixture = Fixture::new();
    let lengths = COLLECTD.replace("[\"read\",\"write\"]", "[\"read\"]");
    let body = format!("[{COLLECTD},5,{{\"a\":tru}},{lengths},{{\"cpu\":1}}]");
    let decoded = fixture.decode(&body).expect("a body");
    assert_eq!(decoded.invalid, 4, "{:?}", fixture.decoder.refusals());
    let indexes: Vec<_> = fixture.decoder.refusals().iter().map(|refusal| refusal.index).collect();
    assert_eq!(indexes, [1, 2, 3, 4]);
    let time = TELEGRAF.replace("1735100001", "-1");
    assert_eq!(fixture.decode(&time).map(|decoded| decoded.invalid), Ok(1));
}

#[test]
fn every_prefix_is_refused_or_read() {
    for body in
        [format!(r#"{{"metrics":[{TELEGRAF}]}}"#), format!("[{COLLECTD}]"), VECTOR.to_owned()]
    {
        for end in 0..body.len() {
            let mut fixture = Fixture::new();
            let decoded = fixture.decode(&body[..end]);
            assert!(decoded.is_err(), "{end}: {decoded:?}");
            assert!(fixture.batch.is_empty());
        }
    }
}

#[test]
fn labels_past_their_limits_are_refused_alone() {
    let tags: String = (0..10_000).map(|i| format!(r#""t{i}":"v","#)).collect();
    let big = "x".repeat(1 << 20);
    let many = |body: &str| body.replace(r#""tags":{"#, &format!(r#""tags":{{{tags}"#));
    let long = |body: &str| body.replace(r#""tags":{"#, &format!(r#""tags":{{"t":"{big}","#));
    let collectd = |old: &str| COLLECTD.replace(old, &old.replace("\":\"", &format!("\":\"{big}")));
    for (body, good) in [
        (many(TELEGRAF), TELEGRAF),
        (long(TELEGRAF), TELEGRAF),
        (TELEGRAF.replace("usage_idle", &big), TELEGRAF),
        (many(VECTOR), VECTOR),
        (long(VECTOR), VECTOR),
        (collectd(r#""plugin_instance":"sda"#), COLLECTD),
        (collectd(r#""type":"disk"#), COLLECTD),
    ] {
        let mut fixture = Fixture::new();
        fixture.decode(&format!("[{body},{good}]")).expect("an array");
        let refusals = fixture.decoder.refusals();
        let is_alone = !refusals.is_empty() && refusals.iter().all(|refusal| refusal.index == 0);
        assert!(is_alone, "{good} {refusals:?}");
    }
}

#[test]
fn a_sample_with_numbers_of_its_own_stays_a_sample() {
    for body in [
        r#"{"name":"a","fields":{"x":1},"cpu":3}"#,
        r#"{"plugin":"a","values":[1],"load":3}"#,
        r#"{"name":"a","gauge":{"value":1},"rps":3}"#,
    ] {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.decode(body).map(|decoded| decoded.accepted), Ok(1), "{body}");
        assert_eq!(fixture.values().len(), 1);
    }
}

/// The first object of a body says whose it is.
#[test]
fn an_agents_object_behind_a_sample_is_no_sample() {
    let mut fixture = Fixture::new();
    let body = format!(r#"[{{"device":"a","rps":3}},{TELEGRAF}]"#);
    let decoded = fixture.decode(&body).expect("a batch");
    assert_eq!((decoded.accepted, decoded.invalid, decoded.are_points), (1, 1, false));
}

/// The first object says whose body it is.
#[test]
fn an_agents_object_behind_a_sample_is_no_body_of_that_agent() {
    let mut fixture = Fixture::new();
    let sample = r#"{"device":"a","cpu":1}"#;
    for body in [format!("[{sample},{TELEGRAF}]"), format!("{sample}\n{TELEGRAF}")] {
        let decoded = fixture.decode(&body).expect("a good body");
        assert_eq!((decoded.accepted, decoded.invalid), (1, 1), "{body}");
        assert_eq!(fixture.values(), ["1735100000 a cpu 1"], "{body}");
    }
}
