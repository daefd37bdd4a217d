//! Bodies to samples; knows no sockets.
//!
//! Each format is a module with a function that reads a body. [`json`] drafts the readings of each sample in the
//! batch, and [`admission`] accepts or refuses the sample. The others ([`influx`]) give their values to [`points`].
//!
//! A body that is malformed as a whole adds nothing to the batch; the registry keeps the names of its
//! valid samples until they expire.

mod admission;
mod arrow;
mod decimal;
mod draft;
mod exposition;
mod fault;
mod gauge_rows;
mod globs;
mod histogram_points;
mod histogram_table;
mod histograms;
mod influx;
mod json;
mod labels;
mod metric_types;
mod names;
mod open_sample;
mod otlp;
mod points;
mod protobuf;
mod rates;
mod remote_write;
mod rules;
mod series;
mod series_cache;
mod tables;
mod telegraf;
#[cfg(test)]
mod testing;
mod values;

use std::fmt;
use std::sync::Arc;

use self::admission::Admission;
use self::influx::LineReader;
use self::points::Points;
use crate::registry::Registry;
use sigmad_clock::Now;
use sigmad_sample::Batch;

pub use self::admission::Decoded;
pub use self::exposition::{Exposition, Grouping};
pub use self::fault::{BodyError, ForeignFormat, PointFault, SERIES_TOO_LONG, SampleRefusal};
pub use self::globs::{EmptyGlob, Glob};
pub use self::histograms::{Buckets, HistogramPoint, Temporality};
pub use self::influx::{LineOptions, LinePrecision, PrecisionError};
pub use self::labels::{SeriesDescription, ValueKind};
pub use self::points::PointReader;
pub use self::rates::SavedCounter;
pub use self::remote_write::Written;
pub use self::rules::{DEVICE_LABELS, SeriesRules};
pub use self::tables::PointTables;
pub use self::values::{ValueCounters, ValueCounts};

/// Bytes that the caches of one decoder take at most.
pub const CACHE_BYTES: usize =
    names::CACHE_BYTES + series_cache::CACHE_BYTES + remote_write::PARSER_BYTES;
/// Bytes that the types of metrics take at most, for all workers.
pub const TYPES_BYTES: usize = metric_types::TYPES_BYTES;
/// Bytes that the state of a stream takes at worst: of its counter, and its share of histograms.
pub const STATE_BYTES: usize = rates::RATE_BYTES + histogram_table::HISTOGRAM_BYTES;

/// The format of a body. A new one is a module here, a variant, and a row in the route table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A sample, an array of samples, `{"metrics":[…]}`, or lines that begin with an object.
    Json,
    /// A JSON sample on each line, as the client announced (NDJSON).
    JsonLines,
    /// `prometheus.WriteRequest`: remote_write 1.0.
    RemoteWrite1,
    /// `io.prometheus.write.v2.Request`: remote_write 2.0.
    RemoteWrite2,
    /// Influx line protocol.
    LineProtocol(LineOptions),
    /// Text exposition, pushed; [`Decoder::grouping`] has labels for all its series.
    Exposition(Exposition),
    /// A body that is not looked at.
    Nothing,
    /// `ExportMetricsServiceRequest` of OTLP.
    OtlpProtobuf,
    /// The same as JSON.
    OtlpJson,
    /// An Arrow IPC stream.
    Arrow,
}

impl Format {
    /// True for bodies of points, whose values are counted one by one ([`Decoder::values`]).
    #[inline]
    pub fn is_points(self) -> bool {
        !matches!(self, Self::Json | Self::JsonLines)
    }
}

/// Decodes bodies for one worker, with its own buffers and caches of names.
pub struct Decoder {
    admission: Admission,
    json: json::Parser,
    influx: LineReader,
    points: Points,
    remote_write: remote_write::Parser,
    exposition: exposition::Parser,
    otlp: otlp::OtlpReader,
    arrow: arrow::ArrowReader,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("refusals", &self.refusals()).finish_non_exhaustive()
    }
}

