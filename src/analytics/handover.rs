//! Who has the detector states of each device: this replica, another one, or one on the way here.
//!
//! A detector's state is of use where the next value arrives. While every device is heard by one replica, its state
//! moves with it: the replica that hears a device that is not its own *wants* its states and takes them over, and the one that
//! learns of the takeover *states* them. Until they come, values of the device are judged by `zscore` alone
//! and wait here for the other detectors, in their order. Who waits too long goes on with what this replica has.
//!
//! A device that moves again and again is heard by several replicas at a time. Its states stay apart, as one replica's
//! view each, and nothing waits. Pure: what is wanted and stated is queued here, and the thread sends it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::handover::{HandoverCounters, HandoverMessage, WaitOutcome};
use crate::judged_queue::OtherTakeover;
use sigmad_detectors::window::Moments;
use sigmad_sample::{DeviceId, MetricId, Verdict};

/// Values that wait at most, of all devices: 6 MB. Past it a device begins without the states of others.
const VALUES_WAITING_MAX: usize = 65_536;
/// Messages that wait for the store at most, while Redis is away: as many devices begin without the states of others.
const MESSAGES_MAX: usize = 16_384;
/// Moves of one device within [`CALM_S`] that a rolling restart and a change of scale explain: there and back, twice each.
/// With more, several replicas hear it at a time.
const MOVES_MAX: u8 = 8;
/// Seconds without a move after which a device counts as moving for the first time.
const CALM_S: u32 = 60;

/// Who has the states of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Holder {
    /// Another replica, or none.
    #[default]
    Elsewhere,
    /// This replica.
    Here,
    /// They are on the way here.
    Coming,
    /// Each replica has its own: several hear the device at a time.
    Each,
}

/// What is known of one device.
#[derive(Clone, Copy, Debug, Default)]
struct DeviceHandover {
    holder: Holder,
    moves: u8,
    /// The second of the last move.
    moved_s: u32,
    /// The number of this replica's last takeover that Redis has.
    takeover: u32,
    /// Its states are from before a restart, in which another replica may have asked for them.
    is_restored: bool,
}

/// A value that `zscore` has judged and the other detectors have not.
#[derive(Clone, Copy, Debug)]
pub struct WaitingValue {
    /// Its metric.
    pub metric: MetricId,
    /// The value.
    pub value: f64,
    /// The moments of its window, without it.
    pub before: Moments,
    /// What `zscore` says.
    pub early: Verdict,
    /// When it was taken.
    pub timestamp_us: i64,
    /// When it arrived.
    pub arrived_us: i64,
}

const _: () = assert!(VALUES_WAITING_MAX * size_of::<WaitingValue>() <= 6 << 20);

/// A device whose values wait.
#[derive(Debug)]
struct WaitingDevice {
    device: DeviceId,
    /// When the thread first saw it wait, on the monotonic clock.
    since_ns: Option<u64>,
    values: Vec<WaitingValue>,
    /// Another replica hears it already: its states go on at once.
    moves_on: bool,
}

/// Whose the states of all devices are.
#[derive(Debug)]
pub struct Handover {
    /// By the index of the device.
    devices: Vec<DeviceHandover>,
    /// By the index of the device.
    waiting: BTreeMap<u32, WaitingDevice>,
    values_waiting: usize,
    /// What is to be sent to the store, in order.
    pub outgoing: VecDeque<HandoverMessage>,
    /// Devices to state, each with the takeover by which it was here.
    pub leaving: VecDeque<(DeviceId, u32)>,
    /// Written by analytics.
    pub counters: Arc<HandoverCounters>,
}

impl Handover {
    /// Nothing is here.
    pub fn new(counters: Arc<HandoverCounters>) -> Self {
        Self {
            devices: Vec::new(),
            waiting: BTreeMap::new(),
            values_waiting: 0,
            outgoing: VecDeque::new(),
            leaving: VecDeque::new(),
            counters,
        }
    }

