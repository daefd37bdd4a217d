//! Detector states that follow their device: writes those that analytics states, takes devices over, and looks for the states that it wants.
//!
//! Samples come first: states are written at the end of a flush, and in a drain with the time that is left. What
//! Redis refuses of them delays no sample.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::TryRecvError;
use redis::{Cmd, Pipeline, Value};
use tracing::warn;

use super::{CHUNKS_BETWEEN_BATCHES, StoreThread, monotonic_us};
use crate::handover::{
    FoundStates, HandoverMessage, STREAMS_PER_PART, StateLoss, StatedPart, StreamStates,
};
use crate::judged_queue::ReplicaUpdate;
use crate::registry::NameSource;
use crate::store::ErrorKind;
use crate::store::handover_desk::{FIRST_LOOK, HandoverDesk, LONGEST_LOOK, Wanted};
use crate::store::keys::{self, ReplicaId};
use crate::store::link::LinkError;
use crate::store::reply::Reply;
use crate::store::states::{StatesAt, StatesHeader, Takeover, UnpackError};
use crate::store::windows::{SubjectCounts, heard_last_us};
use sigmad_incidents::silence::cadence::LearnedCadence;
use sigmad_sample::{DeviceId, READINGS_MAX};

/// Parts whose states are sent at a time, 2 MB at most: what a slow network takes in a part of the write timeout.
const PARTS_PER_WRITE: usize = 8;
/// Devices that one round trip looks for: their counts take some hundred kilobytes.
const DEVICES_PER_LOOK: usize = 256;
/// Devices whose states one round trip reads: some megabytes for devices of many streams.
const DEVICES_PER_READ: usize = 16;
/// Messages taken at a time, so that samples are taken in between.
const MESSAGES_PER_TAKE: usize = 1_024;

/// A replica that has not said for this long that it lives has died, unless values wait longer for it. It says so each
/// second; two times may be lost.
const REPLICA_LIFE: Duration = Duration::from_secs(3);

/// A replica without a connection to Redis for this long has died, too: that of a process that ends is closed at once, and a
/// lost one is opened again after 50 ms.
const ABSENCE: Duration = Duration::from_millis(250);

/// A device whose states are to be read.
struct FoundDevice {
    wanted: Wanted,
    /// How often the device was heard.
    cadence: Option<LearnedCadence>,
    /// They lack the last values of a replica that has died.
    is_older: bool,
}

impl StoreThread {
    /// Writes the states that analytics has stated, and looks for those that it wants.
    pub(super) fn hand_over(&mut self) -> Result<(), LinkError> {
        if self.handover.is_none() {
            return Ok(());
        }
        loop {
            self.take_messages();
            if !self.has_parts() {
                break;
            }
            if self.is_past_deadline() {
                return Err(LinkError::new(ErrorKind::Timeout, "the drain has ended"));
            }
            self.write_states()?;
            self.gather(CHUNKS_BETWEEN_BATCHES);
        }
        self.look_for_states()
    }

    fn has_parts(&self) -> bool {
        self.handover.as_ref().is_some_and(|desk| !desk.stating.is_empty())
    }

    fn desk(&mut self) -> &mut HandoverDesk {
        self.handover.as_mut().expect("the caller has looked")
    }

    /// Takes messages until there are parts for one write.
    pub(super) fn take_messages(&mut self) {
        let now = self.clock.now();
        let now_ns = now.monotonic_ns;
        let asked_us = monotonic_us(now) + self.redis_offset_us(now) + self.redis_clock.error_us();
        let Self { handover: Some(desk), registry, .. } = self else { return };
        for _ in 0..MESSAGES_PER_TAKE {
            if desk.stating.len() >= PARTS_PER_WRITE {
                return;
            }
            match desk.consumer.messages.try_recv() {
                Ok(HandoverMessage::Stated(part)) => desk.stating.push(part),
                Ok(message @ (HandoverMessage::Wanted(device) | HandoverMessage::Kept(device))) => {
                    // None: it was evicted on the way.
                    let Some(name) = registry.device_name(device) else { continue };
                    desk.wanted.push(Wanted {
                        device,
                        name,
                        takeover: None,
                        is_looked_for: matches!(message, HandoverMessage::Wanted(_)),
                        asked_us,
                        next_ns: now_ns,
                        pause: FIRST_LOOK,
                        until_ns: now_ns + desk.consumer.wait.as_nanos() as u64,
                    });
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    desk.is_closed = true;
                    // Nobody waits any more.
                    desk.wanted.clear();
                    return;
                }
            }
        }
    }

