//! server

use std::fmt;

use crate::config::Settings;

/// Why the server could not run.
#[derive(Debug)]
pub enum ServerError {}

impl std::error::Error for ServerError {}

impl fmt::Display for ServerError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// Serves until a signal says stop. A stub: it returns at once.
pub fn run(settings: &Settings) -> Result<(), ServerError> {
    let _ = settings;
    Ok(())
}
