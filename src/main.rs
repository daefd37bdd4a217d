//! The `sigmad` binary: reads its settings, starts the logs, serves; or evaluates the detectors.

use std::process::ExitCode;
use std::time::Instant;

use sigmad::config::{self, Command, Settings};
use sigmad::{clock, eval, logs, server};
use tracing::{error, info, warn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let start = clock::start();
    match config::parse() {
        Ok(Command::Serve(settings)) => serve(&settings, start),
        Ok(Command::PrintConfig(settings)) => {
            print!("{}", settings.to_environment());
            ExitCode::SUCCESS
        }
        Ok(Command::Eval(settings)) => match eval::run(&settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        },
        Err(refusal) => refusal.report(),
    }
}

fn serve(settings: &Settings, start: Instant) -> ExitCode {
    logs::start(&settings.log, settings.log_format);
    info!(version = env!("CARGO_PKG_VERSION"), settings = settings.summary(), "starting");
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in config::unknown_variables(names) {
        warn!(name, "no setting has this name; it is ignored");
    }
    match server::run(settings, start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "stopped");
            ExitCode::FAILURE
        }
    }
}
