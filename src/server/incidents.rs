//! The thread `incidents`, and the thread `keeper` that keeps the book in a state directory.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sigmad_clock::{Clock, elapsed};
use sigmad_incidents::book::{Book, BookSettings};
use sigmad_notify::target::Target;
use sigmad_state::Disk;
use tracing::warn;

use super::counters::ServerCounters;
use super::shared::Shared;
use super::state;
use super::threads::spawn;
use crate::config::{ServerSettings, Switch};
use crate::incidents::asker::IncidentsAsker;
use crate::incidents::events::{self, EventSender};
use crate::incidents::keeper::{Keeper, KeeperHandle, Kept, Notes};
use crate::incidents::thread::{IncidentsParts, IncidentsThread};

/// How often the end looks whether the thread has ended.
const JOIN_INTERVAL: Duration = Duration::from_millis(5);
/// Onsets are seen up to some intervals late: those of one cause are this far apart.
const WINDOW_INTERVALS: u32 = 6;

/// How the book groups onsets that are seen at the end of such intervals.
pub(super) fn book_settings(interval: Duration) -> BookSettings {
    let least = BookSettings::default();
    let window_us = (interval * WINDOW_INTERVALS).as_micros() as i64;
    BookSettings { window_us: least.window_us.max(window_us) }
}

/// What the state directory has of incidents. None without one, or where there are to be no incidents: then what is there
/// stays.
pub(super) fn kept(
    disk: Option<&Arc<dyn Disk>>,
    settings: &ServerSettings,
    shared: &Shared,
    counters: &ServerCounters,
) -> Option<Kept> {
    let disk = disk.filter(|_| settings.incidents == Switch::On)?;
    let book_settings = book_settings(settings.incident_interval);
    let kept = Kept::read(disk.clone(), book_settings, shared.layout.threads());
    state::count(kept.damage.as_ref(), counters.state.as_ref());
    Some(kept)
}

/// The running thread `keeper`.
pub(super) struct RunningKeeper {
    thread: JoinHandle<()>,
    handle: KeeperHandle,
}

impl RunningKeeper {
    /// Starts the thread, where there is something to keep the incidents in.
    pub fn start(
        kept: Option<Kept>,
        settings: &ServerSettings,
        shared: &Shared,
        counters: &ServerCounters,
        asker: &IncidentsAsker,
    ) -> io::Result<Option<Self>> {
        let Some((kept, counters)) = kept.zip(counters.state.as_ref()) else { return Ok(None) };
        let targets: Vec<_> = settings.notify.targets().iter().map(Target::key).collect();
        let clock = Clock::new(shared.start);
        let counters = counters.incidents.clone();
        let Some((keeper, handle)) = Keeper::new(kept, &targets, asker.clone(), clock, counters)
        else {
            return Err(io::Error::other("the thread of incidents has ended"));
        };
        let thread = spawn("keeper".into(), None, move || keeper.run())?;
        Ok(Some(Self { thread, handle }))
    }

    /// Takes and gives the notes of senders.
    pub fn notes(&self) -> Notes {
        self.handle.notes.clone()
    }

    /// Has the book written as it is now. Returns false if the disk has not taken it by the deadline.
    pub fn stop(self, start: Instant, deadline: Duration) -> bool {
        let Self { thread, handle } = self;
        drop(handle);
        while !thread.is_finished() && elapsed(start) < deadline {
            std::thread::sleep(JOIN_INTERVAL);
        }
        if !thread.is_finished() {
            warn!("the time of the drain is over before the incidents are written");
        }
        thread.is_finished()
    }
}

/// The thread, who asks it, and a sender of events for each analytics thread, in the order of the shards.
pub(super) fn thread(
    book: Option<Book>,
    settings: &ServerSettings,
    shared: &Shared,
    counters: &ServerCounters,
) -> (Vec<EventSender>, IncidentsAsker, IncidentsThread) {
    let (senders, events) = events::channel(&counters.incident_events);
    let (asker, thread) = IncidentsThread::new(IncidentsParts {
        book: book.unwrap_or_else(|| Book::new(book_settings(settings.incident_interval))),
        events,
        registry: shared.registry.clone(),
        clock: Clock::new(shared.start),
        counters: counters.incidents.clone(),
        is_shared: settings.redis_url.is_some(),
    });
    (senders, asker, thread)
}

/// Starts the thread.
pub(super) fn start(thread: IncidentsThread) -> io::Result<JoinHandle<()>> {
    spawn("incidents".into(), None, move || thread.run())
}
