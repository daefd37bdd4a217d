//! Who counts the outcomes of samples: the store thread, until the process ends without waiting for it any longer.
//!
//! The end of the process counts what has no outcome yet as lost. A store thread that is only late would count the
//! same samples again, between the last two looks at the counters or after them. So it passes this gate, which the end
//! of the process closes first.

use std::sync::{Mutex, PoisonError};

/// Open until [`OutcomeGate::close`]. A flush passes it once, so the lock costs nothing.
#[derive(Debug, Default)]
pub struct OutcomeGate {
    is_closed: Mutex<bool>,
}

impl OutcomeGate {
    /// Runs `count` as long as the gate is open. The gate does not close meanwhile.
    pub fn count(&self, count: impl FnOnce()) {
        let is_closed = self.is_closed.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_closed {
            count();
        }
    }

    /// From now on no outcome is counted.
    pub fn close(&self) {
        *self.is_closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_counted_once_it_is_closed() {
        let gate = OutcomeGate::default();
        let mut counted = 0;
        gate.count(|| counted += 1);
        gate.close();
        gate.count(|| counted += 1);
        assert_eq!(counted, 1);
    }
}
