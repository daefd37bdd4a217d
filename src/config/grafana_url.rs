//! `--grafana-url`: the template of a link from the live page.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// As long as browsers and proxies take.
const BYTES_MAX: usize = 2_048;
/// What the page puts in.
const PLACEHOLDERS: [&str; 5] = ["device", "series", "from", "to", "incident"];

/// A URL with placeholders such as `{device}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrafanaUrl(String);

/// Not such a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrafanaUrlError;

impl fmt::Display for GrafanaUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "must be an http:// or https:// URL of at most 2048 bytes, with no placeholders but {device}, {series}, \
             {from}, {to} and {incident}",
        )
    }
}

impl Error for GrafanaUrlError {}

impl FromStr for GrafanaUrl {
    type Err = GrafanaUrlError;

    fn from_str(text: &str) -> Result<Self, GrafanaUrlError> {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        // The host is the operator's choice, not a device's.
        let has_host = host.is_some_and(|rest| {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            !host.is_empty() && !host.contains('{')
        });
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        let mut parts = text.split('{');
        let has_closed = !parts.next().unwrap_or_default().contains('}');
        let known = parts.all(|part| {
            let placeholder = part.split_once('}');
            placeholder
                .is_some_and(|(name, rest)| PLACEHOLDERS.contains(&name) && !rest.contains('}'))
        });
        let is_url = has_host && is_plain && has_closed && known && text.len() <= BYTES_MAX;
        is_url.then(|| Self(text.to_owned())).ok_or(GrafanaUrlError)
    }
}

impl fmt::Display for GrafanaUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_known_placeholders_after_its_host() {
        for text in [
            "https://grafana.example/d/sigmad?var-device={device}&var-metric={series}&from={from}&to={to}",
            "http://localhost:3000",
            "http://grafana/{incident}/{device}",
        ] {
            assert_eq!(text.parse::<GrafanaUrl>().map(|url| url.to_string()).as_deref(), Ok(text));
        }
        let long = format!("http://h/{}", "x".repeat(2_040));
        for text in [
            "",
            "grafana",
            "javascript:alert(1)",
            "https://",
            "https:///x",
            "https://{device}/",
            "https://h/{what}",
            "https://h/{device",
            "https://h/device}",
            "https://h/{device}}",
            "https://h/ x",
            "https://h/\"",
            &long,
        ] {
            assert_eq!(text.parse::<GrafanaUrl>(), Err(GrafanaUrlError), "{text}");
        }
    }
}
