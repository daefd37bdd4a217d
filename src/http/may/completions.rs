//! Completions of one responder on their way to its connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use may::sync::Blocker;
use parking_lot::Mutex;

use crate::http::message::{Completion, CompletionSink, StreamState};

/// The queue of one responder. Its receiver parks a coroutine, not the thread.
pub(super) struct CompletionQueue {
    queue: Mutex<VecDeque<Completion>>,
    blocker: Blocker,
}

impl CompletionQueue {
    /// To be called in the coroutine that will receive.
    pub fn new() -> Self {
        Self { queue: Mutex::default(), blocker: Blocker::new(false) }
    }

    pub fn receive(&self) -> Completion {
        loop {
            if let Some(completion) = self.receive_within(None) {
                return completion;
            }
        }
    }

    /// The next completion. None after `timeout`, or earlier: a spurious wake-up is possible.
    pub fn receive_within(&self, timeout: Option<Duration>) -> Option<Completion> {
        if let Some(completion) = self.queue.lock().pop_front() {
            return Some(completion);
        }
        let (Ok(()) | Err(_)) = self.blocker.park(timeout);
        self.queue.lock().pop_front()
    }
}

impl CompletionSink for CompletionQueue {
    fn complete(&self, _responder_id: u64, completion: Completion) {
        self.queue.lock().push_back(completion);
        self.blocker.unpark();
    }
}

/// Closes the stream when its connection ends, also by a panic or a cancellation.
pub(super) struct StreamCloseGuard(pub Arc<StreamState>);

impl Drop for StreamCloseGuard {
    fn drop(&mut self) {
        // Relaxed: the writer only learns that it may stop.
        self.0.closed.store(true, Ordering::Relaxed);
    }
}
