//! Reads the windows that other replicas have changed, and sends them to analytics.

use redis::Pipeline;

use super::{CHUNKS_BETWEEN_BATCHES, StoreThread, monotonic_us};
use crate::judged_queue::{ReplicaUpdate, SharedWindows};
use crate::store::keys;
use crate::store::link::LinkError;
use crate::store::redis_clock::FUTURE_US_MAX;
use crate::store::reply::Reply;
use crate::store::windows::{MetricCounts, SubjectCounts, WindowMembers, share};
use sigmad_clock::Now;

/// Subjects whose counts are read in one round trip: as many as make a first read of a large fleet over a slow
/// link short. Their counts take a megabyte.
const SUBJECTS_PER_READ: usize = 1_024;
/// Values that one round trip reads: six megabytes, which come well within the timeout of replies.
const VALUES_PER_READ: usize = 131_072;

/// A subject whose counts are read, and whose windows are not.
type CountedSubject = (Option<Box<str>>, SubjectCounts);

impl StoreThread {
    /// Reads the windows of the subjects that others have changed, and sends them to analytics.
    pub(super) fn read_changed(&mut self, now: Now) -> Result<(), LinkError> {
        // One that others have changed may also overlap with our own samples.
        self.changed.sort_unstable();
        self.changed.dedup();
        let mut counted = Vec::new();
        while !(self.changed.is_empty() && counted.is_empty()) {
            if let Err(error) = self.read(&mut counted, now) {
                self.changed.extend(counted.into_iter().map(|(subject, _)| subject));
                return Err(error);
            }
            self.gather(CHUNKS_BETWEEN_BATCHES);
        }
        Ok(())
    }

    /// One round trip: reads windows of the subjects whose counts are read, and the counts of the next subjects.
    pub(super) fn read(
        &mut self,
        counted: &mut Vec<CountedSubject>,
        now: Now,
    ) -> Result<(), LinkError> {
        let mut pipeline = Pipeline::new();
        let (mut ready, windows_max) = (0, self.windows_per_read());
        let mut asked = Vec::new();
        for (subject, counts) in counted.iter() {
            if ready > 0 && pipeline.len() + counts.metrics.len() > windows_max {
                break;
            }
            for metric in &counts.metrics {
                let values = self.values_to_read(subject.as_deref(), metric);
                asked.push(values);
                let read = self.encoder.read_window(subject.as_deref(), &metric.name, values);
                pipeline.add_command(read);
            }
            ready += 1;
        }
        let next = match self.changed.len().saturating_sub(SUBJECTS_PER_READ) {
            // So the next round trip has as many windows to read as this one.
            from if counted.len() - ready < SUBJECTS_PER_READ => self.changed.split_off(from),
            _ => Vec::new(),
        };
        for subject in &next {
            pipeline.add_command(self.encoder.read_counts(subject.as_deref()));
        }
        let mut replies = match self.send(&pipeline) {
            Ok(replies) => replies.into_iter(),
            Err(error) => {
                self.changed.extend(next);
                return Err(error);
            }
        };
        pipeline.clear();
        let (mut shared, mut asked) = (Vec::with_capacity(ready), asked.into_iter());
        for (subject, counts) in counted.drain(..ready) {
            let asked = asked.by_ref().take(counts.metrics.len());
            let replies = asked.zip(replies.by_ref());
            shared.extend(self.take_windows(subject, counts, replies, now, &mut pipeline));
        }
        if !shared.is_empty() {
            // False: analytics has ended, and no thread reads windows any more.
            let _ = self.consumer.send(ReplicaUpdate::Windows(shared), &self.clock);
        }
        for (subject, reply) in next.into_iter().zip(replies) {
            self.take_counts(subject, reply, counted, now);
        }
        for reply in self.send(&pipeline)? {
            if let Err(error) = reply {
                self.log_refusal(&error);
            }
        }
        Ok(())
    }

    /// Windows that one round trip reads at most.
    pub(super) fn windows_per_read(&self) -> usize {
        (VALUES_PER_READ / self.window_values() as usize).max(1)
    }

    /// Values of a whole window.
    fn window_values(&self) -> u32 {
        keys::window_values(self.encoder.options().window)
    }

    /// How many of a window's values to read. That of the fleet is one for all, and gets more than its values between
    /// two flushes; in a cluster another node may have its counts.
    fn values_to_read(&mut self, subject: Option<&str>, metric: &MetricCounts) -> u32 {
        let whole = self.window_values();
        subject.map_or(whole, |device| self.known.unread(device, metric, whole))
    }

