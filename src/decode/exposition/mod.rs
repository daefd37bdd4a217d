//! The text exposition that clients push: Prometheus 0.0.4 and 1.0.0, and OpenMetrics 1.0.
//!
//! - <https://prometheus.io/docs/instrumenting/exposition_formats/>
//! - <https://prometheus.io/docs/specs/om/open_metrics_spec/>
//!
//! A `# TYPE` line gives the kind of the values that follow it and belong to its family. Exemplars are not used.

mod expected;
mod family;
mod grouping;
mod line;
mod time;

use memchr::memchr;

use self::expected::{ExpectedLine, KeyScopes};
use self::family::Family;
use self::grouping::{KEY_SEPARATOR, TAG};
use self::line::{Line, SampleLine, SeriesText};
use self::time::time;
use super::admission::Decoded;
use super::fault::BodyError;
use super::labels::{SeriesDescription, ValueKind};
use super::points::{PointFault, PointReader};
use super::series_cache::{Scope, SeriesKey};
use sigmad_sample::METRIC_BYTES_MAX;

pub use self::grouping::Grouping;

/// Bytes of a series as it is written, past which it is refused without a look at its labels: escapes double some, and
/// one is the device.
const SERIES_BYTES_MAX: usize = 8 * METRIC_BYTES_MAX;

const NOT_A_LINE: PointFault = PointFault::Syntax(
    "the line is not in the text exposition: name{label=\"value\"} value [time]",
);

/// How a body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposition {
    /// Times are seconds, as in OpenMetrics; milliseconds without.
    pub seconds: bool,
    /// A line that cannot be read ends the body, of which nothing is kept; without, it is refused alone.
    pub strict: bool,
}

/// What one worker keeps from body to body.
#[derive(Debug, Default)]
pub(super) struct Parser {
    pub(super) grouping: Grouping,
    key: Vec<u8>,
    unescaped: Vec<u8>,
}

/// Reads a body.
pub(super) fn read(
    parser: &mut Parser,
    mut points: PointReader<'_>,
    body: &[u8],
    exposition: Exposition,
) -> Result<Decoded, BodyError> {
    let read = read_lines(parser, &mut points, body, exposition);
    points.end(read)
}

fn read_lines(
    parser: &mut Parser,
    points: &mut PointReader<'_>,
    body: &[u8],
    exposition: Exposition,
) -> Result<(), BodyError> {
    let scopes = KeyScopes::new(&parser.grouping, points);
    let mut family = Family::default();
    let mut recent = None;
    let (mut at, mut number) = (0, 0);
    while at < body.len() {
        points.set_index(number);
        number += 1;
        let rest = &body[at..];
        let (cache, seconds) = (points.cache(), exposition.seconds);
        let expected = ExpectedLine::read(rest, cache, scopes, &family, seconds, &mut recent);
        if let Some(line) = expected
            && points.value_at(line.index, line.time, line.value)?
        {
            at += line.length + 1;
            continue;
        }
        let line = &rest[..memchr(b'\n', rest).unwrap_or(rest.len())];
        let is_read = match Line::read(line) {
            Ok(Line::Other) => true,
            Ok(Line::Type { family: name, kind }) => {
                family = Family::read(name, kind);
                true
            }
            Ok(Line::Sample(sample)) => take(parser, points, (family, scopes), sample, exposition)?,
            Err(_) => false,
        };
        if !is_read && exposition.strict {
            return Err(BodyError::Malformed { offset: at });
        }
        if !is_read {
            points.refuse(NOT_A_LINE);
        }
        at += line.len() + 1;
    }
    Ok(())
}

/// Gives one value to `points`; false if its line is not in the format, and not refused yet.
fn take(
    parser: &mut Parser,
    points: &mut PointReader<'_>,
    (family, scopes): (Family<'_>, KeyScopes),
    sample: SampleLine<'_>,
    exposition: Exposition,
) -> Result<bool, BodyError> {
    let time = match sample.timestamp.map(|text| time(text, exposition.seconds)) {
        None => Ok(None),
        Some(Some(time)) => time,
        Some(None) => return Ok(false),
    };
    let time = match time {
        Ok(time) => time,
        Err(fault) => {
            points.refuse(fault);
            return Ok(true);
        }
    };
    let whole = sample.series.whole;
    if whole.len() > SERIES_BYTES_MAX {
        points.refuse(PointFault::SeriesTooLong);
        return Ok(true);
    }
    let Parser { grouping, key, unescaped } = parser;
    let kind = family.kind_of(sample.series.name);
    let key = match scopes.of(kind) {
        Some(scope) => SeriesKey { scope, bytes: whole },
        None => SeriesKey { scope: Scope::TAGGED, bytes: spell(key, kind, grouping, whole) },
    };
    let mut is_line = true;
    points.keyed_value(key, time, sample.value, |description| {
        let described = describe(description, sample.series, family, grouping, unescaped);
        is_line = described.is_some();
        described.unwrap_or(Err(NOT_A_LINE))
    })?;
    Ok(is_line || !exposition.strict)
}

/// Writes a key that has the labels of the group.
#[cold]
fn spell<'k>(
    key: &'k mut Vec<u8>,
    kind: ValueKind,
    grouping: &Grouping,
    series: &[u8],
) -> &'k [u8] {
    key.clear();
    key.extend_from_slice(&[TAG, kind as u8]);
    key.extend_from_slice(&grouping.text);
    key.push(KEY_SEPARATOR);
    key.extend_from_slice(series);
    key
}

