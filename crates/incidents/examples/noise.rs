//! Streams of noise for some simulated days: how many deviations begin, by their largest score, and what incidents
//! they make when each stream is of a device of its own.
//!
//! A score of s promises 10^-s a day for each stream. Usage: `noise STREAMS VALUES DAYS SEED`; `VALUES` are those of an
//! interval of ten seconds, 0 for one value a minute.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::sync::Arc;

use sigmad_incidents::book::Book;
use sigmad_incidents::event::Event;
use sigmad_incidents::fold::Fold;
use sigmad_incidents::incident::Severity;
use sigmad_incidents::tokens::FleetTokens;
use sigmad_incidents::watch::{Deviation, Finding, WatchSettings};
use sigmad_incidents::watches::Watches;

const INTERVAL_US: i64 = 10_000_000;
const MINUTE_US: i64 = 60_000_000;
const DAY_US: i64 = 86_400_000_000;
const START_US: i64 = 1_735_100_000_000_000;
const KINDS: [&str; 5] = ["normal", "lognormal", "exponential", "daily", "autoregressive"];
const SCORES: [f64; 3] = [1.0, 2.0, 3.0];

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (TAU * self.uniform()).cos()
    }
}

fn value(kind: &str, random: &mut Random, at_us: i64, level: &mut f64) -> f64 {
    match kind {
        "normal" => 50.0 + 5.0 * random.normal(),
        "lognormal" => (1.0 + 0.5 * random.normal()).exp(),
        "exponential" => -10.0 * (1.0 - random.uniform()).ln(),
        "daily" => 50.0 + 20.0 * (at_us as f64 / DAY_US as f64 * TAU).sin() + 3.0 * random.normal(),
        _ => {
            *level = 0.95 * *level + random.normal();
            50.0 + *level
        }
    }
}

fn name(stream: u64) -> String {
    format!("d{stream}")
}

/// What begins and ends in one stream, which is named by its number.
fn events(kind: &str, step_us: i64, days: i64, (stream, seed): (u64, u64)) -> Vec<Event> {
    let mut watches = Watches::new(WatchSettings::new(INTERVAL_US as u64), 1);
    let (mut fold, mut random, mut level) = (Fold::default(), Random(seed), 0.0);
    let device: Arc<str> = name(stream).into();
    let mut events = Vec::new();
    for at in 1..=days * DAY_US / step_us {
        let at_us = START_US + at * step_us;
        let value = value(kind, &mut random, at_us, &mut level);
        if fold.add(INTERVAL_US as u64, at_us, value) {
            continue;
        }
        watches.take(&mut fold, at_us, value, |finding| {
            let (device, series) = (Some(device.clone()), "x".into());
            events.push(match finding {
                Finding::Recovers => Event::Recovery { device, series, at_us },
                Finding::Deviates(Deviation { value, usual, low, high, score }) => {
                    Event::Deviation { device, series, at_us, value, usual, low, high, score }
                }
            });
        });
    }
    events
}

/// The largest score of each deviation of one stream.
fn deviations(events: &[Event]) -> Vec<f64> {
    let (mut largest, mut is_open) = (Vec::<f64>::new(), false);
    for event in events {
        let Event::Deviation { score, .. } = event else {
            is_open = false;
            continue;
        };
        match largest.last_mut().filter(|_| is_open) {
            Some(largest) => *largest = largest.max(*score),
            None => largest.push(*score),
        }
        is_open = true;
    }
    largest
}

/// Incidents that all streams have together: all of them, and those that are critical.
fn incidents(streams: u64, mut events: Vec<Event>) -> [usize; 2] {
    events.sort_by_key(Event::at_us);
    let (mut book, mut found) = (Book::default(), BTreeMap::new());
    let mut fleet = FleetTokens::default();
    (0..streams).for_each(|stream| fleet.add(&name(stream)));
    book.set_fleet(fleet);
    let mut revision = 0;
    for event in events {
        book.apply(&event);
        for one in book.changes_since(revision, usize::MAX) {
            found.insert(one.id, (one.severity, one.merged_into.is_some()));
        }
        revision = book.revision();
    }
    let whole = || found.values().filter(|(_, is_merged)| !is_merged);
    [whole().count(), whole().filter(|(severity, _)| *severity == Severity::Critical).count()]
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [streams, values, days, seed] = numbers[..] else {
        eprintln!("usage: noise STREAMS VALUES DAYS SEED");
        std::process::exit(2);
    };
    let step_us = if values == 0 { MINUTE_US } else { INTERVAL_US / values as i64 };
    let stream_days = (streams * days) as f64;
    println!("| noise | deviations a day and stream from scores 1, 2, 3 | incidents | critical |");
    println!("| --- | --- | --- | --- |");
    let promised = SCORES.map(|score| (stream_days * 10f64.powf(-score)).to_string());
    println!("| promised at most | 0.1, 0.01, 0.001 | {} | {} |", promised[0], promised[1]);
    for kind in KINDS {
        let seeds =
            (0..streams).map(|stream| (stream, seed.wrapping_mul(1_000_003) + stream * 77_777_777));
        let all: Vec<Vec<Event>> =
            seeds.map(|seed| events(kind, step_us, days as i64, seed)).collect();
        let largest: Vec<f64> = all.iter().flat_map(|events| deviations(events)).collect();
        let rates = SCORES.map(|score| {
            let count = largest.iter().filter(|largest| **largest >= score).count();
            format!("{:.4}", count as f64 / stream_days)
        });
        let [incidents, critical] = incidents(streams, all.concat());
        println!("| {kind} | {} | {incidents} | {critical} |", rates.join(", "));
    }
}
