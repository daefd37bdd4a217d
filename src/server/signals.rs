//! SIGTERM and SIGINT: the first one drains, a later one ends the process.

use std::io;
use std::time::Instant;

use crossbeam_channel::Sender;
use tracing::warn;

use super::shared::MainEvent;

/// The exit code after a second signal.
const EXIT_NOT_DRAINED: i32 = 1;

/// Starts the thread that waits for signals.
pub(super) fn watch(start: Instant, main: Sender<MainEvent>) -> io::Result<()> {
    let drain = move |signal| {
        // Err: the main thread has ended.
        let _ = main.send(MainEvent::Signal(signal));
    };
    sigmad_signals::watch(start, drain, |signal| {
        warn!(signal, "second signal: exit without waiting for the drain");
        std::process::exit(EXIT_NOT_DRAINED);
    })
}
