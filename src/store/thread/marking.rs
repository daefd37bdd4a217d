//! Marks: which subjects this replica has changed, and which ones others have.
//!
//! Redis keeps one set of marks for all replicas, and each replica reads it from the number of the last change that
//! it knows. If the set is lost alone, so are the marks that a replica has not read. Then it reads every subject
//! that it knows, and marks again those that no other replica has marked since.

use std::collections::HashSet;

use redis::Pipeline;
use tracing::{info, warn};

use super::{CLOCK_OFFSET_US_MAX, StoreThread, monotonic_us};
use crate::store::commands::MARKED_MAX;
use crate::store::link::LinkError;
use crate::store::mark_reply::{ChangeSet, MarkReply};
use crate::store::reply::Reply;
use sigmad_clock::Now;

/// Interval at which a replica names its `--window` to the others: until then, one that starts with a larger one
/// finds its windows trimmed.
const NAME_WINDOW_EVERY_NS: u64 = 1_000_000_000;
/// Marks that are sent before the reply to the first is read: 16,000 names in a round trip, about a megabyte.
const MARKS_IN_FLIGHT_MAX: usize = 16;
/// Slots of the registry that are read under one lock: a fraction of a millisecond.
const SLOTS_PER_LOCK: usize = 4_096;

/// The reading of a set of changes from its beginning, after an earlier one was lost.
struct Relearning {
    set: ChangeSet,
    /// The first of the changed subjects that it has.
    from: usize,
}

impl StoreThread {
    /// Marks the subjects of the segment in flight as changed, and queries those that others have changed. If
    /// Redis refuses that, the subjects are marked later.
    pub(super) fn mark(&mut self) -> Result<(), LinkError> {
        let mut marked = 0;
        let mut relearning: Option<Relearning> = None;
        loop {
            let Some((marks, are_all_marked)) = self.send_marks(&mut marked)? else {
                self.keep_unmarked();
                return Ok(());
            };
            if relearning.as_ref().map(|pass| pass.set).or(self.change_set) == Some(marks.set) {
                // As before.
            } else if self.change_set.is_some() && marks.set.is_of_older_numbers {
                self.cursor = 0;
                relearning = Some(Relearning { set: marks.set, from: self.changed.len() });
                continue;
            } else {
                // The first one, or Redis has lost all data with it: there is nothing to read again.
                self.known.clear();
                self.change_set = Some(marks.set);
                relearning = None;
            }
            if !are_all_marked || !marks.is_all || marks.has_lost {
                continue;
            }
            self.unmarked.clear();
            let Some(pass) = relearning.take() else { return Ok(()) };
            self.change_set = Some(pass.set);
            self.known.clear();
            self.mark_again(pass.from);
            marked = self.queue.in_flight().map_or(0, |segment| segment.names().len());
        }
    }

    /// Sends marks of the names from index `marked` on, as many as may be in flight, and advances it. The first one
    /// queries what others have changed. Returns its reply, None when Redis refuses a mark; and whether all names
    /// are marked.
    fn send_marks(&mut self, marked: &mut usize) -> Result<Option<(MarkReply, bool)>, LinkError> {
        let sent = self.clock.now();
        let names_window = sent.monotonic_ns >= self.name_window_ns;
        let (pipeline, are_all_marked) = self.marks_from(*marked, names_window);
        *marked += MARKED_MAX * pipeline.len();
        let mut replies = self.send(&pipeline)?.into_iter();
        let first = replies.next().expect("one reply for each command");
        let Some(mut marks) = self.read_mark(first, Some(self.cursor)) else { return Ok(None) };
        self.measure_clock(sent, marks.time_us);
        if names_window {
            self.name_window_ns = sent.monotonic_ns + NAME_WINDOW_EVERY_NS;
            self.keep_largest_window(&marks.windows);
        }
        self.counters.foreign_entries_total.add(marks.foreign as u64);
        self.changed.append(&mut marks.changed);
        self.cursor = if marks.has_lost { 0 } else { marks.cursor };
        if marks.has_lost {
            self.known.clear();
        }
        for reply in replies {
            let Some(next) = self.read_mark(reply, None) else { return Ok(None) };
            // Otherwise another replica has marked something in between, which the next query returns.
            if next.cursor == self.cursor {
                self.cursor = next.number;
            }
        }
        Ok(Some((marks, are_all_marked)))
    }