    /// Writes the parts that were taken. They stay until Redis has answered.
    fn write_states(&mut self) -> Result<(), LinkError> {
        let own = self.encoder.options().replica;
        let mut pipeline = Pipeline::new();
        let mut streams = Vec::new();
        let Self { handover: Some(desk), registry, encoder, counters, .. } = self else {
            return Ok(());
        };
        for part in &desk.stating {
            let StatedPart { device, streams: states, is_first, is_last, .. } = part;
            // None: it was evicted meanwhile.
            let Some(name) = registry.device_name(*device) else { continue };
            let packed: Vec<(Arc<str>, Vec<u8>)> = states
                .iter()
                .filter_map(|StreamStates { metric, bytes }| {
                    let name = registry.metric_name(*metric)?;
                    let packed = desk.codec.pack(bytes);
                    if packed.is_none() {
                        counters.states.lose(StateLoss::TooLong, 1);
                    }
                    Some((name, packed?))
                })
                .collect();
            let fields: Vec<_> =
                packed.iter().map(|(name, packed)| (&**name, &packed[..])).collect();
            let StatedPart { own_total, takeover, cadence, .. } = *part;
            let header = StatesHeader { replica: own, own_total, takeover, cadence };
            let header = is_last.then_some(header);
            pipeline.add_command(encoder.write_states(&name, *is_first, header, &fields));
            streams.push(fields.len() as u64);
        }
        let replies = self.send_optional(&pipeline)?;
        for (reply, streams) in replies.into_iter().zip(streams) {
            match reply.map(Reply::into_value) {
                Ok(Value::Int(1)) => self.counters.states.written_total.add(streams),
                Ok(_) => self.counters.states.lose(StateLoss::NewerVersion, streams),
                Err(error) => {
                    self.log_refusal(&error);
                    self.counters.states.lose(StateLoss::Refused, streams);
                }
            }
        }
        self.desk().stating.clear();
        Ok(())
    }

    /// Takes devices over that are not so far, and looks for the states of those whose time has come.
    fn look_for_states(&mut self) -> Result<(), LinkError> {
        let now_ns = self.clock.monotonic_ns();
        let desk = self.desk();
        desk.wanted.retain(|wanted| wanted.is_open(now_ns));
        if desk.wanted.is_empty() {
            desk.absent.clear();
        }
        loop {
            let is_due = |wanted: &mut Wanted| wanted.next_ns <= now_ns;
            let mut due: Vec<Wanted> =
                self.desk().wanted.extract_if(.., is_due).take(DEVICES_PER_LOOK).collect();
            if due.is_empty() {
                return Ok(());
            }
            let looked = self.take_over(&mut due).and_then(|()| self.look_at(&mut due));
            // Those that are left are looked for again.
            for mut wanted in due.into_iter().filter(|wanted| wanted.is_open(now_ns)) {
                if looked.is_ok() {
                    wanted.next_ns = now_ns + wanted.pause.as_nanos() as u64;
                    wanted.pause = (wanted.pause * 2).min(LONGEST_LOOK);
                }
                self.desk().wanted.push(wanted);
            }
            let mut found = looked?;
            while !found.is_empty() {
                if let Err(error) = self.read_states(&mut found) {
                    // Those that have no answer are looked for again.
                    self.desk().wanted.extend(found.into_iter().map(|found| found.wanted));
                    return Err(error);
                }
            }
            self.gather(CHUNKS_BETWEEN_BATCHES);
        }
    }

