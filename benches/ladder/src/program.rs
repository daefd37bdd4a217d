//! The command line of both programs.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use ladder::rungs::{self, Allocator, Rung, Server};
use ladder::{Options, actix, axum_written_well, epoll, web};
use sigmad::server;

/// Rungs from the server one would write first to sigmad, and servers to compare with.
#[derive(Parser)]
struct Arguments {
    /// print what there is, as JSON
    #[arg(long)]
    list: bool,
    /// number or name
    #[arg(long, required_unless_present = "list")]
    rung: Option<String>,
    #[command(flatten)]
    options: Options,
}

/// Runs the rung that the command line names, in this program or, if it wants the other allocator, in
/// the other one.
pub fn main(is_mimalloc: bool) -> ExitCode {
    let start = sigmad_clock::start();
    let arguments = Arguments::parse();
    if arguments.list {
        println!("{}", rungs::list());
        return ExitCode::SUCCESS;
    }
    let Some(rung) = arguments.rung.as_deref().and_then(rungs::find) else {
        eprintln!("error: no such rung; --list names them");
        return ExitCode::from(2);
    };
    if (rung.allocator == Allocator::Mimalloc) != is_mimalloc {
        return become_the_other(rung.allocator);
    }
    if let Err(error) = arguments.options.stay_on_cores() {
        eprintln!("error: --cpu: {error}");
        return ExitCode::from(2);
    }
    match serve(rung, &arguments.options, start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(rung: &Rung, options: &Options, start: Instant) -> Result<(), Box<dyn std::error::Error>> {
    let Options { listen, redis_url, workers, .. } = options;
    let redis_url = redis_url.as_deref();
    match rung.server {
        Server::Baseline => baseline::run(&listen.to_string(), redis_url, *workers),
        Server::Web(parts) => web::run(options, parts),
        Server::Epoll(parts) => epoll::run(options, parts, start),
        Server::Sigmad => {
            let settings = options.sigmad_settings();
            let is_listening = |address: Option<_>| {
                eprintln!("listening on {}", address.expect("it listens on TCP"));
            };
            server::run(&settings, start, None, is_listening)?;
            Ok(())
        }
        Server::Axum => axum_written_well::run(options),
        Server::Actix => actix::run(options),
    }
}

/// The same command line, in the program of that allocator; the process stays the same.
fn become_the_other(allocator: Allocator) -> ExitCode {
    let name = match allocator {
        Allocator::System => "ladder",
        Allocator::Mimalloc => "ladder-mimalloc",
    };
    let path = std::env::current_exe().expect("/proc is mounted").with_file_name(name);
    let error = Command::new(&path).args(std::env::args_os().skip(1)).exec();
    eprintln!("error: {}: {error}", path.display());
    ExitCode::FAILURE
}