impl Decoder {
    /// Names get their ids from `registry`. Points have the default rules, and no state that others share: see
    /// [`Decoder::share`].
    pub fn new(registry: Arc<Registry>) -> Self {
        let tables = PointTables::new(SeriesRules::default(), registry.max_streams());
        Self {
            admission: Admission::new(registry),
            json: json::Parser::new(),
            influx: LineReader::default(),
            points: Points::new(Arc::new(tables)),
            remote_write: remote_write::Parser::default(),
            exposition: exposition::Parser::default(),
            otlp: otlp::OtlpReader::default(),
            arrow: arrow::ArrowReader::default(),
        }
    }

    /// Shares the rules for series, and the states of counters, with the decoders of other workers.
    pub fn share(&mut self, tables: Arc<PointTables>) {
        self.points = Points::new(tables);
    }

    /// Bounds the readings of one body: a queue that holds fewer could never take it.
    pub fn set_readings_max(&mut self, readings_max: usize) {
        self.admission.readings_max = readings_max;
    }

    /// Adds the valid samples of `body` to `batch`; leaves `body` in an unspecified state.
    ///
    /// # Errors
    /// If the body as a whole cannot be read; nothing is added then.
    pub fn decode(
        &mut self,
        body: &mut [u8],
        format: Format,
        now: Now,
        batch: &mut Batch,
    ) -> Result<Decoded, BodyError> {
        let admission = self.admission.begin(now, batch);
        match format {
            Format::Json => json::read(&mut self.json, admission, &mut self.points, body),
            Format::JsonLines => {
                json::read_lines(&mut self.json, admission, &mut self.points, body)
            }
            Format::RemoteWrite1 => {
                let points = PointReader::new(admission, &mut self.points);
                remote_write::read_v1(&mut self.remote_write, points, body)
            }
            Format::Exposition(exposition) => {
                let points = PointReader::new(admission, &mut self.points);
                exposition::read(&mut self.exposition, points, body, exposition)
            }
            Format::Nothing => PointReader::new(admission, &mut self.points).end(Ok(())),
            Format::RemoteWrite2 => {
                let points = PointReader::new(admission, &mut self.points);
                remote_write::read_v2(&mut self.remote_write, points, body)
            }
            Format::LineProtocol(options) => {
                let points = PointReader::new(admission, &mut self.points);
                influx::read(&mut self.influx, points, body, options)
            }
            Format::OtlpProtobuf => {
                self.otlp.read_protobuf(PointReader::new(admission, &mut self.points), body)
            }
            Format::OtlpJson => {
                self.otlp.read_json(PointReader::new(admission, &mut self.points), body)
            }
            Format::Arrow => self.arrow.read(PointReader::new(admission, &mut self.points), body),
        }
    }

    /// Begins a body of points; [`PointReader::end`] ends it. The formats do so, and benches.
    pub fn points<'p>(&'p mut self, now: Now, batch: &'p mut Batch) -> PointReader<'p> {
        PointReader::new(self.admission.begin(now, batch), &mut self.points)
    }

    /// The labels that all series of the next bodies of text exposition get.
    pub fn grouping(&mut self) -> &mut Grouping {
        &mut self.exposition.grouping
    }

    /// What was written of the last body of remote_write, if its sender is told: that of 2.0.
    pub fn written(&self) -> Option<Written> {
        self.remote_write.written()
    }

    /// The values of the last body of points.
    pub fn values(&self) -> ValueCounts {
        self.points.counts()
    }

    /// The first refusals of the last body.
    pub fn refusals(&self) -> &[SampleRefusal] {
        self.admission.refusals()
    }
}

#[cfg(test)]
mod tests {
    use sigmad_sample::{METRICS_MAX, MetricId, QUEUE_SAMPLES_MAX, READINGS_MAX, Reading};

    use super::admission::REFUSALS_LISTED_MAX;
    use super::*;
    use crate::registry::NameSource;

    const NOW: Now = Now { monotonic_ns: 5_000_000_000, wall_us: 1_735_100_000_000_000 };

    struct Fixture {
        registry: Arc<Registry>,
        decoder: Decoder,
        batch: Batch,
    }

    impl Fixture {
        fn new(max_streams: usize) -> Self {
            let registry = Arc::new(Registry::new(max_streams, 60));
            let decoder = Decoder::new(registry.clone());
            Self { registry, decoder, batch: Batch::default() }
        }

