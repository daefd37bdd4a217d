//! How other threads reach a worker: a queue of commands and a wake-up.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::http::message::{Completion, CompletionSink};
use crate::http::poller::Wake;

/// What another thread asks of a worker.
pub(super) enum WorkerCommand {
    /// Write a response, or a part of one.
    Complete { responder_id: u64, completion: Completion },
    /// Finish within `limit`.
    Drain { limit: Duration },
}

/// Sends commands to a worker.
pub struct WorkerHandle {
    commands: Sender<WorkerCommand>,
    waker: Arc<dyn Wake>,
}

impl WorkerHandle {
    pub(super) fn new(waker: Arc<dyn Wake>) -> (Self, Receiver<WorkerCommand>) {
        let (sender, commands) = unbounded();
        (Self { commands: sender, waker }, commands)
    }

    fn send(&self, command: WorkerCommand) {
        // Err: the worker has ended, and so have its connections.
        if self.commands.send(command).is_ok() {
            self.waker.wake();
        }
    }

    /// Stops accepting, answers requests in progress with `Connection: close`, and ends the worker when
    /// the last connection has closed, or after `limit`.
    pub fn drain(&self, limit: Duration) {
        self.send(WorkerCommand::Drain { limit });
    }
}

impl CompletionSink for WorkerHandle {
    fn complete(&self, responder_id: u64, completion: Completion) {
        self.send(WorkerCommand::Complete { responder_id, completion });
    }
}
