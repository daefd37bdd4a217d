//! A poller over io_uring (io_uring(7)), for TCP and Unix sockets.
//!
//! One system call per round submits all responses and waits for the next requests. Each socket has one receive that
//! goes on until it is ended, into buffers of a pool. A short response is copied, and sent at the next wait. New connections,
//! wake-ups and clients that go come from the epoll instance of [`Listeners`], which the ring polls.
//!
//! The kernel receives whether the worker wants bytes or not. When few buffers are left, the unread ones are copied to
//! the memory of their sockets, which counts them, and these receive no more until they have been read.

mod buffers;
mod ring;
mod slot;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use self::buffers::{BUFFERS, Buffers, GROUP};
use self::ring::{Operation, Ring};
pub use self::slot::UringSocket;
use self::slot::{Arrived, Place, SEND_KEPT_BYTES, Slot};
use super::listening::{Listeners, WAKER};
use super::wait_timer::WaitTimer;
use super::{Accepted, Poller, Progress, Received, Wake};
use crate::http::listen::Listener;

/// Below it unread bytes are copied to their sockets, so that those of others can arrive.
const BUFFERS_FREE_MIN: u16 = BUFFERS / 4;
/// Bytes of a response that wait for room in the kernel; the caller offers the rest again.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// Closed sockets whose client has yet to take the end of a response: as the kernel goes on with what it has taken.
const CLOSING_MAX: usize = 64;
/// At the end of a worker these have ten times so long without progress.
const CLOSING_WAIT: Duration = Duration::from_millis(100);
const CLOSING_WAITS: usize = 10;
/// Events of listeners and of the waker, taken at once.
const EVENTS_MAX: usize = 64;

/// An io_uring instance with its sockets.
pub struct UringPoller {
    ring: Ring,
    buffers: Buffers,
    slots: Slab<Slot>,
    /// The buffer whose bytes the worker has.
    lent: Option<u16>,
    /// The bytes that the worker has, when they were copied.
    copied: Box<[u8]>,
    /// Slots that may have to receive again.
    to_receive: Vec<usize>,
    /// Slots with something to submit.
    to_send: Vec<usize>,
    /// Slots with progress.
    progress: Vec<usize>,
    /// Closed slots that still send.
    closing: VecDeque<usize>,
    poll: Poll,
    /// The ring polls the epoll instance at present.
    polls: bool,
    events: Events,
    waker: Arc<Waker>,
    timer: WaitTimer,
    listeners: Listeners,
}

impl UringPoller {
    /// Polls non-blocking listeners. Workers that call [`Poller::wait`] must be the only thread that uses it from then on.
    ///
    /// # Errors
    /// When the kernel has no io_uring, is older than 6.1, or forbids it.
    pub fn new(listeners: impl IntoIterator<Item = impl Into<Listener>>) -> io::Result<Self> {
        let ring = Ring::new()?;
        let buffers = Buffers::new(&ring)?;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let timer = WaitTimer::new(&poll, WAKER)?;
        let listeners = Listeners::new(listeners, &poll)?;
        Ok(Self {
            ring,
            buffers,
            slots: Slab::new(),
            lent: None,
            copied: Box::default(),
            to_receive: Vec::new(),
            to_send: Vec::new(),
            progress: Vec::new(),
            closing: VecDeque::new(),
            poll,
            polls: false,
            events: Events::with_capacity(EVENTS_MAX),
            waker,
            timer,
            listeners,
        })
    }

    /// True when this kernel can do it and allows it.
    ///
    /// # Errors
    /// Why it can't, as [`Self::new`] would say.
    pub fn probe() -> io::Result<()> {
        Buffers::new(&Ring::new()?).map(drop)
    }

