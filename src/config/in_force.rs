//! The settings in force, as the log and `--print-config` show them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use sigmad_flags::TokenFlag;
use sigmad_notify::settings::NotifySettings;
use sigmad_notify::target::TargetUrl;

use super::environment::variable;
use super::settings::ServerSettings;
use crate::store::url::{Password, Target};

/// The value of a setting as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ShownValue {
    /// In the form in which the flag accepts it.
    Value(String),
    /// It has a value that must not be shown.
    Secret,
    /// It has no value.
    Unset,
}

/// Fields with their flags and the ways in which they are shown. Without `..`: a new setting does not compile until it
/// is listed.
macro_rules! shown {
    (
        $settings:ident: $($field:ident $flag:literal $show:ident),+;
        notify { $($of_notify:ident $notify_flag:literal $notify_show:ident,)+ }
        $($last:ident $last_flag:literal $last_show:ident,)+
    ) => {{
        let Self { $($field,)+ notify: NotifySettings { $($of_notify,)+ }, $($last,)+ } = $settings;
        vec![
            $(($flag, ShownValue::$show($field)),)+
            $(($notify_flag, ShownValue::$notify_show($of_notify)),)+
            $(($last_flag, ShownValue::$last_show($last)),)+
        ]
    }};
}

impl ServerSettings {
    /// Every setting by its flag.
    pub(super) fn in_force(&self) -> Vec<(&'static str, ShownValue)> {
        shown! {
            self:
            listen "listen" list,
            workers "workers" value,
            analytics "analytics" value,
            pin "pin" choice,
            engine "engine" choice,
            poller "poller" choice,
            memory_limit "memory-limit" optional,
            max_connections "max-connections" value,
            max_head "max-head" value,
            max_body "max-body" value,
            read_timeout "read-timeout" duration,
            body_rate_min "body-rate-min" value,
            idle_timeout "idle-timeout" duration,
            drain "drain" duration,
            window "window" value,
            min_samples "min-samples" value,
            detector "detector" choices,
            threshold "threshold" value,
            max_streams "max-streams" optional,
            stream_idle "stream-idle" duration,
            ttl "ttl" duration,
            incidents "incidents" choice,
            incident_interval "incident-interval" duration,
            silence_ignore "silence-ignore" list,
            grafana_url "grafana-url" optional,
            device_labels "device-labels" list,
            keep "keep" list,
            drop "drop" list,
            counters "counters" list,
            gauges "gauges" list,
            redis_url "redis-url" redis_url,
            redis_password "redis-password" password,
            flush_interval "flush-interval" duration,
            handover_wait "handover-wait" duration,
            redis_history "redis-history" choice,
            redis_keys "redis-keys" choice,
            redis_queue "redis-queue" optional,
            state_dir "state-dir" file,
            state_max "state-max" value,
            snapshot_interval "snapshot-interval" duration,
            ack "ack" choice,
            ingest_token "ingest-token" token,
            read_token "read-token" token,
            debug_token "debug-token" token,
            operator_token "operator-token" token,
            tls_cert "tls-cert" file,
            tls_key "tls-key" file,
            cors_origin "cors-origin" list;
            notify {
                alertmanager "alertmanager" urls,
                // The path of a webhook is its secret.
                webhook "webhook" secret_urls,
                webhook_format "webhook-format" choice,
                external_url "external-url" optional_url,
            }
            log "log" value,
            log_format "log-format" choice,
        }
    }

    /// The settings in force as lines of an environment file; secrets are comments.
    pub fn to_environment(&self) -> String {
        let mut lines = String::new();
        for (flag, shown) in self.in_force() {
            let variable = variable(flag);
            lines += &match shown {
                ShownValue::Value(value) => format!("{variable}={value}\n"),
                ShownValue::Secret => format!("# {variable} is set\n"),
                ShownValue::Unset => format!("# {variable} is not set\n"),
            };
        }
        lines
    }

    /// The settings in force on one line, for the log.
    pub fn summary(&self) -> String {
        let pairs = self.in_force().into_iter().map(|(flag, shown)| match shown {
            ShownValue::Value(value) => format!("{flag}={value}"),
            ShownValue::Secret => format!("{flag}=(set)"),
            ShownValue::Unset => format!("{flag}=(none)"),
        });
        pairs.collect::<Vec<_>>().join(" ")
    }
}

impl ShownValue {
    fn value(value: &impl fmt::Display) -> Self {
        Self::Value(value.to_string())
    }

    fn optional(value: &Option<impl fmt::Display>) -> Self {
        value.as_ref().map_or(Self::Unset, Self::value)
    }

    fn duration(value: &Duration) -> Self {
        // "1h15m" instead of "1h 15m" needs no quotes in an environment file.
        Self::Value(humantime::format_duration(*value).to_string().replace(' ', ""))
    }

    fn choice(value: &impl ValueEnum) -> Self {
        let name = value.to_possible_value().expect("no value of a setting is hidden");
        Self::Value(name.get_name().to_owned())
    }

    fn list(values: &[impl fmt::Display]) -> Self {
        let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
        if texts.is_empty() { Self::Unset } else { Self::Value(texts.join(",")) }
    }

    fn choices<T: ValueEnum>(values: &[T]) -> Self {
        let names = values.iter().filter_map(ValueEnum::to_possible_value);
        Self::Value(names.map(|value| value.get_name().to_owned()).collect::<Vec<_>>().join(","))
    }

    fn redis_url(value: &Option<Target>) -> Self {
        match value {
            Some(target) if target.has_secret() => Self::Secret,
            Some(target) => Self::value(target),
            None => Self::Unset,
        }
    }

    fn urls(urls: &[TargetUrl]) -> Self {
        Self::urls_as(urls, TargetUrl::without_user)
    }

    fn secret_urls(urls: &[TargetUrl]) -> Self {
        Self::urls_as(urls, |_| None)
    }

    fn optional_url(url: &Option<TargetUrl>) -> Self {
        Self::urls(url.as_slice())
    }

    /// `shown`: the part of a URL that is no secret, if that is all of it.
    fn urls_as(urls: &[TargetUrl], shown: fn(&TargetUrl) -> Option<&str>) -> Self {
        let texts = urls.iter().map(|url| url.given_file().or_else(|| shown(url)));
        match texts.collect::<Option<Vec<_>>>() {
            None => Self::Secret,
            Some(texts) => Self::list(&texts),
        }
    }

    fn password(value: &Option<Password>) -> Self {
        match value {
            Some(password) => password.given_file().map_or(Self::Secret, Self::Value),
            None => Self::Unset,
        }
    }

    fn file(value: &Option<PathBuf>) -> Self {
        value.as_ref().map_or(Self::Unset, |file| Self::value(&file.display()))
    }

    fn token(value: &Option<TokenFlag>) -> Self {
        match value {
            // The name of a file is no secret, and lets the printed settings be used again.
            Some(token) => {
                token.given_file().map_or(Self::Secret, |file| Self::Value(file.to_owned()))
            }
            None => Self::Unset,
        }
    }
}
