//! TLS between a worker and another poller: the worker sees plain bytes, the other poller ciphertext.
//!
//! A session belongs to its socket and runs on its worker. Ciphertext that the kernel does not take stays with the
//! socket, and its plaintext is not counted as sent before the kernel has taken it. Unix sockets have no TLS.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

use super::{Accepted, PolledSocket, Poller, Progress, RECEIVE_BYTES_MAX, Received, Wake};
use crate::http::client_address::ClientAddress;
use crate::reloadable::ReloadableReader;

/// The first byte of a TLS connection: a record of the type handshake (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// A handshake without a client certificate takes 2 KB; more is no handshake, but a way to take memory.
const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;
/// The largest record with its head (RFC 8446 section 5.2). One can be left from earlier receives.
const RECORD_BYTES_MAX: usize = 5 + 16 * 1024 + 256;
const RECORD_HEAD_BYTES: usize = 5;
/// Plaintext that is encrypted before the kernel is asked to take it: two whole records. So much ciphertext can
/// wait in a socket.
const SEND_PIECE_BYTES: usize = 32 * 1024;
/// What a session takes besides its buffers, measured over 2,000 idle connections of TLS 1.2 and of 1.3.
const SESSION_BYTES: usize = 8 * 1024;

/// Another poller, with TLS on its sockets.
#[derive(Debug)]
pub struct TlsPoller<P> {
    inner: P,
    config: ReloadableReader<ServerConfig>,
    /// What a receive returns.
    plain: Box<[u8]>,
    /// Ciphertext on its way to the kernel.
    cipher: Vec<u8>,
    /// Sockets whose session is not negotiated yet.
    handshakes: usize,
}

impl<P> TlsPoller<P> {
    /// New connections use the present value of `config`.
    pub fn new(inner: P, config: ReloadableReader<ServerConfig>) -> Self {
        let plain = vec![0; RECEIVE_BYTES_MAX + RECORD_BYTES_MAX].into_boxed_slice();
        Self { inner, config, plain, cipher: Vec::new(), handshakes: 0 }
    }
}

/// What is spoken on a socket.
#[derive(Debug)]
enum TlsState {
    /// The first byte is awaited. A silent connection has no session yet.
    New(Arc<ServerConfig>),
    /// TLS, from the first byte of the handshake on.
    Session(Box<ServerConnection>),
    /// A Unix socket, or the first byte was none of TLS and is refused: bytes pass as they are.
    Plain,
}

/// A socket with its session.
#[derive(Debug)]
pub struct TlsSocket<S> {
    inner: S,
    state: TlsState,
    /// Ciphertext that the kernel has not taken.
    unsent: Vec<u8>,
    /// Plaintext bytes whose end is in `unsent`: not counted as sent yet.
    owed: usize,
    /// The kernel may take more.
    may_flush: bool,
    handshake_bytes: usize,
    incomplete: IncompleteRecord,
    /// The peer has said that it sends no more.
    has_closed: bool,
}

impl<S: PolledSocket> PolledSocket for TlsSocket<S> {
    fn update(&mut self, progress: Progress) {
        self.may_flush = true;
        self.inner.update(progress);
    }

    fn has_input(&self) -> bool {
        let has_answer_of_handshake = !self.unsent.is_empty() && self.owed == 0 && self.may_flush;
        self.inner.has_input() || self.has_closed || has_answer_of_handshake
    }

    fn is_half_closed(&self) -> bool {
        self.inner.is_half_closed() || self.has_closed
    }

    fn held_bytes(&self) -> usize {
        match &self.state {
            TlsState::New(_) | TlsState::Plain => 0,
            TlsState::Session(session) => {
                // The parts of a message of the handshake are held until it is whole.
                let arrived = match session.is_handshaking() {
                    true => self.handshake_bytes,
                    false => self.incomplete.held,
                };
                SESSION_BYTES + arrived + self.unsent.capacity()
            }
        }
    }

    fn is_handshaking(&self) -> bool {
        match &self.state {
            TlsState::New(_) => true,
            TlsState::Session(session) => session.is_handshaking(),
            TlsState::Plain => false,
        }
    }
}

/// How much of an incomplete record the session holds, which does not say it.
#[derive(Debug, Default)]
struct IncompleteRecord {
    head: [u8; RECORD_HEAD_BYTES],
    held: usize,
    /// Bytes that are missing behind the head.
    left: usize,
}