    /// Before a wait: gives back what was read, and submits what was left.
    fn prepare(&mut self) -> io::Result<()> {
        self.ring.enable()?;
        self.give_back();
        if self.buffers.free() < BUFFERS_FREE_MIN {
            self.copy_arrived()?;
        }
        self.submit_sends()?;
        let mut to_receive = mem::take(&mut self.to_receive);
        for index in to_receive.drain(..) {
            self.submit_receive(index)?;
        }
        self.to_receive = to_receive;
        if !self.polls {
            let epoll = Fd(self.poll.as_raw_fd());
            let poll = opcode::PollAdd::new(epoll, libc::POLLIN as u32).build();
            // SAFETY: it points to nothing.
            unsafe { self.ring.push(&poll.user_data(Operation::Epoll.user_data(0)))? };
            self.polls = true;
        }
        Ok(())
    }

    fn give_back(&mut self) {
        if let Some(id) = self.lent.take() {
            self.buffers.give_back(id);
        }
    }

    /// Moves unread bytes out of the pool. Their sockets receive no more until these have been read.
    #[cold]
    fn copy_arrived(&mut self) -> io::Result<()> {
        let mut cancelled = Vec::new();
        for (index, slot) in &mut self.slots {
            for arrived in &mut slot.arrived {
                let Arrived::Lent { id, length } = *arrived else { continue };
                *arrived = Arrived::Copied(self.buffers.bytes(id, length).into());
                slot.copied_bytes += length;
                self.buffers.give_back(id);
            }
            if slot.copied_bytes > 0 {
                self.progress.extend(slot.list(index));
            }
            if slot.copied_bytes > 0 && slot.is_receiving {
                cancelled.push(index);
            }
        }
        cancelled.into_iter().try_for_each(|index| self.cancel_receive(index))
    }

    fn cancel_receive(&mut self, index: usize) -> io::Result<()> {
        let receive = Operation::Receive.user_data(index);
        let cancel = opcode::AsyncCancel::new(receive).build();
        // SAFETY: it points to nothing.
        unsafe { self.ring.push(&cancel.user_data(Operation::Cancel.user_data(index))) }
    }

