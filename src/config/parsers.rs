//! Parsers of the values of some flags.

use std::ffi::OsStr;
use std::fmt;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::store::url::{Target, UrlError};

/// No detector gives a larger z-score, so no value could exceed a larger threshold.
const THRESHOLD_MAX: f64 = sigmad_sample::Z_MAX;

/// Parses `--redis-url` and `--demo-redis-url`. Unlike other parsers it never repeats a bad value, which may hold a password.
#[derive(Clone)]
pub(super) struct RedisUrlParser;

impl TypedValueParser for RedisUrlParser {
    type Value = Target;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Target, clap::Error> {
        let flag = arg.and_then(clap::Arg::get_long).unwrap_or("redis-url");
        let invalid = |reason: &dyn fmt::Display| {
            let message = format!("invalid value for '--{flag}': {reason}\n");
            clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        };
        let text = value.to_str().ok_or_else(|| invalid(&UrlError::NotUtf8))?;
        text.parse().map_err(|error: UrlError| invalid(&error))
    }
}

/// Parses `--threshold`.
pub(super) fn threshold(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < THRESHOLD_MAX => Ok(value),
        _ => Err(format!("must be a number above 0 and below {THRESHOLD_MAX}")),
    }
}

/// Parses `--log`. `EnvFilter` takes a word that is no level for the name of a crate, and then logs nothing else.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    for part in text.split(',') {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level).trim();
        // An empty level would be an error.
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "`{part}` has no level; levels are off, error, warn, info, debug and trace, \
                 and a filter is like info,sigmad::http=debug"
            ));
        }
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}
