//! The metric families of the store.

use sigmad_counters::{Counter, Families, MetricSource, REQUEST_EDGES_NS, SampleOutcomes};

use super::{DropReason, ErrorKind, ListResult, StoreCounters};
use crate::judged_queue::{LIST_ENTRIES, LIST_ENTRIES_HELP, STORE_DROPPED, STORE_DROPPED_HELP};
use crate::shared_lists::ListKind;

impl MetricSource for StoreCounters {
    fn collect(&self, families: &mut Families) {
        let dropped = families.counter(STORE_DROPPED, STORE_DROPPED_HELP);
        for reason in DropReason::ALL {
            let counter = &self.dropped_total[reason as usize];
            dropped.add_counter(&[("reason", reason.name())], counter);
        }
        let errors = families.counter("sigmad_store_errors_total", "Failures of Redis, by kind.");
        for kind in ErrorKind::ALL {
            errors.add_counter(&[("kind", kind.name())], &self.errors_total[kind as usize]);
        }
        self.outcomes().collect(families);
        self.gauges(families);
        self.counters(families);
        let entries = families.counter(LIST_ENTRIES, LIST_ENTRIES_HELP);
        for (kind, result) in
            ListKind::ALL.into_iter().flat_map(|kind| ListResult::ALL.map(|result| (kind, result)))
        {
            let labels = [("list", kind.name()), ("result", result.name())];
            entries.add_counter(&labels, &self.list_entries_total[kind as usize][result as usize]);
        }
        self.states.collect(families);
        families
            .histogram(
                "sigmad_store_flush_duration_seconds",
                "From the first command of a flush to its last reply.",
                &REQUEST_EDGES_NS,
            )
            .add_histogram(&[], &self.flush);
        families
            .histogram(
                "sigmad_store_delay_seconds",
                "From the arrival of the oldest sample of a flush until Redis has it.",
                &REQUEST_EDGES_NS,
            )
            .add_histogram(&[], &self.delay);
    }
}

impl StoreCounters {
    fn outcomes(&self) -> SampleOutcomes {
        SampleOutcomes {
            stored: self.stored_total.get(),
            coalesced: self.coalesced_total.get(),
            dropped: self.dropped_total.iter().map(Counter::get).sum(),
            ..SampleOutcomes::default()
        }
    }

    fn gauges(&self, families: &mut Families) {
        for (name, help, counter) in [
            ("sigmad_store_up", "1 while flushes to Redis succeed.", &self.up),
            (
                "sigmad_store_queue_samples",
                "Samples in the store queue, which wait for Redis.",
                &self.queue_samples,
            ),
            (
                "sigmad_store_queue_bytes",
                "Memory that the samples of the store queue take.",
                &self.queue_bytes,
            ),
            (
                "sigmad_store_redis_used_memory_bytes",
                "Memory that Redis uses, as it says (used_memory, of all nodes); read every 5 s.",
                &self.redis_used_bytes,
            ),
            (
                "sigmad_store_redis_maxmemory_bytes",
                "Memory that Redis may use (maxmemory, of all nodes); 0 without a bound.",
                &self.redis_bytes_max,
            ),
        ] {
            families.gauge(name, help).add_counter(&[], counter);
        }
        let offset_us = self.clock_offset_us.get().cast_signed();
        families
            .gauge(
                "sigmad_store_clock_offset_seconds",
                "The clock of this replica less that of Redis; values are ordered by that of Redis.",
            )
            .add(&[], offset_us as f64 / 1e6);
    }

    fn counters(&self, families: &mut Families) {
        for (name, help, counter) in [
            (
                "sigmad_store_flushes_total",
                "Flushes whose commands Redis has all answered.",
                &self.flushes_total,
            ),
            (
                "sigmad_store_commands_total",
                "Commands that Redis has answered.",
                &self.commands_total,
            ),
            (
                "sigmad_store_connections_total",
                "Connections to Redis opened.",
                &self.connections_total,
            ),
            (
                "sigmad_store_rewritten_samples_total",
                "Stored samples written again because the sentinels named another master.",
                &self.rewritten_total,
            ),
            (
                "sigmad_store_unconfirmed_samples_total",
                "Stored samples that a failover of that moment may have lost: the sentinels had not confirmed the master, and --redis-queue or the drain ended.",
                &self.unconfirmed_total,
            ),
            (
                "sigmad_store_redis_evicted_keys_total",
                "Keys that Redis has deleted before their time for want of memory (evicted_keys, of all nodes).",
                &self.redis_evicted_total,
            ),
            (
                "sigmad_store_windows_read_total",
                "Windows read because another replica has changed them.",
                &self.windows_read_total,
            ),
            (
                "sigmad_store_windows_skipped_total",
                "Windows of other replicas skipped because --max-streams are in use here.",
                &self.windows_skipped_total,
            ),
            (
                "sigmad_store_future_values_total",
                "Values removed from windows in Redis because their time was in the future.",
                &self.future_values_total,
            ),
            (
                "sigmad_store_foreign_entries_total",
                "Members, counts and names found in Redis that no replica writes; skipped.",
                &self.foreign_entries_total,
            ),
        ] {
            families.counter(name, help).add_counter(&[], counter);
        }
    }
}
