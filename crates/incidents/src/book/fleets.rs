//! Synthetic fleets with known causes: what becomes one incident, and who is suspected.
//!
//! Times are those of analytics: an onset is seen at the end of its interval of ten seconds, a silence after three
//! intervals of its device. Weights of the suspect were tried on fleets with even seeds; odd ones are the report of
//! docs/INCIDENTS.md.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::list::ListQuery;

const S: i64 = 1_000_000;
const INTERVAL_S: f64 = 10.0;
const DAY_S: f64 = 86_400.0;
const SITES: usize = 10;
const DEVICES: usize = 200;

/// A small generator (splitmix64): the seed is the fleet.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Cascade,
    Outage,
    Coincidence,
    Drift,
}

const CAUSES: [Cause; 4] = [Cause::Cascade, Cause::Outage, Cause::Coincidence, Cause::Drift];

/// What happened: its members by name, and which device began it.
struct Happening {
    cause: Cause,
    at_us: i64,
    root: String,
    members: BTreeSet<String>,
}

fn name(style: usize, device: usize) -> String {
    let (site, n) = (device % SITES, device / SITES);
    let service = ["web", "db", "cache", "edge"][n % 4];
    match style {
        0 => format!("site-{site}-{service}-{n:02}"),
        1 => format!("{service}{n:02}.fra{site}.example.com"),
        2 => format!("plant{site}/{service}/{n}"),
        _ => format!("{service}-rack{site}_{n}"),
    }
}

struct Fleet {
    draw: Draw,
    style: usize,
    events: Vec<Event>,
    happenings: Vec<Happening>,
}

impl Fleet {
    fn deviate(&mut self, device: &str, series: &str, begin_s: f64, end_s: f64) {
        let score = 1.0 + self.draw.exponential(1.5);
        // The smaller the change, the later it is clear.
        let lag_s = if score > 3.0 { 0.0 } else { self.draw.unit() * INTERVAL_S };
        let seen_s = ((begin_s + lag_s) / INTERVAL_S).ceil() * INTERVAL_S;
        let (device, series): (Arc<str>, Arc<str>) = (device.into(), series.into());
        self.events.push(Event::Deviation {
            device: Some(device.clone()),
            series: series.clone(),
            at_us: (seen_s * 1e6) as i64,
            value: 9.0,
            usual: 1.0,
            low: 0.0,
            high: 2.0,
            score,
        });
        let at_us = ((end_s.max(seen_s + INTERVAL_S)) * 1e6) as i64;
        self.events.push(Event::Recovery { device: Some(device), series, at_us });
    }

    fn cascade(&mut self, at_s: f64, size: usize, cause: Cause) {
        let (root, style) = (self.draw.below(DEVICES), self.style);
        let mut delay_s = 0.0;
        let mut members = BTreeSet::new();
        let end_s = at_s + 600.0 + self.draw.exponential(600.0);
        for step in 0..size {
            // What depends on it is mostly in the same site.
            let device = match step {
                0 => root,
                _ => root % SITES + SITES * self.draw.below(DEVICES / SITES),
            };
            let device = name(style, device);
            for series in &["rps", "cpu", "latency"][..1 + self.draw.below(3)] {
                self.deviate(&device, series, at_s + delay_s, end_s);
            }
            members.insert(device);
            delay_s += self.draw.exponential(8.0);
        }
        let at_us = (at_s * 1e6) as i64;
        self.happenings.push(Happening { cause, at_us, root: name(style, root), members });
    }

    fn outage(&mut self, at_s: f64) {
        let site = self.draw.below(SITES);
        let back_s = at_s + 900.0;
        let members: Vec<String> =
            (0..DEVICES / SITES).map(|n| name(self.style, site + SITES * n)).collect();
        for device in &members {
            let since_s = at_s - self.draw.unit() * INTERVAL_S;
            let device: Arc<str> = device.as_str().into();
            self.events.push(Event::Silence {
                device: device.clone(),
                since_us: (since_s * 1e6) as i64,
                at_us: ((since_s + 3.0 * INTERVAL_S).ceil() * 1e6) as i64,
                usual_interval_us: 10 * S,
            });
            let at_us = ((back_s + self.draw.unit() * INTERVAL_S) * 1e6) as i64;
            self.events.push(Event::Return { device, at_us });
        }
        let root = members[0].clone();
        let members = members.into_iter().collect();
        let at_us = (at_s * 1e6) as i64;
        self.happenings.push(Happening { cause: Cause::Outage, at_us, root, members });
    }

