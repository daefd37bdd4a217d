//! The `sigmad` binary: reads the command line, then serves, generates load, evaluates the detectors, or tries
//! who is told of incidents.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use mimalloc::MiMalloc;
use sigmad::config::{self, Invocation, ServerSettings};
use sigmad::{logs, server};
use sigmad_flags::TokenFlag;
use sigmad_profile::heap::Sampled;
use tracing::{error, info, warn};

#[global_allocator]
static ALLOCATOR: Sampled<MiMalloc> = Sampled(MiMalloc);

unsafe extern "C" {
    /// Sets an option of mimalloc for the process; <https://microsoft.github.io/mimalloc/group__options.html>.
    fn mi_option_set(option: libc::c_int, value: libc::c_long);
}

/// `mi_option_purge_delay`, in both versions of mimalloc that the crate carries.
const PURGE_DELAY: libc::c_int = 15;

/// Makes the allocator return what is freed. Called before the first thread starts.
///
/// mimalloc returns memory some time after it was freed, and only when it is called again then: what a burst of
/// large bodies took stayed with an idle process. Huge pages made 12 MB at rest 30 MB.
fn return_freed_memory() {
    // SAFETY: it stores a number, which mimalloc reads when it frees a page.
    unsafe { mi_option_set(PURGE_DELAY, 0) };
    // SAFETY: no argument is a pointer. A kernel that does not know the option changes nothing.
    let _ = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

fn main() -> ExitCode {
    return_freed_memory();
    let start = sigmad_clock::start();
    let invocation = match config::parse() {
        Ok(invocation) => invocation,
        Err(error) => return error.report(),
    };
    match invocation {
        Invocation::Serve(settings) => serve(&settings, start, None, |_| {}),
        Invocation::Demo(settings) => {
            let start_fleet = |address: Option<SocketAddr>| {
                let address = address.expect("settings of a demo have an address of TCP");
                start_fleet(&settings, address, start);
            };
            serve(&settings, start, Some(&sigmad_demo::Past::default()), start_fleet)
        }
        Invocation::PrintConfig(settings) => {
            match io::stdout().write_all(settings.to_environment().as_bytes()) {
                // A reader that is gone has seen enough.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => failed(&error),
                _ => ExitCode::SUCCESS,
            }
        }
        Invocation::NotifyTest(settings) => {
            match server::notify_test(&settings, start, &mut io::stdout()) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => failed(&error),
            }
        }
        Invocation::Load(settings) => sigmad_load::run(&settings, start),
        Invocation::Eval(settings) => match sigmad_eval::run(&settings, &mut io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.is_closed_output() => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        },
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    // An error of stderr has nowhere to go.
    let _ = writeln!(io::stderr(), "error: {error}");
    ExitCode::FAILURE
}

/// Serves until a signal. A simulated fleet has a `past`. `is_listening` is called once, when the server accepts connections, with its first address of
/// TCP.
fn serve(
    settings: &ServerSettings,
    start: Instant,
    past: Option<&sigmad_demo::Past>,
    is_listening: impl FnOnce(Option<SocketAddr>),
) -> ExitCode {
    logs::start(&settings.log, settings.log_format);
    info!(version = env!("CARGO_PKG_VERSION"), settings = settings.summary(), "starting");
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for (name, reason) in config::unused_variables(names, settings) {
        warn!(name, "variable ignored: {reason}");
    }
    let exit_code = match server::run(settings, start, past, is_listening) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "stopped");
            ExitCode::FAILURE
        }
    };
    logs::flush();
    exit_code
}

/// Starts the simulated fleet of `sigmad demo`, a client of this process.
fn start_fleet(settings: &ServerSettings, address: SocketAddr, start: Instant) {
    let secret = |flag: &Option<TokenFlag>| flag.as_ref().map(|flag| flag.secret().to_owned());
    let tokens = sigmad_demo::Tokens {
        ingest: secret(&settings.ingest_token),
        operator: secret(&settings.operator_token),
    };
    match sigmad_demo::start(address, tokens, start) {
        Ok(()) => {
            // Without a reader of stdout the demo runs all the same.
            let _ = writeln!(io::stdout(), "open http://{}/", sigmad_demo::reachable(address));
        }
        Err(error) => error!(%error, "the simulated fleet did not start"),
    }
}
