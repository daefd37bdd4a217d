//! Checks every interleaving of a sleeper and its wakers; `make loom` runs it. A lost wake leaves the
//! sleeper parked for ever, which loom reports as a deadlock.

#[cfg(not(loom))]
compile_error!("without --cfg loom nothing is modelled");

#[path = "../src/sample_queue/sleeper.rs"]
mod sleeper;

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use sleeper::Sleeper;

/// Work is a count that wakers increment. Relaxed, so that only the fences of [`Sleeper`] order it.
fn sleep_until(sleeper: &Sleeper, work: &AtomicUsize, wanted: usize, doze_first: bool) {
    sleeper.register();
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
    // Two threads: every interleaving. Three: those with at most three preemptions.
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
fn a_producer_ends_a_park() {
    model(false, &[Sleeper::wake_if_parked]);
}

#[test]
fn a_sample_sent_during_a_doze_is_seen_before_the_park() {
    model(true, &[Sleeper::wake_if_parked]);
}

#[test]
fn a_producer_and_a_query_wake_at_once() {
    model(false, &[Sleeper::wake_if_parked, Sleeper::wake]);
    model(true, &[Sleeper::wake_if_parked, Sleeper::wake]);
}
