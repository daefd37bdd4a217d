//! `sigmad load`: generates load on a server, and reports latency and throughput.
//!
//! ```text
//!             schedule ─┐                            ┌─► outcome ─► report, hgrm
//!  settings ─► requests ┴► driver ─► connection ─►───┤
//!                          (one thread)   answer     └─► truth
//! ```
//!
//! With `--rate` the loop is open: requests follow a [`schedule`], and latency counts from the time when a request
//! was due. A server that stops for half a second delays every request that was due in that time, and the latencies
//! show all of them. A closed loop would send one request and wait. The generator's own delay is counted apart
//! ([`outcome::LoadOutcome::own_lateness`]).
//!
//! A [`driver`] shares nothing with other threads: requests have numbers, thread `i` of `n` sends every `n`-th, and
//! [`requests`] makes the bytes of a request from its number alone.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use self::cost::CpuTime;
use self::driver::{Driver, LoadShared, ThreadShare};
use self::files::ResultFiles;
use self::outcome::LoadOutcome;
use self::progress::ProgressLine;
use self::report::{CpuCost, LoadSummary};
use self::requests::RequestBodies;
use self::settings::TargetServer;
use self::socket::ServerAddress;
use sigmad_clock::Clock;
use sigmad_counters::{Counter, Histogram};
use sigmad_signals::SignalEvent;

mod answer;
mod connection;
mod cost;
mod driver;
mod files;
pub mod fleet;
mod hgrm;
mod numbers;
mod outcome;
mod progress;
mod report;
mod requests;
mod schedule;
mod settings;
mod socket;
mod table;
mod timer;

pub use settings::{HELP_END, LoadSettings};

/// The time between the last thread's readiness and the first request.
const LEAD_NS: u64 = 5_000_000;
/// The server's work after the last response is part of its cost. The run waits in such steps …
const REST_STEP: Duration = Duration::from_millis(50);
/// … until the server uses less CPU time than this in one step …
const REST_NS: u64 = 500_000;
/// … or this many steps have passed: the server has other clients.
const REST_STEPS_MAX: usize = 20;
/// Descriptors that are no connections: standard streams, results, poller and timer of each thread.
const FILES_RESERVED: usize = 16 + 2 * settings::THREADS_MAX;
/// The exit code after a second signal.
const EXIT_IMPATIENT: i32 = 1;

/// The counters of the progress line; one thread writes them.
#[derive(Debug, Default)]
pub struct LiveCounters {
    /// Requests sent.
    pub sent: Counter,
    /// Responses with 2xx.
    pub good: Counter,
    /// Other responses, and requests without a response.
    pub failed: Counter,
    /// The latency of all responses.
    pub latency: Histogram,
}

/// A message from a thread to the run.
pub enum ThreadMessage {
    /// The number of open connections; the thread waits for the start.
    Ready(usize),
    /// Whole lines for `--truth`.
    Truth(Vec<u8>),
    /// The thread has ended.
    Done(io::Result<Box<LoadOutcome>>),
}

/// Why there are no results.
#[derive(Debug)]
pub enum LoadError {
    /// The host of `--url` has no address.
    Host(String, io::Error),
    /// No address of the host accepts connections.
    Unreachable(String, String),
    /// The process of `--pid` can't be measured.
    Process(u32, io::Error),
    /// A file can't be written.
    File(PathBuf, io::Error),
    /// The file limit is below `--connections`.
    FileLimit(usize),
    /// The kernel refused a thread, a poller, a timer or signals.
    Start(io::Error),
}

impl std::error::Error for LoadError {}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, error) => write!(f, "--url: {host} has no address: {error}"),
            Self::Unreachable(server, error) => {
                write!(f, "--url: can't connect to {server}: {error}")
            }
            Self::Process(pid, error) => write!(f, "--pid {pid} can't be measured: {error}"),
            Self::File(path, error) => write!(f, "{} can't be written: {error}", path.display()),
            Self::FileLimit(limit) => {
                write!(f, "--connections: at most {limit} files may be open; raise `ulimit -n`")
            }
            Self::Start(error) => write!(f, "can't start: {error}"),
        }
    }
}

/// A flag that names a missing process or file exits like any other wrong flag.
const EXIT_USAGE: u8 = 2;

