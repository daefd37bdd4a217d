//! What the thread `replicas` counts.

use sigmad_counters::{Counter, Families, MetricSource};

/// Written by that thread, read by the scrape.
#[derive(Debug, Default)]
pub struct ClusterCounters {
    /// 1 while this replica makes the cluster's book.
    pub is_holder: Counter,
    /// 1 while Redis answers.
    pub is_up: Counter,
    /// Turns that were answered.
    pub turns_total: Counter,
    /// Turns that failed.
    pub failed_total: Counter,
    /// Books written.
    pub written_total: Counter,
    /// Books read.
    pub read_total: Counter,
    /// Books that could not be read: damaged, or of a newer version.
    pub unreadable_total: Counter,
    /// Claims of other replicas that could not be read.
    pub unreadable_claims_total: Counter,
    /// Orders of operators sent through Redis.
    pub orders_total: Counter,
    /// Orders without room, or whose end is not known.
    pub orders_lost_total: Counter,
    /// Pages of recorded history written.
    pub pages_written_total: Counter,
    /// Pages of other replicas read.
    pub pages_read_total: Counter,
    /// Pages that could not be read: damaged, or of another version.
    pub pages_unreadable_total: Counter,
    /// Exchanges of pages that Redis refused. They are tried again.
    pub pages_refused_total: Counter,
}

impl MetricSource for ClusterCounters {
    fn collect(&self, families: &mut Families) {
        families
            .gauge(
                "sigmad_cluster_holder",
                "1 on the replica that makes the cluster's book of incidents and tells others of them.",
            )
            .add_counter(&[], &self.is_holder);
        families
            .gauge(
                "sigmad_cluster_up",
                "1 while replicas hear of each other's incidents through Redis.",
            )
            .add_counter(&[], &self.is_up);
        families
            .counter("sigmad_cluster_turns_total", "Exchanges with the other replicas, by result.")
            .add_counter(&[("result", "ok")], &self.turns_total)
            .add_counter(&[("result", "failed")], &self.failed_total);
        families
            .counter(
                "sigmad_cluster_books_total",
                "The cluster's book of incidents, by what was done with it.",
            )
            .add_counter(&[("result", "written")], &self.written_total)
            .add_counter(&[("result", "read")], &self.read_total)
            .add_counter(&[("result", "unreadable")], &self.unreadable_total);
        families
            .counter(
                "sigmad_cluster_claims_unreadable_total",
                "What other replicas say is wrong, damaged or of another version.",
            )
            .add_counter(&[], &self.unreadable_claims_total);
        families
            .counter(
                "sigmad_cluster_orders_total",
                "What operators asked of the cluster, by result: sent, or lost, of which they are told.",
            )
            .add_counter(&[("result", "sent")], &self.orders_total)
            .add_counter(&[("result", "lost")], &self.orders_lost_total);
        families
            .counter(
                "sigmad_cluster_history_pages_total",
                "Pages of recorded history, by result: written, read from other replicas, unreadable, or an exchange that Redis refused and that is repeated.",
            )
            .add_counter(&[("result", "written")], &self.pages_written_total)
            .add_counter(&[("result", "read")], &self.pages_read_total)
            .add_counter(&[("result", "unreadable")], &self.pages_unreadable_total)
            .add_counter(&[("result", "refused")], &self.pages_refused_total);
    }
}
