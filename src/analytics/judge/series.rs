//! Some series of a device, or of the fleet: those that a reader names, or those with the highest scores.
//!
//! A host has thousands of series and the fleet tens of thousands, so only the windows of those chosen are copied.

use std::cmp::{Ordering, Reverse};

use sigmad_sample::MetricId;

use super::{Analytics, last_timestamp};
use crate::analytics::arena::{Arena, StreamIndex};
use crate::analytics::devices::DeviceEntry;
use crate::analytics::report::{SERIES_REPORTED_MAX, SeriesQuery, SeriesSelection, WindowsReport};
use crate::analytics::scan::has_part;

/// A series that the query matches.
struct MatchedSeries {
    metric: MetricId,
    place: StreamIndex,
    score: f64,
    is_exact: bool,
}

impl MatchedSeries {
    fn at(arena: &Arena, metric: MetricId, place: StreamIndex, is_exact: bool) -> Self {
        let score = arena.get(place).0.verdict.verdict().score;
        Self { metric, place, score, is_exact }
    }

    /// The exact name first, then the highest score.
    fn order(&self, other: &Self) -> Ordering {
        let exact = Reverse(self.is_exact).cmp(&Reverse(other.is_exact));
        exact.then(other.score.total_cmp(&self.score)).then(self.metric.cmp(&other.metric))
    }
}

impl Analytics {
    /// The series that the query chooses, highest score first, and how many more there are. Empty for a device
    /// without windows.
    pub fn series(&self, query: &SeriesQuery) -> WindowsReport {
        let SeriesQuery { device, scope, selection, limit } = query;
        let (mut matched, arena, all, last_timestamp_us) = match *device {
            None => {
                let fleet = &self.fleet;
                let last = last_timestamp(&fleet.last, fleet.samples, fleet.others, *scope);
                (self.matched_of_fleet(selection), &fleet.arena, fleet.streams(), last)
            }
            Some(id) => {
                let Some(device) = self.devices.get(id) else {
                    return WindowsReport::default();
                };
                let last = last_timestamp(&device.last, device.own.total, device.others, *scope);
                let matched = self.matched_of_device(device, selection);
                (matched, &self.devices.arena, device.streams.len(), last)
            }
        };
        let matches =
            if matches!(selection, SeriesSelection::Named(_)) { all } else { matched.len() };
        let limit = (*limit).min(SERIES_REPORTED_MAX);
        if matched.len() > limit {
            matched.select_nth_unstable_by(limit, MatchedSeries::order);
            matched.truncate(limit);
        }
        matched.sort_unstable_by(MatchedSeries::order);
        let reports = matched.iter().map(|s| self.metric_report(arena, s.metric, s.place, *scope));
        let metrics: Vec<_> = reports.flatten().collect();
        let other_metrics = matches.saturating_sub(metrics.len());
        WindowsReport { metrics, other_metrics, last_timestamp_us, synced_at_us: None }
    }

    fn matched_of_fleet(&self, selection: &SeriesSelection) -> Vec<MatchedSeries> {
        let (fleet, arena) = (&self.fleet, &self.fleet.arena);
        if let SeriesSelection::Named(metrics) = selection {
            // By their slots: tens of thousands of names are not compared four times a second.
            let found = metrics.iter().filter_map(|metric| fleet.get(*metric));
            return found.map(|f| MatchedSeries::at(arena, f.metric, f.place, false)).collect();
        }
        let found = fleet.iter().filter_map(|f| {
            let is_exact = selection.is_exact(&self.metrics.get(f.metric)?.name)?;
            Some(MatchedSeries::at(arena, f.metric, f.place, is_exact))
        });
        found.collect()
    }

    fn matched_of_device(
        &self,
        device: &DeviceEntry,
        selection: &SeriesSelection,
    ) -> Vec<MatchedSeries> {
        let found = device.streams.iter().filter_map(|stream| {
            let is_exact = match selection {
                SeriesSelection::Named(metrics) => {
                    metrics.contains(&stream.metric).then_some(false)
                }
                _ => selection.is_exact(&self.metric_name(stream.metric)?),
            };
            Some(MatchedSeries::at(&self.devices.arena, stream.metric, stream.place, is_exact?))
        });
        found.collect()
    }
}

impl SeriesSelection {
    /// Whether the name is exactly the one searched for. None if it does not match.
    fn is_exact(&self, name: &str) -> Option<bool> {
        match self {
            Self::Containing(part) => has_part(name, part).then(|| **part == *name),
            Self::All | Self::Named(_) => Some(false),
        }
    }
}
