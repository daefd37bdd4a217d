//! The table of detectors: one row for each that keeps a state, and what is derived from the rows.
//!
//! To add a detector, write a file with a type that implements [`Detector`] and one row in
//! `detector_table`. Flags, help, responses, `sigmad eval` and the slabs of states follow from the row.
//! The macro makes fields and branches of known types, so judging a value calls nothing through a table.

use clap::ValueEnum;

use crate::detector::Detector;
use crate::slab::Slab;

macro_rules! detector_table {
    (
        #[doc = $zscore_summary:literal] zscore: Zscore;
        $(#[doc = $summary:literal] $name:ident: $kind:ident;)+
    ) => {
        /// A detector, as flags, responses and tables name it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
        pub enum DetectorKind {
            #[doc = $zscore_summary]
            Zscore,
            $(#[doc = $summary] $kind,)+
        }

        impl DetectorKind {
            /// Every detector, in the order of the table.
            pub const ALL: &[Self] = &[Self::Zscore, $(Self::$kind,)+];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    Self::Zscore => "zscore",
                    $(Self::$kind => stringify!($name),)+
                }
            }

            /// The score from which a value is an anomaly, or which it must exceed for `zscore`, whose
            /// threshold is a setting.
            pub const fn threshold(self, zscore: f64) -> f64 {
                match self {
                    Self::Zscore => zscore,
                    $(Self::$kind => <crate::$name::$kind as Detector>::THRESHOLD,)+
                }
            }
        }

        impl DetectorKind {
            /// Bytes of its state of one stream.
            pub const fn state_bytes(self) -> usize {
                match self {
                    Self::Zscore => 0,
                    $(Self::$kind => Slab::<crate::$name::$kind>::STATE_BYTES,)+
                }
            }
        }

        impl DetectorKind {
            /// The version of its state, and its bytes once written; None without a state.
            pub(crate) fn saved_form(self) -> Option<(u16, usize)> {
                match self {
                    Self::Zscore => None,
                    $(Self::$kind => Some((
                        <crate::$name::$kind as Detector>::STATE_VERSION,
                        Slab::<crate::$name::$kind>::saved_bytes(),
                    )),)+
                }
            }
        }

        /// The states of each detector that runs, of all streams.
        #[derive(Debug)]
        pub(crate) struct Slabs {
            $($name: Option<Slab<crate::$name::$kind>>,)+
        }

        impl Slabs {
            pub(crate) fn new(kinds: &[DetectorKind]) -> Self {
                Self { $($name: kinds.contains(&DetectorKind::$kind).then(Slab::default),)+ }
            }

            /// Makes a new state at `index` for every detector that runs.
            pub(crate) fn take(&mut self, index: usize) {
                $(if let Some(slab) = &mut self.$name { slab.take(index); })+
            }

            /// Prefetches the states at `index`.
            #[inline]
            pub(crate) fn prefetch(&self, index: usize) {
                $(if let Some(slab) = &self.$name { slab.prefetch(index); })+
            }

            /// Lets every detector that runs judge a value. Returns the score of `first` and whether it is
            /// an anomaly; None when `first` keeps no state.
            #[inline]
            pub(crate) fn observe(
                &mut self,
                first: DetectorKind,
                index: usize,
                timestamp_us: i64,
                value: f64,
            ) -> Option<(f64, bool)> {
                let mut verdict = None;
                $(if let Some(slab) = &mut self.$name {
                    let observed = slab.observe(index, timestamp_us, value);
                    if first == DetectorKind::$kind {
                        verdict = Some(observed);
                    }
                })+
                verdict
            }

            /// Appends the states at `index` of every detector that runs, in the order of the table.
            pub(crate) fn write(&self, index: usize, to: &mut Vec<u8>) {
                $(if let Some(slab) = &self.$name { slab.write(index, to); })+
            }

            /// Replaces the state of a detector at `index`. False, and nothing is replaced, if it can't be read or the
            /// detector does not run.
            pub(crate) fn read(&mut self, kind: DetectorKind, index: usize, from: &[u8]) -> bool {
                match kind {
                    DetectorKind::Zscore => false,
                    $(DetectorKind::$kind => match &mut self.$name {
                        Some(slab) => slab.read(index, from),
                        None => false,
                    },)+
                }
            }

            /// The last score of a detector at `index`; None when it keeps no state or does not run.
            pub(crate) fn score(&self, kind: DetectorKind, index: usize) -> Option<f64> {
                match kind {
                    DetectorKind::Zscore => None,
                    $(DetectorKind::$kind => Some(self.$name.as_ref()?.score(index)),)+
                }
            }
        }
    };
}

detector_table! {
    /// distance from the mean of the window, in standard deviations
    zscore: Zscore;
    /// distance from the median of the last 50 values, in median absolute deviations
    robust: Robust;
    /// errors of two forecasts: a moving average, and the mean at this time of the day
    residual: Residual;
    /// distance from every state in which the stream has been before
    novelty: Novelty;
    /// events worth waking a person for, by their expected rate of false alarms
    pager: Pager;
}

impl DetectorKind {
    /// Whether a score is an anomaly by this threshold: `zscore` must exceed it, the others reach it.
    pub fn is_anomaly(self, score: f64, threshold: f64) -> bool {
        match self {
            Self::Zscore => score > threshold,
            _ => score >= threshold,
        }
    }
}
