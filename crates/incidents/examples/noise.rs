//! Streams of noise for some simulated days: how many deviations begin, by their largest score.
//!
//! A score of s promises 10^-s a day for each stream. Usage: `noise STREAMS VALUES DAYS SEED`; `VALUES` are those of an
//! interval of ten seconds, 0 for one value a minute.

use std::f64::consts::TAU;

use sigmad_incidents::fold::Fold;
use sigmad_incidents::watch::{Finding, WatchSettings};
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

/// The largest score of each deviation of one stream.
fn deviations(kind: &str, step_us: i64, days: i64, seed: u64) -> Vec<f64> {
    let mut watches = Watches::new(WatchSettings::new(INTERVAL_US as u64), 1);
    let (mut fold, mut random, mut level) = (Fold::default(), Random(seed), 0.0);
    let (mut largest, mut is_open) = (Vec::new(), false);
    for at in 1..=days * DAY_US / step_us {
        let at_us = START_US + at * step_us;
        let value = value(kind, &mut random, at_us, &mut level);
        if fold.add(INTERVAL_US as u64, at_us, value) {
            continue;
        }
        watches.take(&mut fold, at_us, value, |finding| match finding {
            Finding::Recovers => is_open = false,
            Finding::Deviates(found) => {
                if !std::mem::replace(&mut is_open, true) {
                    largest.push(0.0);
                }
                if let Some(largest) = largest.last_mut() {
                    *largest = found.score.max(*largest);
                }
            }
        });
    }
    largest
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [streams, values, days, seed] = numbers[..] else {
        eprintln!("usage: noise STREAMS VALUES DAYS SEED");
        std::process::exit(2);
    };
    let step_us = if values == 0 { MINUTE_US } else { INTERVAL_US / values as i64 };
    let stream_days = (streams * days) as f64;
    for kind in KINDS {
        let seeds = (0..streams).map(|stream| seed.wrapping_mul(1_000_003) + stream * 77_777_777);
        let all: Vec<f64> =
            seeds.flat_map(|seed| deviations(kind, step_us, days as i64, seed)).collect();
        let rates = SCORES.map(|score| {
            let count = all.iter().filter(|largest| **largest >= score).count();
            format!("{:.4}", count as f64 / stream_days)
        });
        println!("{kind:15} a day and stream from scores 1, 2, 3: {}", rates.join(" "));
    }
}
