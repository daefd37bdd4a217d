//! The names of all devices, counted by their parts from time to time.

use std::sync::Arc;

use sigmad_incidents::tokens::FleetTokens;

use crate::registry::Registry;

/// Slots of the registry whose names are read under its lock at once.
const NAMES_AT_ONCE: usize = 4_096;
/// Names are counted again after this time, when there is a new onset.
const FLEET_AGE_NS: u64 = 60_000_000_000;
/// And for each of this many devices one second later: counting a million takes about a second.
const DEVICES_A_SECOND: usize = 2_000;

/// Counts the names of a registry.
#[derive(Debug)]
pub struct FleetCount {
    registry: Arc<Registry>,
    /// When the names are to be counted again; None before the first time.
    due_ns: Option<u64>,
}

impl FleetCount {
    /// Nothing is counted yet.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, due_ns: None }
    }

    /// There are many new names: the next time they are counted.
    pub fn count_again(&mut self) {
        self.due_ns = None;
    }

    /// The parts of all names; None if they were counted lately.
    pub fn count(&mut self, now_ns: u64) -> Option<FleetTokens> {
        if self.due_ns.is_some_and(|due_ns| now_ns < due_ns) {
            return None;
        }
        let mut fleet = FleetTokens::default();
        let mut from = 0;
        while let Some(names) = self.registry.device_names(from..from + NAMES_AT_ONCE) {
            names.iter().for_each(|name| fleet.add(name));
            from += NAMES_AT_ONCE;
        }
        let more_ns = (fleet.devices() / DEVICES_A_SECOND) as u64 * 1_000_000_000;
        self.due_ns = Some(now_ns + FLEET_AGE_NS + more_ns);
        Some(fleet)
    }
}
