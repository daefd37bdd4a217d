//! Signals: the first request to stop drains, a later one ends the process, SIGHUP reads secrets again.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use sigmad_signals::SignalEvent;
use tracing::{info, warn};

use super::counters::ServerCounters;
use super::shared::MainEvent;
use crate::logs;

/// The exit code after a second signal.
const EXIT_NOT_DRAINED: i32 = 1;

/// Starts the thread that waits for signals.
pub(super) fn watch(
    start: Instant,
    main: Sender<MainEvent>,
    counters: Arc<ServerCounters>,
) -> io::Result<()> {
    sigmad_signals::watch(start, move |event| {
        let event = match event {
            SignalEvent::Stop(signal) => MainEvent::Signal(signal),
            SignalEvent::Reload => MainEvent::Reload,
            SignalEvent::Ignored(signal) => return info!(signal, "signal ignored"),
            SignalEvent::StopNow(signal) => {
                let lost = counters.without_outcome();
                warn!(signal, lost, "second signal: exit without waiting for the drain");
                logs::flush();
                std::process::exit(EXIT_NOT_DRAINED);
            }
        };
        // Err: the main thread has ended.
        let _ = main.send(event);
    })
}
