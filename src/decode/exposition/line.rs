//! One line of the text exposition, read in place.

use memchr::memchr2;

use super::family::ends_name;
use crate::decode::decimal::number;

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Line<'a> {
    /// Nothing, a comment, or what sigmad has no use for.
    Other,
    /// The type of a family.
    Type { family: &'a [u8], kind: &'a [u8] },
    /// A value.
    Sample(SampleLine<'a>),
}

/// A value with its series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SampleLine<'a> {
    /// Name and labels, as they are written.
    pub(super) series: SeriesText<'a>,
    pub(super) value: f64,
    pub(super) timestamp: Option<&'a [u8]>,
}

/// A name and the text between its braces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SeriesText<'a> {
    /// Both.
    pub(super) whole: &'a [u8],
    /// Empty if the name stands among the labels.
    pub(super) name: &'a [u8],
    pub(super) labels: &'a [u8],
}

/// The line is not in the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotALine;

impl<'a> Line<'a> {
    /// Reads a line without its end.
    pub(super) fn read(line: &'a [u8]) -> Result<Self, NotALine> {
        let line = line.trim_ascii();
        match line {
            [] => Ok(Self::Other),
            [b'#', comment @ ..] => Ok(read_comment(comment)),
            _ => read_sample(line).map(Self::Sample),
        }
    }
}

fn read_comment(comment: &[u8]) -> Line<'_> {
    let (word, rest) = take_word(comment);
    if word != b"TYPE" {
        return Line::Other;
    }
    let rest = rest.trim_ascii_start();
    // Prometheus 3 quotes a name that is not of the usual letters.
    let (family, rest) = match rest {
        [b'"', quoted @ ..] => match end_of_quoted(quoted) {
            Some(end) => (&quoted[..end], &quoted[end + 1..]),
            None => return Line::Other,
        },
        _ => take_word(rest),
    };
    let (kind, _) = take_word(rest);
    Line::Type { family, kind }
}

fn read_sample(line: &[u8]) -> Result<SampleLine<'_>, NotALine> {
    let (series, rest) = SeriesText::split(line)?;
    let (value, rest) = take_word(rest);
    let value = number(value).ok_or(NotALine)?;
    let (timestamp, rest) = take_word(rest);
    if timestamp.is_empty() || timestamp.starts_with(b"#") {
        // An exemplar of OpenMetrics, or nothing.
        return Ok(SampleLine { series, value, timestamp: None });
    }
    match take_word(rest).0 {
        [] | [b'#', ..] => Ok(SampleLine { series, value, timestamp: Some(timestamp) }),
        _ => Err(NotALine),
    }
}

impl<'a> SeriesText<'a> {
    /// Splits a line after its series.
    fn split(line: &'a [u8]) -> Result<(Self, &'a [u8]), NotALine> {
        let name_end = line.iter().position(|&byte| ends_name(byte)).ok_or(NotALine)?;
        let (name, rest) = line.split_at(name_end);
        let Some(labels) = rest.trim_ascii_start().strip_prefix(b"{") else {
            return Ok((Self { whole: name, name, labels: b"" }, rest));
        };
        let end = end_of_labels(labels).ok_or(NotALine)?;
        let rest = &labels[end + 1..];
        let whole = &line[..line.len() - rest.len()];
        Ok((Self { whole, name, labels: &labels[..end] }, rest))
    }

    /// Calls `each` with the names and values of the labels; the name of the metric has no value. Escapes are
    /// resolved in `unescaped`.
    pub(super) fn each_label(
        &self,
        unescaped: &mut Vec<u8>,
        mut each: impl FnMut(&[u8], Option<&[u8]>),
    ) -> Result<(), NotALine> {
        let mut rest = self.labels.trim_ascii_start();
        while !rest.is_empty() {
            unescaped.clear();
            let name_end;
            (name_end, rest) = take_label_name(rest, unescaped)?;
            rest = rest.trim_ascii_start();
            if let Some(value) = rest.strip_prefix(b"=") {
                let quoted = value.trim_ascii_start().strip_prefix(b"\"").ok_or(NotALine)?;
                rest = take_quoted(quoted, unescaped)?;
                let (name, value) = unescaped.split_at(name_end);
                each(name, Some(value));
            } else {
                each(unescaped, None);
            }
            rest = rest.trim_ascii_start();
            rest = match rest {
                [] => rest,
                [b',', rest @ ..] => rest.trim_ascii_start(),
                _ => return Err(NotALine),
            };
        }
        Ok(())
    }
}

/// Appends the name of a label to `unescaped`; returns its length, and what follows.
fn take_label_name<'a>(
    text: &'a [u8],
    unescaped: &mut Vec<u8>,
) -> Result<(usize, &'a [u8]), NotALine> {
    if let Some(quoted) = text.strip_prefix(b"\"") {
        let rest = take_quoted(quoted, unescaped)?;
        return Ok((unescaped.len(), rest));
    }
    let is_end = |&byte: &u8| matches!(byte, b'=' | b',' | b'"') || byte.is_ascii_whitespace();
    let end = text.iter().position(is_end).ok_or(NotALine)?;
    // Without a value it would be the name of the metric, which has quotes here.
    if end == 0 || !text[end..].trim_ascii_start().starts_with(b"=") {
        return Err(NotALine);
    }
    unescaped.extend_from_slice(&text[..end]);
    Ok((end, &text[end..]))
}