        fn decode(&mut self, body: impl AsRef<[u8]>) -> Result<Decoded, BodyError> {
            self.decoder.decode(&mut body.as_ref().to_vec(), Format::Json, NOW, &mut self.batch)
        }

        /// Decodes a body that comes in that second. Its readings are alone in the batch.
        fn post(&mut self, body: &str, second: u64) -> Vec<MetricId> {
            let now = Now { monotonic_ns: second * 1_000_000_000, wall_us: 0 };
            self.batch.clear();
            let (body, batch) = (&mut body.as_bytes().to_vec(), &mut self.batch);
            self.decoder.decode(body, Format::Json, now, batch).expect("a good body");
            let readings = self.batch.iter().flat_map(|(_, readings)| readings);
            readings.map(|reading| reading.metric).collect()
        }

        fn messages(&self) -> Vec<&str> {
            self.decoder.refusals().iter().map(|refusal| &*refusal.message).collect()
        }
    }

    fn decode(body: impl AsRef<[u8]>) -> Result<Decoded, BodyError> {
        Fixture::new(1_000).decode(body)
    }

    fn batch_of(accepted: usize, invalid: usize) -> Result<Decoded, BodyError> {
        Ok(Decoded { is_batch: true, accepted, invalid, ..Decoded::default() })
    }

    const ONE: Result<Decoded, BodyError> = Ok(Decoded {
        is_batch: false,
        accepted: 1,
        invalid: 0,
        unroomed: 0,
        unnamed: 0,
        left_out_values: 0,
        are_points: false,
    });

