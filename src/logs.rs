//! Log lines on stderr: text on a terminal, JSON elsewhere. Times are RFC 3339 in UTC. At `info` no request is logged.
//!
//! One thread writes all lines. Other threads only queue them, so a reader of stderr that blocks delays nobody. A line
//! that finds no room, or that can't be written, is dropped and counted. Logging ends nothing.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use sigmad_counters::{Families, MetricSource};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFormat;

/// may and may_minihttp log three lines for each connection, its normal end as an error. `--log` comes after this
/// directive and overrides it.
const MAY_IS_SILENT: &str = "may=off";
/// Lines that may wait to be written: some seconds at `debug`, at most 1 MB at the usual 300 bytes.
const LINES_WAITING_MAX: usize = 4_096;
/// How long the end of the process waits for room, and then for the last lines: longer than a machine stands still. A
/// reader that blocks delays the exit by this.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Written by several threads, so it is no [`sigmad_counters::Counter`].
static LINES_LOST: AtomicU64 = AtomicU64::new(0);
/// The queue of the thread `log`, for [`flush`].
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// For the thread that writes.
enum LogCommand {
    /// A whole line with its end.
    Line(Box<[u8]>),
    /// Everything before has been written or lost when the sender is dropped.
    Flush(Sender<()>),
}

/// Where the threads put their lines.
#[derive(Clone)]
struct LogQueue(Sender<LogCommand>);

impl<'q> MakeWriter<'q> for LogQueue {
    type Writer = &'q Self;

    fn make_writer(&'q self) -> &'q Self {
        self
    }
}

/// One write is one line: the subscriber formats a line before it writes it.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(LogCommand::Line(line.into())).is_err() {
            lose_a_line();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging by `filter`. `main` calls it once, before any other thread runs.
pub fn start(filter: &str, format: LogFormat) {
    let (sender, commands) = bounded(LINES_WAITING_MAX);
    let queue = QUEUE.get_or_init(|| LogQueue(sender)).clone();
    let thread = std::thread::Builder::new().name("log".into()).spawn(move || {
        write_all_lines(&commands, &mut io::stderr());
    });
    // Without the thread the queue has no receiver, so every line is counted as lost.
    drop(thread);
    let is_terminal = io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{MAY_IS_SILENT},{filter}")))
        // They would be written by `eprintln!`, which panics when stderr can't be written.
        .log_internal_errors(false)
        .with_writer(queue);
    match (format, is_terminal) {
        (LogFormat::Human, _) | (LogFormat::Auto, true) => {
            // NO_COLOR, with any value, asks every tool for plain text.
            let is_coloured = is_terminal && std::env::var_os("NO_COLOR").is_none();
            logs.with_ansi(is_coloured).with_target(false).init();
        }
        (LogFormat::Json, _) | (LogFormat::Auto, false) => {
            logs.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        }
    }
}

/// Waits for the lines that are queued, for a moment. Called before the process ends.
pub fn flush() {
    let Some(LogQueue(queue)) = QUEUE.get() else { return };
    let (done, is_done) = bounded(0);
    if queue.send_timeout(LogCommand::Flush(done), LAST_LINES).is_ok() {
        // Err either way: the sender was dropped, or the reader of stderr blocks and the lines are lost.
        let _ = is_done.recv_timeout(LAST_LINES);
    }
}

/// The thread `log`.
fn write_all_lines(commands: &Receiver<LogCommand>, stderr: &mut (impl Write + AsRawFd)) {
    for command in commands {
        match command {
            LogCommand::Line(line) => {
                if write_line(&line, stderr).is_err() {
                    lose_a_line();
                }
            }
            LogCommand::Flush(done) => drop(done),
        }
    }
}

/// Writes a line, also to a terminal or pipe that another program has made non-blocking.
fn write_line(mut line: &[u8], stderr: &mut (impl Write + AsRawFd)) -> io::Result<()> {
    while !line.is_empty() {
        match stderr.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => line = &line[length..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut waited =
                    libc::pollfd { fd: stderr.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
                // SAFETY: one valid pollfd. An error shows again in the next write.
                unsafe { libc::poll(&mut waited, 1, -1) };
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn lose_a_line() {
    // Relaxed: a count, which orders nothing.
    LINES_LOST.fetch_add(1, Ordering::Relaxed);
}

/// The lines that were lost.
#[derive(Debug)]
pub struct LostLines;

impl MetricSource for LostLines {
    fn collect(&self, families: &mut Families) {
        let lost = LINES_LOST.load(Ordering::Relaxed);
        families
            .counter(
                "sigmad_log_lines_lost_total",
                "Log lines dropped because stderr could not be written, or because its reader was too slow.",
            )
            .add(&[], lost as f64);
    }
}
