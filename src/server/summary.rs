//! The last log lines: how many samples were accepted, and what became of them.

use sigmad_counters::Counter;
use tracing::info;

use super::counters::ServerCounters;
use crate::analytics::report::TotalsReport;
use crate::api::counters::RouterCounters;

/// Logs the totals of the run.
pub(super) fn log(totals: &TotalsReport, counters: &ServerCounters) {
    if let Some(redis) = &counters.redis {
        info!(
            stored = redis.store.stored_total.get(),
            coalesced = redis.store.coalesced_total.get(),
            // A store that does not end in time holds some without an outcome.
            dropped = redis.dropped() + redis.unfinished(),
            "store stopped"
        );
    }
    let sum = |of: fn(&RouterCounters) -> &Counter| {
        counters.workers.iter().map(|worker| of(&worker.router).get()).sum::<u64>()
    };
    info!(
        requests = sum(|router| &router.ingest_requests_total),
        accepted = sum(|router| &router.accepted_total),
        judged = totals.samples,
        invalid = sum(|router| &router.invalid_total),
        too_many_streams = sum(|router| &router.too_many_streams_total),
        queue_full = sum(|router| &router.queue_full_total),
        anomalies = totals.anomalies.iter().map(|(_, count)| count).sum::<u64>(),
        devices = totals.devices,
        streams = totals.streams,
        "stopped"
    );
}