/// Appends the text before the closing quotation mark to `unescaped`; returns what follows.
fn take_quoted<'a>(mut text: &'a [u8], unescaped: &mut Vec<u8>) -> Result<&'a [u8], NotALine> {
    loop {
        let at = memchr2(b'"', b'\\', text).ok_or(NotALine)?;
        unescaped.extend_from_slice(&text[..at]);
        match &text[at..] {
            [b'\\', escaped, rest @ ..] => {
                match escaped {
                    b'n' => unescaped.push(b'\n'),
                    b'\\' | b'"' => unescaped.push(*escaped),
                    // Prometheus keeps a backslash that escapes nothing.
                    other => unescaped.extend_from_slice(&[b'\\', *other]),
                }
                text = rest;
            }
            [b'"', rest @ ..] => return Ok(rest),
            _ => return Err(NotALine),
        }
    }
}

/// The index of the brace that ends the labels.
fn end_of_labels(labels: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'}', b'"', &labels[at..])?;
        if labels[at] == b'}' {
            return Some(at);
        }
        at += 1;
        at += end_of_quoted(&labels[at..])? + 1;
    }
}

/// The index of the quotation mark that ends a quoted text.
fn end_of_quoted(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', &text[at..])?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
        if at > text.len() {
            return None;
        }
    }
}

/// The next word, and what follows it.
fn take_word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_ascii_start();
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(line: &str) -> Option<(String, f64, Option<String>)> {
        let Ok(Line::Sample(sample)) = Line::read(line.as_bytes()) else { return None };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut described = text(sample.series.name);
        let mut unescaped = Vec::new();
        let read = sample.series.each_label(&mut unescaped, |name, value| {
            described += &match value {
                Some(value) => format!("|{}={}", text(name), text(value)),
                None => format!("!{}", text(name)),
            };
        });
        read.ok()?;
        Some((described, sample.value, sample.timestamp.map(text)))
    }

    #[test]
    fn a_value_has_a_series_and_maybe_a_time() {
        for (line, series, value, timestamp) in [
            ("up 1", "up", 1.0, None),
            ("  up\t1e3\t-5 \r", "up", 1_000.0, Some("-5")),
            ("up{} +Inf 1", "up", f64::INFINITY, Some("1")),
            (r#"up {a="b" , c = "d",} 0.5"#, "up|a=b|c=d", 0.5, None),
            (r#"up{a="}\"\\\n\t"}1"#, "up|a=}\"\\\n\\t", 1.0, None),
            (
                r#"{"my.metric","my.label"="x",b="y"} 2 3"#,
                "!my.metric|my.label=x|b=y",
                2.0,
                Some("3"),
            ),
            ("b_bucket{le=\"1\"} 4 1.5 # {trace=\"x\"} 0.9", "b_bucket|le=1", 4.0, Some("1.5")),
            ("b_total 4 # {trace=\"x\"} 0.9", "b_total", 4.0, None),
            ("temperature_°C{raum=\"Küche\"} 21", "temperature_°C|raum=Küche", 21.0, None),
        ] {
            let expected = (series.to_owned(), value, timestamp.map(str::to_owned));
            assert_eq!(sample(line), Some(expected), "{line}");
        }
        for line in [
            "up",
            "up x",
            "up{",
            "up{a} 1",
            "up{a=} 1",
            "up{a=b} 1",
            r#"up{a="b} 1"#,
            r#"up{a="b\"#,
            r#"up{a="b" c="d"} 1"#,
            "up 1 2 3",
            r#"up{="b"} 1"#,
            r#"up{,} 1"#,
            "up{a=\"b\"}",
        ] {
            assert_eq!(sample(line), None, "{line}");
        }
    }

    #[test]
    fn comments_may_give_types() {
        let read = |line: &'static str| Line::read(line.as_bytes());
        assert_eq!(read("# TYPE  up\tgauge"), Ok(Line::Type { family: b"up", kind: b"gauge" }));
        assert_eq!(
            read("#TYPE \"my metric\" counter "),
            Ok(Line::Type { family: b"my metric", kind: b"counter" })
        );
        for line in
            ["", "   ", "#", "# HELP up TYPE up gauge", "# EOF", "# TYPE \"up", "# TYPED up gauge"]
        {
            assert_eq!(read(line), Ok(Line::Other), "{line}");
        }
    }

    #[test]
    fn a_line_cut_anywhere_is_no_other_series() {
        let line = r#"up{a="}\"\\\n",b="c"} 12.5 1735100000000"#;
        let (whole, ..) = sample(line).expect("good");
        for end in 0..line.len() {
            if let Some((series, ..)) = sample(&line[..end]) {
                assert_eq!(series, whole, "{end}");
            }
        }
    }
}