    /// A sample of a device has arrived. True when its values must wait: [`Handover::wait`] takes each.
    #[inline]
    pub fn hear(&mut self, id: DeviceId, arrived_us: i64) -> bool {
        match self.devices.get(id.index as usize) {
            Some(DeviceHandover { holder: Holder::Here, .. }) => false,
            _ => self.hear_other(id, (arrived_us / 1_000_000) as u32),
        }
    }

    #[cold]
    fn hear_other(&mut self, id: DeviceId, now_s: u32) -> bool {
        let at = id.index as usize;
        if self.devices.len() <= at {
            self.devices.resize(at + 1, DeviceHandover::default());
        }
        let known = self.devices[at];
        match known.holder {
            Holder::Here => false,
            Holder::Coming => true,
            Holder::Each => {
                if now_s.saturating_sub(known.moved_s) >= CALM_S {
                    let (holder, moves) = (Holder::Here, 0);
                    self.devices[at] = DeviceHandover { holder, moves, moved_s: now_s, ..known };
                    self.keep(id);
                }
                false
            }
            Holder::Elsewhere if !self.may_move(at, now_s) => false,
            Holder::Elsewhere
                if self.values_waiting >= VALUES_WAITING_MAX
                    || self.outgoing.len() >= MESSAGES_MAX =>
            {
                self.devices[at].holder = Holder::Here;
                self.count(WaitOutcome::NoRoom);
                self.keep(id);
                false
            }
            Holder::Elsewhere => {
                self.devices[at].holder = Holder::Coming;
                let (values, since_ns, moves_on) = (Vec::new(), None, false);
                self.waiting
                    .insert(id.index, WaitingDevice { device: id, since_ns, values, moves_on });
                self.counters.waiting.set(self.waiting.len() as u64);
                self.outgoing.push_back(HandoverMessage::Wanted(id));
                true
            }
        }
    }

    /// The states of a device that are here are the ones to go on with, and others learn of it if there is room.
    fn keep(&mut self, id: DeviceId) {
        if self.outgoing.len() < MESSAGES_MAX {
            self.outgoing.push_back(HandoverMessage::Kept(id));
        }
    }

    /// Notes a move. False when there were too many: then each replica has its own states.
    fn may_move(&mut self, at: usize, now_s: u32) -> bool {
        let known = &mut self.devices[at];
        if now_s.saturating_sub(known.moved_s) >= CALM_S {
            known.moves = 0;
        }
        known.moved_s = now_s;
        known.moves = known.moves.saturating_add(1);
        let may_move = known.moves <= MOVES_MAX;
        if !may_move {
            known.holder = Holder::Each;
            self.counters.contended_total.add(1);
        }
        may_move
    }

    /// Keeps a value of a device that waits.
    pub fn wait(&mut self, id: DeviceId, value: WaitingValue) {
        if let Some(waiting) = self.waiting.get_mut(&id.index) {
            waiting.values.push(value);
            self.values_waiting += 1;
            self.counters.values_total.add(1);
        }
    }

    /// The number of this replica's takeover of a device; 0 without one.
    pub fn takeover(&self, id: DeviceId) -> u32 {
        self.devices.get(id.index as usize).map_or(0, |known| known.takeover)
    }

    /// Redis has this replica's takeover of a device. What other replicas had taken over before is over.
    pub fn taken_over(&mut self, id: DeviceId, takeover: u32) {
        if let Some(known) = self.devices.get_mut(id.index as usize) {
            known.takeover = takeover;
        }
        if let Some(waiting) = self.waiting.get_mut(&id.index) {
            waiting.moves_on = false;
        }
    }

    /// Another replica has taken over a device.
    pub fn taken_over_elsewhere(&mut self, id: DeviceId, takeover: OtherTakeover, now_s: u32) {
        let at = id.index as usize;
        let Some(known) = self.devices.get_mut(at) else { return };
        let OtherTakeover { number, is_from_here } = takeover;
        if number > known.takeover && known.is_restored {
            known.is_restored = false;
            if is_from_here {
                // It has waited since before the restart. Values that wait here come after it.
                self.leaving.push_back((id, number - 1));
            }
        }
        match known.holder {
            _ if number <= known.takeover => {}
            Holder::Here => {
                let own = known.takeover;
                if self.may_move(at, now_s) {
                    self.devices[at].holder = Holder::Elsewhere;
                    self.leaving.push_back((id, own));
                }
            }
            Holder::Coming => {
                if let Some(waiting) = self.waiting.get_mut(&id.index) {
                    waiting.moves_on = true;
                }
            }
            Holder::Each => known.moved_s = now_s,
            Holder::Elsewhere => {}
        }
    }

