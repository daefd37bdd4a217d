//! A target and its URL, which can hold secrets.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use percent_encoding::percent_decode_str;
use sigmad_incidents::tokens::hash;
use ureq::http::Uri;

/// The resource of Alertmanager's API v2 that takes alerts, below the prefix of its own `--web.external-url`.
const ALERTS_PATH: &str = "/api/v2/alerts";

/// What a webhook is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum WebhookFormat {
    /// A JSON object with the incident.
    #[default]
    Json,
    /// A message for an incoming webhook of Slack.
    Slack,
    /// A message for ntfy; the last segment of the URL is the topic.
    Ntfy,
}

/// How a target is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// Alerts, again each minute.
    Alertmanager,
    /// A message for each change.
    Webhook(WebhookFormat),
}

/// Who is told, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// How.
    pub kind: TargetKind,
    /// Where.
    pub url: TargetUrl,
}

impl Target {
    /// Its name in logs and in the metric label `target`: kind, host and port. A path can be a secret.
    pub fn name(&self) -> String {
        let kind = match self.kind {
            TargetKind::Alertmanager => "alertmanager",
            TargetKind::Webhook(_) => "webhook",
        };
        format!("{kind} {}", self.url.host)
    }

    /// Tells it from all others, also after a restart: its name, and a hash of its URL, which can hold a secret.
    pub fn key(&self) -> String {
        format!("{} {:016x}", self.name(), hash(self.url.address.as_bytes()))
    }

    /// The address of requests.
    pub fn address(&self) -> String {
        match self.kind {
            TargetKind::Alertmanager => {
                format!("{}{ALERTS_PATH}", self.url.address.trim_end_matches('/'))
            }
            TargetKind::Webhook(WebhookFormat::Ntfy) => self.url.root(),
            TargetKind::Webhook(_) => self.url.address.clone(),
        }
    }
}

/// An `http` or `https` URL. `Debug` prints its host alone.
#[derive(Clone, PartialEq, Eq)]
pub struct TargetUrl {
    /// Without user and password.
    address: String,
    /// Host and port.
    host: String,
    /// Value of the header Authorization.
    authorization: Option<String>,
    /// The value of the flag if it names a file: the name is no secret.
    file: Option<String>,
}

/// Why a URL can't be used. Never repeats the URL, which can hold a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// Not a URL with a host.
    Malformed,
    /// Neither `http` nor `https`.
    Scheme,
    /// User or password are not UTF-8 once decoded.
    Credentials,
    /// The file can't be read.
    File(String),
}

impl std::error::Error for UrlError {}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("must be a URL such as https://host/path"),
            Self::Scheme => f.write_str("must begin with http:// or https://"),
            Self::Credentials => f.write_str("user and password must be UTF-8"),
            Self::File(reason) => write!(f, "can't read the file: {reason}"),
        }
    }
}

impl TargetUrl {
    /// The header Authorization, if the URL had a user.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// The value of the flag if it names a file: the name is no secret.
    pub fn given_file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The URL if it has no user.
    pub fn without_user(&self) -> Option<&str> {
        self.authorization.is_none().then_some(&*self.address)
    }

    /// The last segment of the path: a topic of ntfy.
    pub fn last_segment(&self) -> &str {
        let path = self.path().split('?').next().unwrap_or("");
        path.trim_end_matches('/').rsplit('/').next().unwrap_or("")
    }

    /// From the slash after the host; empty without one.
    fn path(&self) -> &str {
        let after_scheme = self.address.find("://").map_or(0, |at| at + 3);
        let rest = &self.address[after_scheme..];
        rest.find('/').map_or("", |at| &rest[at..])
    }

    /// Scheme, host and port.
    fn root(&self) -> String {
        let end = self.address.len() - self.path().len();
        format!("{}/", &self.address[..end])
    }
}

impl fmt::Debug for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)
    }
}

impl FromStr for TargetUrl {
    type Err = UrlError;

