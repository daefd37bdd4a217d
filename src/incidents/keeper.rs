//! Keeps the incidents in the state directory, so that a restart goes on with them.
//!
//! The document has the book, and notes of what each target of notifications was told. It is written after a change,
//! about each second, at once when somebody waits for it ([`KeepNow`]), and at the end of the drain. The notes are taken before the book: so none is of a change
//! that the book in the same document has not seen.
//!
//! Invariant: nobody waits for this thread but the end of the drain and an operator's order, which have limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use parking_lot::Mutex;
use sigmad_clock::Clock;
use sigmad_counters::{Counter, Families, MetricSource};
use sigmad_detectors::saved::Saved;
use sigmad_incidents::book::kept::BookError;
use sigmad_incidents::book::{Book, BookSettings};
use sigmad_state::{DamageKind, Damaged, Disk, Document, StateError};
use tracing::{info, warn};

use super::asker::IncidentsAsker;

/// From one writing to the next, at least: what a machine that fails loses.
const INTERVAL: Duration = Duration::from_secs(1);
/// Orders of operators that wait; with more, those who ask block.
const WAITING_MAX: usize = 64;
/// An order that the disk has not taken by then is answered all the same: it is in force.
const KEEP_WAIT: Duration = Duration::from_secs(10);
/// A writing may take this part of the time, so that a full book does not keep a slow disk busy.
const BUSY_PART: u32 = 8;
/// The version of the document. The book has its own.
const VERSION: u16 = 1;

/// What the thread counts.
#[derive(Debug, Default)]
pub struct KeeperCounters {
    written_total: Counter,
    failed_total: Counter,
    bytes: Counter,
}

impl MetricSource for KeeperCounters {
    fn collect(&self, families: &mut Families) {
        families
            .counter(
                "sigmad_incidents_written_total",
                "Writings of the incidents into the state directory, by result: written, failed (what was there before stays).",
            )
            .add_counter(&[("result", "written")], &self.written_total)
            .add_counter(&[("result", "failed")], &self.failed_total);
        families
            .gauge(
                "sigmad_incidents_written_bytes",
                "Bytes of the incidents in the state directory.",
            )
            .add_counter(&[], &self.bytes);
    }
}

/// Notes by target, each the last one that its sender has made.
#[derive(Clone, Debug)]
pub struct Notes {
    by_target: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    changed: Sender<()>,
}

impl Notes {
    /// Replaces the note of a target.
    pub fn keep(&self, target: &str, note: Vec<u8>) {
        self.by_target.lock().insert(target.to_owned(), note);
        // Full: the thread will look. Disconnected: it has ended.
        let _ = self.changed.try_send(());
    }

    /// The note of a target.
    pub fn of(&self, target: &str) -> Option<Vec<u8>> {
        self.by_target.lock().get(target).cloned()
    }
}

/// Has what is known written at once. Clones reach the same thread.
#[derive(Clone, Debug)]
pub struct KeepNow(Sender<Sender<()>>);

impl KeepNow {
    /// Waits until what is known now is durable, or the disk has refused it: then the thread logs and counts that.
    pub fn wait(&self) {
        let (done, written) = bounded(1);
        // Err, both: the drain ends, and writes it, or the disk takes too long.
        if self.0.send_timeout(done, KEEP_WAIT).is_ok() {
            let _ = written.recv_timeout(KEEP_WAIT);
        }
    }
}

/// The document, opened, and what it held.
#[derive(Debug)]
pub struct Kept {
    document: Document,
    keep_now: Sender<Sender<()>>,
    waiting: Receiver<Sender<()>>,
    /// None without one, or where it is damaged.
    pub book: Option<Book>,
    notes: BTreeMap<String, Vec<u8>>,
    /// What was wrong with it.
    pub damage: Option<Damaged>,
}

impl Kept {
    /// Reads the document. `shards`: those of this process.
    pub fn read(disk: Arc<dyn Disk>, settings: BookSettings, shards: usize) -> Self {
        let (document, content) = Document::incidents(disk);
        let (mut book, mut notes, mut damage) = (None, BTreeMap::new(), None);
        match content.map(|content| content.map(|bytes| parse(&bytes, settings, shards))) {
            Ok(None) => {}
            Ok(Some(Ok(parsed))) => (book, notes) = (Some(parsed.0), parsed.1),
            Ok(Some(Err(BookError::Newer(version)))) => {
                document.set_aside(version);
                damage = Some(document.damaged(DamageKind::OtherVersion));
            }
            Ok(Some(Err(BookError::Broken))) => {
                damage = Some(document.damaged(DamageKind::BadChecksum));
            }
            Err(damaged) => damage = Some(damaged),
        }
        if let Some(Damaged { kind, file }) = &damage {
            warn!(file, kind = kind.name(), "the kept incidents can't be read: the book is empty");
        }
        let (keep_now, waiting) = bounded(WAITING_MAX);
        Self { document, keep_now, waiting, book, notes, damage }
    }