    /// Takes devices over that are not so far, and marks those that others had, so that they learn of it.
    fn take_over(&mut self, due: &mut [Wanted]) -> Result<(), LinkError> {
        let mut new: Vec<_> = due.iter_mut().filter(|wanted| wanted.takeover.is_none()).collect();
        let mut pipeline = Pipeline::new();
        for wanted in &new {
            pipeline.add_command(self.encoder.take_over(&wanted.name));
        }
        let mut takeovers = Vec::with_capacity(new.len());
        for reply in self.send_optional(&pipeline)? {
            let takeover = match reply.map(Reply::into_value) {
                Ok(reply) => {
                    let takeover = Takeover::read(&reply);
                    if takeover.is_none() {
                        self.count_unread(UnpackError::Damaged);
                    }
                    takeover
                }
                Err(error) => {
                    self.log_refusal(&error);
                    self.counters.states.lose(StateLoss::Refused, 1);
                    None
                }
            };
            takeovers.push(takeover.unwrap_or(Takeover::NONE));
        }
        let moved = new.iter().zip(&takeovers).filter(|(_, takeover)| takeover.before.is_some());
        let mut moved = moved.map(|(wanted, _)| &*wanted.name).peekable();
        if moved.peek().is_some() {
            pipeline.clear();
            pipeline.add_command(self.encoder.mark(None, false, moved));
            for reply in self.send_optional(&pipeline)? {
                if let Err(error) = reply {
                    self.log_refusal(&error);
                }
            }
        }
        for (wanted, takeover) in new.iter_mut().zip(takeovers) {
            wanted.takeover = Some(takeover);
            // False: analytics has ended, and nobody waits any more.
            let update = ReplicaUpdate::TakenOver(wanted.device, takeover.number);
            let _ = self.consumer.send(update, &self.clock);
        }
        Ok(())
    }

    /// Looks at headers, and at counts where nobody has taken the device over before. Takes those out of `due` that have an answer,
    /// and returns the ones of them whose states are to be read.
    fn look_at(&mut self, due: &mut Vec<Wanted>) -> Result<Vec<FoundDevice>, LinkError> {
        due.retain(|wanted| {
            let is_first = wanted.takeover.is_none_or(|takeover| takeover.is_first);
            if wanted.is_looked_for && is_first {
                self.answer_nothing(wanted.device);
            }
            wanted.is_looked_for && !is_first
        });
        let own = self.encoder.options().replica;
        let now = self.clock.now();
        let latest_us = self.latest_us(now);
        let before: BTreeSet<ReplicaId> = due.iter().filter_map(Wanted::before).collect();
        // First: what a replica writes before its end is found then.
        let mut gone = self.absent(&before)?;
        let mut replies = self.ask_states(due, &before)?.into_iter();
        let mut next = || replies.next().expect("a reply for each command");
        gone.append(&mut self.read_gone(next()));
        let mut found = Vec::new();
        for wanted in std::mem::take(due) {
            let (header, mut counts, mut heard_us) = (next(), SubjectCounts::default(), 0);
            match (wanted.before(), next()) {
                (_, Err(error)) => self.log_refusal(&error),
                (None, Ok(reply)) => counts = SubjectCounts::read(&reply, own, latest_us),
                (Some(_), Ok(reply)) => heard_us = heard_last_us(reply),
            }
            // None: it can't be read.
            let header = self.read_header(header);
            let takeover = wanted.takeover.unwrap_or(Takeover::NONE);
            let at = header.map_or(StatesAt::Nowhere, |header| takeover.look(header, &counts, own));
            let is_gone = wanted.before().is_some_and(|before| gone.contains(&before));
            match (at, header.flatten()) {
                (StatesAt::Current, header) => {
                    let is_crossed = heard_us > wanted.asked_us;
                    self.counters.states.crossed_total.add(u64::from(is_crossed));
                    let cadence = header.and_then(|header| header.cadence);
                    found.push(FoundDevice { wanted, cadence, is_older: false });
                }
                (StatesAt::NotYet, _) if !is_gone => due.push(wanted),
                // Who had it has died: before it had them, or with newer ones.
                (StatesAt::NotYet, Some(header)) if header.replica != own => {
                    let cadence = header.cadence;
                    found.push(FoundDevice { wanted, cadence, is_older: true });
                }
                (StatesAt::NotYet | StatesAt::Nowhere, _) => {
                    self.answer_nothing(wanted.device);
                }
            }
        }
        Ok(found)
    }

