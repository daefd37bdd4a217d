//! What became of every sample, and how the store fares.

use super::families::Family;
use super::{REQUEST_EDGES_NS, Sources, StoreSources, merged};
use crate::api::counters::RouterCounters;
use crate::store::{DropReason, ErrorKind};
use sigmad_counters::Counter;

/// What became of every sample: at rest, received is the sum of the outcomes and of what is queued.
pub fn ledger(sources: &Sources) -> [Family; 3] {
    let Sources { routers, sample_queues, analytics, .. } = sources;
    let total = |tally: fn(&RouterCounters) -> &Counter| -> u64 {
        routers.iter().map(|router| tally(router).get()).sum()
    };
    let rejected = total(|counters| &counters.invalid_total)
        + total(|counters| &counters.too_many_streams_total)
        + total(|counters| &counters.queue_full_total);
    let accepted = total(|counters| &counters.accepted_total);
    let sent: u64 = sample_queues.iter().map(|queue| queue.samples_total.get()).sum();
    let outcomes = match &sources.store {
        // What is judged is kept in memory, in the same step.
        None => Outcomes { stored: analytics.samples_total.get(), ..Outcomes::default() },
        Some(StoreSources { queue, store }) => Outcomes {
            stored: store.stored_total.get(),
            coalesced: store.coalesced_total.get(),
            dropped: queue.dropped_total.get()
                + store.dropped_total.iter().map(Counter::get).sum::<u64>(),
        },
    };
    let queued = match &sources.store {
        None => sent.saturating_sub(outcomes.stored),
        Some(StoreSources { queue, store }) => {
            let gone = queue.dropped_total.get() + store.taken_total.get();
            sent.saturating_sub(gone) + store.queue_samples.get()
        }
    };

    let mut received = Family::counter(
        "sigmad_samples_received_total",
        "Samples received, whatever became of them.",
    );
    received.add(&[], (accepted + rejected) as f64);
    let mut samples = Family::counter(
        "sigmad_samples_total",
        "Samples by outcome: rejected in the response, stored, coalesced with a later one of the same key, dropped.",
    );
    for (outcome, count) in [
        ("rejected", rejected),
        ("stored", outcomes.stored),
        ("coalesced", outcomes.coalesced),
        ("dropped", outcomes.dropped),
    ] {
        samples.add(&[("outcome", outcome)], count as f64);
    }
    let mut waiting = Family::gauge(
        "sigmad_pending_samples",
        "Accepted samples without an outcome so far: in the analytics queue or the store queue.",
    );
    waiting.add(&[], queued as f64);
    [received, samples, waiting]
}

#[derive(Default)]
struct Outcomes {
    stored: u64,
    coalesced: u64,
    dropped: u64,
}

/// Redis.
pub fn redis(StoreSources { queue, store }: &StoreSources) -> [Family; 13] {
    let gauge = |name, help, tally: &Counter| {
        let mut family = Family::gauge(name, help);
        family.add(&[], tally.get() as f64);
        family
    };
    let counter = |name, help, tally: &Counter| {
        let mut family = Family::counter(name, help);
        family.add(&[], tally.get() as f64);
        family
    };
    let mut dropped = Family::counter(
        "sigmad_store_dropped_total",
        "Samples dropped, by reason: queue_full while Redis was away, refused by Redis for good, shutdown before Redis had them.",
    );
    for reason in DropReason::ALL {
        let mut count = store.dropped_total[reason as usize].get();
        if reason == DropReason::QueueFull {
            count += queue.dropped_total.get();
        }
        dropped.add(&[("reason", reason.name())], count as f64);
    }
    let mut errors = Family::counter("sigmad_store_errors_total", "Failures of Redis, by kind.");
    for kind in ErrorKind::ALL {
        let count = store.errors_total[kind as usize].get();
        errors.add(&[("kind", kind.name())], count as f64);
    }
    let mut flush = Family::histogram(
        "sigmad_store_flush_duration_seconds",
        "From the first command of a flush to its last answer.",
    );
    flush.add_histogram(&[], &merged([&store.flush]), &REQUEST_EDGES_NS);
    let mut delay = Family::histogram(
        "sigmad_store_delay_seconds",
        "From the arrival of the oldest sample of a flush to the moment that Redis had it.",
    );
    delay.add_histogram(&[], &merged([&store.delay]), &REQUEST_EDGES_NS);
    [
        gauge("sigmad_store_up", "1 while Redis does what it is asked.", &store.up),
        gauge(
            "sigmad_store_queue_samples",
            "Samples in the store queue, which wait for Redis.",
            &store.queue_samples,
        ),
        gauge(
            "sigmad_store_queue_bytes",
            "Memory that the samples of the store queue take.",
            &store.queue_bytes,
        ),
        dropped,
        errors,
        counter(
            "sigmad_store_flushes_total",
            "Flushes that reached Redis whole.",
            &store.flushes_total,
        ),
        counter(
            "sigmad_store_commands_total",
            "Commands that Redis has answered.",
            &store.commands_total,
        ),
        counter("sigmad_store_connections_total", "Connections made.", &store.connections_total),
        counter(
            "sigmad_store_windows_read_total",
            "Windows read because another replica had changed them.",
            &store.windows_read_total,
        ),
        counter(
            "sigmad_store_windows_skipped_total",
            "Windows of other replicas skipped because --max-streams are in use here.",
            &store.windows_skipped_total,
        ),
        counter(
            "sigmad_store_foreign_entries_total",
            "Members, counts and names found in Redis that no replica writes; skipped.",
            &store.foreign_entries_total,
        ),
        flush,
        delay,
    ]
}
