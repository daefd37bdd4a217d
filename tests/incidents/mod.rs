//! Fleets in simulated time, through analytics into the book: what was injected is what is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clap::Parser;
use sigmad::analytics::names::NameLookup;
use sigmad::analytics::{Analytics, AnalyticsSettings, OnsetSettings};
use sigmad_detectors::DetectorKind;
use sigmad_eval::judges::scores_of;
use sigmad_eval::series::Series;
use sigmad_incidents::book::Book;
use sigmad_incidents::event::Event;
use sigmad_incidents::incident::{Incident, Member, State};
use sigmad_incidents::list::ListQuery;
use sigmad_incidents::tokens::FleetTokens;
use sigmad_incidents::watch::BAR;
use sigmad_load::LoadSettings;
use sigmad_load::fleet::{AnomalousMetric, LoadFleet};
use sigmad_sample::{Batch, DeviceId, MetricId, Reading};

const SECOND_US: i64 = 1_000_000;
/// `--incident-interval`.
const INTERVAL_US: i64 = 10 * SECOND_US;
/// `--stream-idle`.
const IDLE_US: i64 = 3_600 * SECOND_US;
/// A Monday, at midnight.
const START_US: i64 = 1_735_516_800 * SECOND_US;
const STREAMS_MAX: usize = 10_000;

/// Analytics of one shard and the book, as in a server whose clock is an argument.
struct Simulated {
    analytics: Analytics,
    book: Book,
    batch: Batch,
    /// How long after its last sample each silence was noticed.
    silent_after_us: Vec<i64>,
}

impl Simulated {
    fn new(names: Vec<String>) -> Self {
        let names: Vec<Arc<str>> = names.into_iter().map(Arc::from).collect();
        let mut fleet = FleetTokens::default();
        names.iter().for_each(|name| fleet.add(name));
        let mut book = Book::default();
        book.set_fleet(fleet);
        let metric = |id| if id == MetricId::CPU { "cpu".into() } else { "rps".into() };
        let device = move |id: DeviceId| names.get(id.index as usize).cloned();
        let onsets = OnsetSettings::new(INTERVAL_US as u64, IDLE_US, STREAMS_MAX, 1);
        let settings = AnalyticsSettings { onsets: Some(onsets), ..AnalyticsSettings::default() };
        let analytics = Analytics::new(settings, NameLookup::new(device, metric));
        Self { analytics, book, batch: Batch::default(), silent_after_us: Vec::new() }
    }

    /// It is `now_us`, and a device sends a sample if one is given.
    fn step(&mut self, now_us: i64, sample: Option<(u32, &[Reading])>) {
        self.analytics.tick(now_us);
        if let Some((index, readings)) = sample {
            self.batch.clear();
            self.batch.push(now_us, Some(DeviceId { index, generation: 0 }), readings);
            self.analytics.judge(&self.batch, now_us);
        }
        self.analytics.pass_events(|event| {
            if let Event::Silence { since_us, at_us, .. } = event {
                self.silent_after_us.push(at_us - since_us);
            }
            self.book.apply(&event);
        });
    }

    /// All incidents but those that became a part of another.
    fn incidents(&self) -> Vec<Incident> {
        let query = ListQuery { limit: usize::MAX, ..ListQuery::default() };
        let all = self.book.list(&query).incidents;
        all.into_iter().filter(|one| one.merged_into.is_none()).collect()
    }
}

/// An anomaly of `sigmad load`: its stream and its time.
type Injected = (u32, AnomalousMetric, i64);

fn series_of(metric: AnomalousMetric) -> &'static str {
    match metric {
        AnomalousMetric::Cpu => "cpu",
        AnomalousMetric::Rps => "rps",
    }
}

/// Whether something was injected while a member was wrong. For the fleet: in the interval that began it, or later.
fn is_right(member: &Member, injected: &[Injected]) -> bool {
    let from_us = member.started_at_us - if member.device.is_none() { INTERVAL_US } else { 0 };
    let to_us = member.ended_at_us.unwrap_or(i64::MAX);
    injected.iter().any(|(device, metric, at_us)| {
        let is_of_device = member.device.as_deref().is_none_or(|name| name == load_name(*device));
        let is_of_series = member.series.as_deref() == Some(series_of(*metric));
        is_of_device && is_of_series && (from_us..=to_us).contains(at_us)
    })
}

fn load_name(device: u32) -> String {
    format!("edge-{device:02}")
}

