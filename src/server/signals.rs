//! SIGTERM and SIGINT: the first one drains, the second one ends the process.

use std::io;

use crossbeam_channel::Sender;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::warn;

use super::shared::MainEvent;

/// The exit code after a second signal.
const EXIT_NOT_DRAINED: i32 = 1;

/// Starts the thread that waits for signals.
pub(super) fn watch(main: Sender<MainEvent>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut signals = signals.forever();
        if let Some(signal) = signals.next() {
            // Err: the main thread has ended.
            let _ = main.send(MainEvent::Signal(signal));
        }
        if let Some(signal) = signals.next() {
            warn!(signal, "second signal: exit without waiting for the drain");
            std::process::exit(EXIT_NOT_DRAINED);
        }
    })?;
    Ok(())
}
