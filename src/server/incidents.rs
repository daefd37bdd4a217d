//! The thread `incidents`.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use sigmad_clock::Clock;
use sigmad_incidents::book::BookSettings;

use super::counters::ServerCounters;
use super::shared::Shared;
use super::threads::spawn;
use crate::incidents::asker::IncidentsAsker;
use crate::incidents::events::{self, EventSender};
use crate::incidents::thread::{IncidentsParts, IncidentsThread};

/// Onsets are seen up to some intervals late: those of one cause are this far apart.
const WINDOW_INTERVALS: u32 = 6;

/// How the book groups onsets that are seen at the end of such intervals.
fn book_settings(interval: Duration) -> BookSettings {
    let least = BookSettings::default();
    let window_us = (interval * WINDOW_INTERVALS).as_micros() as i64;
    BookSettings { window_us: least.window_us.max(window_us) }
}

/// The thread, who asks it, and a sender of events for each analytics thread, in the order of the shards.
pub(super) fn thread(
    interval: Duration,
    shared: &Shared,
    counters: &ServerCounters,
) -> (Vec<EventSender>, IncidentsAsker, IncidentsThread) {
    let (senders, events) = events::channel(&counters.incident_events);
    let (asker, thread) = IncidentsThread::new(IncidentsParts {
        settings: book_settings(interval),
        events,
        registry: shared.registry.clone(),
        clock: Clock::new(shared.start),
        counters: counters.incidents.clone(),
    });
    (senders, asker, thread)
}

/// Starts the thread.
pub(super) fn start(thread: IncidentsThread) -> io::Result<JoinHandle<()>> {
    spawn("incidents".into(), None, move || thread.run())
}
