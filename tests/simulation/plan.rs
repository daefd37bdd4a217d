//! What happens in one simulation, drawn from its seed.
//!
//! A seed enables a few kinds of faults only: a run with every fault at once hides what one of them alone shows.

use std::time::Duration;

use sigmad::store::commands::SampleKeys;
use sigmad::store::keys;

use crate::process::ProcessSettings;
use crate::random::Random;
use crate::redis_node::Refusal;
use crate::world::{MS, SECOND, port_of};

/// One deed against the replicas.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    /// Nothing passes between a slot and a node, in one or both directions.
    Block {
        slot: usize,
        node: usize,
        up: bool,
        down: bool,
        for_ns: u64,
    },
    /// What the present connections of a slot send is held; new connections work.
    Stall {
        slot: usize,
        for_ns: u64,
    },
    /// The connections of a slot break; what is on its way arrives, or does not.
    Cut {
        slot: usize,
        arrives: bool,
    },
    /// Round trips become long.
    Latency {
        slot: usize,
        one_way_ns: u64,
        for_ns: u64,
    },
    /// A node executes nothing for a while.
    Pause {
        node: usize,
        for_ns: u64,
    },
    /// Every command takes longer.
    Slow {
        node: usize,
        each_ns: u64,
        for_ns: u64,
    },
    Refuse {
        node: usize,
        refusal: Refusal,
        for_ns: u64,
    },
    /// Another client replaces a key of sigmad by its own.
    Foreign {
        node: usize,
        key: &'static str,
        for_ns: u64,
    },
    /// A node ends and comes back with all data, with those of some time ago, or without.
    Restart {
        node: usize,
        keeps: Keeps,
        for_ns: u64,
    },
    /// A sentinel makes another node the master, as an operator asks for it.
    Failover {
        named_after_ns: u64,
        demoted_after_ns: u64,
    },
    /// The machine of the master is gone, with what its replica had not got. The sentinels see it, promote the replica,
    /// and later the old master comes back.
    Crash {
        named_after_ns: u64,
        back_after_ns: u64,
    },
    /// The wall clock of a slot steps.
    Step {
        slot: usize,
        by_us: i64,
    },
    /// A process ends by SIGTERM and starts again.
    Terminate {
        slot: usize,
        workers_ns: u64,
        back_ns: u64,
    },
    /// A process ends by SIGKILL and starts again.
    Kill {
        slot: usize,
        back_ns: u64,
    },
    /// A client posts many samples at once.
    Burst {
        slot: usize,
        samples: usize,
    },
    /// The end of such a deed.
    Over(Over),
}

