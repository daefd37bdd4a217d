//! What the thread `incidents` counts.

use sigmad_counters::{Counter, Families, MetricSource};
use sigmad_incidents::book::Book;
use sigmad_incidents::incident::{Kind, Severity};

/// Written by that thread, read by the scrape. With Redis the thread `replicas` writes what is open.
#[derive(Debug, Default)]
pub struct IncidentCounters {
    open: [Counter; 2],
    opened: [Counter; 3],
    merged: Counter,
    resolved: Counter,
    dropped: Counter,
    silences: Counter,
}

impl IncidentCounters {
    /// Takes over what the book has counted.
    pub(super) fn set(&self, book: &Book) {
        let counts = book.counts();
        self.opened.iter().zip(counts.opened).for_each(|(one, n)| one.set(n));
        self.merged.set(counts.merged);
        self.resolved.set(counts.resolved);
        self.dropped.set(counts.dropped);
    }

    /// Takes over what is open and silenced: of the cluster, where there is one. Then the thread `replicas` does it.
    pub fn set_open(&self, by_severity: [usize; 2], silences: usize) {
        self.open.iter().zip(by_severity).for_each(|(one, n)| one.set(n as u64));
        self.silences.set(silences as u64);
    }
}

impl MetricSource for IncidentCounters {
    fn collect(&self, families: &mut Families) {
        let open = families.gauge(
            "sigmad_incidents_open",
            "Incidents that are neither resolved nor silenced, by severity: with Redis those of all replicas.",
        );
        for (severity, count) in Severity::ALL.iter().zip(&self.open) {
            open.add_counter(&[("severity", severity.name())], count);
        }
        let opened = families.counter(
            "sigmad_incidents_total",
            "Incidents opened, by the kind of their first member; also those that were merged later.",
        );
        for (kind, count) in Kind::ALL.iter().zip(&self.opened) {
            opened.add_counter(&[("kind", kind.name())], count);
        }
        families
            .counter(
                "sigmad_incidents_merged_total",
                "Incidents that turned out to be a part of an earlier one.",
            )
            .add_counter(&[], &self.merged);
        families
            .counter("sigmad_incidents_resolved_total", "Incidents resolved, without those merged.")
            .add_counter(&[], &self.resolved);
        families
            .counter(
                "sigmad_incidents_onsets_dropped_total",
                "Onsets that found no room among the open incidents and their members.",
            )
            .add_counter(&[], &self.dropped);
        families
            .gauge("sigmad_silences", "Silences of operators that have not ended.")
            .add_counter(&[], &self.silences);
    }
}
