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

impl ServerSettings {
    /// Every setting by its flag.
    pub(super) fn in_force(&self) -> Vec<(&'static str, ShownValue)> {
        // Without `..`: a new setting does not compile until it is listed.
        let Self {
            listen,
            workers,
            analytics,
            pin,
            engine,
            memory_limit,
            max_connections,
            max_head,
            max_body,
            read_timeout,
            body_rate_min,
            idle_timeout,
            drain,
            window,
            min_samples,
            detector,
            threshold,
            max_streams,
            stream_idle,
            ttl,
            incidents,
            incident_interval,
            silence_ignore,
            grafana_url,
            device_labels,
            keep,
            drop,
            counters,
            gauges,
            redis_url,
            redis_password,
            flush_interval,
            handover_wait,
            redis_history,
            redis_keys,
            redis_queue,
            state_dir,
            state_max,
            snapshot_interval,
            ack,
            ingest_token,
            read_token,
            debug_token,
            operator_token,
            tls_cert,
            tls_key,
            cors_origin,
            notify,
            log,
            log_format,
        } = self;
        let NotifySettings { alertmanager, webhook, webhook_format, external_url } = notify;
        vec![
            ("listen", ShownValue::list(listen)),
            ("workers", ShownValue::value(workers)),
            ("analytics", ShownValue::value(analytics)),
            ("pin", ShownValue::choice(pin)),
            ("engine", ShownValue::choice(engine)),
            ("memory-limit", ShownValue::optional(memory_limit.as_ref())),
            ("max-connections", ShownValue::value(max_connections)),
            ("max-head", ShownValue::value(max_head)),
            ("max-body", ShownValue::value(max_body)),
            ("read-timeout", ShownValue::duration(*read_timeout)),
            ("body-rate-min", ShownValue::value(body_rate_min)),
            ("idle-timeout", ShownValue::duration(*idle_timeout)),
            ("drain", ShownValue::duration(*drain)),
            ("window", ShownValue::value(window)),
            ("min-samples", ShownValue::value(min_samples)),
            ("detector", ShownValue::choices(detector)),
            ("threshold", ShownValue::value(threshold)),
            ("max-streams", ShownValue::optional(max_streams.as_ref())),
            ("stream-idle", ShownValue::duration(*stream_idle)),
            ("ttl", ShownValue::duration(*ttl)),
            ("incidents", ShownValue::choice(incidents)),
            ("incident-interval", ShownValue::duration(*incident_interval)),
            ("silence-ignore", ShownValue::list(silence_ignore)),
            ("grafana-url", ShownValue::optional(grafana_url.as_ref())),
            ("device-labels", ShownValue::list(device_labels)),
            ("keep", ShownValue::list(keep)),
            ("drop", ShownValue::list(drop)),
            ("counters", ShownValue::list(counters)),
            ("gauges", ShownValue::list(gauges)),
            ("redis-url", ShownValue::redis_url(redis_url.as_ref())),
            ("redis-password", ShownValue::password(redis_password.as_ref())),
            ("flush-interval", ShownValue::duration(*flush_interval)),
            ("handover-wait", ShownValue::duration(*handover_wait)),
            ("redis-history", ShownValue::choice(redis_history)),
            ("redis-keys", ShownValue::choice(redis_keys)),
            ("redis-queue", ShownValue::optional(redis_queue.as_ref())),
            ("state-dir", ShownValue::file(state_dir.as_ref())),
            ("state-max", ShownValue::value(state_max)),
            ("snapshot-interval", ShownValue::duration(*snapshot_interval)),
            ("ack", ShownValue::choice(ack)),
            ("ingest-token", ShownValue::token(ingest_token.as_ref())),
            ("read-token", ShownValue::token(read_token.as_ref())),
            ("debug-token", ShownValue::token(debug_token.as_ref())),
            ("operator-token", ShownValue::token(operator_token.as_ref())),
            ("tls-cert", ShownValue::file(tls_cert.as_ref())),
            ("tls-key", ShownValue::file(tls_key.as_ref())),
            ("cors-origin", ShownValue::list(cors_origin)),
            ("alertmanager", ShownValue::urls(alertmanager, TargetUrl::without_user)),
            // The path of a webhook is its secret.
            ("webhook", ShownValue::urls(webhook, |_| None)),
            ("webhook-format", ShownValue::choice(webhook_format)),
            ("external-url", ShownValue::urls(external_url.as_slice(), TargetUrl::without_user)),
            ("log", ShownValue::value(log)),
            ("log-format", ShownValue::choice(log_format)),
        ]
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

    fn optional(value: Option<&impl fmt::Display>) -> Self {
        value.map_or(Self::Unset, Self::value)
    }

    fn duration(value: Duration) -> Self {
        // "1h15m" instead of "1h 15m" needs no quotes in an environment file.
        Self::Value(humantime::format_duration(value).to_string().replace(' ', ""))
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

    fn redis_url(value: Option<&Target>) -> Self {
        match value {
            Some(target) if target.has_secret() => Self::Secret,
            Some(target) => Self::value(target),
            None => Self::Unset,
        }
    }

    /// `shown`: the part of a URL that is no secret, if that is all of it.
    fn urls(urls: &[TargetUrl], shown: fn(&TargetUrl) -> Option<&str>) -> Self {
        let texts = urls.iter().map(|url| url.given_file().or_else(|| shown(url)));
        match texts.collect::<Option<Vec<_>>>() {
            None => Self::Secret,
            Some(texts) => Self::list(&texts),
        }
    }

    fn password(value: Option<&Password>) -> Self {
        match value {
            Some(password) => password.given_file().map_or(Self::Secret, Self::Value),
            None => Self::Unset,
        }
    }

    fn file(value: Option<&PathBuf>) -> Self {
        value.map_or(Self::Unset, |file| Self::value(&file.display()))
    }

    fn token(value: Option<&TokenFlag>) -> Self {
        match value {
            // The name of a file is no secret, and lets the printed settings be used again.
            Some(token) => {
                token.given_file().map_or(Self::Secret, |file| Self::Value(file.to_owned()))
            }
            None => Self::Unset,
        }
    }
}
