//! Bodies and samples of other formats: known by their shape, and refused with the path that takes them.

use simd_json::{Node, StaticNode};

use super::tape::FieldsOf;
use crate::decode::fault::ForeignFormat;

/// Bytes of a text that are looked at.
const LOOKED_AT_BYTES: usize = 1024;
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// The kind of a value, as far as it tells formats apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Object,
    Array,
    Nothing,
}

impl Kind {
    fn of(node: &Node<'_>) -> Self {
        match node {
            Node::String(_) => Self::Text,
            Node::Object { .. } => Self::Object,
            Node::Array { .. } => Self::Array,
            Node::Static(StaticNode::Null | StaticNode::Bool(_)) => Self::Nothing,
            Node::Static(_) => Self::Number,
        }
    }
}

/// The format of a JSON object that is no sample; None if it may be one.
///
/// `has_others` tells of a name whether the sample has numbers besides it.
pub(super) fn shape_of(
    tape: &[Node<'_>],
    has_others: impl Fn(&str) -> bool,
) -> Option<ForeignFormat> {
    let of = |wanted: &str| {
        let found = FieldsOf::new(tape).filter(|(name, _)| *name == wanted).last();
        found.map_or(Kind::Nothing, |(_, value)| Kind::of(&value[0]))
    };
    let is_vectors = || {
        ["gauge", "counter", "set", "distribution", "aggregated_histogram", "aggregated_summary"]
            .iter()
            .any(|value| of(value) == Kind::Object)
    };
    let (format, own) = if of("resourceMetrics") == Kind::Array {
        (ForeignFormat::Otlp, "")
    } else if of("resourceSpans") == Kind::Array || of("resourceLogs") == Kind::Array {
        (ForeignFormat::OtlpOther, "")
    } else if of("name") == Kind::Text && of("fields") == Kind::Object {
        (ForeignFormat::Telegraf, "")
    } else if of("plugin") == Kind::Text && of("values") == Kind::Array {
        (ForeignFormat::Collectd, "interval")
    } else if of("name") == Kind::Text && is_vectors() {
        (ForeignFormat::Vector, "interval_ms")
    } else if of("metric") == Kind::Text && matches!(of("value"), Kind::Number | Kind::Text) {
        (ForeignFormat::OpenTsdb, "value")
    } else if of("metric") == Kind::Text && of("points") == Kind::Array
        || of("series") == Kind::Array
    {
        (ForeignFormat::Datadog, "")
    } else if of("metric") == Kind::Object
        && (of("value") == Kind::Array || of("values") == Kind::Array)
        || of("status") == Kind::Text && of("data") == Kind::Object
    {
        (ForeignFormat::PrometheusApi, "")
    } else if of("timeseries") == Kind::Array {
        (ForeignFormat::RemoteWrite, "")
    } else {
        return None;
    };
    (!has_others(own)).then_some(format)
}

/// The format of a body that is not JSON; None if it is no format that we know.
pub(super) fn text_of(body: &[u8]) -> Option<ForeignFormat> {
    if body.starts_with(GZIP) || body.starts_with(ZSTD) {
        return Some(ForeignFormat::Compressed);
    }
    let start = &body[..body.len().min(LOOKED_AT_BYTES)];
    let is_control = |byte: &u8| *byte < b' ' && !byte.is_ascii_whitespace();
    if start.iter().any(is_control) {
        return Some(ForeignFormat::Binary);
    }
    let line = start.trim_ascii_start().split(|byte| *byte == b'\n').next().unwrap_or_default();
    line_of(str::from_utf8(line).ok()?.trim())
}

fn line_of(line: &str) -> Option<ForeignFormat> {
    if line.starts_with("# HELP ") || line.starts_with("# TYPE ") {
        return Some(ForeignFormat::Exposition);
    }
    if line.starts_with("PUTVAL ") {
        return Some(ForeignFormat::CollectdCommand);
    }
    if line.starts_with("put ") {
        return Some(ForeignFormat::OpenTsdb);
    }
    if let Some((name, value)) = line.split_once(':')
        && let Some((value, kind)) = value.split_once('|')
        && !name.is_empty()
        && is_number(value)
        && ["c", "g", "ms", "h", "d"].contains(&kind.split('|').next().unwrap_or_default())
    {
        return Some(ForeignFormat::StatsD);
    }
    if !line.starts_with(|first: char| first.is_alphabetic() || matches!(first, '_' | ':')) {
        return None;
    }
    let (labelled, rest) = match line.split_once('}') {
        Some((name, rest)) if name.contains('{') => (true, rest),
        _ => (false, line.split_once(' ')?.1),
    };
    let words: Vec<&str> = rest.split_whitespace().collect();
    match words[..] {
        [value] | [value, _] if labelled && is_number(value) => Some(ForeignFormat::Exposition),
        [value] if is_number(value) => Some(ForeignFormat::Exposition),
        [value, moment] if is_number(value) && moment.len() > 10 && is_number(moment) => {
            Some(ForeignFormat::Exposition)
        }
        [value, moment] if is_number(value) && is_number(moment) => Some(ForeignFormat::Graphite),
        [fields, ..]
            if fields
                .split_once('=')
                .is_some_and(|(name, value)| !name.is_empty() && !value.is_empty()) =>
        {
            Some(ForeignFormat::Influx)
        }
        _ => None,
    }
}

fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_known_by_their_first_line() {
        for (body, expected) in [
            (
                &b"cpu,host=web01 usage_idle=91.5,usage_user=3i 1735100000000000000\n"[..],
                ForeignFormat::Influx,
            ),
            (b"weather,location=us-midwest temperature=82", ForeignFormat::Influx),
            (b"servers.web01.cpu 42.5 1735100000\n", ForeignFormat::Graphite),
            (b"page.views:1|c", ForeignFormat::StatsD),
            (b"fuel.level:0.5|g|#host:a\n", ForeignFormat::StatsD),
            (b"glork:320|ms|@0.1", ForeignFormat::StatsD),
            (b"# HELP up x\n", ForeignFormat::Exposition),
            (b"node_load1 0.52\n", ForeignFormat::Exposition),
            (
                b"node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} 4.5e3 1735100000123\n",
                ForeignFormat::Exposition,
            ),
            (
                b"PUTVAL web01/load/load interval=10.000 1735100000.123:0.1:0.2:0.3\r\n",
                ForeignFormat::CollectdCommand,
            ),
            (b"put sys.cpu.nice 1735100000 18 host=web01", ForeignFormat::OpenTsdb),
            (b"\x0a\x12\x0a\x05", ForeignFormat::Binary),
            (b"\x1f\x8b\x08\0", ForeignFormat::Compressed),
            (b"\x28\xb5\x2f\xfd\x04", ForeignFormat::Compressed),
        ] {
            assert_eq!(text_of(body), Some(expected), "{}", String::from_utf8_lossy(body));
        }
        for body in [
            &b"hello"[..],
            b"hello world",
            b"",
            b"<xml>",
            b"a: b|c",
            b"cpu=1&rps=2",
            b"a =",
            b"\xff\xfe x",
        ] {
            assert_eq!(text_of(body), None, "{}", String::from_utf8_lossy(body));
        }
    }

    fn shape(text: &str, has_others: bool) -> Option<ForeignFormat> {
        let mut bytes = text.as_bytes().to_vec();
        let tape = simd_json::to_tape(&mut bytes).expect("JSON");
        shape_of(&tape.0, |_| has_others)
    }

    #[test]
    fn objects_are_known_by_all_of_their_shape() {
        for (text, expected) in [
            (r#"{"resourceMetrics":[]}"#, ForeignFormat::Otlp),
            (r#"{"resourceSpans":[]}"#, ForeignFormat::OtlpOther),
            (r#"{"resourceLogs":[]}"#, ForeignFormat::OtlpOther),
            (r#"{"name":"cpu","fields":{}}"#, ForeignFormat::Telegraf),
            (r#"{"plugin":"cpu","values":[1]}"#, ForeignFormat::Collectd),
            (r#"{"name":"up","gauge":{}}"#, ForeignFormat::Vector),
            (r#"{"name":"up","aggregated_summary":{}}"#, ForeignFormat::Vector),
            (r#"{"metric":"up","value":1}"#, ForeignFormat::OpenTsdb),
            (r#"{"metric":"up","value":"1"}"#, ForeignFormat::OpenTsdb),
            (r#"{"metric":"up","points":[]}"#, ForeignFormat::Datadog),
            (r#"{"series":[]}"#, ForeignFormat::Datadog),
            (r#"{"metric":{},"value":[1]}"#, ForeignFormat::PrometheusApi),
            (r#"{"metric":{},"values":[1]}"#, ForeignFormat::PrometheusApi),
            (r#"{"status":"success","data":{}}"#, ForeignFormat::PrometheusApi),
            (r#"{"timeseries":[]}"#, ForeignFormat::RemoteWrite),
            // The last one of a name counts.
            (r#"{"series":1,"series":[]}"#, ForeignFormat::Datadog),
        ] {
            assert_eq!(shape(text, false), Some(expected), "{text}");
            assert_eq!(shape(text, true), None, "{text} beside numbers");
        }
        for text in [
            r#"{"resourceMetrics":1,"resourceSpans":{},"resourceLogs":null}"#,
            r#"{"name":"cpu"}"#,
            r#"{"fields":{}}"#,
            r#"{"name":1,"fields":{}}"#,
            r#"{"plugin":"cpu"}"#,
            r#"{"values":[1]}"#,
            r#"{"plugin":"cpu","values":{}}"#,
            r#"{"gauge":{}}"#,
            r#"{"name":"up","gauge":1}"#,
            r#"{"metric":"up"}"#,
            r#"{"value":1}"#,
            r#"{"metric":"up","value":true}"#,
            r#"{"metric":"up","value":[1]}"#,
            r#"{"points":[]}"#,
            r#"{"metric":{}}"#,
            r#"{"metric":1,"points":[]}"#,
            r#"{"value":[1]}"#,
            r#"{"status":"success"}"#,
            r#"{"data":{}}"#,
            r#"{"status":1,"data":{}}"#,
            r#"{"timeseries":1,"series":{}}"#,
            r#"{"cpu":1}"#,
        ] {
            assert_eq!(shape(text, false), None, "{text}");
        }
    }

    #[test]
    fn lines_are_known_by_all_of_their_shape() {
        for line in [
            ":1|c",
            "up:x|c",
            "up:1|x",
            "up:1",
            "up 1 2 3",
            "up one",
            "up 1 one",
            "up{a=\"b\"} one",
            "up{a=\"b\"} 1 2 3",
            "up} 1 x",
            "1up 1",
            "up =1",
            "up a=",
        ] {
            assert_eq!(line_of(line), None, "{line}");
        }
        for (line, expected) in [
            ("_up 1", ForeignFormat::Exposition),
            (":up 1", ForeignFormat::Exposition),
            ("up{a=\"b\"} 1", ForeignFormat::Exposition),
            ("up{a=\"b\"} 1 17", ForeignFormat::Exposition),
            ("up 1 17351000001", ForeignFormat::Exposition),
            ("up 1 1735100000", ForeignFormat::Graphite),
            ("up a=1", ForeignFormat::Influx),
        ] {
            assert_eq!(line_of(line), Some(expected), "{line}");
        }
        let long = ["x".repeat(LOOKED_AT_BYTES), "\0".into()].concat();
        assert_eq!(text_of(long.as_bytes()), None, "a control character past the bytes looked at");
        assert_eq!(text_of(b"a\0"), Some(ForeignFormat::Binary));
        assert_eq!(text_of(b"\t\r\n _up 1\n"), Some(ForeignFormat::Exposition));
    }
}