    /// The value of a flag: the URL, or `@` and the path of a file that holds it.
    fn from_str(given: &str) -> Result<Self, UrlError> {
        if let Some(file) = given.strip_prefix('@') {
            let text = std::fs::read_to_string(Path::new(file));
            let text = text.map_err(|error| UrlError::File(error.to_string()))?;
            return Ok(Self { file: Some(given.to_owned()), ..text.trim().parse()? });
        }
        let uri: Uri = given.parse().map_err(|_| UrlError::Malformed)?;
        let scheme = uri.scheme_str().ok_or(UrlError::Malformed)?;
        if scheme != "http" && scheme != "https" {
            return Err(UrlError::Scheme);
        }
        let authority = uri.authority().ok_or(UrlError::Malformed)?.as_str();
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, authority),
        };
        if uri.host().is_none_or(str::is_empty) {
            return Err(UrlError::Malformed);
        }
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        Ok(Self {
            address: format!("{scheme}://{host}{path}"),
            host: host.to_owned(),
            authorization: login.map(basic).transpose()?,
            file: None,
        })
    }
}

/// RFC 7617: `Basic` and base64 of `user:password`. Both are percent-encoded in a URL (RFC 3986, 3.2.1).
fn basic(login: &str) -> Result<String, UrlError> {
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let decoded = |text| percent_decode_str(text).decode_utf8().map_err(|_| UrlError::Credentials);
    let (user, password) = (decoded(user)?, decoded(password)?);
    Ok(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(url: &str, format: WebhookFormat) -> Target {
        Target { kind: TargetKind::Webhook(format), url: url.parse().expect("a URL") }
    }

    #[test]
    fn credentials_leave_the_url_and_are_never_shown() {
        let url: TargetUrl = "https://us%40er:p%3Ass@h.example:1/a?b".parse().expect("a URL");
        // echo -n 'us@er:p:ss' | base64
        assert_eq!(url.authorization(), Some("Basic dXNAZXI6cDpzcw=="));
        assert_eq!((url.without_user(), format!("{url:?}")), (None, "h.example:1".into()));
        let target = Target { kind: TargetKind::Webhook(WebhookFormat::Json), url };
        assert_eq!(target.address(), "https://h.example:1/a?b");
        assert_eq!(target.name(), "webhook h.example:1");
        let other = webhook("https://us:ss@h.example:1/a?c", WebhookFormat::Json);
        assert!(target.key().starts_with("webhook h.example:1 ") && target.key() != other.key());
        assert!(!format!("{target:?}").contains("ss"));
        let plain: TargetUrl = "http://[::1]:9093".parse().expect("a URL");
        assert_eq!(
            (plain.authorization(), plain.without_user()),
            (None, Some("http://[::1]:9093/"))
        );
    }

    #[test]
    fn each_kind_has_its_address() {
        for (url, address) in [
            ("http://a:9093", "http://a:9093/api/v2/alerts"),
            ("http://a/prefix/", "http://a/prefix/api/v2/alerts"),
        ] {
            let url = url.parse().expect("a URL");
            assert_eq!(Target { kind: TargetKind::Alertmanager, url }.address(), address);
        }
        let ntfy = webhook("https://ntfy.sh/my-topic", WebhookFormat::Ntfy);
        assert_eq!((&*ntfy.address(), ntfy.url.last_segment()), ("https://ntfy.sh/", "my-topic"));
        let slack = webhook("https://hooks.slack.com/services/T/B/X", WebhookFormat::Slack);
        assert_eq!(slack.address(), "https://hooks.slack.com/services/T/B/X");
    }

    #[test]
    fn what_is_no_url_is_refused_without_repeating_it() {
        for (url, error) in [
            ("", UrlError::Malformed),
            ("host:1/s3cret", UrlError::Malformed),
            ("/s3cret", UrlError::Malformed),
            ("http:///s3cret", UrlError::Malformed),
            ("ftp://host/s3cret", UrlError::Scheme),
            ("http://%ff@host/s3cret", UrlError::Credentials),
        ] {
            let found = url.parse::<TargetUrl>().expect_err(url);
            assert_eq!(found, error, "{url}");
            assert!(!found.to_string().contains("s3cret"));
        }
        let missing = "@/no/such/file".parse::<TargetUrl>().expect_err("no file");
        assert!(matches!(missing, UrlError::File(_)));
    }

    #[test]
    fn a_url_can_be_in_a_file() {
        let file = std::env::temp_dir().join(format!("sigmad-notify-{}", std::process::id()));
        std::fs::write(&file, "https://h/s3cret\n").expect("a temporary file");
        let given = format!("@{}", file.display());
        let url: TargetUrl = given.parse().expect("a URL");
        std::fs::remove_file(&file).expect("it was written");
        assert_eq!((url.given_file(), url.last_segment()), (Some(&*given), "s3cret"));
    }
}
