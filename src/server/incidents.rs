//! The thread `incidents`.

use std::io;
use std::thread::JoinHandle;

use sigmad_clock::Clock;
use sigmad_incidents::book::BookSettings;

use super::counters::ServerCounters;
use super::shared::Shared;
use super::threads::spawn;
use crate::incidents::asker::IncidentsAsker;
use crate::incidents::events::{self, EventSender};
use crate::incidents::thread::{IncidentsParts, IncidentsThread};

/// The thread, who asks it, and a sender of events for each analytics thread, in the order of the shards.
pub(super) fn thread(
    shared: &Shared,
    counters: &ServerCounters,
) -> (Vec<EventSender>, IncidentsAsker, IncidentsThread) {
    let (senders, events) = events::channel(&counters.incident_events);
    let (asker, thread) = IncidentsThread::new(IncidentsParts {
        settings: BookSettings::default(),
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
