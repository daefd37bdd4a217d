//! The flags that name targets.

use std::ffi::OsStr;
use std::fmt;

use clap::Args;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;

use crate::target::{Target, TargetKind, TargetUrl, WebhookFormat};

/// Each target costs a thread; no team has more receivers that it must reach directly.
pub const TARGETS_MAX: usize = 16;

/// Who is told of incidents.
#[derive(Args, Clone, Debug, Default)]
pub struct NotifySettings {
    /// Alertmanager that is told of incidents
    ///
    /// URL of an Alertmanager that is told of incidents, as a URL or `@file`; several with commas. A user in the URL is
    /// sent as Basic. See NOTIFY.md.
    #[arg(help_heading = "Notifications", long, value_name = "URL", value_delimiter = ',', value_parser = UrlParser)]
    pub alertmanager: Vec<TargetUrl>,

    /// webhook that is told of incidents
    ///
    /// URL that gets a POST when an incident opens, grows worse or is resolved, as a URL or `@file`; several with commas.
    /// A user in the URL is sent as Basic. See NOTIFY.md.
    #[arg(help_heading = "Notifications", long, value_name = "URL", value_delimiter = ',', value_parser = UrlParser)]
    pub webhook: Vec<TargetUrl>,

    /// what each webhook gets: json, slack or ntfy
    ///
    /// What each `--webhook` gets: `json` with the incident, or a message for `slack` or `ntfy`.
    #[arg(help_heading = "Notifications", long, value_enum, default_value = "json")]
    pub webhook_format: WebhookFormat,

    /// URL of this server in notifications
    ///
    /// URL under which people reach this server, for links in notifications. By default `http://`, the name of the machine
    /// and the port.
    #[arg(help_heading = "Notifications", long, value_name = "URL", value_parser = UrlParser)]
    pub external_url: Option<TargetUrl>,
}

/// Flags that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifySettingsError {
    /// More than [`TARGETS_MAX`].
    TooManyTargets(usize),
    /// A URL for ntfy ends without a topic.
    NoTopic,
    /// `--external-url` has a user or a query.
    ExternalUrl,
}

impl std::error::Error for NotifySettingsError {}

impl fmt::Display for NotifySettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyTargets(count) => write!(
                f,
                "--alertmanager and --webhook name {count} targets; {TARGETS_MAX} are the most"
            ),
            Self::NoTopic => f.write_str(
                "--webhook for --webhook-format ntfy must end with a topic: https://ntfy.sh/topic",
            ),
            Self::ExternalUrl => f.write_str("--external-url takes no user, and no query"),
        }
    }
}

impl NotifySettings {
    /// Checks what no single value shows.
    ///
    /// # Errors
    /// When values contradict each other.
    pub fn check(&self) -> Result<(), NotifySettingsError> {
        let count = self.alertmanager.len() + self.webhook.len();
        if count > TARGETS_MAX {
            return Err(NotifySettingsError::TooManyTargets(count));
        }
        let is_ntfy = self.webhook_format == WebhookFormat::Ntfy;
        if is_ntfy && self.webhook.iter().any(|url| url.last_segment().is_empty()) {
            return Err(NotifySettingsError::NoTopic);
        }
        let is_usable = |url: &TargetUrl| url.without_user().is_some_and(|url| !url.contains('?'));
        if self.external_url.as_ref().is_some_and(|url| !is_usable(url)) {
            return Err(NotifySettingsError::ExternalUrl);
        }
        Ok(())
    }

    /// Every target, Alertmanager first.
    pub fn targets(&self) -> Vec<Target> {
        let of = |kind| move |url: &TargetUrl| Target { kind, url: url.clone() };
        let alertmanagers = self.alertmanager.iter().map(of(TargetKind::Alertmanager));
        alertmanagers
            .chain(self.webhook.iter().map(of(TargetKind::Webhook(self.webhook_format))))
            .collect()
    }
}

/// Parses a URL. Unlike other parsers it never repeats a bad value, which may hold a password.
#[derive(Clone)]
struct UrlParser;

impl TypedValueParser for UrlParser {
    type Value = TargetUrl;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<TargetUrl, clap::Error> {
        let flag = arg.and_then(clap::Arg::get_long).unwrap_or("webhook");
        let invalid = |reason: &dyn fmt::Display| {
            let message = format!("invalid value for '--{flag}': {reason}\n");
            clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        };
        let text = value.to_str().ok_or_else(|| invalid(&"must be UTF-8"))?;
        text.parse().map_err(|error: crate::target::UrlError| invalid(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(urls: &[&str]) -> Vec<TargetUrl> {
        urls.iter().map(|url| url.parse().expect("a URL")).collect()
    }

    #[test]
    fn targets_are_in_the_order_of_the_flags() {
        let settings = NotifySettings {
            alertmanager: urls(&["http://a:1", "http://b:2"]),
            webhook: urls(&["http://c:3/x"]),
            webhook_format: WebhookFormat::Slack,
            external_url: None,
        };
        assert_eq!(settings.check(), Ok(()));
        let names: Vec<_> = settings.targets().iter().map(Target::name).collect();
        assert_eq!(names, ["alertmanager a:1", "alertmanager b:2", "webhook c:3"]);
    }

    #[test]
    fn contradictions_are_named() {
        let many = vec!["http://a"; TARGETS_MAX + 1];
        let settings = NotifySettings { webhook: urls(&many), ..NotifySettings::default() };
        assert_eq!(settings.check(), Err(NotifySettingsError::TooManyTargets(TARGETS_MAX + 1)));
        let settings = NotifySettings {
            webhook: urls(&["https://ntfy.sh"]),
            webhook_format: WebhookFormat::Ntfy,
            ..NotifySettings::default()
        };
        assert_eq!(settings.check(), Err(NotifySettingsError::NoTopic));
        for url in ["http://user@h/", "http://h/?a"] {
            let external_url = Some(url.parse().expect("a URL"));
            let settings = NotifySettings { external_url, ..NotifySettings::default() };
            assert_eq!(settings.check(), Err(NotifySettingsError::ExternalUrl), "{url}");
        }
    }
}
