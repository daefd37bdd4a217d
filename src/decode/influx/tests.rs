use proptest::prelude::*;

use super::line::FIELDS_MAX;
use super::{LineOptions, LinePrecision};
use crate::decode::Format::LineProtocol;
use crate::decode::testing::{NOW, Server, value};

const NANOSECONDS: LineOptions =
    LineOptions { precision: LinePrecision::Nanosecond, accepts_partial: true };

#[test]
fn a_line_gives_a_value_for_each_number() {
    let mut server = Server::new();
    let body = b"cpu,host=edge-17,cpu=cpu0 usage_idle=60.5,cores=8i,up=t,os=\"linux\",free=7u 1735100000000000999\n";
    let decoded = server.decode(body, LineProtocol(NANOSECONDS)).expect("a good body");
    assert_eq!((decoded.accepted, decoded.invalid), (1, 0), "one sample");
    let time = 1_735_100_000_000_000;
    let device = Some("edge-17");
    assert_eq!(
        server.values(),
        [
            value(device, r#"cpu_usage_idle{cpu="cpu0"}"#, time, 60.5),
            value(device, r#"cpu_cores{cpu="cpu0"}"#, time, 8.0),
            value(device, r#"cpu_free{cpu="cpu0"}"#, time, 7.0),
        ]
    );
    let counts = server.decoder.values();
    assert_eq!((counts.accepted, counts.skipped), (3, 2), "a boolean and a string");
}

#[test]
fn the_unit_of_times_and_their_absence() {
    let mut server = Server::new();
    for (precision, time, micros) in [
        (LinePrecision::Second, "1735100001", 1_735_100_001_000_000),
        (LinePrecision::Minute, "1", 60_000_000),
        (LinePrecision::Nanosecond, "0", 0),
        (LinePrecision::Auto, "1735100001000", 1_735_100_001_000_000),
        (LinePrecision::Nanosecond, "", NOW.wall_us),
    ] {
        let options = LineOptions { precision, ..NANOSECONDS };
        server
            .decode(format!("m v=1 {time}").as_bytes(), LineProtocol(options))
            .expect("a good body");
        assert_eq!(server.values(), [value(None, "m_v", micros, 1.0)], "{precision:?} {time}");
    }
}

#[test]
fn escapes_comments_and_line_ends() {
    let mut server = Server::new();
    let body = "# a comment\n\n  disk\\ io,host=a,path=/var\\ log\\,x\\=1 read\\ time=1 1735100000000000000\r\n\
                a=b,tag=\u{e9} v=2\r\nx,t=a\\b v=3,s=\"two\nlines, \\\"v=4\\\" \\\\\" 7000\ny v=5";
    let decoded = server.decode(body.as_bytes(), LineProtocol(NANOSECONDS)).expect("a good body");
    assert_eq!(server.refusals(), []);
    assert_eq!(decoded.invalid, 0);
    assert_eq!(
        server.values(),
        [
            value(
                Some("a"),
                r#"{"disk io_read time",path="/var log,x=1"}"#,
                1_735_100_000_000_000,
                1.0
            ),
            value(None, "{\"a=b_v\",tag=\"\u{e9}\"}", NOW.wall_us, 2.0),
            value(None, r#"x_v{t="a\\b"}"#, 7, 3.0),
            value(None, "y_v", NOW.wall_us, 5.0),
        ]
    );
}

#[test]
fn a_wrong_line_is_refused_alone_and_as_a_whole() {
    for (line, message) in [
        ("m", "missing fields"),
        ("m ", "missing fields"),
        ("m,a=b", "missing fields"),
        (",a=b v=1", "missing measurement"),
        ("m,a v=1", "missing tag value"),
        ("m,a= v=1", "missing tag value"),
        ("m,=b v=1", "missing tag key"),
        ("m,a=b=c v=1", "invalid tag format"),
        ("m,a s=\"no number\"", "missing tag value"),
        ("m =1", "missing field key"),
        ("m v", "missing field value"),
        ("m v=", "missing field value"),
        ("m v=1,", "missing fields"),
        ("m v=1,w", "missing field value"),
        ("m v=x", "invalid number"),
        ("m v=1 x", "bad timestamp"),
        ("m v=1 1 1", "bad timestamp"),
        ("m v=1 1735100000.5", "bad timestamp"),
        ("m v=1 -1", "the time must not be before 1970 or past the year 2262"),
        ("m s=\"open", "unbalanced quotes"),
        ("m s=\"a\"b", "invalid field format"),
        ("m,a=1,a=2 v=1", "two labels have the same name"),
    ] {
        let mut server = Server::new();
        let body = format!("x v=1\n{line}\n\nx v=2\n");
        let decoded =
            server.decode(body.as_bytes(), LineProtocol(NANOSECONDS)).expect("two good lines");
        assert_eq!(server.refusals(), [(1, message)], "{line}");
        assert_eq!(decoded.invalid, 1, "{line}");
        let values: Vec<_> = server.values().iter().map(|(.., value)| *value).collect();
        assert_eq!(values, [1.0, 2.0], "{line}");
    }
}

#[test]
fn nothing_is_kept_of_a_body_that_must_be_whole() {
    let whole = LineOptions { accepts_partial: false, ..NANOSECONDS };
    for (body, index) in [("x v=1\nm v=\ny", 1), ("# c\nx v=1\nm,a s=\"\"\n", 2)] {
        let mut server = Server::new();
        let decoded = server.decode(body.as_bytes(), LineProtocol(whole)).expect("lines");
        assert_eq!((decoded.accepted, decoded.invalid), (0, 1));
        assert_eq!(server.refusals()[0].0, index);
        assert_eq!(server.registry.streams(), 0);
    }
    let mut server = Server::new();
    assert_eq!(
        server.decode(b"x v=1\ny v=2", LineProtocol(whole)).map(|decoded| decoded.accepted),
        Ok(1)
    );
    assert_eq!(server.values().len(), 2, "two values of one sample");
}

#[test]
fn a_body_without_points_is_no_error() {
    for body in ["", "\n\n", "# nothing\n", " \t\r\n", "#"] {
        let decoded =
            Server::new().decode(body.as_bytes(), LineProtocol(NANOSECONDS)).expect("no error");
        assert_eq!((decoded.accepted, decoded.invalid), (0, 0), "{body:?}");
    }
}

#[test]
fn many_fields_are_a_bound_and_not_a_fault_of_their_neighbours() {
    let wide = |count: usize| {
        let fields: Vec<_> = (0..count).map(|i| format!("f{i}={i}")).collect();
        format!("m {}\nx v=1", fields.join(","))
    };
    let mut server = Server::new();
    let decoded = server.decode(wide(500).as_bytes(), LineProtocol(NANOSECONDS)).expect("lines");
    assert_eq!((server.values().len(), decoded.invalid), (501, 0));
    let decoded =
        server.decode(wide(FIELDS_MAX + 1).as_bytes(), LineProtocol(NANOSECONDS)).expect("lines");
    assert_eq!((server.values().len(), decoded.invalid), (1, 1));
    assert_eq!(server.refusals(), [(0, "more than 1024 fields")]);
}

#[test]
fn hostile_bodies_are_read_to_their_end() {
    let tags: String = (0..10_000).map(|i| format!(",t{i}=v{i}")).collect();
    let big = "x".repeat(1 << 20);
    for line in [
        format!("m{tags} v=1"),
        format!("m,t={big} v=1"),
        format!("m {big}=1"),
        format!("{big} v=1"),
        big.clone(),
        format!("m v={}x", "9".repeat(1 << 20)),
        format!("m v=1 {}", "9".repeat(1 << 20)),
        "m,a\0b=1 v=1".to_owned(),
        "m,a=\0 v=1".to_owned(),
        "m v\0=1".to_owned(),
        "\0".repeat(1 << 16),
        "\\".repeat(1 << 16),
    ] {
        let mut server = Server::new();
        let body = format!("{line}\nx v=1");
        let decoded = server.decode(body.as_bytes(), LineProtocol(NANOSECONDS)).expect("lines");
        assert_eq!((decoded.accepted, decoded.invalid), (1, 1), "{}", &line[..line.len().min(40)]);
        assert_eq!(server.refusals()[0].0, 0);
    }
    let mut server = Server::new();
    let not_utf8 = b"m,a=\xFF v=1\nx v=1";
    assert_eq!(
        server.decode(not_utf8, LineProtocol(NANOSECONDS)).map(|decoded| decoded.invalid),
        Ok(1)
    );
    assert_eq!(server.refusals(), [(0, "names and labels must be UTF-8")]);
}

/// Parts of lines, good and bad, that a reader must not mix up.
const SERIES: [&str; 5] = ["m,host=a", "m,host=b", "m\\ a,host=a", "m", "m,host=a\\ a=1,t=x"];
const FIELDS: [&str; 5] = ["a", "ab", "a\\=b", "note", "b\\ a"];
const VALUES: [&str; 8] = ["1", "-2.5", "3i", "\"x,a=1 \"", "t", "12345678.25", "1.2.3", ""];
const TIMES: [&str; 5] =
    ["", " 1735100000000000000", " 1735100000000000000 ", " 17351000000000000001", " 1735100000 x"];

/// A line of parts by their places: series, space, fields with values, and time.
fn line((series, space, fields, time): &(usize, usize, Vec<(usize, usize)>, usize)) -> String {
    let fields: Vec<_> =
        fields.iter().map(|&(name, value)| format!("{}={}", FIELDS[name], VALUES[value])).collect();
    let space = [" ", "  "][*space];
    format!("{}{space}{}{}\n", SERIES[*series], fields.join(","), TIMES[*time])
}

proptest! {
    #[test]
    fn a_reader_that_knows_series_reads_as_one_that_knows_none(
        bodies in proptest::collection::vec(
            proptest::collection::vec(
                (0..SERIES.len(), 0..2_usize,
                 proptest::collection::vec((0..FIELDS.len(), 0..VALUES.len()), 1..4),
                 0..TIMES.len()), 1..6), 1..6),
    ) {
        let mut warm = Server::new();
        for lines in &bodies {
            let body: String = lines.iter().map(line).collect();
            // The second time it knows them all.
            for _ in 0..2 {
                let mut cold = Server::new();
                let expected = cold.decode(body.as_bytes(), LineProtocol(NANOSECONDS));
                prop_assert_eq!(warm.decode(body.as_bytes(), LineProtocol(NANOSECONDS)), expected, "{}", body);
                prop_assert_eq!(warm.values(), cold.values(), "{}", body);
                prop_assert_eq!(warm.refusals(), cold.refusals(), "{}", body);
                prop_assert_eq!(warm.decoder.values(), cold.decoder.values(), "{}", body);
            }
        }
    }
}