/// What a restart of Redis keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    All,
    Snapshot,
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub enum Over {
    Block { slot: usize, node: usize },
    Latency { slot: usize },
    Slow { node: usize },
    Refuse { node: usize },
    Foreign { node: usize, key: &'static str },
    Up { node: usize, keeps: Keeps },
    Name { master: usize },
    Demote { node: usize, master: usize },
    Promote { master: usize },
    Return { node: usize, master: usize },
    Snapshot { node: usize },
}

/// Seeds from here on also draw what [`Plan::widen`] has; the plans of smaller ones stay as they were.
pub const WIDE_FROM: u64 = 1_000_000;
/// In one seed of so many detectors keep states, which follow their device.
const STATES_EVERY: u64 = 3;
/// The kinds that a seed enables.
const KINDS: usize = 14;

/// Shards of devices in the processes of a seed: one third of the seeds has several. No seed that was kept before there
/// were several has such a remainder.
fn shards(seed: u64) -> usize {
    match seed % 13 {
        0 | 7 => 2,
        9 => 3,
        1 => 4,
        _ => 1,
    }
}

#[derive(Debug)]
pub struct Plan {
    pub slots: usize,
    /// Redis processes with data: one, or three with sentinels.
    pub data_nodes: usize,
    pub sentinels: usize,
    pub devices: usize,
    pub traffic_ns: u64,
    /// Between two posts, on average.
    pub post_every_ns: u64,
    pub samples_per_post: usize,
    pub skew_us: Vec<i64>,
    pub drift_ppm: Vec<i64>,
    pub lag_ns: u64,
    pub settings: ProcessSettings,
    /// `--window` of each slot.
    pub windows: Vec<usize>,
    pub deeds: Vec<(u64, Deed)>,
    /// Redis may lose data: then only outcomes are compared.
    pub may_lose: bool,
}

impl Plan {
    pub fn draw(seed: u64) -> (Self, Random) {
        let mut random = Random::new(seed);
        let mut plan = Self::first(&mut random);
        // By the number of the seed, so that what others draw stays.
        plan.settings.has_states = seed.is_multiple_of(STATES_EVERY);
        plan.settings.shards = shards(seed);
        if seed >= WIDE_FROM {
            plan.widen(&mut random);
        }
        plan.deeds.sort_by_key(|(at_ns, _)| *at_ns);
        (plan, random)
    }

    /// Other keys, replicas with different windows, refused windows, and masters that crash.
    fn widen(&mut self, random: &mut Random) {
        self.settings.sample_keys =
            random.pick(&[SampleKeys::Two, SampleKeys::Two, SampleKeys::One, SampleKeys::None]);
        if random.chance(30) {
            self.windows.iter_mut().for_each(|window| *window = random.pick(&[3, 10, 50]));
        }
        if self.settings.sample_keys == SampleKeys::None && random.chance(40) {
            let (at_ns, for_ns) =
                (random.within(0..self.traffic_ns), random.spread(50 * MS..5 * SECOND));
            let refusal = Refusal::NoWindows;
            let node = random.below(self.data_nodes);
            self.deeds.push((at_ns, Deed::Refuse { node, refusal, for_ns }));
        }
        if self.sentinels > 0 && random.chance(60) {
            let named_after_ns = random.spread(SECOND..8 * SECOND);
            let back_after_ns = random.spread(SECOND..8 * SECOND);
            let at_ns = random.within(SECOND..self.traffic_ns);
            self.deeds.push((at_ns, Deed::Crash { named_after_ns, back_after_ns }));
        }
    }

    fn first(random: &mut Random) -> Self {
        let slots = random.pick(&[1, 2, 2, 3, 3, 4]);
        let (data_nodes, sentinels) = if random.chance(30) { (2, 1) } else { (1, 0) };
        let traffic_ns = random.spread(5 * SECOND..60 * SECOND);
        let port = port_of(if sentinels > 0 { data_nodes } else { 0 });
        let scheme = if sentinels > 0 { "redis+sentinel" } else { "redis" };
        let path = if sentinels > 0 { "/mymaster" } else { "" };
        let target = format!("{scheme}://node:{port}{path}").parse().expect("a URL");
        let settings = ProcessSettings {
            target,
            window: random.pick(&[3, 10, 50]),
            flush_interval: Duration::from_millis(random.pick(&[20, 100, 100, 500])),
            drain_ns: random.spread(SECOND..25 * SECOND),
            queue_bytes: if random.chance(15) { 256 << 10 } else { 16 << 20 },
            sample_keys: SampleKeys::Two,
            has_states: false,
            shards: 1,
        };
        let is_skewed = random.chance(30);
        let skew = |random: &mut Random| {
            let size = random.spread(1_000..100_000_000_000) as i64;
            if random.chance(50) { size } else { -size }
        };
        let skew_us = (0..slots)
            .map(|_| if is_skewed && random.chance(50) { skew(random) } else { 0 })
            .collect();
        let drift_ppm = (0..slots).map(|_| random.within(0..100) as i64 - 50).collect();
        let mut plan = Self {
            slots,
            data_nodes,
            sentinels,
            devices: random.within(1..6) as usize,
            traffic_ns,
            post_every_ns: random.spread(10 * MS..300 * MS),
            samples_per_post: random.spread(1..12) as usize,
            skew_us,
            drift_ppm,
            lag_ns: random.spread(MS..300 * MS),
            windows: vec![settings.window; slots],
            settings,
            deeds: Vec::new(),
            may_lose: false,
        };
        let enabled: Vec<usize> = (0..KINDS).filter(|_| random.chance(25)).collect();
        let deeds = if enabled.is_empty() { 0 } else { random.within(1..12) };
        for _ in 0..deeds {
            let mut at_ns = random.within(SECOND / 2..traffic_ns);
            let kind = random.pick(&enabled);
            if let Some(mut deed) = plan.deed(kind, random) {
                // What arrives late does harm only if nothing newer replaces it.
                if let Deed::Stall { for_ns, .. } = &mut deed
                    && random.chance(60)
                {
                    at_ns = traffic_ns - random.within(MS..3 * SECOND);
                    *for_ns = random.within(4 * SECOND..20 * SECOND);
                }
                plan.deeds.push((at_ns, deed));
                if let Deed::Terminate { slot, .. } = deed
                    && random.chance(50)
                {
                    plan.burden(slot, at_ns, random);
                }
                if let Deed::Restart { node, keeps: Keeps::Snapshot, .. } = deed {
                    let before_ns = random.spread(MS..2 * SECOND);
                    let over = Deed::Over(Over::Snapshot { node });
                    plan.deeds.push((at_ns.saturating_sub(before_ns), over));
                }
            }
        }
        plan
    }

    /// Much is to be written, and slowly, when a process is told to end.
    fn burden(&mut self, slot: usize, at_ns: u64, random: &mut Random) {
        let one_way_ns = random.spread(20 * MS..400 * MS);
        let before_ns = at_ns.saturating_sub(random.spread(10 * MS..2 * SECOND));
        let for_ns = 30 * SECOND;
        let slowness = if random.chance(50) {
            Deed::Latency { slot, one_way_ns, for_ns }
        } else {
            Deed::Block { slot, node: 0, up: true, down: true, for_ns }
        };
        let burst = Deed::Burst { slot, samples: random.spread(1_000..20_000) as usize };
        self.deeds.extend([(before_ns, slowness), (at_ns - MS, burst)]);
    }

    fn deed(&mut self, kind: usize, random: &mut Random) -> Option<Deed> {
        let slot = random.below(self.slots);
        let node = random.below(self.data_nodes);
        let for_ns = random.spread(50 * MS..20 * SECOND);
        Some(match kind {
            0 => {
                let (up, down) = random.pick(&[(true, true), (true, false), (false, true)]);
                Deed::Block { slot, node, up, down, for_ns }
            }
            1 => Deed::Stall { slot, for_ns },
            2 => Deed::Cut { slot, arrives: random.chance(50) },
            3 => Deed::Latency { slot, one_way_ns: random.spread(MS..400 * MS), for_ns },
            4 => Deed::Pause { node, for_ns: random.spread(50 * MS..6 * SECOND) },
            5 => Deed::Slow { node, each_ns: random.spread(10_000..20 * MS), for_ns },
            6 => Deed::Refuse { node, refusal: random.pick(&Refusal::ALL), for_ns },
            7 => {
                let keeps = random.pick(&[Keeps::All, Keeps::All, Keeps::Snapshot, Keeps::Nothing]);
                self.may_lose |= keeps != Keeps::All;
                Deed::Restart { node, keeps, for_ns }
            }
            8 if self.sentinels > 0 => Deed::Failover {
                named_after_ns: random.spread(MS..SECOND),
                demoted_after_ns: random.spread(SECOND..10 * SECOND),
            },
            8 => return None,
            9 => {
                let size = random.spread(10_000..100_000_000) as i64;
                Deed::Step { slot, by_us: if random.chance(50) { size } else { -size } }
            }
            10 => Deed::Terminate {
                slot,
                workers_ns: random.spread(MS..2 * SECOND),
                back_ns: random.spread(10 * MS..5 * SECOND),
            },
            12 => Deed::Foreign { node, key: random.pick(&[keys::CHANGE, keys::CHANGED]), for_ns },
            11 => Deed::Kill { slot, back_ns: random.spread(10 * MS..5 * SECOND) },
            _ => Deed::Burst { slot, samples: random.spread(100..5_000) as usize },
        })
    }

    pub fn nodes(&self) -> usize {
        self.data_nodes + self.sentinels
    }

    /// Another Redis becomes the master.
    pub fn has_failover(&self) -> bool {
        let moves = |deed: &Deed| matches!(deed, Deed::Failover { .. } | Deed::Crash { .. });
        self.deeds.iter().any(|(_, deed)| moves(deed))
    }

    /// The wall clocks of all replicas are right.
    pub fn has_right_clocks(&self) -> bool {
        let steps = |deed: &Deed| matches!(deed, Deed::Step { .. });
        self.skew_us.iter().all(|&us| us == 0) && !self.deeds.iter().any(|(_, deed)| steps(deed))
    }
}