    /// Redis' time past which a time was written by a clock that is wrong.
    pub(super) fn latest_us(&self, now: Now) -> i64 {
        monotonic_us(now) + self.redis_offset_us(now) + FUTURE_US_MAX
    }

    /// Takes the counts of a subject, in parts whose windows fit into one round trip.
    pub(super) fn take_counts(
        &mut self,
        subject: Option<Box<str>>,
        reply: Result<Reply, LinkError>,
        counted: &mut Vec<CountedSubject>,
        now: Now,
    ) {
        let own = self.encoder.options().replica;
        match reply {
            Ok(reply) => {
                let counts = SubjectCounts::read(&reply, own, self.latest_us(now));
                self.counters.foreign_entries_total.add(counts.foreign as u64);
                let parts = counts.parts(self.windows_per_read());
                if parts.len() > 1 {
                    // Read whole: one part after another might be found incomplete, without end.
                    self.known.clear();
                }
                for part in parts {
                    counted.push((subject.clone(), part));
                }
            }
            Err(error) => self.read_refused(subject, &error),
        }
    }

    /// Makes an update of the windows in the replies of one subject, each with how many values were asked for. Adds
    /// commands that heal windows, and fold the counts of replicas that are gone. A subject of which values may be
    /// missing is read again.
    pub(super) fn take_windows(
        &mut self,
        subject: Option<Box<str>>,
        mut counts: SubjectCounts,
        mut replies: impl Iterator<Item = (u32, Result<Reply, LinkError>)>,
        now: Now,
        repairs: &mut Pipeline,
    ) -> Option<SharedWindows> {
        let (own, latest_us) = (self.encoder.options().replica, self.latest_us(now));
        let whole = self.window_values();
        let (mut windows, mut refused) = (Vec::with_capacity(counts.metrics.len()), None);
        let mut is_incomplete = false;
        // A window that Redis refuses to show is not an empty one.
        counts.metrics.retain(|metric| match replies.next().expect("one for each window") {
            (asked, Ok(reply)) => {
                let members = WindowMembers::read(&reply, latest_us);
                self.counters.foreign_entries_total.add(members.foreign as u64);
                self.counters.future_values_total.add(members.future as u64);
                if members.future > 0 {
                    let heal = self.encoder.heal(subject.as_deref(), &metric.name, latest_us);
                    repairs.add_command(heal);
                }
                if members.is_gone {
                    subject.as_deref().inspect(|device| self.known.forget(device, &metric.name));
                    repairs.add_command(self.encoder.forget(subject.as_deref(), metric));
                    return false;
                }
                let window = match subject.as_deref() {
                    Some(device) => self.known.complete(device, metric, members, (asked, whole)),
                    None => Some(members),
                };
                is_incomplete |= window.is_none();
                windows.extend(window);
                true
            }
            (_, Err(error)) => {
                refused = Some(error);
                false
            }
        });
        self.counters.windows_read_total.add(windows.len() as u64);
        if is_incomplete {
            counts.metrics.iter().for_each(|metric| {
                subject.as_deref().inspect(|device| self.known.forget(device, &metric.name));
            });
            self.changed.push(subject);
            return None;
        }
        if counts.last.0 > self.sent_us(now) {
            self.overlapping.insert(subject.clone(), counts.last.0);
        }
        let gone = counts.gone(latest_us);
        if !gone.is_empty() {
            repairs.add_command(self.encoder.fold(subject.as_deref(), &gone));
        }
        if counts.last.0 > 0 {
            // What this replica reports is by its own clock.
            counts.last.0 = (counts.last.0 + self.clock_offset_us(now)).max(0);
        }
        // Silence is counted by the monotonic clock, as by the workers.
        let seconds = (now.monotonic_ns / 1_000_000_000) as u32;
        let (update, no_room) =
            share(subject.as_deref(), &counts, windows, own, &self.registry, seconds);
        self.counters.windows_skipped_total.add(no_room as u64);
        if let Some(error) = refused {
            self.read_refused(subject, &error);
        }
        update
    }

    /// Redis has refused to show a subject: it is read again with the next flush.
    pub(super) fn read_refused(&mut self, subject: Option<Box<str>>, error: &LinkError) {
        self.log_refusal(error);
        self.is_sharing_refused = true;
        self.unread.push(subject);
    }
}
