//! How streams and devices are judged for incidents.

use sigmad_incidents::reception::SilenceClock;
use sigmad_incidents::watch::WatchSettings;
use sigmad_incidents::watches::Watches;

use crate::analytics::silence::{SilenceIgnore, SilenceWatch};

/// How streams are judged for incidents.
#[derive(Clone, Debug)]
pub struct OnsetSettings {
    /// Values of a stream that arrive within this time are folded into one.
    pub interval_us: u64,
    /// Streams of devices that have room.
    pub streams_max: usize,
    /// Streams without a device that have room.
    pub fleet_streams_max: usize,
    /// A stream that is not heard for this long is gone.
    pub idle_us: i64,
    /// Devices that may be silent.
    pub silence_ignore: Option<SilenceIgnore>,
    /// The clock of silences, which all shards share.
    pub silence_clock: SilenceClock,
}

impl OnsetSettings {
    /// Of this room for streams, the part of those without a device: there are few where there are devices.
    const FLEET_PART: usize = 8;

    /// Room for so many streams in all shards, of which devices have so many.
    pub fn new(interval_us: u64, idle_us: i64, streams_max: usize, shards: usize) -> Self {
        let fleet_streams_max = streams_max / Self::FLEET_PART;
        let streams_max = (streams_max - fleet_streams_max) / shards;
        Self {
            interval_us,
            streams_max,
            fleet_streams_max,
            idle_us,
            silence_ignore: None,
            silence_clock: SilenceClock::default(),
        }
    }
}

impl OnsetSettings {
    pub(super) fn silence_watch(&self, has_fleet: bool) -> SilenceWatch {
        let (clock, ignore) = (self.silence_clock.clone(), self.silence_ignore.clone());
        SilenceWatch::new(clock, ignore, self.idle_us, has_fleet)
    }

    /// Without streams, and with room for that many.
    pub(super) fn watches(&self, streams_max: usize) -> Watches {
        Watches::new(WatchSettings::new(self.interval_us), streams_max)
    }
}