    /// Asks who of those that had the devices has died; then for the header of each device, and for the counts of the one that had
    /// it, or for all where nobody has taken it over before.
    fn ask_states(
        &mut self,
        due: &[Wanted],
        before: &BTreeSet<ReplicaId>,
    ) -> Result<Vec<Result<Reply, LinkError>>, LinkError> {
        if due.is_empty() {
            return Ok(vec![Ok(Value::Array(Vec::new()).into())]);
        }
        let life = REPLICA_LIFE.max(self.desk().consumer.wait);
        let mut pipeline = Pipeline::new();
        let life_us = life.as_micros() as u64;
        pipeline.add_command(self.encoder.ask_gone(life_us, before.iter().copied()));
        for wanted in due {
            pipeline.add_command(self.encoder.read_states_header(&wanted.name));
            pipeline.add_command(match wanted.before() {
                None => self.encoder.read_counts(Some(&wanted.name)),
                Some(before) => self.encoder.read_counts_of(&wanted.name, before),
            });
        }
        self.send_optional(&pipeline)
    }

    /// Those of some replicas that have had no connection to Redis for a time. None where Redis does not tell.
    fn absent(&mut self, before: &BTreeSet<ReplicaId>) -> Result<BTreeSet<ReplicaId>, LinkError> {
        if before.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut list = Cmd::new();
        list.arg("CLIENT").arg("LIST");
        let mut absent = before.clone();
        for reply in self.linked().ask_nodes(&list)? {
            self.counters.commands_total.add(1);
            match reply.map(Reply::into_value) {
                Ok(Value::BulkString(clients)) => {
                    let clients = String::from_utf8_lossy(&clients);
                    let fields = clients.split([' ', '\n']);
                    let names: HashSet<_> =
                        fields.filter_map(|field| field.strip_prefix("name=")).collect();
                    absent.retain(|replica| !names.contains(&*replica.client_name()));
                }
                Ok(_) => absent.clear(),
                Err(error) => {
                    self.log_refusal(&error);
                    absent.clear();
                }
            }
        }
        let now_ns = self.clock.monotonic_ns();
        let known = &mut self.desk().absent;
        known.retain(|replica, _| absent.contains(replica) || !before.contains(replica));
        absent.retain(|replica| {
            let since_ns = *known.entry(*replica).or_insert(now_ns);
            now_ns - since_ns >= ABSENCE.as_nanos() as u64
        });
        Ok(absent)
    }

    /// The replicas in a reply. None where Redis does not tell: then they live.
    fn read_gone(&mut self, reply: Result<Reply, LinkError>) -> BTreeSet<ReplicaId> {
        match reply {
            Ok(Reply::Strings(ids)) => ids.iter().filter_map(ReplicaId::read).collect(),
            Ok(_) => BTreeSet::new(),
            Err(error) => {
                self.log_refusal(&error);
                BTreeSet::new()
            }
        }
    }

    /// The header in a reply, if there is one. None for one that this version can't read.
    fn read_header(&mut self, reply: Result<Reply, LinkError>) -> Option<Option<StatesHeader>> {
        match reply.map(Reply::into_value) {
            Ok(Value::Nil) => Some(None),
            Ok(Value::BulkString(text)) => match StatesHeader::read(&text) {
                Ok(header) => Some(Some(header)),
                Err(error) => {
                    self.count_unread(error);
                    None
                }
            },
            Ok(_) => {
                self.count_unread(UnpackError::Damaged);
                None
            }
            Err(error) => {
                self.log_refusal(&error);
                self.counters.states.lose(StateLoss::Refused, 1);
                None
            }
        }
    }

    fn count_unread(&self, error: UnpackError) {
        let loss = match error {
            UnpackError::OtherVersion => StateLoss::OtherVersion,
            UnpackError::Damaged => StateLoss::Damaged,
        };
        self.counters.states.lose(loss, 1);
    }

