//! The past of a simulated fleet: what each shard judges before its first turn.
//!
//! Each shard makes its own copy as it takes it, so that no thread waits for another, and no more than one moment of
//! it is in memory.

use std::sync::Arc;

use sigmad_clock::{Clock, Now};
use sigmad_demo::PastReadings;
use sigmad_sample::{Batch, DeviceId, MetricId, Reading};

use super::shared::Shared;
use crate::analytics::thread::Past;
use crate::registry::{NameSource, Registry};
use crate::shards::{ShardLayout, ShardPart};

/// The past of each shard, in their order. It ends now.
pub(super) fn of_shards(past: &sigmad_demo::Past, shared: &Shared) -> Vec<Past> {
    let now = Clock::new(shared.start).now();
    let shard = |shard| {
        let samples = Samples {
            registry: shared.registry.clone(),
            layout: shared.layout,
            shard,
            now,
            devices: Vec::new(),
        };
        Past(Box::new(of_shard(past.clone(), samples)))
    };
    (0..shared.layout.threads()).map(shard).collect()
}

fn of_shard(
    past: impl Iterator<Item = PastReadings>,
    mut samples: Samples,
) -> impl Iterator<Item = (i64, Batch)> {
    past.map(move |moment| samples.take(&moment))
}

/// Makes samples of readings.
struct Samples {
    registry: Arc<Registry>,
    layout: ShardLayout,
    shard: usize,
    /// The end of the past.
    now: Now,
    /// The ids of the devices, in the order of their readings; empty before the first. None: without room.
    devices: Vec<Option<DeviceId>>,
}

impl Samples {
    /// The samples of one moment that the shard has, and when they arrived.
    fn take(&mut self, moment: &PastReadings) -> (i64, Batch) {
        if self.devices.is_empty() {
            self.devices = moment.readings.iter().map(|of| self.admit(&of.device)).collect();
        }
        let arrived_us = self.now.wall_us - moment.ago.as_micros() as i64;
        let mut batch = Batch::default();
        for (reading, id) in moment.readings.iter().zip(&self.devices) {
            let Some(id) = *id else { continue };
            if self.has(id) {
                let [rps, cpu] = [(MetricId::RPS, reading.rps), (MetricId::CPU, reading.cpu)]
                    .map(|(metric, value)| Reading { metric, value });
                batch.push(arrived_us, Some(id), &[rps, cpu]);
            }
        }
        (arrived_us, batch)
    }

    fn admit(&self, device: &str) -> Option<DeviceId> {
        let mut metrics = [("rps", Some(MetricId::RPS)), ("cpu", Some(MetricId::CPU))];
        let now_s = (self.now.monotonic_ns / 1_000_000_000) as u32;
        // Err: no room for the whole fleet, as its client will be told.
        let admitted = self.registry.admit(NameSource::Client, Some(device), &mut metrics, now_s);
        admitted.ok().flatten().map(|admitted| admitted.device)
    }

