//! What begins to be wrong, and what is well again: from analytics to the book of incidents.
//!
//! Times are microseconds since 1970, of arrival and not of the sample's own timestamp.

use std::sync::Arc;

/// A device and a series: what an onset is about. A silent device has no series, and reception has neither.
pub type Subject = (Option<Arc<str>>, Option<Arc<str>>);

/// One onset or one end, of a stream, a device, or everyone.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A stream left its usual course, or is worse than before.
    Deviation {
        /// None for a stream of samples without a device.
        device: Option<Arc<str>>,
        /// Name of the series.
        series: Arc<str>,
        /// Arrival of the value.
        at_us: i64,
        /// The value that was judged.
        value: f64,
        /// What was expected.
        usual: f64,
        /// Lower end of the usual band.
        low: f64,
        /// Upper end of the usual band.
        high: f64,
        /// That of `pager`: −log10 of the false alarms a day that this bar would cost one stream.
        score: f64,
    },
    /// A stream is back within its usual course.
    Recovery {
        /// As in its [`Event::Deviation`].
        device: Option<Arc<str>>,
        /// As in its [`Event::Deviation`].
        series: Arc<str>,
        /// Arrival of the value that showed it.
        at_us: i64,
    },
    /// A device that is usually heard is silent.
    Silence {
        /// Its name.
        device: Arc<str>,
        /// Arrival of its last sample.
        since_us: i64,
        /// When it was noticed.
        at_us: i64,
        /// Mean time between its samples, in microseconds.
        usual_interval_us: i64,
    },
    /// A silent device was heard again.
    Return {
        /// Its name.
        device: Arc<str>,
        /// Arrival of its sample.
        at_us: i64,
    },
    /// A device is silent for longer than `--stream-idle`, was evicted, or was deleted.
    Gone {
        /// Its name.
        device: Arc<str>,
        /// When it was noticed.
        at_us: i64,
    },
    /// Nothing was received from anyone.
    Reception {
        /// Arrival of the last sample of all.
        since_us: i64,
        /// When it was noticed.
        at_us: i64,
    },
    /// Somebody was heard again.
    ReceptionBack {
        /// Arrival of that sample.
        at_us: i64,
    },
    /// A shard of analytics knows again what it knew before a restart. Once, after the events of its journal.
    Restored {
        /// An onset of all that is wrong in its part now.
        standing: Vec<Event>,
        /// When it was restored.
        at_us: i64,
    },
}

impl Event {
    /// When it was noticed.
    pub const fn at_us(&self) -> i64 {
        match self {
            Self::Deviation { at_us, .. }
            | Self::Recovery { at_us, .. }
            | Self::Silence { at_us, .. }
            | Self::Return { at_us, .. }
            | Self::Gone { at_us, .. }
            | Self::Reception { at_us, .. }
            | Self::Restored { at_us, .. }
            | Self::ReceptionBack { at_us } => *at_us,
        }
    }
}
