//! Detector states that follow their device: what a shard receives, and what it states.

use std::sync::Arc;

use super::Analytics;
use crate::analytics::handover::Handover;
use crate::handover::{FoundStates, HandoverCounters, HandoverMessage};
use sigmad_incidents::silence::cadence::Cadence;
use sigmad_sample::DeviceId;

impl Analytics {
    /// Lets detector states follow their device, from before the first sample on. False where there are none.
    pub fn hand_over(&mut self, counters: Arc<HandoverCounters>) -> bool {
        let has_states = self.devices.arena.has_states();
        if has_states {
            self.devices.handover = Some(Box::new(Handover::new(counters)));
        }
        has_states
    }

    /// Has states stay where they are, until [`Analytics::go_on_with`].
    pub fn pause_handover(&mut self) -> Option<Box<Handover>> {
        self.devices.handover.take()
    }

    /// Lets detector states follow their device again. Those that are here were restored.
    pub fn go_on_with(&mut self, handover: Option<Box<Handover>>) {
        let Some(mut handover) = handover else { return };
        let devices = (0..self.devices.entries() as u32).filter_map(|index| {
            let device = self.devices.at(index)?;
            let id = DeviceId { index, generation: device.generation };
            device.name.is_some().then_some(id)
        });
        devices.for_each(|id| handover.restored(id));
        self.devices.handover = Some(handover);
    }

    /// Goes on as the replica that it was before a restart.
    pub fn go_on_as_replica(&mut self) {
        self.listed_before = self.samples;
        self.anomalies.go_on_as_replica();
    }

    /// Redis has the takeover of a device of that number.
    pub fn taken_over(&mut self, id: DeviceId, takeover: u32) {
        if self.devices.get(id).is_some()
            && let Some(handover) = &mut self.devices.handover
        {
            handover.taken_over(id, takeover);
        }
    }

    /// Takes the states of a device that was wanted, at `now_us`.
    pub fn receive_states(&mut self, found: FoundStates, now_us: i64) {
        let Self { devices, metrics, anomalies, silence, .. } = self;
        if let (Some(silence), Some(cadence)) = (silence, found.cadence)
            && devices.get(found.device).is_some()
        {
            silence.learn(found.device, cadence);
        }
        devices.receive_states(found, now_us, metrics, anomalies);
    }

    /// Whether values wait for states, or the store is to be told anything.
    pub fn has_handover(&self) -> bool {
        self.devices.handover.as_ref().is_some_and(|handover| handover.has_work())
    }

    /// Whether values wait for states.
    pub fn waits_for_states(&self) -> bool {
        self.devices.handover.as_ref().is_some_and(|handover| handover.is_any_waiting())
    }

    /// Ends the waits that are longer than `wait_ns`. `arrived_us` is the time for what ends with them.
    pub fn end_waits(&mut self, now_ns: u64, wait_ns: u64) {
        let Self { devices, metrics, anomalies, .. } = self;
        while let Some(handover) = &mut devices.handover
            && let Some((id, outcome)) = handover.overdue(now_ns, wait_ns)
        {
            devices.end_wait(id, outcome, metrics, anomalies);
        }
    }

    /// Ends all waits in a drain.
    pub fn give_up_waits(&mut self) {
        let Self { devices, metrics, anomalies, .. } = self;
        while let Some(handover) = &mut devices.handover
            && let Some((id, values)) = handover.give_up_any()
        {
            devices.judge_waiting(id, values, metrics, anomalies);
        }
    }

    /// The next message for the store.
    pub fn next_handover(&mut self) -> Option<HandoverMessage> {
        loop {
            let handover = self.devices.handover.as_mut()?;
            if let Some(message) = handover.outgoing.pop_front() {
                return Some(message);
            }
            let (id, takeover) = handover.leaving.pop_front()?;
            self.state(id, takeover);
        }
    }

    /// Puts a message back that the store had no room for.
    pub fn put_back_handover(&mut self, message: HandoverMessage) {
        if let Some(handover) = &mut self.devices.handover {
            handover.outgoing.push_front(message);
        }
    }

    /// Queues the states of the first device from index `from` on whose states are here, and returns the next index.
    /// None once there is none.
    pub fn state_next(&mut self, from: usize) -> Option<usize> {
        let handover = self.devices.handover.as_ref()?;
        let at = (from..handover.indices()).find(|&at| handover.is_here(at))?;
        let entry = self.devices.at(at as u32)?;
        let id = DeviceId { index: at as u32, generation: entry.generation };
        let takeover = handover.takeover(id);
        self.state(id, takeover);
        Some(at + 1)
    }

    /// How many devices from index `from` on have their states here.
    pub fn count_here(&self, from: usize) -> usize {
        let Some(handover) = &self.devices.handover else { return 0 };
        (from..handover.indices()).filter(|&at| handover.is_here(at)).count()
    }

    fn state(&mut self, id: DeviceId, takeover: u32) {
        let mut parts = self.devices.state_device(id, takeover);
        if let Some(last) = parts.last_mut() {
            let cadence = self.silence.as_ref().and_then(|silence| silence.cadence(id.index));
            last.cadence = cadence.map(Cadence::learned);
        }
        if let Some(handover) = &mut self.devices.handover
            && !parts.is_empty()
        {
            handover.counters.stated_total.add(1);
            handover.outgoing.extend(parts.into_iter().map(HandoverMessage::Stated));
        }
    }
}
