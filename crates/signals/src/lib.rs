//! Signals as events: requests to stop, a reload, and those that must not end the process.
//!
//! SIGTERM, SIGINT and SIGQUIT ask for an orderly stop; a later one of them for an end at once. One request can
//! arrive as two signals: `timeout` of coreutils signals its child and then its process group. So signals within
//! [`SAME_REQUEST`] of the first one belong to it.

use std::io;
use std::time::{Duration, Instant};

use sigmad_clock::elapsed;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXFSZ,
};
use signal_hook::iterator::Signals;

/// Longer than the two signals of one request are apart, shorter than a person takes to ask again.
pub const SAME_REQUEST: Duration = Duration::from_millis(100);

/// Those that have no meaning here. By default each of them ends a process at once; SIGXFSZ comes when a log file
/// reaches `ulimit -f`.
const IGNORED: [i32; 5] = [SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGXFSZ];

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalEvent {
    /// An orderly stop.
    Stop(i32),
    /// An end at once, after [`SignalEvent::Stop`].
    StopNow(i32),
    /// SIGHUP: read again what can change while the process runs.
    Reload,
    /// Nothing. Reported once for each signal.
    Ignored(i32),
}

/// Starts the thread that waits for signals, and calls `on_event`. Clocks count from `start`.
///
/// # Errors
/// When the kernel refuses the handlers or the thread.
pub fn watch(
    start: Instant,
    mut on_event: impl FnMut(SignalEvent) + Send + 'static,
) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP].iter().chain(&IGNORED))?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut history = SignalHistory::default();
        for signal in signals.forever() {
            if let Some(event) = history.event(signal, elapsed(start)) {
                on_event(event);
            }
        }
    })?;
    Ok(())
}

/// The signals so far.
#[derive(Default)]
struct SignalHistory {
    /// When the orderly stop was asked for.
    stop_at: Option<Duration>,
    has_stopped_now: bool,
    reported: [bool; IGNORED.len()],
}

impl SignalHistory {
    /// What the signal asks for; None when it asks for nothing new.
    fn event(&mut self, signal: i32, at: Duration) -> Option<SignalEvent> {
        if signal == SIGHUP {
            return Some(SignalEvent::Reload);
        }
        if let Some(index) = IGNORED.iter().position(|ignored| *ignored == signal) {
            let is_new = !std::mem::replace(&mut self.reported[index], true);
            return is_new.then_some(SignalEvent::Ignored(signal));
        }
        match self.stop_at {
            None => {
                self.stop_at = Some(at);
                Some(SignalEvent::Stop(signal))
            }
            Some(first_at) if at - first_at < SAME_REQUEST || self.has_stopped_now => None,
            Some(_) => {
                self.has_stopped_now = true;
                Some(SignalEvent::StopNow(signal))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_at_one_moment_are_one_request() {
        let ms = Duration::from_millis;
        let events = |signals: &[(i32, Duration)]| -> Vec<_> {
            let mut history = SignalHistory::default();
            signals.iter().filter_map(|(signal, at)| history.event(*signal, *at)).collect()
        };
        let stop = SignalEvent::Stop(SIGTERM);
        assert_eq!(events(&[(SIGTERM, ms(5)), (SIGTERM, ms(5)), (SIGINT, ms(104))]), [stop]);
        assert_eq!(
            events(&[(SIGTERM, ms(5)), (SIGQUIT, ms(105)), (SIGINT, ms(300))]),
            [stop, SignalEvent::StopNow(SIGQUIT)]
        );
        assert_eq!(events(&[(SIGQUIT, ms(0))]), [SignalEvent::Stop(SIGQUIT)]);
    }

    #[test]
    fn other_signals_never_stop() {
        let mut history = SignalHistory::default();
        for signal in IGNORED {
            let event = history.event(signal, Duration::ZERO);
            assert_eq!(event, Some(SignalEvent::Ignored(signal)));
            assert_eq!(history.event(signal, Duration::MAX), None, "one line at most");
        }
        for _ in 0..2 {
            assert_eq!(history.event(SIGHUP, Duration::ZERO), Some(SignalEvent::Reload));
        }
        assert_eq!(history.event(SIGINT, Duration::MAX), Some(SignalEvent::Stop(SIGINT)));
    }
}
