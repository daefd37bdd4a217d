//! A value that can change while the process runs: tokens, a certificate.
//!
//! Each reader has its own pointer to the value. Between two changes a read takes no lock and writes no memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The value in force.
#[derive(Debug)]
pub struct Reloadable<T> {
    /// Counts the changes.
    version: AtomicU64,
    value: Mutex<Arc<T>>,
}

/// One thread's view of a [`Reloadable`].
#[derive(Debug)]
pub struct ReloadableReader<T> {
    source: Arc<Reloadable<T>>,
    version: u64,
    value: Arc<T>,
}

impl<T> Reloadable<T> {
    /// A value before its first change.
    pub fn new(value: T) -> Arc<Self> {
        Arc::new(Self { version: AtomicU64::new(0), value: Mutex::new(Arc::new(value)) })
    }

    /// Replaces the value; each reader sees it at its next read.
    pub fn replace(&self, value: T) {
        *self.value.lock() = Arc::new(value);
        // Release pairs with the Acquire of a reader: who sees the number finds the value.
        self.version.fetch_add(1, Ordering::Release);
    }

    /// A view for one thread.
    pub fn reader(self: &Arc<Self>) -> ReloadableReader<T> {
        let version = self.version.load(Ordering::Acquire);
        ReloadableReader { source: self.clone(), version, value: self.value.lock().clone() }
    }
}

impl<T> ReloadableReader<T> {
    /// The value in force.
    #[inline]
    pub fn get(&mut self) -> &Arc<T> {
        let version = self.source.version.load(Ordering::Acquire);
        if version != self.version {
            self.version = version;
            self.value = self.source.value.lock().clone();
        }
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_sees_a_change_at_its_next_read() {
        let value = Reloadable::new(1);
        let (mut one, mut other) = (value.reader(), value.reader());
        assert_eq!((**one.get(), **other.get()), (1, 1));
        value.replace(2);
        assert_eq!(**one.get(), 2);
        value.replace(3);
        assert_eq!((**one.get(), **other.get(), **value.reader().get()), (3, 3, 3));
    }
}
