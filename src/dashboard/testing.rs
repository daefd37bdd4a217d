//! Counters of two workers for tests.

use std::sync::Arc;

use sigmad_counters::{Counter, Counts, Histogram};

use super::sampler::{IngestCounts, IngestSource, SamplerCounters};

/// The POSTs of a worker that does not exist.
#[derive(Debug, Default)]
pub struct FakeIngest {
    pub accepted: Counter,
    pub dropped: Counter,
    pub durations: Histogram,
}

impl IngestSource for FakeIngest {
    fn counts(&self) -> IngestCounts {
        let (accepted, dropped) = (self.accepted.get(), self.dropped.get());
        IngestCounts { accepted, dropped, ..IngestCounts::default() }
    }

    fn add_durations(&self, durations: &mut Counts) {
        self.durations.merge_into(durations);
    }
}

/// Two workers, the first with these POSTs.
pub fn counters(first: Arc<FakeIngest>) -> SamplerCounters {
    SamplerCounters {
        ingest: vec![first, Arc::new(FakeIngest::default())],
        http: vec![Arc::default(), Arc::default()],
        sample_queues: vec![Arc::default(), Arc::default()],
        analytics: vec![Arc::default()],
    }
}
