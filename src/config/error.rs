//! Why the process does not start.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::{fmt, io};

use clap::Command;
use clap::error::ErrorKind;
use sigmad_flags::TokenError;
use sigmad_notify::settings::NotifySettingsError;

use crate::http::tls::TlsError;
use crate::store::url::LoginError;

/// Values that are valid alone and not together. Exit code 78, the `EX_CONFIG` of sysexits.
#[derive(Debug)]
pub enum SettingsError {
    /// No window could ever hold enough values.
    MinSamplesAboveWindow {
        /// `--min-samples`.
        min_samples: usize,
        /// `--window`.
        window: usize,
    },
    /// Only one engine listens on several addresses.
    SeveralAddresses,
    /// `--listen unix:` with `--engine may`.
    UnixWithMay,
    /// `--ack disk` without `--state-dir`.
    AckWithoutState,
    /// `--detector` has this name more than once.
    DetectorTwice(&'static str),
    /// A token can't be used.
    Token(TokenError),
    /// `--tls-cert` without `--tls-key`, or the other way round.
    TlsHalf {
        /// The flag that is there.
        given: &'static str,
        /// The flag that is not.
        absent: &'static str,
    },
    /// `--poller io_uring` with `--engine may`.
    PollerWithMay,
    /// `--tls-cert` with `--engine may`.
    TlsWithMay,
    /// `--tls-cert` with Unix sockets alone.
    TlsWithUnix,
    /// `sigmad demo` with Unix sockets alone.
    DemoWithoutTcp,
    /// `sigmad demo` with `--tls-cert`.
    TlsWithDemo,
    /// Targets of notifications contradict each other.
    Notify(NotifySettingsError),
    /// `sigmad notify-test` without a target.
    NoTarget,
    /// The certificate or its key can't be used.
    Tls(TlsError),
    /// `--redis-password` is empty, or its file can't be read.
    RedisPassword(io::Error),
    /// `--redis-url` and `--redis-password` contradict each other.
    RedisLogin(LoginError),
}

impl std::error::Error for SettingsError {}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinSamplesAboveWindow { min_samples, window } => write!(
                f,
                "--min-samples {min_samples} is above --window {window}: \
                 no value could ever be an anomaly"
            ),
            Self::AckWithoutState => f.write_str(
                "--ack disk needs --state-dir: the directory whose disk acknowledges",
            ),
            Self::SeveralAddresses => f.write_str("--engine may takes only one --listen"),
            Self::UnixWithMay => f.write_str(
                "--engine may has no Unix sockets: --listen on an address and a port, or use --engine native",
            ),
            Self::DetectorTwice(name) => write!(f, "--detector has {name} twice"),
            Self::Token(error) => error.fmt(f),
            Self::TlsHalf { given, absent } => write!(f, "--{given} needs --{absent} as well"),
            Self::PollerWithMay => {
                f.write_str("--poller io_uring is of --engine native: omit one of them")
            }
            Self::TlsWithMay => {
                f.write_str("--engine may has no TLS: omit --tls-cert, or use --engine native")
            }
            Self::TlsWithUnix => f.write_str(
                "--tls-cert is for TCP alone, and every --listen is a Unix socket: omit it, or add an address",
            ),
            Self::DemoWithoutTcp => f.write_str(
                "--listen of sigmad demo needs an address and a port: its fleet and a browser speak TCP",
            ),
            Self::TlsWithDemo => {
                f.write_str("the fleet of sigmad demo speaks plain HTTP: omit --tls-cert")
            }
            Self::Notify(error) => error.fmt(f),
            Self::NoTarget => f.write_str("there is nobody to tell: give --alertmanager or --webhook"),
            Self::Tls(error) => error.fmt(f),
            Self::RedisPassword(error) => write!(f, "--redis-password: {error}"),
            Self::RedisLogin(error) => error.fmt(f),
        }
    }
}

/// A command line that starts nothing.
#[derive(Debug)]
pub enum CommandLineError {
    /// A flag or a single value is wrong; also a request for help or the version.
    Usage(clap::Error),
    /// The settings contradict each other, or a token can't be read: the message.
    Settings(String),
}

/// `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: u8 = 78;
/// What stands for a word that may be a part of a password.
const HIDDEN: &str = "***";

impl CommandLineError {
    /// Of these arguments to `command`: a bad value is named as it was given, and no secret is repeated.
    pub(super) fn usage(error: clap::Error, args: &[OsString], command: &Command) -> Self {
        let text = error.to_string();
        let text = match error.kind() {
            ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
                named_as_given(&text, args, command)
            }
            ErrorKind::UnknownArgument
            | ErrorKind::InvalidSubcommand
            | ErrorKind::ArgumentConflict => without_secrets(text, args),
            _ => return Self::Usage(error),
        };
        let message = text.strip_prefix("error: ").unwrap_or(&text);
        Self::Usage(clap::Error::raw(error.kind(), message))
    }

    /// Of settings from these arguments.
    pub(super) fn settings(error: &SettingsError, args: &[OsString], command: &Command) -> Self {
        Self::Settings(named_as_given(&error.to_string(), args, command))
    }

    /// Prints the message; returns the exit code: 0 after help, 2 for usage, 78 for settings.
    pub fn report(&self) -> ExitCode {
        // An error of stderr has nowhere to go.
        match self {
            Self::Usage(error) => {
                let _ = error.print();
                ExitCode::from(error.exit_code() as u8)
            }
            Self::Settings(message) => {
                let _ = writeln!(io::stderr(), "error: {message}");
                ExitCode::from(EXIT_CONFIG)
            }
        }
    }
}

/// The flags of a message by their variables, where the value came from there: nobody has written the flag.
fn named_as_given(message: &str, args: &[OsString], command: &Command) -> String {
    let mut message = message.to_owned();
    // Only a built argument knows how clap writes it.
    let mut command = command.clone();
    command.build();
    for arg in command.get_arguments() {
        let (Some(flag), Some(variable)) = (arg.get_long(), arg.get_env()) else { continue };
        let flag = format!("--{flag}");
        let is_written = |arg: &OsString| {
            let rest = arg.as_encoded_bytes().strip_prefix(flag.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'=')
        };
        if std::env::var_os(variable).is_none() || args.iter().any(is_written) {
            continue;
        }
        let variable = variable.to_string_lossy();
        // As clap writes it, then as our own messages do.
        message = message.replace(&arg.to_string(), &variable);
        for end in [" ", ":", "'"] {
            message = message.replace(&format!("{flag}{end}"), &format!("{variable}{end}"));
        }
    }
    message
}

/// Without the words that no flag has: one may be a URL, or what a shell has cut off behind a secret.
fn without_secrets(mut message: String, args: &[OsString]) -> String {
    let has_secret = |arg: &OsString| {
        let arg = arg.as_encoded_bytes();
        arg.windows(6).any(|part| part == b"-redis" || part == b"-token")
    };
    let is_after_secret = args.iter().any(has_secret);
    for word in args.iter().skip(1).filter_map(|arg| arg.to_str()) {
        if !word.starts_with('-') && (is_after_secret || word.contains(['@', '/'])) {
            // As clap quotes it, in the message and in its tip.
            for start in ["'", "'-- "] {
                message = message.replace(&format!("{start}{word}'"), &format!("{start}{HIDDEN}'"));
            }
        }
    }
    message
}
