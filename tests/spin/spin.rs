//! Threads that spin for a known share of the time, under one of the samplers: what `tests/pprof.py`
//! holds profiles against.
//!
//! `spin BACKEND HZ SECONDS FILE` writes the profile to FILE and prints, as JSON, the CPU time that each
//! thread had meanwhile, by its own clock.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sigmad_clock::Clock;
use sigmad_profile::cpu::{Backend, ProfileOptions, Recording};

/// One turn of a thread: it spins for a share of it, and sleeps for the rest.
const TURN: Duration = Duration::from_millis(20);
/// A thread of those that come and go during the profile.
const BORN_FOR: Duration = Duration::from_millis(150);

fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec, which the call fills.
    let told = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(told, 0, "every thread has a CPU clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The clock is read by whoever calls, so that nearly all of the time is spent in here.
#[inline(never)]
fn spin_some(rounds: u64) -> u64 {
    (0..rounds).fold(1, |sum: u64, round| black_box(sum.wrapping_mul(31).wrapping_add(round)))
}

/// Each with rounds of its own: functions that are all the same would become one in a release build, with
/// one name for all.
macro_rules! spinner {
    ($name:ident, $rounds:literal) => {
        #[inline(never)]
        fn $name(for_ns: u64) {
            let until_ns = thread_cpu_ns() + for_ns;
            while thread_cpu_ns() < until_ns {
                black_box(spin_some(black_box($rounds)));
            }
        }
    };
}
spinner!(spin_a_quarter, 20_000);
spinner!(spin_half, 20_001);
spinner!(spin_while_young, 20_002);

struct Spinner {
    cpu_ns: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

fn spinner(name: &str, percent: u64, spin: fn(u64), is_over: &Arc<AtomicBool>) -> Spinner {
    let cpu_ns = Arc::<AtomicU64>::default();
    let (told, is_over) = (cpu_ns.clone(), is_over.clone());
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        let turn_ns = TURN.as_nanos() as u64;
        while !is_over.load(Ordering::Relaxed) {
            spin(turn_ns * percent / 100);
            told.store(thread_cpu_ns(), Ordering::Relaxed);
            std::thread::sleep(TURN * (100 - percent as u32) / 100);
        }
    });
    Spinner { cpu_ns, thread: thread.expect("a thread") }
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [backend, hz, seconds, file] = &arguments[..] else {
        panic!("spin BACKEND HZ SECONDS FILE");
    };
    let backend = [Backend::Auto, Backend::Perf, Backend::Timer, Backend::Pprof]
        .into_iter()
        .find(|known| known.name() == backend)
        .expect("a backend");
    let hz = hz.parse().expect("a number");
    let seconds: u64 = seconds.parse().expect("a number");
    let is_over = Arc::<AtomicBool>::default();
    let quarter = spinner("quarter", 25, spin_a_quarter, &is_over);
    let half = spinner("half", 50, spin_half, &is_over);
    let order = ProfileOptions { seconds, hz, backend };
    let recording = Recording::begin(order, Clock::new(sigmad_clock::start()));
    let recording = match recording {
        Ok(recording) => recording,
        Err(error) => {
            println!("{{\"refused\":{:?}}}", error.to_string());
            return;
        }
    };
    let before = [&quarter, &half].map(|spinner| spinner.cpu_ns.load(Ordering::Relaxed));
    // Threads that are born while the profile is taken, one after the other.
    let young_ns = Arc::<AtomicU64>::default();
    let births = {
        let (young_ns, is_over) = (young_ns.clone(), is_over.clone());
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let young_ns = young_ns.clone();
                let young = std::thread::Builder::new().name("young".into()).spawn(move || {
                    spin_while_young(BORN_FOR.as_nanos() as u64);
                    young_ns.fetch_add(thread_cpu_ns(), Ordering::Relaxed);
                });
                young.expect("a thread").join().expect("no panic");
            }
        })
    };
    let mut profile = recording.record(|| false).expect("a profile");
    let after = [&quarter, &half].map(|spinner| spinner.cpu_ns.load(Ordering::Relaxed));
    is_over.store(true, Ordering::Relaxed);
    for thread in [quarter.thread, half.thread, births] {
        thread.join().expect("no panic");
    }
    std::fs::write(file, profile.encode()).expect("a writable file");
    println!(
        "{{\"quarter\":{},\"half\":{},\"young\":{},\"comment\":{:?}}}",
        after[0] - before[0],
        after[1] - before[1],
        young_ns.load(Ordering::Relaxed),
        profile.comments[0],
    );
}