    /// Receives, or waits for the end when the client sends no more.
    fn submit_receive(&mut self, index: usize) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(index) else { return Ok(()) };
        if slot.is_closed || slot.is_broken || slot.is_receiving || !slot.arrived.is_empty() {
            return Ok(());
        }
        if slot.has_ended {
            if mem::replace(&mut slot.is_watched, true) {
                return Ok(());
            }
            // A poll of the ring would end at once, since it always reports that the client sends no more.
            let mut source = SourceFd(&slot.socket.as_raw_fd());
            return self.poll.registry().register(&mut source, Token(index), Interest::WRITABLE);
        }
        slot.is_receiving = true;
        let receive = opcode::RecvMulti::new(Fd(slot.socket.as_raw_fd()), GROUP).build();
        // SAFETY: the buffers live until the ring receives no more (see `drop`), and the socket's slot until this
        // has completed.
        unsafe { self.ring.push(&receive.user_data(Operation::Receive.user_data(index))) }
    }

    fn submit_sends(&mut self) -> io::Result<()> {
        let mut to_send = mem::take(&mut self.to_send);
        for index in to_send.drain(..) {
            self.submit_send(index)?;
        }
        self.to_send = to_send;
        Ok(())
    }

    fn submit_send(&mut self, index: usize) -> io::Result<()> {
        let slot = &mut self.slots[index];
        slot.is_submitted = true;
        let output = &slot.output[slot.sent..];
        // The kernel goes on by itself after a part.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let socket = Fd(slot.socket.as_raw_fd());
        let send = opcode::Send::new(socket, output.as_ptr(), output.len() as u32).flags(flags);
        // SAFETY: the output does not change, and its slot lives, until this has completed.
        unsafe { self.ring.push(&send.build().user_data(Operation::Send.user_data(index))) }
    }

    /// Takes the completions.
    fn reap(&mut self) -> io::Result<()> {
        let mut has_events = false;
        while let Some(completion) = self.ring.completed() {
            let (operation, index) = Operation::of(completion.user_data());
            match operation {
                Operation::Receive => self.end_receive(index, &completion),
                Operation::Send => self.end_send(index, completion.result()),
                Operation::Cancel => {}
                Operation::Epoll => (self.polls, has_events) = (false, true),
            }
        }
        if has_events {
            match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &self.events {
                // The token of waker and timer is none of both: the wait has ended, which is all that they are for.
                let is_of_listener = self.listeners.note(event.token());
                let has_gone = event.is_error() || event.is_write_closed();
                if !is_of_listener && has_gone && event.token() != WAKER {
                    let index = event.token().0;
                    self.slots[index].is_broken = true;
                    self.progress.extend(self.slots[index].list(index));
                }
            }
        }
        Ok(())
    }

    fn end_receive(&mut self, index: usize, completion: &cqueue::Entry) {
        let (flags, result) = (completion.flags(), completion.result());
        let slot = &mut self.slots[index];
        if !cqueue::more(flags) {
            slot.is_receiving = false;
            self.to_receive.push(index);
        }
        if let Some(id) = cqueue::buffer_select(flags) {
            self.buffers.note_taken();
            match usize::try_from(result) {
                Ok(length @ 1..) if !slot.is_closed => {
                    slot.arrived.push_back(Arrived::Lent { id, length });
                }
                _ => self.buffers.give_back(id),
            }
        }
        match -result {
            0 => slot.has_ended = true,
            // It goes on when there are buffers again, or the unread bytes have been read.
            libc::ENOBUFS | libc::ECANCELED => {}
            error if error > 0 => slot.is_broken = true,
            _ => {}
        }
        if slot.is_closed {
            self.end_closed(index);
        } else {
            self.progress.extend(slot.list(index));
        }
    }

    fn end_send(&mut self, index: usize, result: i32) {
        let slot = &mut self.slots[index];
        match usize::try_from(result) {
            Ok(length @ 1..) if slot.sent + length < slot.output.len() => {
                slot.sent += length;
                self.to_send.push(index);
                return;
            }
            Ok(_) => {}
            Err(_) => slot.is_broken = true,
        }
        slot.end_send();
        if slot.is_closed {
            self.closing.retain(|closing| *closing != index);
            self.end_closed(index);
            return;
        }
        if mem::take(&mut slot.wants_room) || slot.is_broken {
            self.progress.extend(slot.list(index));
        }
    }

    /// Closes the descriptor once no operation uses it, and ends a receive that waits for the client.
    fn end_closed(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.is_at_rest() {
            self.slots.remove(index);
        } else if !slot.is_sending()
            && !mem::replace(&mut slot.is_cancelled, true)
            // A shutdown would end it, too. But what has arrived is received then, and Linux tells nobody of the room: a client
            // that waits for it finds out after two minutes that the connection is closed.
            && self.cancel_receive(index).is_err()
        {
            let _ = self.slots[index].socket.shutdown(Shutdown::Both);
        }
    }
}

impl Poller for UringPoller {
    type Socket = UringSocket;

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn wait(&mut self, now_ms: u64, until_ms: u64) -> io::Result<()> {
        self.prepare()?;
        let blocks = self.progress.is_empty() && until_ms > now_ms;
        if blocks {
            self.timer.arm(now_ms, until_ms)?;
        }
        self.ring.enter(u32::from(blocks), None)?;
        self.reap()
    }

    fn progress(&mut self) -> impl Iterator<Item = Progress> {
        let Self { progress, slots, .. } = self;
        progress.drain(..).filter_map(|index| {
            let slot = slots.get_mut(index).filter(|slot| slot.is_listed && !slot.is_closed)?;
            Some(slot.progress())
        })
    }

    fn is_listening(&self) -> bool {
        self.listeners.is_open()
    }

    fn may_accept(&self) -> bool {
        self.listeners.may_accept()
    }

    fn accept(&mut self) -> io::Result<Option<Accepted<UringSocket>>> {
        let accepted = self.listeners.accept(&self.poll)?;
        Ok(accepted.map(|(socket, client)| Accepted {
            socket: UringSocket {
                place: Place::Here(socket),
                has_input: false,
                is_half_closed: false,
                held_bytes: 0,
            },
            client,
        }))
    }

    fn empty_listener(&mut self) {
        self.listeners.empty();
    }

    fn close_listener(&mut self) {
        self.listeners.close(&self.poll);
    }