    /// For those who wait for the thread, once it runs.
    pub fn keep_now(&self) -> KeepNow {
        KeepNow(self.keep_now.clone())
    }
}

fn parse(
    mut from: &[u8],
    settings: BookSettings,
    shards: usize,
) -> Result<(Book, BTreeMap<String, Vec<u8>>), BookError> {
    match u16::read(&mut from) {
        Some(VERSION) => {}
        Some(version) if version > VERSION => return Err(BookError::Newer(version)),
        _ => return Err(BookError::Broken),
    }
    let from = &mut from;
    let notes = Vec::<(String, Vec<u8>)>::read(from).ok_or(BookError::Broken)?;
    let book = Book::read(settings, shards, from)?;
    Ok((book, notes.into_iter().collect()))
}

fn content(notes: &BTreeMap<String, Vec<u8>>, book: &[u8]) -> Vec<u8> {
    let mut to = Vec::with_capacity(book.len() + 1_024);
    VERSION.write(&mut to);
    let notes: Vec<_> = notes.iter().map(|(target, note)| (target.clone(), note.clone())).collect();
    notes.write(&mut to);
    to.extend_from_slice(book);
    to
}

/// The state of the thread.
#[derive(Debug)]
pub struct Keeper {
    document: Document,
    asker: IncidentsAsker,
    changes: Receiver<()>,
    notes: Notes,
    noted: Receiver<()>,
    waiting: Receiver<Sender<()>>,
    stop: Receiver<()>,
    clock: Clock,
    counters: Arc<KeeperCounters>,
    has_failed: bool,
}

/// The handles of a [`Keeper`].
#[derive(Debug)]
pub struct KeeperHandle {
    /// Takes notes.
    pub notes: Notes,
    /// Dropped, or sent something: the thread writes once more and ends.
    pub stop: Sender<()>,
}

impl Keeper {
    /// The thread before it runs. `targets`: notes of others are forgotten. None once the thread `incidents` has ended.
    pub fn new(
        kept: Kept,
        targets: &[String],
        asker: IncidentsAsker,
        clock: Clock,
        counters: Arc<KeeperCounters>,
    ) -> Option<(Self, KeeperHandle)> {
        let Kept { document, mut notes, waiting, .. } = kept;
        notes.retain(|target, _| targets.contains(target));
        let (changed, noted) = bounded(1);
        let notes = Notes { by_target: Arc::new(Mutex::new(notes)), changed };
        let (stop, stopped) = bounded(1);
        let changes = asker.subscribe()?;
        let handle = KeeperHandle { notes: notes.clone(), stop };
        let keeper = Self {
            document,
            asker,
            changes,
            notes,
            noted,
            waiting,
            stop: stopped,
            clock,
            counters,
            has_failed: false,
        };
        Some((keeper, handle))
    }

    /// Runs on the calling thread until it is told to stop.
    pub fn run(mut self) {
        let (mut is_stopped, mut rest) = (false, Duration::ZERO);
        while !is_stopped {
            // Those who wait, and the end, are not kept waiting by the rest between two writings.
            let mut waiting = Vec::new();
            let changes = if rest.is_zero() { self.changes.clone() } else { never() };
            let noted = if rest.is_zero() { self.noted.clone() } else { never() };
            let rested = if rest.is_zero() { never() } else { after(rest) };
            select! {
                recv(changes) -> change => if change.is_err() {
                    self.changes = never();
                },
                recv(noted) -> _ => {}
                recv(self.waiting) -> one => match one {
                    Ok(one) => waiting.push(one),
                    // Nobody can wait any more.
                    Err(_) => self.waiting = never(),
                },
                recv(self.stop) -> _ => is_stopped = true,
                recv(rested) -> _ => {
                    rest = Duration::ZERO;
                    continue;
                }
            }
            waiting.extend(self.waiting.try_iter());
            let took = self.write();
            rest = INTERVAL.max(took * (BUSY_PART - 1));
            // Err: they wait no more.
            waiting.into_iter().for_each(|one| _ = one.try_send(()));
        }
    }

    /// Writes what is known now. Returns how long it took.
    fn write(&mut self) -> Duration {
        let begun_ns = self.clock.monotonic_ns();
        let notes = self.notes.by_target.lock().clone();
        // None: the thread `incidents` has ended.
        let Some(book) = self.asker.save() else { return Duration::ZERO };
        match self.document.write(&content(&notes, &book)) {
            Ok(bytes) => {
                self.counters.written_total.add(1);
                self.counters.bytes.set(bytes);
                if std::mem::replace(&mut self.has_failed, false) {
                    info!("incidents are kept again");
                }
            }
            Err(error) => self.failed(&error),
        }
        Duration::from_nanos(self.clock.monotonic_ns() - begun_ns)
    }

    fn failed(&mut self, error: &StateError) {
        self.counters.failed_total.add(1);
        // One line until it succeeds again.
        if !std::mem::replace(&mut self.has_failed, true) {
            warn!(%error, "the incidents can't be written; those before are kept");
        }
    }
}

#[cfg(test)]
mod tests;