/// `sigmad load --profile anomalies --truth`: 80,000 values of 50 devices, one in each interval.
#[test]
fn injected_anomalies_are_incidents_and_little_else_is() {
    const DEVICES: u32 = 50;
    const SAMPLES: u64 = 40_000;
    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        load: LoadSettings,
    }
    let flags = ["load", "--profile=anomalies", "--devices=50", "--rate=5", "--anomaly-rate=0.005"];
    let Flags { load } = Flags::parse_from(flags);
    let fleet = LoadFleet::new(&load, START_US as u64);
    let mut simulated = Simulated::new((0..DEVICES).map(load_name).collect());
    let mut injected: Vec<Injected> = Vec::new();
    let mut streams: BTreeMap<(u32, &str), Series> = BTreeMap::new();
    for n in 0..SAMPLES {
        let (device, at_us) = ((n % u64::from(DEVICES)) as u32, fleet.timestamp_us(n) as i64);
        let readings = fleet.readings(n);
        let (cpu, rps) = (readings.cpu_hundredths as f64 / 100.0, readings.rps as f64);
        let values = [
            Reading { metric: MetricId::CPU, value: cpu },
            Reading { metric: MetricId::RPS, value: rps },
        ];
        simulated.step(at_us, Some((device, &values)));
        injected.extend(readings.anomaly.map(|metric| (device, metric, at_us)));
        for (series, value) in [("cpu", cpu), ("rps", rps)] {
            let stream = streams.entry((device, series)).or_default();
            stream.timestamps_us.push(at_us);
            stream.values.push(value);
        }
    }
    let by_pager = |(device, metric, at_us): &Injected| {
        let series = &streams[&(*device, series_of(*metric))];
        let row = series.timestamps_us.binary_search(at_us).expect("it was sent");
        scores_of(DetectorKind::Pager, series)[row] >= f64::from(BAR)
    };
    let incidents = simulated.incidents();
    let is_told = |one: &Injected| {
        let mut members = incidents.iter().flat_map(|incident| &incident.members);
        members.any(|member| member.device.is_some() && is_right(member, std::slice::from_ref(one)))
    };
    let is_true = |incident: &Incident| incident.members.iter().any(|one| is_right(one, &injected));
    let found_by_pager = injected.iter().filter(|one| by_pager(one)).count();
    let told = injected.iter().filter(|one| is_told(one)).count();
    let right = incidents.iter().filter(|one| is_true(one)).count();
    let report = format!(
        "{} injected; pager finds {found_by_pager}, incidents have {told}; {} incidents, {right} of them right",
        injected.len(),
        incidents.len(),
    );
    println!("{report}");
    assert!(right * 10 >= incidents.len() * 9, "{report}");
    assert!(told >= found_by_pager, "{report}");
}

/// Four other sites go on.
#[test]
fn a_site_that_is_cut_is_one_incident_until_it_is_back() {
    const SITES: u32 = 5;
    const DEVICES: u32 = 100 * SITES;
    const CUT_SITE: u32 = 2;
    let name = |index: u32| format!("ams-{}-edge-{:02}", index % SITES, index / SITES);
    let mut simulated = Simulated::new((0..DEVICES).map(name).collect());
    let mut random = sigmad_eval::synthetic::Random(7);
    let end_us = START_US + 5_400 * SECOND_US;
    let cut_us = START_US + 3_600 * SECOND_US..START_US + 4_500 * SECOND_US;
    // Each device has a moment of its own in each interval, and a little noise around it.
    let moment = |index| (START_US + (random.uniform() * INTERVAL_US as f64) as i64, index);
    let mut due: BTreeSet<(i64, u32)> = (0..DEVICES).map(moment).collect();
    while let Some((now_us, index)) = due.pop_first().filter(|(at_us, _)| *at_us < end_us) {
        let is_sent = index % SITES != CUT_SITE || !cut_us.contains(&now_us);
        let value = 100.0 + 5.0 * random.normal();
        let readings = [Reading { metric: MetricId::RPS, value }];
        simulated.step(now_us, is_sent.then_some((index, &readings)));
        due.insert((now_us + INTERVAL_US + (200_000.0 * random.normal()) as i64, index));
    }
    let incidents = simulated.incidents();
    let [site] = &incidents[..] else { panic!("{incidents:?}") };
    assert_eq!((site.member_count, site.state), (100, State::Resolved), "{}", site.title);
    assert_eq!(site.site.as_deref(), Some("ams-2"), "{}", site.title);
    assert!(site.opened_at_us - cut_us.start <= 3 * INTERVAL_US, "{site:?}");
    // Arrivals, the longest plausible gap and the look at it are in whole seconds.
    let longest_us = simulated.silent_after_us.into_iter().max();
    assert!(longest_us.is_some_and(|us| us <= 3 * INTERVAL_US + 3 * SECOND_US), "{longest_us:?}");
}