/// None if the labels are not in the format.
#[cold]
fn describe(
    description: &mut SeriesDescription,
    series: SeriesText<'_>,
    family: Family<'_>,
    grouping: &Grouping,
    unescaped: &mut Vec<u8>,
) -> Option<Result<(), PointFault>> {
    let mut described = Ok(());
    let mut has_name = !series.name.is_empty();
    if has_name {
        description.name(series.name);
        description.kind(family.kind_of(series.name));
    }
    let read = series.each_label(unescaped, |name, value| match value {
        Some(value) if !grouping.has(name) => description.label(name, value),
        Some(_) => {}
        None if std::mem::replace(&mut has_name, true) => described = Err(PointFault::LabelTwice),
        None => {
            description.name(name);
            description.kind(family.kind_of(name));
        }
    });
    read.ok()?;
    for (name, value) in grouping.iter() {
        description.label(name, value);
    }
    Some(described)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::{Decoder, Format};
    use super::*;
    use crate::registry::Registry;
    use sigmad_clock::Now;
    use sigmad_sample::Batch;

    const NOW: Now = Now { monotonic_ns: 5_000_000_000, wall_us: 1_735_100_000_000_000 };
    const STRICT: Exposition = Exposition { seconds: false, strict: true };
    const LENIENT: Exposition = Exposition { seconds: false, strict: false };

    struct Server {
        registry: Arc<Registry>,
        decoder: Decoder,
    }

    impl Server {
        fn new() -> Self {
            let registry = Arc::new(Registry::new(100_000, 3_600));
            Self { decoder: Decoder::new(registry.clone()), registry }
        }

        /// Device, series, value and microseconds.
        fn read(
            &mut self,
            body: &str,
            exposition: Exposition,
        ) -> Result<Vec<(String, String, f64, i64)>, BodyError> {
            let mut batch = Batch::default();
            let format = Format::Exposition(exposition);
            self.decoder.decode(&mut body.as_bytes().to_vec(), format, NOW, &mut batch)?;
            let mut values = Vec::new();
            for (sample, readings) in batch.iter() {
                let device = sample.device.and_then(|id| self.registry.device_name(id));
                let device = device.as_deref().unwrap_or_default();
                for reading in readings {
                    let series = self.registry.metric_name(reading.metric).expect("just given");
                    let (value, time) = (reading.value, sample.timestamp_us);
                    values.push((device.to_owned(), series.to_string(), value, time));
                }
            }
            Ok(values)
        }
    }

    #[test]
    fn types_make_counters_and_groups_replace_labels() {
        let mut server = Server::new();
        let grouping = server.decoder.grouping();
        grouping.push(b"job", b"backup");
        grouping.push(b"instance", b"web-1");
        grouping.push(b"removed", b"");
        let body = |files: u32, second: u32| {
            format!(
                "# HELP seconds Of a backup.\n# TYPE seconds gauge\nseconds{{instance=\"own\",removed=\"x\",disk=\"a\"}} 4{second}\n\
                 # TYPE files counter\nfiles {files} 17351000{second:02}000\n# TYPE size summary\nsize{{quantile=\"0.5\"}} 7\n"
            )
        };
        let label = |name: &str, rest: &str| format!("{name}{{{rest}}}");
        let now = NOW.wall_us;
        let web = || "web-1".to_owned();
        let gauge = |value| (web(), label("seconds", r#"disk="a",job="backup""#), value, now);
        let median = (web(), label("size", r#"job="backup",quantile="0.5""#), 7.0, now);
        let first = server.read(&body(10, 0), STRICT);
        assert_eq!(first, Ok(vec![gauge(40.0), median.clone()]));
        let rate = (web(), label("files", r#"job="backup""#), 20.0, now + 2_000_000);
        assert_eq!(server.read(&body(50, 2), STRICT), Ok(vec![gauge(42.0), rate, median]));
    }

    #[test]
    fn a_wrong_line_ends_a_push_and_not_an_import() {
        let body = "a 1\nb{x=\"} 2\nc{x=y} 3\nd 4 -5\ne 5\n";
        let error = Server::new().read(body, STRICT);
        assert_eq!(error, Err(BodyError::Malformed { offset: 4 }));
        let mut server = Server::new();
        for _ in 0..2 {
            let values = server.read(body, LENIENT).expect("read");
            let names: Vec<_> = values.iter().map(|(_, series, ..)| &**series).collect();
            assert_eq!(names, ["a", "e"]);
            let lines: Vec<_> = server.decoder.refusals().iter().map(|each| each.index).collect();
            assert_eq!(lines, [1, 2, 3]);
        }
        let labels_alone = Server::new().read("c{x=y} 3\n", STRICT);
        assert_eq!(labels_alone, Err(BodyError::Malformed { offset: 0 }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A line that begins with a space is never the expected one, and means the same.
        #[test]
        fn the_lines_that_are_expected_mean_the_same(
            lines in vec(
                "(# TYPE (a|a_b) (gauge|counter|summary)|(a|a_b|a_b_created|a_sum|\\{\"a\"\\}|)(\\{(b=\"[c} ]\"(,d=\"e\")?)?\\})?\
                 [ \t]{0,2}(-?[0-9]{1,9}(\\.[0-9]{0,3})?|NaN|1e3|x)( (173510000[0-9]000|-1|x|5 6))?[ \r]?)",
                0..20,
            ),
            has_group in any::<bool>(),
        ) {
            let [mut expecting, mut searching] = [(); 2].map(|()| Server::new());
            for server in [&mut expecting, &mut searching] {
                if has_group {
                    server.decoder.grouping().push(b"job", b"backup");
                }
            }
            let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let indented: String = lines.iter().map(|line| format!(" {line}\n")).collect();
            for _ in 0..3 {
                prop_assert_eq!(expecting.read(&body, LENIENT), searching.read(&indented, LENIENT));
                prop_assert_eq!(expecting.decoder.refusals(), searching.decoder.refusals());
                prop_assert_eq!(expecting.decoder.values(), searching.decoder.values());
            }
        }
    }

    #[test]
    fn openmetrics_has_seconds() {
        let open = Exposition { seconds: true, strict: true };
        let body = "# TYPE a gauge\na 1 1735100000.25\na 2 # {} 1\n# EOF\n";
        let series = || "a".to_owned();
        let expected = vec![
            (String::new(), series(), 1.0, 1_735_100_000_250_000),
            (String::new(), series(), 2.0, NOW.wall_us),
        ];
        assert_eq!(Server::new().read(body, open), Ok(expected));
        for time in ["x", "1e", "--1"] {
            let error = Server::new().read(&format!("a 1 {time}\n"), open);
            assert_eq!(error, Err(BodyError::Malformed { offset: 0 }), "{time}");
        }
        for (exposition, time) in
            [(open, "-1"), (open, "1e30"), (STRICT, "-1"), (STRICT, "9223372036854775807")]
        {
            let mut server = Server::new();
            assert_eq!(server.read(&format!("a 1 {time}\n"), exposition), Ok(vec![]), "{time}");
            assert_eq!(server.decoder.refusals().len(), 1, "{time}");
        }
    }

    /// What a node_exporter 1.5.0 said on a machine with an `eth0` and several disks.
    #[test]
    fn no_disk_or_interface_of_node_exporter_is_a_device() {
        let text = include_str!("../../../tests/senders/fixtures/node_exporter.txt");
        let mut server = Server::new();
        server.decoder.grouping().push(b"instance", b"web-1");
        let values = server.read(text, STRICT).expect("a real one");
        assert!(values.len() > 300, "{}", values.len());
        assert!(values.iter().all(|(device, ..)| device == "web-1"));
        let is_up = |(_, series, ..): &&(String, String, f64, i64)| {
            series == r#"node_network_up{device="eth0"}"#
        };
        assert_eq!(values.iter().filter(is_up).count(), 1);
        assert_eq!(server.decoder.refusals(), []);
    }

    #[test]
    fn a_body_cut_anywhere_is_read_without_harm() {
        let text = "# TYPE a counter\na_total{b=\"c\\\"\",d=\"é\"} 1e3 1735100000000 # {x=\"y\"} 1\n{\"é\"} 1\n";
        for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
            let mut server = Server::new();
            let _: Result<_, _> = server.read(&text[..end], STRICT);
            server.read(&text[..end], LENIENT).expect("lines are refused alone");
        }
        let wide: String = (0..10_000).map(|label| format!("l{label}=\"v\",")).collect();
        let long = "x".repeat(1 << 20);
        for line in [format!("a{{{wide}}} 1\nb 2\n"), format!("a{{b=\"{long}\"}} 1\nb 2\n")] {
            let mut server = Server::new();
            assert_eq!(server.read(&line, STRICT).expect("read").len(), 1);
            assert_eq!(server.decoder.refusals()[0].code, super::super::SERIES_TOO_LONG);
        }
    }
}