    fn has(&self, id: DeviceId) -> bool {
        match self.layout.part(self.shard) {
            ShardPart::Whole | ShardPart::Fleet => true,
            ShardPart::Devices => self.layout.of_device(id) == self.shard,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytics::report::{AnomaliesQuery, AnomaliesReport, Scope};
    use crate::analytics::{Analytics, AnalyticsSettings, AnomalyNumbers, OnsetSettings};
    use sigmad_demo::Past;
    use sigmad_demo::fleet::{DeviceReading, SimulatedFleet};
    use sigmad_demo::sites::{DEVICES_PER_RACK, RACKS};
    use sigmad_demo::story::{FaultKind, STORY_S, faults};
    use sigmad_incidents::book::{Book, BookSettings};
    use sigmad_incidents::incident::{Incident, Kind, State};
    use sigmad_incidents::tokens::FleetTokens;

    const START_US: i64 = 1_735_100_000_000_000;
    const DEVICES: usize = RACKS.len() * DEVICES_PER_RACK;

    /// The shards of a demo, which have learned, and the book.
    struct Demo {
        analytics: Vec<Analytics>,
        samples: Vec<Samples>,
        book: Book,
    }

    impl Demo {
        fn new(seed: u64, layout: ShardLayout) -> Self {
            let registry = Arc::new(Registry::new(1_000, u32::MAX));
            let numbers = AnomalyNumbers::default();
            let interval_us = 2_000_000;
            let onsets =
                OnsetSettings::new(interval_us, 86_400_000_000, 1_000, layout.of_devices());
            let settings =
                AnalyticsSettings { onsets: Some(onsets), ..AnalyticsSettings::default() };
            let (mut analytics, mut samples) = (Vec::new(), Vec::new());
            for shard in 0..layout.threads() {
                let (part, names) = (layout.part(shard), registry.clone().into());
                let mut learning =
                    Analytics::of_part(part, settings.clone(), names, numbers.clone());
                let new = || {
                    let now = Now { monotonic_ns: 0, wall_us: START_US };
                    Samples { registry: registry.clone(), layout, shard, now, devices: Vec::new() }
                };
                learning.learn(of_shard(Past::of_seed(seed), new()));
                analytics.push(learning);
                samples.push(new());
            }
            let mut book = Book::new(BookSettings::default());
            let mut tokens = FleetTokens::default();
            let fleet = SimulatedFleet::new(seed);
            (0..DEVICES).for_each(|place| tokens.add(fleet.name(place)));
            book.set_fleet(tokens);
            Self { analytics, samples, book }
        }

        /// Takes what arrives so many microseconds after the start.
        fn take(&mut self, after_us: i64, readings: &[DeviceReading]) {
            let arrived_us = START_US + after_us;
            for (analytics, samples) in self.analytics.iter_mut().zip(&mut self.samples) {
                let mut batch = Batch::default();
                for reading in readings {
                    let id = samples.admit(&reading.device).expect("there is room");
                    if samples.has(id) {
                        let values = [(MetricId::RPS, reading.rps), (MetricId::CPU, reading.cpu)];
                        let values = values.map(|(metric, value)| Reading { metric, value });
                        batch.push(arrived_us, Some(id), &values);
                    }
                }
                analytics.tick(arrived_us);
                analytics.judge(&batch, arrived_us);
                analytics.pass_events(|event| self.book.apply(&event));
            }
        }

        /// Tells the first stories. Each one's incidents are its faults, and no others.
        fn tell(mut self, seed: u64, stories: u32) {
            let mut fleet = SimulatedFleet::new(seed + 100);
            let mut seen = 0;
            for story in 0..stories {
                for turn in 0..4 * STORY_S as u32 {
                    let at_s = f64::from(story) * STORY_S + f64::from(turn) / 4.0;
                    let readings: Vec<_> = fleet.measure(at_s).into_iter().flatten().collect();
                    self.take((at_s * 1e6) as i64, &readings);
                    for fault in faults(at_s).iter().filter(|fault| fault.forgotten_s == at_s) {
                        for place in fault.devices.clone() {
                            assert!(self.samples[0].registry.forget_device(fleet.name(place)));
                        }
                    }
                }
                let mut incidents = self.book.changes_since(seen, usize::MAX);
                seen = incidents.last().map_or(seen, |incident| incident.revision);
                incidents.retain(|incident| incident.merged_into.is_none());
                check(&incidents, f64::from(story) * STORY_S);
            }
        }
    }

    /// That the incidents are the faults of the story that is told at that time.
    fn check(incidents: &[Incident], at_s: f64) {
        let fleet = SimulatedFleet::new(0);
        let faults = faults(at_s);
        assert_eq!(incidents.len(), faults.len(), "{at_s} s: {incidents:#?}");
        for fault in faults {
            let names: Vec<_> = fault.devices.clone().map(|place| fleet.name(place)).collect();
            let is_of = |incident: &&Incident| {
                incident.suspect().device.as_deref().is_some_and(|device| names.contains(&device))
            };
            let found: Vec<_> = incidents.iter().filter(is_of).collect();
            let [incident] = found[..] else { panic!("{fault:?}: {found:#?}") };
            let (kind, series) = match fault.kind {
                FaultKind::Outage | FaultKind::Silent => (Kind::Silence, None),
                FaultKind::Ramp => (Kind::Deviation, Some("rps")),
                FaultKind::Stuck => (Kind::Deviation, Some("cpu")),
            };
            assert_eq!((incident.kind, incident.state), (kind, State::Resolved), "{incident:#?}");
            let members = &incident.members;
            assert_eq!(members.len(), fault.devices.len(), "{incident:#?}");
            assert!(members.iter().all(|member| member.series.as_deref() == series));
            if fault.kind == FaultKind::Outage {
                assert_eq!(incident.site.as_deref(), Some(fault.site()));
                let title = format!("{}: 4 of 4 devices silent within ", fault.site());
                assert!(incident.title.starts_with(&title), "{}", incident.title);
            }
            // Within a minute of the story, and well again in its time.
            let after_us = |at_s: f64, at_us: i64| at_us - START_US - (at_s * 1e6) as i64;
            let found_us = after_us(fault.span_s.start, incident.opened_at_us);
            assert!((0..20_000_000).contains(&found_us), "{incident:#?}");
            let resolved_us = incident.resolved_at_us.expect("it is resolved");
            let well_us = after_us(fault.span_s.end, resolved_us);
            assert!((0..30_000_000).contains(&well_us), "{incident:#?}");
        }
    }

    #[test]
    fn each_fault_of_a_story_is_one_incident() {
        Demo::new(1, ShardLayout::ONE).tell(1, 1);
        Demo::new(4, ShardLayout::new(2)).tell(4, 2);
    }

    /// `SIGMAD_DEMO_STORIES` says how many: 72 are six hours. Of five, the last would be expected of a device if what others
    /// have shown were.
    #[test]
    fn a_demo_has_news_for_hours() {
        let stories = std::env::var("SIGMAD_DEMO_STORIES");
        let stories = stories.map_or(5, |number| number.parse().expect("a number of stories"));
        Demo::new(2, ShardLayout::ONE).tell(2, stories);
    }

    #[test]
    fn a_fleet_that_is_well_has_no_incident() {
        let mut demo = Demo::new(1, ShardLayout::ONE);
        for (turn, moment) in Past::of_seed(2).enumerate() {
            demo.take(turn as i64 * 250_000, &moment.readings);
        }
        assert_eq!(demo.book.changes_since(0, usize::MAX), []);
    }

    #[test]
    fn the_past_is_learned_and_not_counted() {
        let demo = Demo::new(1, ShardLayout::ONE);
        let totals = demo.analytics[0].totals();
        assert_eq!(
            (totals.samples, totals.devices, totals.streams),
            (DEVICES as u64, DEVICES, 2 * DEVICES)
        );
        let analytics = &demo.analytics[0];
        let query = AnomaliesQuery { limit: 9, ..AnomaliesQuery::default() };
        assert_eq!(
            analytics.anomalies(&query),
            AnomaliesReport { anomalies: Vec::new(), begun: 0, serial: 0, change: 0 }
        );
        let first = demo.samples[0].admit("ams-1-edge-01");
        for metric in analytics.windows(first, Scope::Local).metrics {
            assert_eq!((metric.total_count, metric.anomaly_count), (1, 0));
            assert_eq!(metric.values.len(), 50);
            assert!(metric.folded_values > Some(800), "{:?}", metric.folded_values);
        }
    }
}
