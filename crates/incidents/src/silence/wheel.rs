//! A timing wheel: which devices may be silent by now.
//!
//! A device is in the slot of the second in which it would be silent had it not been heard again. When the second comes
//! it is looked at, and goes to a later slot if it was. So a device that is well costs nothing when it is heard, and
//! one look in each time for which it may be silent.
//!
//! Slots are lists through the cadences themselves, so that a device takes no memory here.

/// Seconds ahead: later ones are looked at before.
const SLOTS: u32 = 4_096;
/// No device.
pub const NONE: u32 = u32::MAX;

/// The first device of each slot.
#[derive(Debug, Default)]
pub struct Wheel {
    slots: Vec<u32>,
    /// The last second whose slot was taken.
    at_s: u32,
    linked: usize,
}

impl Wheel {
    /// Devices in it.
    pub fn len(&self) -> usize {
        self.linked
    }

    /// Links a device into the slot of a second, or of the last one that there is; returns the device that it
    /// comes before.
    pub fn link(&mut self, device: u32, due_s: u32) -> u32 {
        if self.slots.is_empty() {
            self.slots = vec![NONE; SLOTS as usize];
        }
        let due_s = due_s.clamp(self.at_s + 1, self.at_s + SLOTS - 1);
        self.linked += 1;
        std::mem::replace(&mut self.slots[(due_s % SLOTS) as usize], device)
    }

    /// Takes the list of the next slot, up to that second. None when there is none.
    pub fn take_next(&mut self, to_s: u32) -> Option<u32> {
        if self.slots.is_empty() {
            self.at_s = to_s;
        }
        // After a leap once around is enough.
        self.at_s = self.at_s.max(to_s.saturating_sub(SLOTS));
        while self.at_s < to_s {
            self.at_s += 1;
            let slot = &mut self.slots[(self.at_s % SLOTS) as usize];
            if *slot != NONE {
                return Some(std::mem::replace(slot, NONE));
            }
        }
        None
    }

    /// A device of a list that was taken is no longer in it.
    pub fn unlinked(&mut self) {
        self.linked -= 1;
    }
}
