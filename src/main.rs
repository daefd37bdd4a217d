//! The `sigmad` binary: reads its settings, starts the logs, serves.

use std::process::ExitCode;

use sigmad::config::{self, Command, Settings};
use sigmad::{logs, server};
use tracing::{error, info};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match config::parse() {
        Ok(Command::Serve(settings)) => serve(&settings),
        Ok(Command::PrintConfig(settings)) => {
            print!("{}", settings.to_environment());
            ExitCode::SUCCESS
        }
        Err(refusal) => refusal.report(),
    }
}

fn serve(settings: &Settings) -> ExitCode {
    logs::start(&settings.log, settings.log_format);
    info!(version = env!("CARGO_PKG_VERSION"), settings = settings.summary(), "starting");
    match server::run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "stopped");
            ExitCode::FAILURE
        }
    }
}