impl LoadError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Process(..) | Self::File(..) | Self::FileLimit(_) => ExitCode::from(EXIT_USAGE),
            Self::Host(..) | Self::Unreachable(..) | Self::Start(_) => ExitCode::FAILURE,
        }
    }
}

/// Runs the load and reports; 0 if at least one request succeeded. Clocks count from `start`.
pub fn run(settings: &LoadSettings, start: Instant) -> ExitCode {
    let files = ResultFiles::create(settings);
    let result = files.and_then(|files| measure(settings, start, files));
    match result {
        Ok(summary) if summary.requests.good > 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            // An error of stderr has nowhere to go.
            let _ = writeln!(io::stderr(), "error: {error}");
            error.exit_code()
        }
    }
}

fn measure(
    settings: &LoadSettings,
    start: Instant,
    mut files: ResultFiles,
) -> Result<LoadSummary, LoadError> {
    let cpu_of = |pid| CpuTime::of(pid).map_err(|error| LoadError::Process(pid, error));
    settings.pid.map(cpu_of).transpose()?;
    // The soft limit becomes the hard one.
    let files_max = rlimit::increase_nofile_limit(u64::MAX).map_err(LoadError::Start)?;
    let files_max = usize::try_from(files_max).unwrap_or(usize::MAX);
    if settings.connections + FILES_RESERVED > files_max {
        return Err(LoadError::FileLimit(files_max));
    }
    let address = reachable(settings)?;

    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    // Relaxed: nothing else is passed on with it, and every driver looks again and again.
    sigmad_signals::watch(start, move |event| match event {
        // The terminal has gone: nobody waits for the whole run.
        SignalEvent::Stop(_) | SignalEvent::Reload => stopped.store(true, Ordering::Relaxed),
        SignalEvent::StopNow(_) => std::process::exit(EXIT_IMPATIENT),
        SignalEvent::Ignored(_) => {}
    })
    .map_err(LoadError::Start)?;

    let mut clock = Clock::new(start);
    let from_us = match settings.from {
        Some(from_s) => from_s as u64 * 1_000_000,
        None => clock.now().wall_us.cast_unsigned(),
    };
    let bodies = RequestBodies::new(settings, from_us);
    let (sender, messages) = unbounded();
    let shared = LoadShared { address, bodies, stop, messages: sender };
    let lives: Vec<_> = (0..settings.threads).map(|_| Arc::new(LiveCounters::default())).collect();
    let (go, gone) = bounded(settings.threads);

    let run = std::thread::scope(|scope| {
        for (index, live) in lives.iter().enumerate() {
            let part = ThreadShare { index, of: settings.threads };
            let (shared, live, gone) = (shared.clone(), live.clone(), gone.clone());
            std::thread::Builder::new()
                .name(format!("load-{index}"))
                .spawn_scoped(scope, move || {
                    let messages = shared.messages.clone();
                    let outcome = drive(settings, part, shared, live, start, &gone);
                    let message = ThreadMessage::Done(outcome.map(Box::new));
                    messages.send(message).expect("the run waits for every thread");
                })
                .map_err(LoadError::Start)?;
        }
        let run = RunMonitor { settings, clock: &clock, lives: &lives, messages: &messages };
        // The sender is dropped with this block: threads that still wait for the start then end.
        run.watch(go, &mut files)
    })?;

    let RunResult { outcome, start_ns, server, generator } = run;
    if outcome.opened == 0 {
        let error = outcome.connect_error.unwrap_or_else(|| "stopped by a signal".to_owned());
        return Err(LoadError::Unreachable(settings.url.server(), error));
    }
    let summary = LoadSummary::new(settings, &outcome, start_ns, from_us, server, generator);
    files.write(settings, &summary, &outcome)?;
    Ok(summary)
}

/// The first address of the host that accepts a connection, or the Unix socket.
fn reachable(settings: &LoadSettings) -> Result<ServerAddress, LoadError> {
    let url = &settings.url;
    let mut last = "it has no address".to_owned();
    match &url.at {
        TargetServer::Tcp { host, port } => {
            let addresses = (host.as_str(), *port).to_socket_addrs();
            for address in addresses.map_err(|error| LoadError::Host(host.clone(), error))? {
                match TcpStream::connect_timeout(&address, settings.timeout) {
                    Ok(_) => return Ok(ServerAddress::Tcp(address)),
                    Err(error) => last = error.to_string(),
                }
            }
        }
        TargetServer::Unix(name) => match UnixStream::connect_addr(&name.address()) {
            Ok(_) => return Ok(ServerAddress::Unix(name.address())),
            Err(error) => last = error.to_string(),
        },
    }
    Err(LoadError::Unreachable(url.server(), last))
}

