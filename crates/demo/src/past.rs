//! What the fleet has measured before the demo starts.

use std::time::Duration;

use crate::PERIOD;
use crate::fleet::{DAY_S, DeviceReading, SimulatedFleet};

/// Days of the fleet, of a quarter of an hour each.
const DAYS: f64 = 2.0;
/// The noise of the past.
const SEED: u64 = 5;

/// The readings of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct PastReadings {
    /// How long before the start.
    pub ago: Duration,
    /// Of all devices, in the same order each time.
    pub readings: Vec<DeviceReading>,
}

/// The past, from its first moment to the last one before the start. Nothing is wrong in it.
#[derive(Clone, Debug)]
pub struct Past {
    fleet: SimulatedFleet,
    /// Moments that are left.
    left: u32,
}

impl Default for Past {
    fn default() -> Self {
        Self::of_seed(SEED)
    }
}

impl Past {
    /// The past with another noise.
    pub fn of_seed(seed: u64) -> Self {
        let left = (DAYS * DAY_S / PERIOD.as_secs_f64()) as u32;
        Self { fleet: SimulatedFleet::new(seed), left }
    }
}

impl Iterator for Past {
    type Item = PastReadings;

    fn next(&mut self) -> Option<PastReadings> {
        if self.left == 0 {
            return None;
        }
        let ago = PERIOD * self.left;
        self.left -= 1;
        let readings = self.fleet.measure(-ago.as_secs_f64()).into_iter().flatten().collect();
        Some(PastReadings { ago, readings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_ends_at_the_start_and_all_are_heard_in_it() {
        let past: Vec<_> = Past::default().collect();
        assert_eq!(past.last().map(|last| last.ago), Some(PERIOD));
        assert_eq!(past.len(), 7_200);
        assert!(past.iter().all(|moment| moment.readings.len() == 80));
        assert_ne!(past[0].readings, past[1].readings);
    }
}