impl IncompleteRecord {
    fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            let taken = if self.held < RECORD_HEAD_BYTES {
                self.head[self.held] = *first;
                1
            } else {
                self.left.min(bytes.len())
            };
            bytes = &bytes[taken..];
            let had_head = self.held >= RECORD_HEAD_BYTES;
            self.held += taken;
            if had_head {
                self.left -= taken;
            } else if self.held == RECORD_HEAD_BYTES {
                self.left = u16::from_be_bytes([self.head[3], self.head[4]]).into();
            }
            if self.held >= RECORD_HEAD_BYTES && self.left == 0 {
                self.held = 0;
            }
        }
    }
}

/// What a receive has brought.
#[derive(Default)]
struct Decrypted {
    /// Plaintext bytes.
    length: usize,
    /// The bytes break TLS.
    has_failed: bool,
}

impl<S> TlsSocket<S> {
    /// Takes ciphertext, and writes the plaintext to `plain`, which has room for it.
    fn decrypt(&mut self, mut bytes: &[u8], plain: &mut [u8]) -> Decrypted {
        let mut decrypted = Decrypted::default();
        if bytes.is_empty() {
            return decrypted;
        }
        if let TlsState::New(config) = &self.state {
            match ServerConnection::new(config.clone()) {
                Ok(session) => self.state = TlsState::Session(Box::new(session)),
                Err(_) => return Decrypted { has_failed: true, ..decrypted },
            }
        }
        let TlsState::Session(session) = &mut self.state else { return decrypted };
        if session.is_handshaking() {
            self.handshake_bytes = self.handshake_bytes.saturating_add(bytes.len());
        }
        self.incomplete.feed(bytes);
        while !bytes.is_empty() && !self.has_closed {
            let state = match session.read_tls(&mut bytes) {
                Ok(_) => session.process_new_packets(),
                Err(_) => return Decrypted { has_failed: true, ..decrypted },
            };
            match state {
                Ok(state) => self.has_closed = state.peer_has_closed(),
                Err(_) => return Decrypted { has_failed: true, ..decrypted },
            }
            // WouldBlock: all has been read. 0: the peer has closed.
            while let Ok(length @ 1..) = session.reader().read(&mut plain[decrypted.length..]) {
                decrypted.length += length;
            }
        }
        let is_too_long = session.is_handshaking() && self.handshake_bytes > HANDSHAKE_BYTES_MAX;
        Decrypted { has_failed: is_too_long, ..decrypted }
    }
}

impl<P: Poller> TlsPoller<P> {
    /// Gives the kernel the ciphertext of earlier calls, then all that the session has to send.
    fn flush(&mut self, socket: &mut TlsSocket<P::Socket>) -> io::Result<()> {
        let Self { inner, cipher, .. } = self;
        cipher.clear();
        cipher.extend_from_slice(&std::mem::take(&mut socket.unsent));
        if let TlsState::Session(session) = &mut socket.state {
            while session.wants_write() {
                session.write_tls(cipher)?;
            }
        }
        if cipher.is_empty() {
            return Ok(());
        }
        let sent = inner.send(&mut socket.inner, cipher)?;
        if sent < cipher.len() {
            socket.unsent = cipher[sent..].to_vec();
            socket.may_flush = false;
        }
        Ok(())
    }

    /// The peer learns that nothing more comes; without it, it could not tell the end from an attack.
    fn say_goodbye(&mut self, socket: &mut TlsSocket<P::Socket>) -> io::Result<()> {
        if let TlsState::Session(session) = &mut socket.state
            && !session.is_handshaking()
        {
            session.send_close_notify();
            self.flush(socket)?;
        }
        Ok(())
    }
}

