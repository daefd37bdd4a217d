//! What incidents cost: CPU time of a value that is folded, of an interval that is judged, and of a device that is heard.
//!
//! Usage: `cost [fold|judge|cold|hear]`, all of them unless one is named. Prints the operations, the nanoseconds of each, and the
//! bytes. Each is in a function of its own, so that callgrind counts one alone (`--toggle-collect='cost::fold*'`).

use std::hint::black_box;

use sigmad_incidents::fold::Fold;
use sigmad_incidents::silence::{DEVICE_BYTES, SilenceTime, Silences};
use sigmad_incidents::watch::WatchSettings;
use sigmad_incidents::watches::{WATCH_BYTES, Watches};

const INTERVAL_US: u64 = 10_000_000;
/// More than the caches of a core hold.
const STREAMS: usize = 2_000;
/// More than any cache holds.
const COLD_STREAMS: usize = 40_000;
/// Intervals before streams are judged.
const LEARNED: i64 = 160;
const ROUNDS: i64 = 500;

/// CPU time of this process, which has one thread.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("Linux has it");
    text.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("a number")
}

fn value(n: i64) -> f64 {
    (n.wrapping_mul(2_654_435_761) >> 7 & 1_023) as f64 / 1_024.0
}

#[inline(never)]
fn fold(folds: &mut [Fold], rounds: i64) -> u64 {
    let mut added = 0;
    for round in 0..rounds {
        for (at, fold) in folds.iter_mut().enumerate() {
            added += u64::from(fold.add(INTERVAL_US, round, value(round + at as i64)));
        }
    }
    added
}

#[inline(never)]
fn judge(watches: &mut Watches, folds: &mut [Fold], rounds: std::ops::Range<i64>) -> u64 {
    let mut found = 0;
    let devices = folds.len() / 2;
    for round in rounds.clone() {
        for turn in 0..folds.len() {
            // Devices in another order each round, and the two streams of each one after the other.
            let device = (turn / 2 * 7_919 + round as usize * 104_729) % devices;
            let at = 2 * device + turn % 2;
            let fold = &mut folds[at];
            // Two values in each interval: the second shows that the stream is not slow.
            for part in 0..2 {
                let at_us = round * INTERVAL_US as i64 + part;
                let value = value(2 * round + part + 7 * at as i64);
                if !fold.add(INTERVAL_US, at_us, value) {
                    watches.take(fold, at_us, value, |_| found += 1);
                }
            }
        }
    }
    black_box(found);
    (rounds.end - rounds.start) as u64 * folds.len() as u64
}

/// Each device is heard once in `gap_s` seconds.
#[inline(never)]
fn hear(silences: &mut Silences, from_s: u32, rounds: u32, gap_s: u32) -> u64 {
    let mut heard = 0;
    for now_s in from_s..from_s + rounds * gap_s {
        let time = SilenceTime { now_s, offset_s: 0 };
        for device in (now_s % gap_s..STREAMS as u32).step_by(gap_s as usize) {
            black_box(silences.heard(device, time));
            heard += 1;
        }
        silences.advance(time, 3_600, |_, _| {});
    }
    heard
}

fn shown(name: &str, operations: u64, ns: u64) {
    println!("{name} {operations} {:.2} ns", ns as f64 / operations as f64);
}

fn main() {
    let only = std::env::args().nth(1);
    let is_asked = |name: &str| only.as_deref().is_none_or(|only| only == name);
    for (name, streams, rounds) in [("judge", STREAMS, 200), ("cold", COLD_STREAMS, 20)] {
        if !is_asked(name) {
            continue;
        }
        let mut folds = vec![Fold::default(); streams];
        let mut watches = Watches::new(WatchSettings::new(INTERVAL_US), streams);
        judge(&mut watches, &mut folds, 0..LEARNED);
        let before = cpu_ns();
        let judged = judge(&mut watches, &mut folds, LEARNED..LEARNED + rounds);
        shown(&format!("interval judged, {streams} streams"), judged, cpu_ns() - before);
        assert_eq!(watches.learned(), streams);
    }
    if is_asked("fold") {
        let mut watches = Watches::new(WatchSettings::new(INTERVAL_US), STREAMS);
        let mut folds = vec![Fold::default(); STREAMS];
        folds.iter_mut().for_each(|fold| watches.take(fold, 0, 0.5, |_| {}));
        let before = cpu_ns();
        let added = fold(&mut folds, ROUNDS * 40);
        shown("value folded", added, cpu_ns() - before);
        assert_eq!(added, ROUNDS as u64 * 40 * STREAMS as u64);
    }
    for gap_s in [1, 10, 60].into_iter().filter(|_| is_asked("hear")) {
        let mut silences = Silences::default();
        (0..STREAMS as u32).for_each(|device| silences.begin(device, false));
        let (learned, counted) = (2_000, 10_000);
        hear(&mut silences, 1_000_000, learned, gap_s);
        let before = cpu_ns();
        let heard = hear(&mut silences, 1_000_000 + learned * gap_s, counted, gap_s);
        shown(&format!("device heard each {gap_s} s"), heard, cpu_ns() - before);
        assert_eq!(heard, u64::from(counted) * STREAMS as u64);
    }
    println!(
        "bytes: {} a stream's interval, {WATCH_BYTES} a stream, {DEVICE_BYTES} a device",
        size_of::<Fold>()
    );
}
