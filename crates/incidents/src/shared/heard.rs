//! When each replica heard a device last.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A replica, by the number of its id.
pub type Replica = u64;

/// When the replicas heard some devices last, in microseconds since 1970 by one clock. None stands for all devices.
#[derive(Clone, Debug, Default)]
pub struct Heard(BTreeMap<Option<Arc<str>>, Vec<(Replica, i64)>>);

impl Heard {
    /// Takes what is known of a device now.
    pub fn set(&mut self, device: Option<Arc<str>>, replicas: Vec<(Replica, i64)>) {
        self.0.insert(device, replicas);
    }

    /// When any replica heard it last. None: that is not known.
    pub fn last_us(&self, device: &Option<Arc<str>>) -> Option<i64> {
        self.0.get(device)?.iter().map(|(_, at_us)| *at_us).max()
    }

    /// When `replica` heard it last, and when another one did.
    pub fn by(&self, device: &Option<Arc<str>>, replica: Replica) -> Option<[i64; 2]> {
        let replicas = self.0.get(device)?;
        let last = |is_own: bool| {
            let of_side = replicas.iter().filter(|(one, _)| (*one == replica) == is_own);
            of_side.map(|(_, at_us)| *at_us).max().unwrap_or(i64::MIN)
        };
        Some([last(true), last(false)])
    }

    /// Keeps the devices that `is_needed` says.
    pub fn retain(&mut self, mut is_needed: impl FnMut(&Option<Arc<str>>) -> bool) {
        self.0.retain(|device, _| is_needed(device));
    }
}
