//! The orders in which a sleeper and its wakers can meet; `make loom` runs it. A wake that is lost
//! leaves the sleeper parked for ever, which loom reports as a deadlock.

#[cfg(not(loom))]
compile_error!("without --cfg loom nothing is modelled");

#[path = "../src/sample_queue/sleeper.rs"]
mod sleeper;

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use sleeper::Sleeper;

/// Work is a count that wakers raise; relaxed, so that only the sleeper's own fences order it.
fn sleep_until(sleeper: &Sleeper, work: &AtomicUsize, wanted: usize, doze_first: bool) {
    sleeper.adopt();
    let has_work = |seen| work.load(Ordering::Relaxed) != seen;
    if doze_first {
        sleeper.doze(Duration::ZERO, || has_work(0));
    }
    loop {
        let seen = work.load(Ordering::Relaxed);
        if seen == wanted {
            return;
        }
        sleeper.park(|| has_work(seen));
    }
}

fn model(doze_first: bool, wakes: &'static [fn(&Sleeper)]) {
    let mut builder = loom::model::Builder::new();
    // Two threads: every order. Three: those in which at most so many steps are interrupted.
    builder.preemption_bound = (wakes.len() > 1).then_some(3);
    builder.check(move || {
        let (sleeper, work) = (Arc::new(Sleeper::default()), Arc::new(AtomicUsize::new(0)));
        let wakers: Vec<_> = wakes
            .iter()
            .map(|wake| {
                let (sleeper, work) = (sleeper.clone(), work.clone());
                thread::spawn(move || {
                    work.fetch_add(1, Ordering::Relaxed);
                    wake(&sleeper);
                })
            })
            .collect();
        sleep_until(&sleeper, &work, wakes.len(), doze_first);
        for waker in wakers {
            waker.join().expect("no panic");
        }
    });
}

#[test]
fn a_sample_ends_a_park() {
    model(false, &[Sleeper::wake_if_parked]);
}

#[test]
fn a_sample_left_alone_in_a_doze_is_seen_before_the_park() {
    model(true, &[Sleeper::wake_if_parked]);
}

#[test]
fn samples_and_a_question_together() {
    model(false, &[Sleeper::wake_if_parked, Sleeper::wake]);
    model(true, &[Sleeper::wake_if_parked, Sleeper::wake]);
}
