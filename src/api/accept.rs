//! Content negotiation: `Accept` and `Accept-Encoding` with their weights (RFC 9110 section 12).

/// The formats of the scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus text 0.0.4, the default.
    Text,
    /// OpenMetrics 1.0.0, for clients that name and prefer it.
    OpenMetrics,
}

/// Weights are counted in thousandths.
const WEIGHT_MAX: u16 = 1_000;

/// The best match of a format among the ranges of `Accept`.
#[derive(Clone, Copy, Default)]
struct RangeMatch {
    /// Precision of the range: higher is more specific, 0 is no match.
    precision: u8,
    weight: u16,
    /// Index in the list.
    index: usize,
}

impl RangeMatch {
    /// The most specific range decides; of several, the first.
    fn consider(&mut self, precision: u8, weight: u16, index: usize) {
        if precision > self.precision {
            *self = Self { precision, weight, index };
        }
    }
}

/// The format in which to answer a scrape.
pub fn exposition(accept: &str) -> Exposition {
    let (mut text, mut open) = (RangeMatch::default(), RangeMatch::default());
    for (index, element) in elements(accept).enumerate() {
        let Some(range) = AcceptRange::parse(element) else { continue };
        let kind = range.name.to_ascii_lowercase();
        match (kind.as_str(), range.version) {
            ("application/openmetrics-text", None) => open.consider(1, range.weight, index),
            ("application/openmetrics-text", Some("1.0.0")) => {
                open.consider(2, range.weight, index);
            }
            ("*/*", None) => text.consider(1, range.weight, index),
            ("text/*", None) => text.consider(2, range.weight, index),
            ("text/plain", None) => text.consider(3, range.weight, index),
            ("text/plain", Some("0.0.4")) => text.consider(4, range.weight, index),
            _ => {}
        }
    }
    // With equal weights, a named format precedes a wildcard, then the first one wins.
    let is_text_named = text.precision >= 3;
    let is_before = !is_text_named || open.index < text.index;
    if open.weight > text.weight || (open.weight > 0 && open.weight == text.weight && is_before) {
        Exposition::OpenMetrics
    } else {
        Exposition::Text
    }
}

/// True if `Accept` names text and prefers JSON no more.
pub fn takes_text(accept: &str) -> bool {
    let (mut text, mut json) = (0, 0);
    for range in elements(accept).filter_map(AcceptRange::parse) {
        match range.name.to_ascii_lowercase().as_str() {
            "text/plain" => text = range.weight,
            "application/json" => json = range.weight,
            _ => {}
        }
    }
    text > 0 && text >= json
}

/// True if gzip is acceptable, and identity is not preferred.
pub fn takes_gzip(accept_encoding: &str) -> bool {
    takes(&["gzip", "x-gzip"], accept_encoding)
}

/// The same for Brotli.
pub fn takes_brotli(accept_encoding: &str) -> bool {
    takes(&["br"], accept_encoding)
}

fn takes(names: &[&str], accept_encoding: &str) -> bool {
    let (mut named, mut identity, mut any) = (None, None, None);
    for element in elements(accept_encoding) {
        let Some(range) = AcceptRange::parse(element) else { continue };
        let coding = match range.name.to_ascii_lowercase().as_str() {
            name if names.contains(&name) => &mut named,
            "identity" => &mut identity,
            "*" => &mut any,
            _ => continue,
        };
        coding.get_or_insert(range.weight);
    }
    let weight = named.or(any).unwrap_or(0);
    // Identity is always acceptable; unless named, it has the lowest weight.
    weight > 0 && weight >= identity.unwrap_or(0)
}

fn elements(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|element| !element.is_empty())
}

/// One element of a list: a name, a version and a weight.
struct AcceptRange<'a> {
    name: &'a str,
    version: Option<&'a str>,
    weight: u16,
}

impl<'a> AcceptRange<'a> {
    /// None if the weight is invalid.
    fn parse(element: &'a str) -> Option<Self> {
        let mut parts = element.split(';').map(str::trim);
        let mut range = Self { name: parts.next()?, version: None, weight: WEIGHT_MAX };
        for part in parts {
            let Some((name, value)) = part.split_once('=') else { continue };
            let (name, value) = (name.trim_end(), value.trim_start());
            if name.eq_ignore_ascii_case("version") {
                range.version = Some(value.trim_matches('"'));
            } else if name.eq_ignore_ascii_case("q") {
                range.weight = weight(value)?;
            }
        }
        Some(range)
    }
}

/// `0`, `1`, or a fraction of up to three digits.
fn weight(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{fraction:0<3}").parse().ok()?;
    match (whole, thousandths) {
        ("0", thousandths) => Some(thousandths),
        ("1", 0) => Some(WEIGHT_MAX),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_three_digits() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("0.5", Some(500)),
            ("0.75", Some(750)),
            ("0.001", Some(1)),
            ("1.000", Some(1000)),
            ("0.", Some(0)),
            ("1.001", None),
            ("0.0001", None),
            ("2", None),
            ("-1", None),
            ("", None),
            (".5", None),
            ("0.+1", None),
            ("NaN", None),
        ] {
            assert_eq!(weight(text), expected, "{text}");
        }
    }

    #[test]
    fn openmetrics_is_chosen_if_preferred() {
        for accept in [
            // Prometheus 2.42 and 3.x, the latter also with native histograms on.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.9, text/plain; q=0.3",
            "application/openmetrics-text, */*",
            "*/*, application/openmetrics-text",
            "application/openmetrics-text, text/plain",
        ] {
            assert_eq!(exposition(accept), Exposition::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/json",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=x",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;version=1.0.0;q=0,application/openmetrics-text",
            "application/openmetrics-text;q=0.5, */*;q=0.8",
            "text/plain, application/openmetrics-text",
            "text/*;q=0.6, application/openmetrics-text;q=0.5",
            ";,=;q",
        ] {
            assert_eq!(exposition(accept), Exposition::Text, "{accept}");
        }
    }

    #[test]
    fn gzip_is_chosen_if_accepted() {
        for accept in
            ["gzip", "gzip, deflate, br, zstd", "x-gzip", "*", "br;q=1, GZIP;q=0.1", "*;q=0.5"]
        {
            assert!(takes_gzip(accept), "{accept}");
        }
        for accept in
            ["", "identity", "br", "gzip;q=0", "*, gzip;q=0", "identity, gzip;q=0.5", "gzip;q=2"]
        {
            assert!(!takes_gzip(accept), "{accept}");
        }
        assert!(takes_brotli("gzip, br") && takes_brotli("*") && !takes_brotli("gzip, br;q=0"));
    }
}
