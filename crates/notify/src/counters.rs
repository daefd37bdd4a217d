//! What became of notifications, by target.

use sigmad_counters::{Counter, Families, MetricSource};

/// Written by the thread of one target, read by the scrape.
#[derive(Debug, Default)]
pub struct TargetCounters {
    /// The name of the target.
    target: String,
    /// Notifications that the target has taken.
    pub sent_total: Counter,
    /// Those of attempts that failed and are repeated.
    pub failed_total: Counter,
    /// Those that the target never takes.
    pub refused_total: Counter,
    /// Those that were not sent: no room, or the process ended.
    pub dropped_total: Counter,
    /// Those that are due, or soon will be.
    pub waiting: Counter,
}

impl TargetCounters {
    /// Zeros for the target of this name.
    pub fn new(target: String) -> Self {
        Self { target, ..Self::default() }
    }
}

impl MetricSource for TargetCounters {
    fn collect(&self, families: &mut Families) {
        let total = families.counter(
            "sigmad_notifications_total",
            "Notifications by target and result: sent, failed (and repeated), refused by the target for good, dropped for lack of room or at the end of the process. For Alertmanager each alert of each POST.",
        );
        for (result, counter) in [
            ("sent", &self.sent_total),
            ("failed", &self.failed_total),
            ("refused", &self.refused_total),
            ("dropped", &self.dropped_total),
        ] {
            total.add_counter(&[("target", &self.target), ("result", result)], counter);
        }
        families
            .gauge(
                "sigmad_notifications_waiting",
                "Notifications that a target has not taken so far.",
            )
            .add_counter(&[("target", &self.target)], &self.waiting);
    }
}
