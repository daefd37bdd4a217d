//! How the work of analytics is divided among threads.
//!
//! # What a shard has
//!
//! With one shard, one thread has all windows. With N > 1 there are N threads for devices and one for the fleet:
//!
//! | thread | windows | takes from each worker |
//! | --- | --- | --- |
//! | `analytics` (N = 1) | all | each sample |
//! | `analytics-0` … | those of devices whose index modulo N is its number | each sample of such a device |
//! | `fleet` | the fleet's, one for each metric | each sample, in the order in which it was sent |
//!
//! # What a sample needs from both
//!
//! No answer joins the two verdicts on a sample, so nothing waits for the other thread:
//!
//! - A verdict of a device and its anomaly depend on the device's windows alone. Its samples come in order, through
//!   one queue of each worker to one thread. So its verdicts are the same for each N and each size of batches.
//! - The verdict of the fleet on a sample of a device shows only in the fleet's windows and in their counts. A sample
//!   without a device exists for the fleet alone: its anomaly, its place in `/latest` and its count are there too.
//! - Each sample is *counted*, and kept for `/latest`, by one shard: that of its device, else the fleet's. So totals are
//!   sums.
//! - A metric that was evicted on the way here is noticed by each shard for itself, and counted by the fleet's, which
//!   sees each value once.
//! - Serials of anomalies and numbers of their changes are given out over all shards, by two atomics that only
//!   anomalies touch. A report says up to which numbers it is complete, and the page asks from there.
//!
//! # Reads
//!
//! A question about one device, or about the fleet's windows, goes to one shard. The others go to all that know a part,
//! and the asker joins the parts. Each thread answers after it has judged what was in its queues when it took the
//! question. So a read sees each sample whose 202 was sent before it. The parts of one answer are not taken at one
//! moment: of two samples on their way, an answer may have the later one alone.
//!
//! # With Redis
//!
//! All shards send what they have judged to one store thread, in one queue ([`crate::judged_queue`]):
//!
//! - A shard of devices sends its samples with the counts of its devices. The fleet's shard sends the values of all, which
//!   enter the fleet's windows and nothing else, and apart from them the samples without a device. So each sample has one
//!   outcome.
//! - A stream is of one shard, whose times increase: that is the order of its values in Redis. Of two devices it is the order
//!   in which the store has taken them; a sample may be some milliseconds out of place in the history, and the last
//!   sample of a timestamp may be another one. A value has the time that each shard gives it, so it may differ
//!   between the window of its device and the fleet's, by as much as the chunks of two workers are apart.
//! - Past the bound the chunk that waits longest is dropped, whosever it is. The store drops its oldest segment, which has
//!   the samples of all shards of some time.
//! - What other replicas have changed goes to the shard that has the windows, and so do detector states. The time up to
//!   which all is known is one for all shards: it is set once each has been sent what is before it.
//! - Of the lists of the cluster the store notes how far it is with each shard. A read asks each for what came later.
//! - The store ends when all shards have.

use sigmad_sample::DeviceId;

/// More shards have no use: that of the fleet takes each value, and is full before.
pub const SHARDS_MAX: usize = 64;

/// Which windows a shard has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShardPart {
    /// All: there is one shard.
    #[default]
    Whole,
    /// Those of some devices.
    Devices,
    /// The fleet's.
    Fleet,
}

impl ShardPart {
    /// Whether it has the fleet's windows.
    #[inline]
    pub fn has_fleet(self) -> bool {
        self != Self::Devices
    }

    /// Whether it has windows of devices.
    #[inline]
    pub fn has_devices(self) -> bool {
        self != Self::Fleet
    }
}

/// The shards of one process. Those of devices come first, then the fleet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardLayout {
    of_devices: usize,
}

impl ShardLayout {
    /// One shard that has all windows.
    pub const ONE: Self = Self { of_devices: 1 };

    /// That many shards of devices, 1 to [`SHARDS_MAX`].
    pub fn new(of_devices: usize) -> Self {
        assert!((1..=SHARDS_MAX).contains(&of_devices), "config checks --analytics");
        Self { of_devices }
    }

    /// How many threads there are: one, or one more than shards of devices.
    #[inline]
    pub fn threads(self) -> usize {
        if self.of_devices == 1 { 1 } else { self.of_devices + 1 }
    }

    /// How many shards of devices there are.
    #[inline]
    pub fn of_devices(self) -> usize {
        self.of_devices
    }

    /// The shard of a device.
    #[inline]
    pub fn of_device(self, id: DeviceId) -> usize {
        id.index as usize % self.of_devices
    }

    /// The shard that has the windows of a device, or of the fleet.
    #[inline]
    pub fn of_subject(self, device: Option<DeviceId>) -> usize {
        device.map_or(self.of_fleet(), |id| self.of_device(id))
    }

    /// The shard that has the fleet's windows.
    #[inline]
    pub fn of_fleet(self) -> usize {
        self.threads() - 1
    }

    /// Which windows a shard has.
    pub fn part(self, shard: usize) -> ShardPart {
        match shard {
            _ if self.of_devices == 1 => ShardPart::Whole,
            _ if shard == self.of_fleet() => ShardPart::Fleet,
            _ => ShardPart::Devices,
        }
    }

    /// The name of a shard's thread.
    pub fn name(self, shard: usize) -> String {
        match self.part(shard) {
            ShardPart::Whole => "analytics".to_owned(),
            ShardPart::Devices => format!("analytics-{shard}"),
            ShardPart::Fleet => "fleet".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_and_the_fleet_have_one_shard() {
        let device = |index| DeviceId { index, generation: 7 };
        let one = ShardLayout::ONE;
        assert_eq!((one.threads(), one.of_fleet(), one.of_device(device(5))), (1, 0, 0));
        assert_eq!((one.part(0), one.name(0)), (ShardPart::Whole, "analytics".to_owned()));
        let four = ShardLayout::new(4);
        assert_eq!((four.threads(), four.of_fleet(), four.of_device(device(7))), (5, 4, 3));
        assert_eq!((four.part(3), four.name(3)), (ShardPart::Devices, "analytics-3".to_owned()));
        assert_eq!((four.part(4), four.name(4)), (ShardPart::Fleet, "fleet".to_owned()));
    }
}