fn drive(
    settings: &LoadSettings,
    part: ThreadShare,
    shared: LoadShared,
    live: Arc<LiveCounters>,
    start: Instant,
    gone: &Receiver<u64>,
) -> io::Result<LoadOutcome> {
    let messages = shared.messages.clone();
    let mut driver = Driver::new(settings, part, shared, live, start)?;
    let open = driver.connect()?;
    messages.send(ThreadMessage::Ready(open)).expect("the run waits for every thread");
    match gone.recv() {
        Ok(start_ns) => driver.run(start_ns, settings.duration),
        // Another thread did not start, or no thread has a connection.
        Err(_) => Ok(driver.give_up()),
    }
}

/// The main thread's view of the run.
struct RunMonitor<'a> {
    settings: &'a LoadSettings,
    clock: &'a Clock,
    lives: &'a [Arc<LiveCounters>],
    messages: &'a Receiver<ThreadMessage>,
}

struct RunResult {
    outcome: LoadOutcome,
    start_ns: u64,
    /// CPU time of the server until it had no more work; None without `--pid`, or if the process has ended.
    server: Option<CpuCost>,
    generator: Option<CpuCost>,
}

impl RunMonitor<'_> {
    fn watch(&self, go: Sender<u64>, files: &mut ResultFiles) -> Result<RunResult, LoadError> {
        let mut outcome = LoadOutcome::default();
        let mut left = self.settings.threads;
        let mut waiting = left;
        let mut open = 0;
        // Until each thread has its connections, or has failed.
        while waiting > 0 && left > 0 {
            match self.messages.recv().expect("threads send before they end") {
                ThreadMessage::Ready(connections) => {
                    open += connections;
                    waiting -= 1;
                }
                ThreadMessage::Truth(_) => unreachable!("nothing was sent yet"),
                ThreadMessage::Done(result) => {
                    drop(go);
                    return Err(LoadError::Start(result.expect_err("it waits for the start")));
                }
            }
        }
        let me = std::process::id();
        let cpu = |pid: Option<u32>| pid.and_then(|pid| CpuTime::of(pid).ok());
        let (server_before, me_before) = (cpu(self.settings.pid), cpu(Some(me)));
        let start_ns = self.clock.monotonic_ns() + LEAD_NS;
        if open > 0 {
            for _ in 0..self.settings.threads {
                go.send(start_ns).expect("there is room for each");
            }
        }
        drop(go);

        let mut progress = (open > 0 && io::stderr().is_terminal())
            .then(|| ProgressLine::new(start_ns, self.lives));
        while left > 0 {
            let wait_ns = progress.as_ref().map_or(u64::MAX, |progress| {
                progress.next_ns().saturating_sub(self.clock.monotonic_ns())
            });
            match self.messages.recv_timeout(Duration::from_nanos(wait_ns)) {
                Ok(ThreadMessage::Ready(_)) => unreachable!("all were ready"),
                Ok(ThreadMessage::Truth(lines)) => {
                    files.add_truth(&lines)?;
                }
                Ok(ThreadMessage::Done(result)) => {
                    outcome.merge(*result.map_err(LoadError::Start)?);
                    left -= 1;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now_ns = self.clock.monotonic_ns();
                    if let Some(progress) = &mut progress {
                        progress.show(now_ns);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("each says when it is done"),
            }
        }
        if let Some(progress) = progress {
            progress.clear();
        }
        let generator = CpuCost::between(me_before, cpu(Some(me)));
        let server = CpuCost::between(server_before, self.at_rest());
        Ok(RunResult { outcome, start_ns, server, generator })
    }

    /// CPU time of the server once it has no more work.
    fn at_rest(&self) -> Option<CpuTime> {
        let pid = self.settings.pid?;
        let mut before = CpuTime::of(pid).ok()?;
        for _ in 0..REST_STEPS_MAX {
            std::thread::sleep(REST_STEP);
            let now = CpuTime::of(pid).ok()?;
            if now.total_ns - before.total_ns < REST_NS {
                return Some(now);
            }
            before = now;
        }
        Some(before)
    }
}