    /// A day with so many causes of each kind.
    fn day(seed: u64, of_each: usize) -> Self {
        let style = (seed / 2) as usize % 4;
        let mut fleet =
            Self { draw: Draw(seed), style, events: Vec::new(), happenings: Vec::new() };
        for cause in CAUSES.repeat(of_each) {
            let at_s = 1e6 + fleet.draw.unit() * DAY_S;
            match cause {
                Cause::Cascade => {
                    let size = 3 + fleet.draw.below(6);
                    fleet.cascade(at_s, size, cause);
                }
                Cause::Outage => fleet.outage(at_s),
                Cause::Coincidence => {
                    let apart_s = fleet.draw.unit() * 30.0;
                    fleet.cascade(at_s, 1, cause);
                    fleet.cascade(at_s + apart_s, 1, cause);
                }
                Cause::Drift => fleet.cascade(at_s, 1, cause),
            }
        }
        // Events of one moment come in any order.
        let mut events: Vec<(i64, u64, Event)> = Vec::new();
        for event in std::mem::take(&mut fleet.events) {
            events.push((event.at_us(), fleet.draw.next(), event));
        }
        events.sort_by_key(|(at_us, order, _)| (*at_us, *order));
        fleet.events = events.into_iter().map(|(_, _, event)| event).collect();
        fleet
    }

    fn book(&self) -> Book {
        let mut book = Book::default();
        let mut fleet = FleetTokens::default();
        (0..DEVICES).for_each(|device| fleet.add(&name(self.style, device)));
        book.set_fleet(fleet);
        self.events.iter().for_each(|event| book.apply(event));
        book
    }
}

/// What the incidents of some days are like.
#[derive(Debug, Default)]
struct Scores {
    incidents: usize,
    /// Incidents with members of several causes.
    mixed: usize,
    /// By cause: how many, those in one incident, and hits at one and at three: by onset, by the
    /// largest score.
    causes: BTreeMap<Cause, [usize; 6]>,
}

impl Scores {
    fn add(&mut self, fleet: &Fleet) {
        let query = ListQuery { limit: 99_999, ..ListQuery::default() };
        let all = fleet.book().list(&query).incidents;
        let whole: Vec<_> = all.iter().filter(|one| one.merged_into.is_none()).collect();
        let names = |one: &Incident| -> BTreeSet<String> {
            one.members.iter().filter_map(|m| m.device.as_deref().map(str::to_owned)).collect()
        };
        let is_of = |one: &Incident, happening: &Happening| {
            let is_then = (one.started_at_us - happening.at_us).abs() < 400 * S;
            is_then && !names(one).is_disjoint(&happening.members)
        };
        self.incidents += whole.len();
        let is_mixed = |one: &&&Incident| {
            fleet.happenings.iter().filter(|happening| is_of(one, happening)).count() > 1
        };
        self.mixed += whole.iter().filter(is_mixed).count();
        for happening in &fleet.happenings {
            let of_it: Vec<_> = whole.iter().filter(|one| is_of(one, happening)).collect();
            let Some(largest) = of_it.iter().max_by_key(|one| one.member_count) else { continue };
            let counts = self.causes.entry(happening.cause).or_default();
            counts[0] += 1;
            counts[1] += usize::from(of_it.len() == 1);
            let members = &largest.members;
            let mut by_score: Vec<usize> = (0..members.len()).collect();
            by_score.sort_by(|a, b| members[*b].score.total_cmp(&members[*a].score));
            let ranks = [(0..members.len()).collect(), by_score];
            for (at, rank) in ranks.iter().enumerate() {
                let mut devices: Vec<&str> = Vec::new();
                for device in rank.iter().filter_map(|place| members[*place].device.as_deref()) {
                    if !devices.contains(&device) {
                        devices.push(device);
                    }
                }
                let is_hit = |device: &&str| match happening.cause {
                    Cause::Outage => happening.members.contains(*device),
                    _ => **device == *happening.root,
                };
                counts[2 + 2 * at] += usize::from(devices.first().is_some_and(&is_hit));
                counts[3 + 2 * at] += usize::from(devices.iter().take(3).any(is_hit));
            }
        }
    }
}

fn scores(seeds: impl Iterator<Item = u64>) -> Scores {
    let mut scores = Scores::default();
    seeds.for_each(|seed| scores.add(&Fleet::day(seed, 6)));
    scores
}

fn table(scores: &Scores) -> String {
    let mut text = format!(
        "{} incidents, {:.1} % with members of several causes\n",
        scores.incidents,
        100.0 * scores.mixed as f64 / scores.incidents as f64
    );
    for (cause, counts) in &scores.causes {
        let part = |at: usize| counts[at] as f64 / counts[0] as f64;
        text += &format!("| {cause:?} | {} | {:.2} |", counts[0], part(1));
        (2..6).for_each(|at| text += &format!(" {:.2} |", part(at)));
        text.push('\n');
    }
    text
}

#[test]
fn incidents_have_one_cause_and_name_it() {
    let report = scores((1..40).filter(|seed| seed % 2 == 1));
    println!("{}", table(&report));
    assert!(report.mixed * 20 <= report.incidents, "{}", table(&report));
    let part = |cause: Cause, at: usize| {
        let counts = &report.causes[&cause];
        counts[at] as f64 / counts[0] as f64
    };
    for cause in CAUSES {
        assert!(part(cause, 3) >= 0.8, "{cause:?}: {}", table(&report));
    }
    assert!(part(Cause::Outage, 1) >= 0.95, "{}", table(&report));
}
