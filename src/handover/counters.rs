//! What is counted of states on their way: by analytics, and by the store.

use sigmad_counters::{Counter, Families, MetricSource};

/// How the wait for the states of a device ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitOutcome {
    /// They came.
    Received,
    /// They came, without the last values of a replica that has died since.
    Older,
    /// No other replica has had the device, or none has its states.
    Unknown,
    /// They did not come within the limit.
    Late,
    /// Too many values waited.
    NoRoom,
}

impl WaitOutcome {
    /// All variants, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Received, Self::Older, Self::Unknown, Self::Late, Self::NoRoom];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Older => "older",
            Self::Unknown => "unknown",
            Self::Late => "late",
            Self::NoRoom => "no_room",
        }
    }
}

/// Why the states of a stream did not reach another replica, or this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateLoss {
    /// They take more bytes than a stream may.
    TooLong,
    /// Redis has those of a newer version, which stay.
    NewerVersion,
    /// Redis refused them for good.
    Refused,
    /// The drain ended before.
    Shutdown,
    /// Another version wrote them.
    OtherVersion,
    /// They are damaged, or of another client.
    Damaged,
}

impl StateLoss {
    /// All variants, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::TooLong,
        Self::NewerVersion,
        Self::Refused,
        Self::Shutdown,
        Self::OtherVersion,
        Self::Damaged,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::NewerVersion => "newer_version",
            Self::Refused => "refused",
            Self::Shutdown => "shutdown",
            Self::OtherVersion => "other_version",
            Self::Damaged => "damaged",
        }
    }
}

/// What analytics counts.
#[derive(Debug, Default)]
pub struct HandoverCounters {
    /// Waits that have ended, by [`WaitOutcome`].
    pub waits_total: [Counter; WaitOutcome::ALL.len()],
    /// Devices whose values wait now.
    pub waiting: Counter,
    /// Values that have waited.
    pub values_total: Counter,
    /// Devices whose states were given to the store, because they had moved or in a drain.
    pub stated_total: Counter,
    /// Devices that several replicas hear at a time; each keeps states of its own.
    pub contended_total: Counter,
    /// States of detectors that begin anew: their version is another one.
    pub anew_total: Counter,
    /// Devices whose states the store did not take before the end of the drain.
    pub left_total: Counter,
}

/// What the store counts: states of streams.
#[derive(Debug, Default)]
pub struct StatesCounters {
    /// Written to Redis.
    pub written_total: Counter,
    /// Read from Redis.
    pub read_total: Counter,
    /// Devices whose states have come with values that are newer than those that waited for them.
    pub crossed_total: Counter,
    /// Lost, by [`StateLoss`].
    pub lost_total: [Counter; StateLoss::ALL.len()],
}

impl StatesCounters {
    /// Counts states that are lost.
    pub fn lose(&self, loss: StateLoss, streams: u64) {
        self.lost_total[loss as usize].add(streams);
    }
}

impl MetricSource for HandoverCounters {
    fn collect(&self, families: &mut Families) {
        let waits = families.counter(
            "sigmad_handover_waits_total",
            "Devices whose values have waited for detector states of another replica, by how that ended.",
        );
        for outcome in WaitOutcome::ALL {
            let counter = &self.waits_total[outcome as usize];
            waits.add_counter(&[("outcome", outcome.name())], counter);
        }
        families
            .gauge(
                "sigmad_handover_waiting_devices",
                "Devices whose values wait for detector states of another replica.",
            )
            .add_counter(&[], &self.waiting);
        for (name, help, counter) in [
            (
                "sigmad_handover_values_total",
                "Values that have waited for detector states of another replica.",
                &self.values_total,
            ),
            (
                "sigmad_handover_devices_total",
                "Devices whose detector states this replica has handed over: they moved, or it drained.",
                &self.stated_total,
            ),
            (
                "sigmad_handover_devices_left_total",
                "Devices whose detector states were not handed over before the drain ended.",
                &self.left_total,
            ),
            (
                "sigmad_handover_contended_total",
                "Devices found to be heard by several replicas at a time, whose states stay apart.",
                &self.contended_total,
            ),
            (
                "sigmad_handover_anew_total",
                "Detector states of another version that were handed over, and begin anew.",
                &self.anew_total,
            ),
        ] {
            families.counter(name, help).add_counter(&[], counter);
        }
    }
}

impl MetricSource for StatesCounters {
    fn collect(&self, families: &mut Families) {
        for (name, help, counter) in [
            (
                "sigmad_store_states_written_total",
                "Streams whose detector states were written to Redis.",
                &self.written_total,
            ),
            (
                "sigmad_store_states_read_total",
                "Streams whose detector states were read from Redis.",
                &self.read_total,
            ),
            (
                "sigmad_store_states_crossed_total",
                "Devices that had gone back before their detector states came: some of their values were judged out of order.",
                &self.crossed_total,
            ),
        ] {
            families.counter(name, help).add_counter(&[], counter);
        }
        let lost = families.counter(
            "sigmad_store_states_lost_total",
            "Streams whose detector states were not written to Redis or not read, by reason.",
        );
        for loss in StateLoss::ALL {
            let counter = &self.lost_total[loss as usize];
            lost.add_counter(&[("reason", loss.name())], counter);
        }
    }
}