    /// The states of a device are those from before a restart: good until Redis says that another replica has had it since.
    pub fn restored(&mut self, id: DeviceId) {
        let at = id.index as usize;
        if self.devices.len() <= at {
            self.devices.resize(at + 1, DeviceHandover::default());
        }
        self.devices[at] = DeviceHandover { is_restored: true, ..DeviceHandover::default() };
    }

    /// Another device gets the index, or the device is new there.
    pub fn clear(&mut self, id: DeviceId) {
        if let Some(known) = self.devices.get_mut(id.index as usize) {
            *known = DeviceHandover::default();
        }
        if let Some(gone) = self.waiting.remove(&id.index) {
            self.values_waiting -= gone.values.len();
            self.count(WaitOutcome::Unknown);
        }
    }

    /// Whether the values of a device wait.
    pub fn is_waiting(&self, id: DeviceId) -> bool {
        self.waiting.get(&id.index).is_some_and(|waiting| waiting.device == id)
    }

    /// Whether the values of any device wait.
    pub fn is_any_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether any values wait, or anything is to be sent.
    pub fn has_work(&self) -> bool {
        !(self.waiting.is_empty() && self.outgoing.is_empty() && self.leaving.is_empty())
    }

    /// Whether this replica has the states of the device at an index.
    pub fn is_here(&self, index: usize) -> bool {
        self.devices.get(index).is_some_and(|known| known.holder == Holder::Here)
    }

    /// Indices of devices below it are known.
    pub fn indices(&self) -> usize {
        self.devices.len()
    }

    /// A device that has waited for `wait_ns`, or any while too many values wait.
    pub fn overdue(&mut self, now_ns: u64, wait_ns: u64) -> Option<(DeviceId, WaitOutcome)> {
        if self.values_waiting >= VALUES_WAITING_MAX {
            let first = self.waiting.values().next()?;
            return Some((first.device, WaitOutcome::NoRoom));
        }
        self.waiting.values_mut().find_map(|waiting| {
            let since_ns = *waiting.since_ns.get_or_insert(now_ns);
            let is_late = now_ns.saturating_sub(since_ns) >= wait_ns;
            is_late.then_some((waiting.device, WaitOutcome::Late))
        })
    }

    /// Ends the wait of a device. Returns its values, in their order. From now on its states are here, or go on to the
    /// next replica.
    pub fn end_wait(&mut self, id: DeviceId, outcome: WaitOutcome) -> Vec<WaitingValue> {
        let Some(ended) = self.waiting.remove(&id.index) else { return Vec::new() };
        self.values_waiting -= ended.values.len();
        self.count(outcome);
        let known = &mut self.devices[id.index as usize];
        (known.holder, known.is_restored) = (Holder::Here, false);
        let has_states =
            matches!(outcome, WaitOutcome::Received | WaitOutcome::Older | WaitOutcome::Unknown);
        if ended.moves_on && has_states {
            known.holder = Holder::Elsewhere;
            self.leaving.push_back((id, known.takeover));
        }
        ended.values
    }

    /// Ends the wait of any device in a drain. Its states here have a gap, so nobody is given them.
    pub fn give_up_any(&mut self) -> Option<(DeviceId, Vec<WaitingValue>)> {
        let id = self.waiting.values().next()?.device;
        let values = self.end_wait(id, WaitOutcome::Late);
        self.devices[id.index as usize].holder = Holder::Elsewhere;
        Some((id, values))
    }

    fn count(&mut self, outcome: WaitOutcome) {
        self.counters.waits_total[outcome as usize].add(1);
        self.counters.waiting.set(self.waiting.len() as u64);
    }
}
