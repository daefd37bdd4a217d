//! How a reader waits for the answer of a thread to its question.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};

/// Questions that wait for one thread; with more, readers block.
pub const QUESTIONS_MAX: usize = 1_024;
/// An answer that takes longer may be one that never comes: the thread is looked for. Answers take milliseconds.
const THREAD_LOOK: Duration = Duration::from_secs(1);

/// Waits for the answer of the thread that takes `questions`. None once it has ended: `any` is then a question that
/// nobody takes.
pub fn wait<T, Q>(answer: &Receiver<T>, questions: &Sender<Q>, any: impl Fn() -> Q) -> Option<T> {
    // A question that came as the thread ended stays in the channel for ever.
    let has_ended = || matches!(questions.try_send(any()), Err(TrySendError::Disconnected(_)));
    loop {
        match answer.recv_timeout(THREAD_LOOK) {
            Ok(answer) => return Some(answer),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if has_ended() => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}
