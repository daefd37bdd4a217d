//! The responses of a worker's round on their way to its sockets, and how a connection ends behind its last one.

use std::ops::Range;

use super::Worker;
use super::connection::{Transfer, WorkerConnection};
use crate::http::budget::reserve_within;
use crate::http::message::Service;
use crate::http::poller::{PolledSocket, Poller, Received};
use crate::http::protocol::{ConnectionPhase, RefusalWriter};
use crate::http::request_error::RequestError;
use crate::http::stages::{Stage, StageTimer};

/// The buffer of a round's responses keeps this much.
const OUT_KEPT_BYTES: usize = 1024 * 1024;
/// Bytes read and dropped behind the last response: a client that is told to stop has time to do so.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;

impl<S: Service, P: Poller> Worker<S, P> {
    pub(super) fn respond(&mut self) {
        let mut responses = std::mem::take(&mut self.responses);
        for (key, range) in responses.drain(..) {
            if self.connections.contains(key) {
                self.write(key, range);
            }
        }
        self.responses = responses;
        self.out.clear();
        self.out.shrink_to(OUT_KEPT_BYTES);
        // It is left only when its connection has closed.
        self.timed = None;
        if std::mem::take(&mut self.calls) > 0 {
            self.service.round_answered(self.clock.monotonic_ns() - self.now.monotonic_ns);
        }
    }

    /// Sends what is left of earlier output, then `range` of this round's.
    pub(super) fn write(&mut self, key: usize, range: Range<usize>) {
        let connection = &mut self.connections[key];
        let mut timed = self.timed.take_if(|timed| timed.key == key);
        let mut timer = StageTimer(timed.as_mut().map(|timed| &mut timed.times));
        timer.begin(&self.clock);
        let WorkerConnection { socket, output, sent, .. } = connection;
        let result = if *sent < output.len() {
            reserve_within(output, range.len(), 0);
            output.extend_from_slice(&self.out[range]);
            self.poller.send(socket, &output[*sent..]).inspect(|length| *sent += length)
        } else {
            let bytes = &self.out[range];
            let result = self.poller.send(socket, bytes);
            result.inspect(|&length| {
                reserve_within(output, bytes.len() - length, 0);
                output.extend_from_slice(&bytes[length..]);
            })
        };
        timer.end(Stage::Write, &self.clock);
        if let Some(timed) = timed {
            self.counters.stages.record(&timed.times);
        }
        let Ok(length) = result else { return self.close(key) };
        if !connection.has_output() {
            return self.end_write(key);
        }
        let now_ms = self.now.monotonic_ms();
        let was_stalled = std::mem::replace(&mut connection.is_stalled, true);
        if !was_stalled {
            connection.transfer = Transfer::begin(now_ms);
        }
        connection.transfer.add(length, now_ms);
        // Other events are no progress: a client that sends and does not read must not extend its time.
        if !was_stalled || length > 0 {
            self.deadlines.set(connection, now_ms);
        }
        self.count_memory(key);
    }

    /// All output of the connection has been sent.
    pub(super) fn end_write(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        if connection.sent > 0 {
            connection.output = Vec::new();
            connection.sent = 0;
            self.count_memory(key);
        }
        let connection = &mut self.connections[key];
        connection.is_stalled = false;
        connection.protocol.flushed();
        if connection.protocol.phase() == ConnectionPhase::Closing {
            return self.linger(key);
        }
        if connection.wants_turn() {
            connection.list(key, &mut self.next_turns);
        }
        self.deadlines.set(connection, self.now.monotonic_ms());
    }

    /// Closes in stages (RFC 9112 section 9.6): bytes that arrive at a closed socket cause a reset, which
    /// destroys what the client has not read of the response.
    pub(super) fn linger(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        if connection.has_ended {
            return self.close(key);
        }
        connection.protocol.abandon();
        self.count_memory(key);
        let connection = &mut self.connections[key];
        connection.linger_bytes = Some(LINGER_BYTES_MAX);
        // The client ends after it has seen our end; when it has ended already, the close is enough.
        let is_shut = connection.socket.is_half_closed()
            || self.poller.shutdown_write(&mut connection.socket).is_ok();
        if !is_shut {
            return self.close(key);
        }
        if connection.socket.has_input() {
            connection.list(key, &mut self.next_turns);
        }
        self.deadlines.set(connection, self.now.monotonic_ms());
    }

    pub(super) fn refuse(&mut self, key: usize, error: RequestError) {
        let start = self.out.len();
        let connection = &mut self.connections[key];
        let refusal = RefusalWriter {
            service: &mut self.service,
            out: &mut self.out,
            date: &self.date,
            limits: &self.limits,
            counters: &self.counters,
        };
        connection.protocol.refuse(error, refusal);
        self.count_memory(key);
        self.write(key, start..self.out.len());
    }

    /// Receives and drops what a client still sends behind its last response.
    pub(super) fn discard(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        let left = match self.poller.receive(&mut connection.socket) {
            Received::Bytes(bytes) => {
                connection.linger_bytes.and_then(|left| left.checked_sub(bytes.len()))
            }
            Received::Nothing => connection.linger_bytes,
            Received::End | Received::NotTls | Received::Failed => None,
        };
        connection.linger_bytes = left;
        if left.is_none() {
            self.close(key);
        } else if connection.socket.has_input() {
            connection.list(key, &mut self.next_turns);
        }
    }
}
