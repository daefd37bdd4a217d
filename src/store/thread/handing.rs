//! Detector states that follow their device: writes those that analytics states, and looks for those that it wants.
//!
//! Samples come first: states are written at the end of a flush, and in a drain with the time that is left. What
//! Redis refuses of them delays no sample.

use std::sync::Arc;

use crossbeam_channel::TryRecvError;
use redis::{Pipeline, Value};
use tracing::warn;

use super::{CHUNKS_BETWEEN_BATCHES, StoreThread};
use crate::handover::{
    FoundStates, HandoverMessage, STREAMS_PER_PART, StateLoss, StatedPart, StreamStates,
};
use crate::judged_queue::ReplicaUpdate;
use crate::registry::NameSource;
use crate::store::handover_desk::{FIRST_LOOK, HandoverDesk, LONGEST_LOOK, Wanted};
use crate::store::link::LinkError;
use crate::store::reply::Reply;
use crate::store::states::{StatesAt, StatesHeader, UnpackError, look};
use crate::store::windows::SubjectCounts;
use crate::store::{ErrorKind, keys};
use sigmad_sample::{DeviceId, READINGS_MAX};

/// Parts whose states are sent at a time, 2 MB at most: what a slow network takes in a part of the write timeout.
const PARTS_PER_WRITE: usize = 8;
/// Devices that one round trip looks for: their counts take some hundred kilobytes.
const DEVICES_PER_LOOK: usize = 256;
/// Devices whose states one round trip reads: some megabytes for devices of many streams.
const DEVICES_PER_READ: usize = 16;
/// Messages taken at a time, so that samples are taken in between.
const MESSAGES_PER_TAKE: usize = 1_024;

/// A device with its name.
type NamedDevice = (DeviceId, Arc<str>);

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
        let now_ns = self.clock.monotonic_ns();
        let Self { handover: Some(desk), registry, .. } = self else { return };
        for _ in 0..MESSAGES_PER_TAKE {
            if desk.stating.len() >= PARTS_PER_WRITE {
                return;
            }
            match desk.consumer.messages.try_recv() {
                Ok(HandoverMessage::Stated(part)) => desk.stating.push(part),
                Ok(HandoverMessage::Wanted(device)) => {
                    // None: it was evicted on the way.
                    let Some(name) = registry.device_name(device) else { continue };
                    let until_ns = now_ns + desk.consumer.wait.as_nanos() as u64;
                    let (next_ns, pause) = (now_ns, FIRST_LOOK);
                    desk.wanted.push(Wanted { device, name, next_ns, pause, until_ns });
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
        for StatedPart { device, own_total, streams: states, is_first, is_last } in &desk.stating {
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
            let header = is_last.then_some(StatesHeader { replica: own, own_total: *own_total });
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

    /// Looks for the states of the devices whose time has come.
    fn look_for_states(&mut self) -> Result<(), LinkError> {
        let now_ns = self.clock.monotonic_ns();
        let desk = self.desk();
        desk.wanted.retain(|wanted| now_ns < wanted.until_ns);
        loop {
            let is_due = |wanted: &mut Wanted| wanted.next_ns <= now_ns;
            let due: Vec<Wanted> =
                self.desk().wanted.extract_if(.., is_due).take(DEVICES_PER_LOOK).collect();
            if due.is_empty() {
                return Ok(());
            }
            let current = self.look_at(due, now_ns)?;
            for devices in current.chunks(DEVICES_PER_READ) {
                self.read_states(devices)?;
            }
            self.gather(CHUNKS_BETWEEN_BATCHES);
        }
    }

    /// Looks at headers and counts. Returns the devices whose states are current; the others are answered, or looked for
    /// again later.
    fn look_at(&mut self, due: Vec<Wanted>, now_ns: u64) -> Result<Vec<NamedDevice>, LinkError> {
        let own = self.encoder.options().replica;
        let now = self.clock.now();
        let latest_us = self.latest_us(now);
        let mut pipeline = Pipeline::new();
        for wanted in &due {
            pipeline.add_command(self.encoder.read_states_header(&wanted.name));
            pipeline.add_command(self.encoder.read_counts(Some(&wanted.name)));
        }
        let mut replies = match self.send_optional(&pipeline) {
            Ok(replies) => replies.into_iter(),
            Err(error) => {
                self.desk().wanted.extend(due);
                return Err(error);
            }
        };
        let mut current = Vec::new();
        for mut wanted in due {
            let (header, counts) = (replies.next(), replies.next());
            let (Some(header), Some(counts)) = (header, counts) else { continue };
            let header = self.read_header(header);
            let counts = match counts {
                Ok(counts) => SubjectCounts::read(&counts, own, latest_us),
                Err(error) => {
                    self.log_refusal(&error);
                    SubjectCounts::default()
                }
            };
            let at = header.map_or(StatesAt::Nowhere, |header| look(header, &counts, own));
            match at {
                StatesAt::Current => current.push((wanted.device, wanted.name)),
                StatesAt::Nowhere => self.answer(wanted.device, Vec::new()),
                StatesAt::NotYet => {
                    wanted.next_ns = now_ns + wanted.pause.as_nanos() as u64;
                    wanted.pause = (wanted.pause * 2).min(LONGEST_LOOK);
                    self.desk().wanted.push(wanted);
                }
            }
        }
        Ok(current)
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

    /// Reads states, gives them to analytics, and deletes them: they are here now.
    fn read_states(&mut self, devices: &[NamedDevice]) -> Result<(), LinkError> {
        let mut pipeline = Pipeline::new();
        for (_, name) in devices {
            pipeline.add_command(self.encoder.read_states(name));
        }
        let replies = self.send_optional(&pipeline)?;
        pipeline.clear();
        for ((device, name), reply) in devices.iter().zip(replies) {
            let streams = match reply {
                Ok(reply) => self.unpack(name, &reply),
                Err(error) => {
                    self.log_refusal(&error);
                    self.counters.states.lose(StateLoss::Refused, 1);
                    Vec::new()
                }
            };
            self.answer(*device, streams);
            pipeline.add_command(self.encoder.delete_states(name));
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

    fn answer(&mut self, device: DeviceId, streams: Vec<StreamStates>) {
        // False: analytics has ended, and nobody waits any more.
        let update = ReplicaUpdate::States(FoundStates { device, streams });
        let _ = self.consumer.send(update, &self.clock);
    }

    /// Counts the states that were not written before the end of the drain.
    pub(super) fn drop_states(&mut self) {
        let Some(desk) = &mut self.handover else { return };
        let waiting = desk.consumer.messages.try_iter().filter_map(|message| match message {
            HandoverMessage::Stated(part) => Some(part),
            HandoverMessage::Wanted(_) => None,
        });
        let parts = desk.stating.drain(..).chain(waiting);
        let streams: u64 = parts.map(|part| part.streams.len() as u64).sum();
        if streams > 0 {
            self.counters.states.lose(StateLoss::Shutdown, streams);
            warn!(streams, "Redis did not take the last detector states; they begin anew");
        }
    }
}
