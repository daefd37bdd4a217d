//! The services of the engine, and what all its connections share.

use std::sync::Arc;

use parking_lot::Mutex;

use super::monitor::ConnectionMonitor;
use super::response::HeaderLines;
use super::socket::BorrowedSocket;

/// A service with what its connections need to respond. One connection at a time holds its lock.
pub(super) struct ServiceSlot<S> {
    /// None once the engine has stopped.
    pub service: Option<S>,
    pub lines: HeaderLines,
    pub calls: u64,
}

/// What all connections share.
pub(super) struct MayShared<S> {
    pub slots: Box<[Mutex<ServiceSlot<S>>]>,
    pub monitor: Arc<ConnectionMonitor>,
}

impl<S> MayShared<S> {
    pub fn new(services: Vec<S>, monitor: ConnectionMonitor) -> Self {
        let slot = |service| {
            Mutex::new(ServiceSlot {
                service: Some(service),
                lines: HeaderLines::default(),
                calls: 0,
            })
        };
        Self { slots: services.into_iter().map(slot).collect(), monitor: Arc::new(monitor) }
    }

    /// The slot of a connection, always the same, so that its samples keep their order. may resumes a
    /// connection on the thread of the same number, so the slot is usually free.
    pub fn slot(&self, socket: BorrowedSocket) -> &Mutex<ServiceSlot<S>> {
        &self.slots[socket.number() % self.slots.len()]
    }
}
