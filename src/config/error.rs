//! Why the process does not start.

use std::fmt;
use std::process::ExitCode;

use sigmad_flags::TokenError;

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
    /// `--detector` has this name more than once.
    DetectorTwice(&'static str),
    /// A token can't be used.
    Token(TokenError),
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
            Self::DetectorTwice(name) => write!(f, "--detector has {name} twice"),
            Self::Token(error) => error.fmt(f),
        }
    }
}

/// A command line that starts nothing.
#[derive(Debug)]
pub enum CommandLineError {
    /// A flag or a single value is wrong; also a request for help or the version.
    Usage(clap::Error),
    /// The settings contradict each other, or a token can't be read.
    Settings(SettingsError),
}

/// `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: u8 = 78;

impl CommandLineError {
    /// Prints the message; returns the exit code: 0 after help, 2 for usage, 78 for settings.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Usage(error) => {
                // An error of stderr has nowhere to go.
                let _ = error.print();
                ExitCode::from(error.exit_code() as u8)
            }
            Self::Settings(error) => {
                eprintln!("error: {error}");
                ExitCode::from(EXIT_CONFIG)
            }
        }
    }
}
