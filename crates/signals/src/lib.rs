//! SIGTERM and SIGINT: the first one asks for an orderly stop, a later one for an end at once.
//!
//! One request can arrive as two signals: `timeout` of coreutils signals its child and then its process
//! group. So signals within [`SAME_REQUEST`] of the first one belong to it.

use std::io;
use std::time::{Duration, Instant};

use sigmad_clock::elapsed;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Longer than the two signals of one request are apart, shorter than a person takes to ask again.
pub const SAME_REQUEST: Duration = Duration::from_millis(100);

/// Starts the thread that waits for signals. It calls `first` with the first signal and `again` with the
/// next one that is another request. Clocks count from `start`.
///
/// # Errors
/// When the kernel refuses the handlers or the thread.
pub fn watch(
    start: Instant,
    first: impl FnOnce(i32) + Send + 'static,
    again: impl FnOnce(i32) + Send + 'static,
) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut signals = signals.forever().map(|signal| (signal, elapsed(start)));
        let Some((signal, first_at)) = signals.next() else { return };
        first(signal);
        if let Some(signal) = next_request(first_at, &mut signals) {
            again(signal);
        }
    })?;
    Ok(())
}

/// The first signal that is another request than the one at `first_at`.
fn next_request(
    first_at: Duration,
    signals: &mut impl Iterator<Item = (i32, Duration)>,
) -> Option<i32> {
    let (signal, _) = signals.find(|(_, at)| *at - first_at >= SAME_REQUEST)?;
    Some(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_at_one_moment_are_one_request() {
        let ms = Duration::from_millis;
        let next = |signals: &[(i32, Duration)]| next_request(ms(5), &mut signals.iter().copied());
        assert_eq!(next(&[(SIGTERM, ms(5)), (SIGINT, ms(104))]), None);
        assert_eq!(next(&[(SIGTERM, ms(5)), (SIGINT, ms(105))]), Some(SIGINT));
    }
}