    #[test]
    fn a_refusal_names_what_is_wrong() {
        for (sample, message) in [
            (r#"{}"#, "a sample needs at least one number"),
            (r#"{"cpu":null,"host":"a"}"#, "a sample needs at least one number"),
            (r#"{"cpu":"1"}"#, "cpu must be a number"),
            (r#"{"rps":true,"cpu":1}"#, "rps must be a number"),
            (r#"{"rps":-1}"#, "rps must not be negative"),
            (r#"{"rps":1e308}"#, "rps must be at most 1e15 in magnitude"),
            (r#"{"rps":1e400}"#, "rps must be at most 1e15 in magnitude"),
            (r#"{"rps":1000000000000001}"#, "rps must be at most 1e15 in magnitude"),
            (
                r#"{"x\n":-1e400}"#,
                "the name of a metric must be 1 to 1024 bytes without control characters: x\\n",
            ),
            (r#"{"disk":-1e16}"#, "disk must be at most 1e15 in magnitude"),
            (
                r#"{"cpu":1,"timestamp":-5}"#,
                "timestamp must not be before 1970 or past the year 2262",
            ),
            (
                r#"{"cpu":1,"timestamp":1e30}"#,
                "timestamp must not be before 1970 or past the year 2262",
            ),
            (r#"{"cpu":1,"timestamp":[]}"#, "timestamp must be a number or an RFC 3339 string"),
            (
                r#"{"cpu":1,"timestamp":"1735100000"}"#,
                "timestamp must be an RFC 3339 string like 2024-12-25T04:13:20Z, or a number without quotes",
            ),
            (r#"{"cpu":1,"device":7}"#, "device must be a string"),
            (r#"{"cpu":1,"device_id":{}}"#, "device_id must be a string"),
            (
                r#"{"cpu":1,"device":""}"#,
                "device must be 1 to 128 bytes without control characters",
            ),
            (
                r#"{"cpu":1,"device":"a\u0085"}"#,
                "device must be 1 to 128 bytes without control characters",
            ),
            (r#"{"cpu":1,"device":"a","device_id":"b"}"#, "device and device_id differ"),
            (r#"{"CPU":-1}"#, "cpu must not be negative"),
            (r#"{"cpu":1,"ts":-5}"#, "ts must not be before 1970 or past the year 2262"),
            (
                r#"{"cpu":1,"Date":"today"}"#,
                "Date must be an RFC 3339 string like 2024-12-25T04:13:20Z, or a number without quotes",
            ),
            (r#"{"cpu":1,"host":"a\n"}"#, "host must be 1 to 128 bytes without control characters"),
            (r#"{"time":1735100000}"#, "a sample needs at least one number that is not a time"),
            (
                r#"{"created_at":1735100000123,"host":"a"}"#,
                "a sample needs at least one number that is not a time",
            ),
            (
                r#"{"resourceMetrics":[{"resource":{}}]}"#,
                "this is OTLP JSON: POST it to /v1/metrics",
            ),
        ] {
            let mut fixture = Fixture::new(1_000);
            let refused = Decoded { invalid: 1, ..Decoded::default() };
            assert_eq!(fixture.decode(sample), Ok(refused), "{sample}");
            assert_eq!(fixture.messages(), [message]);
            assert_eq!(fixture.decoder.refusals()[0].status, 400);
            assert_eq!((fixture.registry.streams(), fixture.registry.metrics()), (0, 2));
            assert!(fixture.batch.is_empty());
        }
    }

    #[test]
    fn names_of_other_senders_are_understood() {
        for (body, device, readings) in [
            (r#"{"host":"a","ts":1735100000,"CPU":1}"#, Some("a"), 1),
            (r#"{"date":1735100000.5,"host":"a","Rps":1,"load":2}"#, Some("a"), 2),
            (
                r#"{"node":"b","host":"a","@timestamp":"2024-12-25T04:13:20Z","cpu":1}"#,
                Some("a"),
                1,
            ),
            (
                r#"{"host":"b","deviceId":"a","datetime":1735100000123,"cpu":1,"tags":[]}"#,
                Some("a"),
                1,
            ),
            (r#"{"host":"b","device":"a","time":1735100000,"cpu":1}"#, Some("a"), 1),
            (r#"{"device_id":"a","host":"b","timestamp":1735100000,"ts":5,"cpu":1}"#, Some("a"), 1),
            (
                r#"{"host":"","instance":"a","timestamp":null,"ts":1735100000,"cpu":1}"#,
                Some("a"),
                1,
            ),
            (r#"{"host":7,"time":1735100000,"date":{},"CPU":1}"#, None, 2),
            (r#"{"name":"a","timestamp":1735100000,"time":{"ms":1},"cpu":1}"#, None, 1),
            (r#"{"created_at":1735100000,"timestamp":1735100000,"cpu":1}"#, None, 2),
        ] {
            // The second one parses where the first one scans.
            for body in [body.to_owned(), body.replacen("{", r#"{"none":null,"#, 1)] {
                let mut fixture = Fixture::new(1_000);
                assert_eq!(fixture.decode(&body), ONE, "{body} {:?}", fixture.messages());
                let (sample, read) = fixture.batch.iter().next().expect("a sample");
                assert_eq!(read.len(), readings, "{body}");
                assert_eq!(sample.timestamp_us / 1_000_000, 1_735_100_000, "{body}");
                let named = sample.device.and_then(|device| fixture.registry.device_name(device));
                assert_eq!(named.as_deref(), device, "{body}");
            }
        }
    }

    #[test]
    fn another_format_is_told_its_path() {
        for (body, path) in [
            (r#"{"resourceMetrics":[]}"#, "/v1/metrics"),
            (r#"{"metric":"sys.cpu","timestamp":1735100000,"value":18}"#, "/write"),
            (
                r#"{"metric":"sys.cpu","timestamp":1735100000,"value":18,"tags":{"host":"a"}}"#,
                "/write",
            ),
            (r#"{"series":[{"metric":"a","points":[[1735100000,1]]}]}"#, "/v1/metrics"),
            (r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#, "/api/v1/write"),
            (
                r#"{"metric":{"__name__":"up"},"values":[1],"timestamps":[1735100000123]}"#,
                "/api/v1/write",
            ),
        ] {
            let mut fixture = Fixture::new(1_000);
            let refused = Decoded { invalid: 1, ..Decoded::default() };
            assert_eq!(fixture.decode(body), Ok(refused), "{body}");
            assert_eq!(fixture.decoder.refusals()[0].code, "wrong_format");
            assert!(fixture.messages()[0].contains(path), "{body}");
        }
        for (body, format) in [
            ("cpu,host=a usage_idle=91.5 1735100000000000000\n", ForeignFormat::Influx),
            ("\n\u{8}\n\u{6}", ForeignFormat::Binary),
        ] {
            assert_eq!(decode(body), Err(BodyError::Foreign(format)), "{body}");
        }
        // Whoever has such names beside other numbers means them.
        assert_eq!(decode(r#"{"metric":"a","value":18,"cpu":3}"#), ONE);
        assert_eq!(decode(r#"{"name":"a","fields":{"x":1},"cpu":3}"#), ONE);
    }

    #[test]
    fn a_wrong_element_is_refused_alone() {
        let mut fixture = Fixture::new(1_000);
        let body = r#"[{"cpu":1},{"cpu":1e400},[{"cpu":1}],5,{"cpu":tru},{"cpu":12345678901234567890123},{"cpu":2}]"#;
        assert_eq!(fixture.decode(body), batch_of(2, 5));
        let indexes: Vec<_> = fixture.decoder.refusals().iter().map(|r| r.index).collect();
        assert_eq!(indexes, [1, 2, 3, 4, 5]);
        assert_eq!(fixture.batch.iter().map(|(_, readings)| readings[0].value).sum::<f64>(), 3.0);
    }

    #[test]
    fn ten_refusals_are_listed_and_all_are_counted() {
        let mut fixture = Fixture::new(1_000);
        let body = format!("[{}]", vec!["{}"; 100].join(","));
        assert_eq!(fixture.decode(body), batch_of(0, 100));
        assert_eq!(fixture.decoder.refusals().len(), REFUSALS_LISTED_MAX);
    }

    #[test]
    fn a_broken_body_adds_nothing() {
        for (body, offset) in [
            (r#"[{"cpu":1},{"cpu":2}"#, 20),
            (r#"[{"cpu":1},]"#, 11),
            (r#"[{"cpu":1} {"cpu":2}]"#, 11),
            (r#"[{"cpu":1}] x"#, 12),
            (r#"{"cpu":1} {"cpu":2}"#, 10),
            (r#"{"cpu":1"#, 8),
            (r#"{"metrics":[{"cpu":1}],"x":tru}"#, 27),
            ("hello", 0),
        ] {
            let mut fixture = Fixture::new(1_000);
            let kept = fixture.decode(r#"{"cpu":5}"#);
            assert_eq!(kept, ONE);
            assert_eq!(fixture.decode(body), Err(BodyError::Malformed { offset }), "{body}");
            assert_eq!(fixture.batch.len(), 1);
            assert_eq!(fixture.decoder.refusals(), []);
        }
    }

    #[test]
    fn a_scalar_is_no_sample() {
        for body in ["5", " \"x\" ", "true", "null", "-1e400"] {
            assert_eq!(decode(body), Err(BodyError::NotAnObject), "{body}");
        }
        for body in ["5 5", "tru", "\"x", "01"] {
            assert!(matches!(decode(body), Err(BodyError::Malformed { .. })), "{body}");
        }
    }

    #[test]
    fn an_empty_body_is_empty() {
        for body in ["", " \r\n\t", "[]", " [ ] ", r#"{"metrics":[]}"#, "\u{feff}", "\u{feff}\n"] {
            assert_eq!(decode(body), Err(BodyError::Empty), "{body}");
        }
    }

    #[test]
    fn lines_are_recognized_by_their_shape() {
        assert_eq!(decode("{\"cpu\":1}\r\n\r\n {\"cpu\":2} \r\n"), batch_of(2, 0));
        assert_eq!(decode("{\"cpu\":1}\nx\n{\"cpu\":2"), batch_of(1, 2));
        assert_eq!(decode("x\n{\"cpu\":2}"), Err(BodyError::Malformed { offset: 0 }));
        assert_eq!(decode("{\"cpu\":\n1}\n"), ONE);
        let mut fixture = Fixture::new(10);
        let decoded = fixture.decoder.decode(
            &mut br#"{"cpu":1}"#.to_vec(),
            Format::JsonLines,
            NOW,
            &mut fixture.batch,
        );
        assert_eq!(decoded, batch_of(1, 0));
    }

    #[test]
    fn a_wrapper_may_have_other_fields() {
        assert_eq!(
            decode(r#"{"a":{"metrics":1},"metrics":[{"cpu":1},{}],"b":[1,2]}"#),
            batch_of(1, 1)
        );
        assert_eq!(decode(r#"{"metrics":7}"#), ONE);
        assert_eq!(decode(r#"{"metri\u0063s" : [{"cpu":1}]}"#), batch_of(1, 0));
    }

    #[test]
    fn nesting_may_be_as_deep_as_there_may_be_values() {
        for depth in [40, 10_000, 16_384 - 2] {
            let nested = format!(r#"{{"x":{}{},"cpu":1}}"#, "[".repeat(depth), "]".repeat(depth));
            assert_eq!(decode(nested), ONE, "{depth}");
        }
        let mut fixture = Fixture::new(10);
        let depth = 1 << 20;
        let nested = format!(r#"{{"x":{}{},"cpu":1}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(fixture.decode(nested).map(|decoded| decoded.invalid), Ok(1));
        assert_eq!(fixture.messages(), ["more than 16384 values in one sample"]);
        assert!(matches!(decode("[".repeat(depth)), Err(BodyError::Malformed { .. })));
        assert!(matches!(decode("{\"a\":".repeat(depth)), Err(BodyError::Malformed { .. })));
    }

    #[test]
    fn one_sample_may_fill_a_body() {
        let megabytes = 8 << 20;
        assert_eq!(decode(format!(r#"{{"x":"{}","cpu":1}}"#, "é".repeat(megabytes / 2))), ONE);
        assert_eq!(decode(format!(r#"{}{{"cpu":1}}"#, " ".repeat(megabytes))), ONE);
        assert_eq!(decode(format!(r#"{{"cpu":{}1}}"#, " ".repeat(megabytes))), ONE);
    }

    #[test]
    fn a_body_holds_no_more_samples_than_a_queue() {
        let body = |count| format!("[{}]", vec![r#"{"cpu":1}"#; count].join(","));
        assert_eq!(decode(body(QUEUE_SAMPLES_MAX)), batch_of(QUEUE_SAMPLES_MAX, 0));
        assert_eq!(decode(body(QUEUE_SAMPLES_MAX + 1)), Err(BodyError::TooManySamples));
        let lines = "{}\n".repeat(QUEUE_SAMPLES_MAX + 1);
        assert_eq!(decode(lines), Err(BodyError::TooManySamples));
    }

    #[test]
    fn a_sample_has_at_most_32_metrics() {
        let wide = |count: usize| {
            let fields: Vec<_> = (0..count).map(|i| format!(r#""m{i}":{i}"#)).collect();
            format!("{{{}}}", fields.join(","))
        };
        assert_eq!(decode(wide(READINGS_MAX)), ONE);
        let mut fixture = Fixture::new(1_000);
        assert_eq!(fixture.decode(wide(READINGS_MAX + 1)).map(|decoded| decoded.invalid), Ok(1));
        assert_eq!(fixture.messages(), ["more than 32 metrics in one sample"]);
    }

    #[test]
    fn a_sample_without_room_is_refused_with_the_limit() {
        let mut fixture = Fixture::new(2);
        let body =
            r#"[{"device":"a","cpu":1},{"device":"b","cpu":1,"rps":1},{"device":"b","rps":2}]"#;
        let decoded = fixture.decode(body).expect("a good body");
        assert_eq!((decoded.accepted, decoded.invalid, decoded.unroomed), (2, 0, 1));
        let refusal = &fixture.decoder.refusals()[0];
        assert_eq!((refusal.index, refusal.status, refusal.code), (1, 429, "too_many_streams"));
        assert!(refusal.message.contains("--max-streams"));
    }

    #[test]
    fn a_metric_without_room_is_refused_alone() {
        let mut fixture = Fixture::new(1 << 20);
        let mut name = 0;
        while fixture.registry.metrics() < METRICS_MAX {
            let device = format!("d{}", name / 4_000);
            let names: Vec<_> = (name..name + READINGS_MAX).map(|n| format!("m{n}")).collect();
            let mut metrics: Vec<_> = names.iter().map(|name| (&**name, None)).collect();
            fixture
                .registry
                .admit(NameSource::Client, Some(&device), &mut metrics, 5)
                .expect("some have room");
            name += READINGS_MAX;
        }
        let body = r#"[{"device":"late","cpu":1,"x":2,"m7":3,"y":4},{"x":5},{"rps":6}]"#;
        let decoded = fixture.decode(body).expect("a good body");
        assert_eq!((decoded.accepted, decoded.unnamed, decoded.left_out_values), (2, 1, 3));
        assert_eq!((decoded.rejected(), decoded.is_whole()), (1, false));
        let values = |(_, readings): (_, &[Reading])| readings.iter().map(|r| r.value).sum::<f64>();
        assert_eq!(fixture.batch.iter().map(values).collect::<Vec<_>>(), [4.0, 6.0]);
        let refusals = fixture.decoder.refusals();
        let listed: Vec<_> = refusals.iter().map(|r| (r.index, r.status, r.code)).collect();
        assert_eq!(
            listed,
            [
                (0, 429, "too_many_metrics"),
                (0, 429, "too_many_metrics"),
                (1, 429, "too_many_metrics")
            ]
        );
        assert!(
            refusals[1].message.starts_with("no room for the metric y: the limit is 65536 names")
        );
        assert!(fixture.decode(r#"{"cpu":1,"x":2}"#).is_ok_and(|decoded| decoded.accepted == 1));
        assert!(fixture.decode(r#"{"x":2}"#).is_ok_and(|decoded| decoded.unnamed == 1));
    }

    #[test]
    fn an_evicted_metric_is_not_found_in_the_cache() {
        let mut fixture = Fixture::new(3);
        let mut post = |body: &str, second: u64| fixture.post(body, second);
        let old = post(r#"{"device":"a","cpu":1,"x":1,"y":1}"#, 1);
        assert_eq!(post(r#"{"device":"a","cpu":1,"x":1}"#, 40), old[..2]);
        // y has been silent, and with it goes its stream: there is room for another one.
        let new = post(r#"{"device":"a","cpu":1,"x":1,"z":1}"#, 62);
        assert_eq!((&new[..2], new[2].slot(), new[2].generation()), (&old[..2], old[2].slot(), 1));
        assert_eq!(post(r#"{"device":"a","y":1}"#, 63), new[..0]);
        assert_eq!(post(r#"{"device":"a","z":1}"#, 63), new[2..]);
    }

    /// What a worker knows of a device has the bit of the evicted one.
    #[test]
    fn the_metric_after_an_evicted_one_is_a_stream_of_its_own() {
        let mut fixture = Fixture::new(3);
        let mut post = |body: &str, second: u64| fixture.post(body, second);
        let old = post(r#"{"device":"a","cpu":1,"x":1,"y":1}"#, 1);
        assert_eq!(post(r#"{"device":"a","cpu":1,"x":1}"#, 40), old[..2]);
        let new = post(r#"{"device":"b","z":1}"#, 62);
        assert_eq!(new[0].slot(), old[2].slot());
        assert_eq!(post(r#"{"device":"a","z":1}"#, 63), [], "there is no room for it");
    }

    /// Whichever of its metrics a device has sent before, and whoever else has sent them.
    #[test]
    fn each_metric_that_is_new_to_a_device_is_a_stream() {
        let mut fixture = Fixture::new(1_000);
        let mut post = |device: &str, metrics: &[usize]| {
            for some in metrics.chunks(32) {
                let metrics: Vec<_> = some.iter().map(|each| format!(r#""m{each}":1"#)).collect();
                let sample = format!(r#"{{"device":"{device}",{}}}"#, metrics.join(","));
                assert_eq!(fixture.decode(sample), ONE);
            }
            fixture.registry.streams()
        };
        // Those with a bit, beside `cpu` and `rps`.
        let all: Vec<usize> = (0..62).collect();
        assert_eq!(post("a", &all), 62);
        assert_eq!((post("b", &all[..1]), post("b", &all[1..2])), (63, 64));
        assert_eq!(post("b", &all[..2]), 64);
        assert_eq!(post("c", &all[1..]), 125);
        let mut post_more = |device: &str, metric: &str| {
            let sample = format!(r#"{{"device":"{device}","{metric}":1}}"#);
            assert_eq!(fixture.decode(sample), ONE);
            fixture.registry.streams()
        };
        assert_eq!((post_more("c", "cpu"), post_more("c", "rps")), (126, 127));
        assert_eq!(post_more("c", "m0"), 128, "it is the only one that was not known");
    }

    #[test]
    fn metrics_without_a_bit_are_known_until_their_device_is_gone() {
        let mut fixture = Fixture::new(1_000);
        let name = |each: usize| format!(r#""m{each}":1"#);
        let samples: Vec<String> = (0..4)
            .map(|part| {
                let metrics: Vec<_> = (part * 25..part * 25 + 25).map(name).collect();
                format!(r#"{{"device":"a",{}}}"#, metrics.join(","))
            })
            .collect();
        for round in 0..3 {
            for sample in &samples {
                assert_eq!(fixture.decode(sample), ONE);
            }
            assert_eq!(fixture.registry.streams(), 100);
            let read = fixture.batch.iter().flat_map(|(_, readings)| readings);
            assert_eq!(read.map(|reading| reading.metric.slot()).max(), Some(101));
            let device = fixture.registry.find_device("a");
            assert!(fixture.batch.iter().all(|(sample, _)| sample.device == device));
            fixture.batch.clear();
            if round == 1 {
                assert!(fixture.registry.forget_device("a"));
                assert_eq!(fixture.registry.streams(), 0);
            }
        }
    }

    #[test]
    fn an_evicted_device_is_not_found_in_the_cache() {
        let mut fixture = Fixture::new(1);
        let post = |fixture: &mut Fixture, device: &str, second| {
            fixture.post(&format!(r#"{{"device":"{device}","cpu":1}}"#), second);
            fixture.batch.iter().next().and_then(|(sample, _)| sample.device)
        };
        let a = post(&mut fixture, "a", 0).expect("room");
        assert_eq!(post(&mut fixture, "a", 30), Some(a));
        assert_eq!(post(&mut fixture, "b", 90), None);
        let b = post(&mut fixture, "b", 91).expect("a was silent");
        assert_eq!((b.index, b.generation), (a.index, a.generation + 1));
        assert_eq!(post(&mut fixture, "a", 92), None);
        let again = post(&mut fixture, "a", 200).expect("b was silent");
        assert_eq!(again.generation, b.generation + 1);
    }

    /// A value that is ignored is checked, and has a bound of its own.
    #[test]
    fn an_ignored_value_has_as_many_values_as_a_sample() {
        let body = |values: usize| {
            let items = vec!["0"; values].join(",");
            format!(r#"{{"metrics":[{{"v":1}}],"other":[{items}]}}"#)
        };
        assert_eq!(decode(body(16_384)), batch_of(1, 0));
        assert!(matches!(decode(body(16_385)), Err(BodyError::Malformed { .. })));
    }

    #[test]
    fn formats_of_points_count_their_values() {
        assert!(!Format::Json.is_points() && !Format::JsonLines.is_points());
        assert!(Format::RemoteWrite1.is_points() && Format::Arrow.is_points());
    }

    /// Workers that share their tables have one state of each counter.
    #[test]
    fn counters_of_shared_tables_go_on_at_another_worker() {
        let registry = Arc::new(Registry::new(100, 60));
        let tables = Arc::new(PointTables::new(SeriesRules::default(), 100));
        let mut values = Vec::new();
        for second in [0, 10, 20] {
            let mut decoder = Decoder::new(registry.clone());
            decoder.share(tables.clone());
            let mut batch = Batch::default();
            let mut body = format!(
                "hits_total {} 17351000{second:02}000
",
                3 * second
            )
            .into_bytes();
            let format = Format::Exposition(Exposition { seconds: false, strict: true });
            decoder.decode(&mut body, format, NOW, &mut batch).expect("a line");
            values.extend(batch.iter().flat_map(|(_, readings)| readings).map(|r| r.value));
        }
        assert_eq!(values, [3.0, 3.0]);
    }

    /// Names that are all in the caches, of a stream that is not.
    #[test]
    fn a_known_metric_of_a_known_device_is_a_new_stream_once() {
        let mut fixture = Fixture::new(1_000);
        fixture.decode(r#"[{"device":"a","x":1},{"device":"b","y":2}]"#).expect("a batch");
        assert_eq!(fixture.registry.streams(), 2);
        for _ in 0..2 {
            fixture.decode(r#"[{"device":"a","y":3}]"#).expect("a batch");
            assert_eq!(fixture.registry.streams(), 3);
        }
    }
}