    fn register(&mut self, socket: &mut UringSocket, key: usize) -> io::Result<()> {
        if let Place::Here(descriptor) = mem::replace(&mut socket.place, Place::Moving) {
            let slot = self.slots.insert(Slot::new(descriptor, key));
            socket.place = Place::Slot(slot);
            self.to_receive.push(slot);
        }
        Ok(())
    }

    fn receive(&mut self, socket: &mut UringSocket) -> Received<'_> {
        self.give_back();
        let index = socket.slot();
        let slot = &mut self.slots[index];
        let Some(arrived) = slot.arrived.pop_front() else {
            socket.has_input = false;
            return match slot {
                Slot { has_ended: true, .. } => Received::End,
                Slot { is_broken: true, .. } => Received::Failed,
                _ => Received::Nothing,
            };
        };
        socket.has_input = slot.has_input();
        if slot.arrived.is_empty() && !slot.is_receiving {
            self.to_receive.push(index);
        }
        match arrived {
            Arrived::Lent { id, length } => {
                self.lent = Some(id);
                Received::Bytes(self.buffers.bytes(id, length))
            }
            Arrived::Copied(bytes) => {
                slot.copied_bytes -= bytes.len();
                socket.held_bytes = slot.held_bytes();
                self.copied = bytes;
                Received::Bytes(&mut self.copied)
            }
        }
    }

    fn send(&mut self, socket: &mut UringSocket, bytes: &[u8]) -> io::Result<usize> {
        let index = socket.slot();
        let slot = &mut self.slots[index];
        if slot.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut sent = 0;
        if bytes.len() > SEND_KEPT_BYTES && !slot.is_sending() {
            sent = slot.send_now(bytes)?;
        }
        let bytes = &bytes[sent..];
        let room = if slot.is_submitted { 0 } else { SEND_BYTES_MAX - slot.output.len() };
        let length = bytes.len().min(room);
        if length > 0 {
            if !slot.is_sending() {
                self.to_send.push(index);
            }
            slot.output.extend_from_slice(&bytes[..length]);
        }
        // The rest is offered again, or memory is to be counted no more.
        slot.wants_room |= length < bytes.len() || slot.output.capacity() > SEND_KEPT_BYTES;
        socket.held_bytes = slot.held_bytes();
        Ok(sent + length)
    }

    fn shutdown_write(&mut self, socket: &mut UringSocket) -> io::Result<()> {
        let slot = &mut self.slots[socket.slot()];
        if slot.is_sending() {
            slot.shuts_write = true;
            return Ok(());
        }
        slot.socket.shutdown(Shutdown::Write)
    }

    fn close(&mut self, socket: UringSocket) {
        let Place::Slot(index) = socket.place else { return };
        let slot = &mut self.slots[index];
        slot.is_closed = true;
        while let Some(arrived) = slot.arrived.pop_front() {
            if let Arrived::Lent { id, .. } = arrived {
                self.buffers.give_back(id);
            }
        }
        if slot.is_sending() {
            if self.closing.len() == CLOSING_MAX
                && let Some(oldest) = self.closing.pop_front()
            {
                // Its client does not read.
                let _ = self.slots[oldest].socket.shutdown(Shutdown::Both);
            }
            self.closing.push_back(index);
        }
        self.end_closed(index);
    }
}

impl Drop for UringPoller {
    fn drop(&mut self) {
        // The kernel must not use the memory of buffers and responses after it was given back.
        if !self.ring.is_enabled() {
            return;
        }
        let _ = self.submit_sends();
        let mut waits = 0;
        while !self.closing.is_empty() && waits < CLOSING_WAITS {
            let before = self.closing.len();
            if self.ring.enter(1, Some(CLOSING_WAIT)).and_then(|()| self.reap()).is_err() {
                break;
            }
            waits = if self.closing.len() < before { 0 } else { waits + 1 };
        }
        if !self.ring.cancel_all() {
            mem::forget(mem::take(&mut self.slots));
            // Its memory is lost, which is better than written to by the kernel.
            self.buffers.leak();
        }
    }
}
