//! Why the server does not run.

use std::fmt;
use std::io;
use std::path::PathBuf;

use sigmad_state::StateError;

use crate::config::SettingsError;
use crate::http::listen::ListenAddress;

/// Why the server can't run.
#[derive(Debug)]
pub enum ServerError {
    /// The address of `--listen` is not available.
    Listen(ListenAddress, io::Error),
    /// The kernel refused a thread, a poller or a signal handler.
    Start(io::Error),
    /// A worker lost its poller.
    Worker(io::Error),
    /// The certificate can't be used any more: it could when the settings were checked.
    Tls(SettingsError),
    /// `--state-dir` can't be used.
    StateDir(PathBuf, StateError),
    /// The file limit leaves no room for connections.
    FileLimit(usize),
}

impl std::error::Error for ServerError {}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                write!(f, "can't listen on {address} (--listen): {error}")
            }
            Self::Start(error) => write!(f, "can't start: {error}"),
            Self::Tls(error) => error.fmt(f),
            Self::StateDir(directory, error) => {
                write!(f, "can't use {} (--state-dir): {error}", directory.display())
            }
            Self::Worker(error) => write!(f, "a worker failed: {error}"),
            Self::FileLimit(limit) => {
                write!(f, "the file limit of {limit} is too low for connections; raise `ulimit -n`")
            }
        }
    }
}
