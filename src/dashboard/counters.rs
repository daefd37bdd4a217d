//! Counters of the thread behind `/events`.

use sigmad_counters::{Counter, Families, MetricSource};

/// Written by that thread, read by the scrape.
#[derive(Debug, Default)]
pub struct EventsCounters {
    /// Clients connected now.
    pub clients: Counter,
    /// Bytes handed to the workers.
    pub sent_bytes_total: Counter,
    /// Clients disconnected because they read too slowly.
    pub dropped_total: Counter,
    /// Streams whose history is recorded now.
    pub history_streams: Counter,
    /// Streams whose history made room for that of another.
    pub history_evicted_total: Counter,
    /// Streams that were not recorded because all others were wanted, too.
    pub history_refused_total: Counter,
    /// Pages of other replicas that could not be read.
    pub history_unreadable_total: Counter,
}

impl MetricSource for EventsCounters {
    fn collect(&self, families: &mut Families) {
        families
            .gauge("sigmad_events_clients", "Clients of /events connected now.")
            .add_counter(&[], &self.clients);
        families
            .counter(
                "sigmad_events_sent_bytes_total",
                "Bytes handed to the workers for the clients of /events.",
            )
            .add_counter(&[], &self.sent_bytes_total);
        families
            .counter(
                "sigmad_events_clients_dropped_total",
                "Clients of /events disconnected because they read too slowly.",
            )
            .add_counter(&[], &self.dropped_total);
        families
            .gauge("sigmad_history_streams", "Streams whose history of a day is recorded.")
            .add_counter(&[], &self.history_streams);
        families
            .counter(
                "sigmad_history_streams_dropped_total",
                "Streams whose history was dropped, by reason: evicted for another stream, refused because all others are wanted, or unreadable as another replica wrote it (a page of its streams).",
            )
            .add_counter(&[("reason", "evicted")], &self.history_evicted_total)
            .add_counter(&[("reason", "refused")], &self.history_refused_total)
            .add_counter(&[("reason", "unreadable")], &self.history_unreadable_total);
    }
}