    /// Reads states of the first devices, gives them to analytics, and deletes them: they are here now. Takes out those that
    /// have an answer.
    fn read_states(&mut self, found: &mut Vec<FoundDevice>) -> Result<(), LinkError> {
        let count = found.len().min(DEVICES_PER_READ);
        let mut pipeline = Pipeline::new();
        for FoundDevice { wanted, .. } in &found[..count] {
            pipeline.add_command(self.encoder.read_states(&wanted.name));
        }
        let replies = self.send_optional(&pipeline)?;
        pipeline.clear();
        for (FoundDevice { wanted, cadence, is_older }, reply) in found.drain(..count).zip(replies)
        {
            let streams = match reply {
                Ok(reply) => self.unpack(&wanted.name, &reply),
                Err(error) => {
                    self.log_refusal(&error);
                    self.counters.states.lose(StateLoss::Refused, 1);
                    Vec::new()
                }
            };
            self.answer(FoundStates { device: wanted.device, streams, cadence, is_older });
            let takeover = wanted.takeover.map_or(0, |takeover| takeover.number);
            pipeline.add_command(self.encoder.received_states(&wanted.name, takeover));
        }
        for reply in self.send_optional(&pipeline)? {
            if let Err(error) = reply {
                self.log_refusal(&error);
            }
        }
        Ok(())
    }

    /// The states of the streams in a reply, with metrics that the registry has room for.
    fn unpack(&mut self, device: &str, reply: &Reply) -> Vec<StreamStates> {
        let Reply::Strings(strings) = reply else {
            self.count_unread(UnpackError::Damaged);
            return Vec::new();
        };
        let mut unpacked = Vec::new();
        let mut strings = strings.iter();
        while let (Some(metric), Some(packed)) = (strings.next(), strings.next()) {
            let Some(metric) = keys::read_metric_name(metric) else { continue };
            match self.desk().codec.unpack(packed) {
                Ok(states) => unpacked.push((metric, states)),
                Err(error) => self.count_unread(error),
            }
        }
        let now_s = (self.clock.monotonic_ns() / 1_000_000_000) as u32;
        let mut streams = Vec::with_capacity(unpacked.len());
        let mut unpacked = unpacked.into_iter();
        loop {
            let some: Vec<_> = unpacked.by_ref().take(READINGS_MAX.min(STREAMS_PER_PART)).collect();
            if some.is_empty() {
                break;
            }
            let mut names: Vec<_> = some.iter().map(|(metric, _)| (*metric, None)).collect();
            // Err: there is no room for some of them.
            let admitted =
                self.registry.admit(NameSource::Replica, Some(device), &mut names, now_s);
            let ids: Vec<_> = names.iter().map(|&(_, id)| id).collect();
            for (id, (_, bytes)) in ids.into_iter().zip(some) {
                if let (Ok(_), Some(metric)) = (&admitted, id) {
                    streams.push(StreamStates { metric, bytes });
                }
            }
        }
        self.counters.states.read_total.add(streams.len() as u64);
        streams
    }

    fn answer(&mut self, found: FoundStates) {
        // False: analytics has ended, and nobody waits any more.
        let _ = self.consumer.send(ReplicaUpdate::States(found), &self.clock);
    }

    /// Nobody has states of a device.
    fn answer_nothing(&mut self, device: DeviceId) {
        let (streams, cadence, is_older) = (Vec::new(), None, false);
        self.answer(FoundStates { device, streams, cadence, is_older });
    }

    /// Counts the states that were not written before the end of the drain.
    pub(super) fn drop_states(&mut self) {
        let Some(desk) = &mut self.handover else { return };
        let waiting = desk.consumer.messages.try_iter().filter_map(|message| match message {
            HandoverMessage::Stated(part) => Some(part),
            HandoverMessage::Wanted(_) | HandoverMessage::Kept(_) => None,
        });
        let parts = desk.stating.drain(..).chain(waiting);
        let streams: u64 = parts.map(|part| part.streams.len() as u64).sum();
        if streams > 0 {
            self.counters.states.lose(StateLoss::Shutdown, streams);
            warn!(streams, "Redis did not take the last detector states; they begin anew");
        }
    }
}