    /// Marks of the names from index `marked` on, as many as may be in flight, and whether these are all.
    fn marks_from(&self, marked: usize, names_window: bool) -> (Pipeline, bool) {
        let names = self.queue.in_flight().into_iter().flat_map(|segment| segment.names());
        let names = names.chain(self.unmarked.iter().map(|name| &**name));
        let mut names = names.skip(marked).peekable();
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(self.encoder.mark(Some(self.cursor), names_window, &mut names));
        while names.peek().is_some() && pipeline.len() < MARKS_IN_FLIGHT_MAX {
            pipeline.add_command(self.encoder.mark(None, false, &mut names));
        }
        (pipeline, names.peek().is_none())
    }

    fn read_mark(
        &mut self,
        reply: Result<Reply, LinkError>,
        cursor: Option<u64>,
    ) -> Option<MarkReply> {
        let reply = reply.map_err(|error| self.log_refusal(&error)).ok()?;
        let marks = MarkReply::read(&reply.into_value(), cursor);
        self.counters.foreign_entries_total.add(u64::from(marks.is_none()));
        marks
    }

    /// Redis has refused a mark: others must hear of these subjects once it takes one.
    fn keep_unmarked(&mut self) {
        self.is_sharing_refused = true;
        let names = self.queue.in_flight().into_iter().flat_map(|segment| segment.names());
        let names: Vec<Box<str>> = names.map(Box::from).collect();
        self.add_unmarked(names);
    }

    pub(super) fn add_unmarked(&mut self, names: impl IntoIterator<Item = Box<str>>) {
        let room = (self.encoder.options().devices_max + 1).saturating_sub(self.unmarked.len());
        self.unmarked.extend(names.into_iter().take(room));
    }

    /// Marks of earlier changes are lost. The changed subjects from index `from` on are all that were marked since:
    /// the other known ones are read too, and marked again for replicas that do not know them or read them before
    /// their last change.
    fn mark_again(&mut self, from: usize) {
        let marked: HashSet<Option<&str>> =
            self.changed[from..].iter().map(|subject| subject.as_deref()).collect();
        let mut again: Vec<Option<Box<str>>> = Vec::new();
        if !marked.contains(&None) {
            again.push(None);
        }
        let mut slots = 0..SLOTS_PER_LOCK;
        while let Some(names) = self.registry.device_names(slots.clone()) {
            let names = names.iter().filter(|name| !marked.contains(&Some(&***name)));
            again.extend(names.map(|name| Some(Box::from(&**name))));
            slots = slots.end..slots.end + SLOTS_PER_LOCK;
        }
        drop(marked);
        info!(subjects = again.len(), "Redis has lost marks of changed devices: marked again");
        self.add_unmarked(again.iter().map(|subject| subject.clone().unwrap_or_default()));
        self.changed.append(&mut again);
    }

    /// Takes Redis' time from a reply.
    fn measure_clock(&mut self, sent: Now, redis_us: i64) {
        let received = self.clock.now();
        self.redis_clock.measure(monotonic_us(sent), monotonic_us(received), redis_us);
        let offset_us = self.clock_offset_us(received);
        self.counters.clock_offset_us.set(offset_us.cast_unsigned());
        // An estimate that is not that good says nothing.
        let off_us = offset_us.saturating_abs() - self.redis_clock.error_us();
        if off_us > CLOCK_OFFSET_US_MAX && !self.is_clock_off {
            self.is_clock_off = true;
            warn!(
                offset_s = offset_us as f64 / 1e6,
                "the clock of this replica differs from that of Redis, by which values are ordered"
            );
        } else if off_us < CLOCK_OFFSET_US_MAX / 2 {
            self.is_clock_off = false;
        }
    }

    /// Keeps as many values in Redis as the largest `--window` of all replicas needs.
    fn keep_largest_window(&mut self, windows: &[usize]) {
        let own = self.encoder.options().window;
        let other = windows.iter().copied().filter(|&window| window != own).max();
        let largest = windows.iter().copied().max().unwrap_or(own).max(own);
        if other != self.other_window {
            // One that did not know of ours may have kept less.
            self.known.clear();
        }
        self.encoder.set_window(largest);
        self.queue.set_window(largest);
        if other != self.other_window
            && let Some(other) = other
        {
            warn!(own, other, kept = largest, "replicas on this Redis have different --window");
        }
        self.other_window = other;
    }
}
