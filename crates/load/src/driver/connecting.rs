//! Opens connections, and counts the requests of lost ones.

use std::io;
use std::sync::atomic::Ordering;

use mio::Events;

use super::{
    CONNECTING_MAX, Driver, EVENTS_PER_ROUND_MAX, LossReason, RETRY_NS, SCAN_NS, TIMER, poll,
};
use crate::connection::ConnectResult;

impl Driver {
    /// Opens every connection, for at most `--timeout`; returns how many are open.
    ///
    /// # Errors
    /// When the poller fails.
    pub fn connect(&mut self) -> io::Result<usize> {
        let mut events = Events::with_capacity(EVENTS_PER_ROUND_MAX);
        let deadline_ns = self.clock.monotonic_ns() + self.timeout_ns;
        let mut next = 0;
        loop {
            let now_ns = self.clock.monotonic_ns();
            while next < self.connections.len() && self.connecting < CONNECTING_MAX {
                self.begin_connecting(next, now_ns);
                next += 1;
            }
            let is_stopped = self.stop.load(Ordering::Relaxed);
            if self.connecting == 0 || now_ns >= deadline_ns || is_stopped {
                return Ok(self.connections.iter().filter(|c| c.is_open()).count());
            }
            poll(&mut self.poll, &mut events, SCAN_NS)?;
            for event in &events {
                if event.token() != TIMER {
                    self.finish_connecting(event.token().0);
                }
            }
        }
    }

    /// Closes a connection, and counts its requests as lost.
    pub(super) fn lose(&mut self, key: usize, loss: LossReason, now_ns: u64) {
        let lost = std::mem::take(&mut self.connections[key].in_flight);
        for request in &lost {
            self.doubt_truth(request.number);
        }
        self.in_flight -= lost.len();
        self.live.failed.add(lost.len() as u64);
        *match loss {
            LossReason::Ended => &mut self.outcome.lost,
            LossReason::Timeout => &mut self.outcome.timeouts,
            LossReason::Malformed => &mut self.outcome.malformed,
        } += lost.len() as u64;
        let connection = &mut self.connections[key];
        // Reconnects at once, unless it never had a response.
        let retry_ns = if connection.answers > 0 { now_ns } else { now_ns + RETRY_NS };
        connection.close(retry_ns);
        if connection.wants_retry(now_ns) && !self.is_ending {
            self.begin_connecting(key, now_ns);
        }
    }

    pub(super) fn begin_connecting(&mut self, key: usize, now_ns: u64) {
        let registry = self.poll.registry();
        match self.connections[key].connect(&self.address, registry, now_ns) {
            Ok(()) => self.connecting += 1,
            Err(error) => self.fail_connecting(key, &error, now_ns),
        }
    }

    pub(super) fn finish_connecting(&mut self, key: usize) {
        match self.connections[key].finish_connecting(self.poll.registry()) {
            ConnectResult::Unchanged => {}
            ConnectResult::Opened => {
                self.connecting -= 1;
                self.outcome.opened += 1;
                let was_open = std::mem::replace(&mut self.connections[key].was_open, true);
                self.outcome.reopened += u64::from(was_open);
                if self.end_ns > 0 {
                    self.employ(key);
                }
            }
            ConnectResult::Failed(error) => {
                self.connecting -= 1;
                let now_ns = self.clock.monotonic_ns();
                self.fail_connecting(key, &error, now_ns);
            }
        }
    }

    pub(super) fn fail_connecting(&mut self, key: usize, error: &io::Error, now_ns: u64) {
        self.outcome.connect_errors += 1;
        self.outcome.connect_error = Some(error.to_string());
        self.connections[key].close(now_ns + RETRY_NS);
    }

    pub(super) fn expire(&mut self) {
        let now_ns = self.clock.monotonic_ns();
        if now_ns < self.next_scan_ns {
            return;
        }
        self.next_scan_ns = now_ns + SCAN_NS.min(self.timeout_ns / 2);
        for key in 0..self.connections.len() {
            let connection = &self.connections[key];
            let is_late = |since_ns: u64| now_ns.saturating_sub(since_ns) >= self.timeout_ns;
            if connection.in_flight.front().is_some_and(|request| is_late(request.sent_ns)) {
                self.lose(key, LossReason::Timeout, now_ns);
            } else if connection.connecting_since_ns().is_some_and(is_late) {
                self.connecting -= 1;
                self.fail_connecting(key, &io::ErrorKind::TimedOut.into(), now_ns);
            } else if connection.wants_retry(now_ns) && !self.is_ending {
                self.begin_connecting(key, now_ns);
            }
        }
    }
}
