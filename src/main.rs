//! The `sigmad` binary: reads its settings, then serves, loads a server, or evaluates the detectors.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use mimalloc::MiMalloc;
use sigmad::config::{self, Invocation, ServerSettings};
use sigmad::{logs, server};
use sigmad_demo as demo;
use sigmad_eval as eval;
use sigmad_profile::heap::Sampled;
use tracing::{error, info, warn};

#[global_allocator]
static ALLOCATOR: Sampled<MiMalloc> = Sampled(MiMalloc);

fn main() -> ExitCode {
    let start = sigmad_clock::start();
    match config::parse() {
        Ok(Invocation::Serve(settings)) => serve(&settings, start, |_| {}),
        Ok(Invocation::Demo(settings)) => serve(&settings, start, |address| {
            let token = settings.ingest_token.as_ref().map(|token| token.secret().to_owned());
            match demo::start(address, token, start) {
                Ok(()) => println!("a fleet is up: http://{}/", demo::reachable(address)),
                Err(error) => error!(%error, "no fleet"),
            }
        }),
        Ok(Invocation::PrintConfig(settings)) => {
            print!("{}", settings.to_environment());
            ExitCode::SUCCESS
        }
        Ok(Invocation::Load(settings)) => sigmad_load::run(&settings, start),
        Ok(Invocation::Eval(settings)) => match eval::run(&settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        },
        Err(refusal) => refusal.report(),
    }
}

fn serve(
    settings: &ServerSettings,
    start: Instant,
    is_listening: impl FnOnce(SocketAddr),
) -> ExitCode {
    logs::start(&settings.log, settings.log_format);
    info!(version = env!("CARGO_PKG_VERSION"), settings = settings.summary(), "starting");
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in config::unknown_variables(names) {
        warn!(name, "no setting has this name; it is ignored");
    }
    match server::run(settings, start, is_listening) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "stopped");
            ExitCode::FAILURE
        }
    }
}