impl<P: Poller> Poller for TlsPoller<P> {
    type Socket = TlsSocket<P::Socket>;

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }

    fn wait(&mut self, now_ms: u64, until_ms: u64) -> io::Result<()> {
        self.inner.wait(now_ms, until_ms)
    }

    fn progress(&mut self) -> impl Iterator<Item = Progress> {
        self.inner.progress()
    }

    fn is_listening(&self) -> bool {
        self.inner.is_listening()
    }

    fn may_accept(&self) -> bool {
        self.inner.may_accept()
    }

    fn accept(&mut self) -> io::Result<Option<Accepted<Self::Socket>>> {
        let Some(Accepted { socket: inner, client }) = self.inner.accept()? else {
            return Ok(None);
        };
        let state = match client {
            ClientAddress::Ip(_) => TlsState::New(self.config.get().clone()),
            ClientAddress::Unix => TlsState::Plain,
        };
        let socket = TlsSocket {
            inner,
            state,
            unsent: Vec::new(),
            owed: 0,
            may_flush: true,
            handshake_bytes: 0,
            incomplete: IncompleteRecord::default(),
            has_closed: false,
        };
        self.handshakes += usize::from(socket.is_handshaking());
        Ok(Some(Accepted { socket, client }))
    }

    fn handshakes(&self) -> usize {
        self.handshakes
    }

    fn empty_listener(&mut self) {
        self.inner.empty_listener();
    }

    fn close_listener(&mut self) {
        self.inner.close_listener();
    }

    fn register(&mut self, socket: &mut Self::Socket, key: usize) -> io::Result<()> {
        self.inner.register(&mut socket.inner, key)
    }

    fn receive(&mut self, socket: &mut Self::Socket) -> Received<'_> {
        if let TlsState::Plain = socket.state {
            return self.inner.receive(&mut socket.inner);
        }
        if socket.has_closed {
            return Received::End;
        }
        let bytes: &[u8] = match self.inner.receive(&mut socket.inner) {
            Received::Bytes(bytes) => bytes,
            // A part of the handshake may wait for the kernel to take it.
            Received::Nothing => &[],
            Received::End => return Received::End,
            Received::NotTls | Received::Failed => return Received::Failed,
        };
        let is_first = matches!(socket.state, TlsState::New(_));
        if is_first && bytes.first().is_some_and(|first| *first != HANDSHAKE_RECORD) {
            socket.state = TlsState::Plain;
            self.handshakes -= 1;
            return Received::NotTls;
        }
        let was_handshaking = socket.is_handshaking();
        let Decrypted { length, has_failed } = socket.decrypt(bytes, &mut self.plain);
        if was_handshaking && !socket.is_handshaking() {
            self.handshakes -= 1;
        }
        // Also after a failure: the session then has an alert that names it.
        if self.flush(socket).is_err() || has_failed {
            return Received::Failed;
        }
        match length {
            0 if socket.has_closed => Received::End,
            0 => Received::Nothing,
            _ => Received::Bytes(&mut self.plain[..length]),
        }
    }

    fn send(&mut self, socket: &mut Self::Socket, bytes: &[u8]) -> io::Result<usize> {
        if let TlsState::Plain = socket.state {
            return self.inner.send(&mut socket.inner, bytes);
        }
        if socket.is_handshaking() {
            // A refusal without a request: there are no keys to encrypt it, and the connection closes.
            return Ok(bytes.len());
        }
        let mut sent = 0;
        self.flush(socket)?;
        while socket.unsent.is_empty() {
            sent += std::mem::take(&mut socket.owed);
            debug_assert!(sent <= bytes.len(), "the caller offers the same bytes again");
            let piece = &bytes[sent..bytes.len().min(sent + SEND_PIECE_BYTES)];
            let TlsState::Session(session) = &mut socket.state else { break };
            if piece.is_empty() {
                break;
            }
            session.writer().write_all(piece)?;
            socket.owed = piece.len();
            self.flush(socket)?;
        }
        Ok(sent)
    }

    fn shutdown_write(&mut self, socket: &mut Self::Socket) -> io::Result<()> {
        self.say_goodbye(socket)?;
        self.inner.shutdown_write(&mut socket.inner)
    }

    fn close(&mut self, mut socket: Self::Socket) {
        self.handshakes -= usize::from(socket.is_handshaking());
        // The peer may have gone, or may not take it.
        let _ = self.say_goodbye(&mut socket);
        self.inner.close(socket.inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_record_is_counted_however_it_arrives() {
        let record = |length: u8| [&[23, 3, 3, 0, length][..], &vec![7; length.into()]].concat();
        let stream = [record(0), record(1), record(200), record(3)].concat();
        let ends = [5, 11, 216, 224];
        for step in [1, 2, 5, 7, 224] {
            let mut incomplete = IncompleteRecord::default();
            let mut fed = 0;
            for part in stream.chunks(step) {
                incomplete.feed(part);
                fed += part.len();
                let whole = ends.iter().rev().find(|end| **end <= fed).unwrap_or(&0);
                assert_eq!(incomplete.held, fed - whole, "after {fed} by {step}");
            }
        }
    }
}
