//! Simulates replicas, Redis, clients, network and clocks under one seed, and checks laws after each step.
//!
//! ```text
//! simulate --seconds 60              kept seeds first, then new ones for a minute
//! simulate --seed 7                  one seed, twice: both runs must be the same; prints its plan
//! simulate --first 1 --count 1000    the seeds 1 to 1000
//! ```
//!
//! Real: analytics, store queue, store thread, its commands, scripts, link and sentinels, merge, and the order of
//! the drain. Simulated: time, network, Redis, the workers and the main thread. [`laws`] has the laws, [`plan`] the
//! faults. A violation prints its seed, which replays it.

#![allow(missing_docs, reason = "a program, not a library")]

mod keyspace;
mod laws;
mod plan;
mod process;
mod random;
mod redis_node;
mod simulation;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use simulation::{Outcome, Violation};

/// Seeds that have found a defect: each is run before new ones.
const KEPT: &str = include_str!("seeds.txt");

#[derive(Parser)]
struct Flags {
    /// Run new seeds for this time, after the kept ones.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Run one seed twice, and print its plan.
    #[arg(long)]
    seed: Option<u64>,
    /// The first of the new seeds; drawn from the clock unless given.
    #[arg(long)]
    first: Option<u64>,
    /// Run so many new seeds at most.
    #[arg(long, default_value_t = u64::MAX)]
    count: u64,
    /// Go on after a violation, and print all of them.
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    std::panic::set_hook(Box::new(|_| {}));
    match flags.seed {
        Some(seed) => replay(seed),
        None => search(&flags),
    }
}

fn run(seed: u64) -> Outcome {
    let outcome = catch_unwind(AssertUnwindSafe(|| simulation::run(seed)));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        let text = text.unwrap_or_default();
        let violation = Some(Violation(format!("a panic: {text}")));
        Outcome { log_hash: 0, events: 0, replica_ns: 0, samples: 0, violation }
    })
}

/// Signals to the process must find a thread that does not block them, and the link blocks them while it runs.
fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().expect("panics are caught"))
}

fn replay(seed: u64) -> ExitCode {
    println!("{}", simulation::describe(seed));
    let runs = in_thread(|| [run(seed), run(seed)]);
    for run in &runs {
        println!("seed {seed}: {} events, log {:016x}", run.events, run.log_hash);
        if let Some(violation) = &run.violation {
            println!("seed {seed}: {violation}");
        }
    }
    if runs[0].log_hash != runs[1].log_hash {
        println!("seed {seed}: two runs differ");
    } else if runs[0].violation.is_none() {
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

/// What all threads have done.
#[derive(Default)]
struct Sums {
    seeds: AtomicU64,
    failed: AtomicU64,
    events: AtomicU64,
    samples: AtomicU64,
    replica_ms: AtomicU64,
    is_over: AtomicBool,
}

#[allow(clippy::disallowed_methods, reason = "the time of the search itself is real")]
fn search(flags: &Flags) -> ExitCode {
    let start = Instant::now();
    let limit = Duration::from_secs(flags.seconds);
    let drawn = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let first = flags.first.unwrap_or(drawn.map_or(1, |since| since.as_secs() * 100_000));
    let kept: Vec<u64> = kept().collect();
    let sums = Sums::default();
    let next = AtomicU64::new(0);
    let work = || {
        while !sums.is_over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let seed = match kept.get(number as usize) {
                Some(&seed) => seed,
                None if number - kept.len() as u64 >= flags.count => return,
                None if start.elapsed() > limit => return,
                None => first + number - kept.len() as u64,
            };
            let outcome = run(seed);
            sums.seeds.fetch_add(1, Ordering::Relaxed);
            sums.events.fetch_add(outcome.events, Ordering::Relaxed);
            sums.samples.fetch_add(outcome.samples, Ordering::Relaxed);
            sums.replica_ms.fetch_add(outcome.replica_ns / 1_000_000, Ordering::Relaxed);
            if let Some(violation) = outcome.violation {
                println!("seed {seed} after {:.1?}: {violation}", start.elapsed());
                println!("  again: simulate --seed {seed}");
                sums.failed.fetch_add(1, Ordering::Relaxed);
                sums.is_over.store(!flags.all, Ordering::Relaxed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    report(&sums, first, kept.len(), start.elapsed())
}

/// One seed a line, with what it found.
fn kept() -> impl Iterator<Item = u64> {
    let lines = KEPT.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_whitespace().next()?.parse().ok())
}

fn report(sums: &Sums, first: u64, kept: usize, took: Duration) -> ExitCode {
    let of = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
    let (seeds, failed) = (of(&sums.seeds), of(&sums.failed));
    let replica_hours = of(&sums.replica_ms) as f64 / 3.6e6;
    let years_per_hour = replica_hours / 8_766.0 / took.as_secs_f64() * 3_600.0;
    println!(
        "{seeds} seeds ({kept} kept, new ones from {first}) in {:.1} s: {} events, {} samples, \
         {replica_hours:.1} replica-hours, {years_per_hour:.2} replica-years per hour; {failed} failed",
        took.as_secs_f64(),
        of(&sums.events),
        of(&sums.samples),
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
