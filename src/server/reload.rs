//! What SIGHUP reads again: secrets and certificates in files.

use std::fmt;

use tracing::{error, info};

/// The steps of a reload, in the order in which they were added.
#[derive(Default)]
pub(super) struct Reloads(Vec<ReloadStep>);

struct ReloadStep {
    what: &'static str,
    read: Box<dyn Fn() -> Result<(), Box<dyn fmt::Display>>>,
}

impl Reloads {
    /// Adds a step. `read` reads `what` again and puts it into force; on an error the old one stays in force.
    pub fn add<E: fmt::Display + 'static>(
        &mut self,
        what: &'static str,
        read: impl Fn() -> Result<(), E> + 'static,
    ) {
        let read = move || read().map_err(|error| Box::new(error) as Box<dyn fmt::Display>);
        self.0.push(ReloadStep { what, read: Box::new(read) });
    }

    /// Runs every step, whether or not another one fails.
    pub fn run(&self) {
        for ReloadStep { what, read } in &self.0 {
            match read() {
                Ok(()) => info!(what, "read again"),
                Err(error) => error!(what, %error, "not read again; the old one stays in force"),
            }
        }
    }
}
