//! One run: processes, clients and faults of a plan, until all is quiet and every process has ended.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use sigmad::analytics::report::Scope;

use crate::laws::{Ledger, RestReport, check_synced};
use crate::plan::{Deed, Keeps, Over, Plan};
use crate::process::{Phase, Process, ProcessSettings};
use crate::random::Random;
use crate::redis_node::{Node, Role};
use crate::world::{self, EPOCH_US, Event, MS, SECOND, Way, World, now_ns, with};

/// Nothing happens for this long before the laws at rest: the longest stall, drain and restart end within it.
const QUIET_NS: u64 = 50 * SECOND;
/// The store queue of every process must be empty this long after the last fault.
const EMPTY_WITHIN_NS: u64 = 300 * SECOND;
/// Reports at rest are there after this time.
const REPORTS_NS: u64 = SECOND;
/// A process that runs knows the new master this long after its promotion, and has written again what it must: a
/// sentinel is asked every second, or 5 s after it did not answer, and a call takes 3 s at most.
const FAILOVER_KNOWN_NS: u64 = 15 * SECOND;
/// A read every so often.
const READ_EVERY_NS: u64 = 40 * MS;
/// A run with more events than that hangs.
const EVENTS_MAX: u64 = 20_000_000;

/// A law that did not hold.
#[derive(Debug)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// The same for each run of a seed.
    pub log_hash: u64,
    pub events: u64,
    /// Simulated time, summed over replicas.
    pub replica_ns: u64,
    pub samples: u64,
    pub violation: Option<Violation>,
}

pub struct Simulation {
    plan: Plan,
    random: Random,
    processes: Vec<Process>,
    /// The process of each slot.
    slots: Vec<usize>,
    skews: Vec<Arc<AtomicI64>>,
    /// When to start a slot again after its process has ended.
    back_ns: Vec<Option<u64>>,
    ledger: Ledger,
    /// The Redis that has the data.
    leader: usize,
    is_failing_over: bool,
    /// Since when the last failover may lose what is written, and until when a process may not know of it.
    failover: Option<(u64, u64)>,
    healed_ns: u64,
    rest: Vec<RestReport>,
    is_asked: bool,
}

/// Runs a seed in this thread.
pub fn run(seed: u64) -> Outcome {
    let (plan, mut random) = Plan::draw(seed);
    let mut nodes = Vec::new();
    for at in 0..plan.data_nodes {
        let role = if at == 0 { Role::Master } else { Role::Replica(0) };
        nodes.push(Node::new(role, random.within(0..400_000) as i64 - 200_000));
    }
    nodes.extend((0..plan.sentinels).map(|_| Node::new(Role::Sentinel(0), 0)));
    let latency_ns = random.spread(MS / 10..10 * MS);
    let way =
        Way { latency_ns, jitter_ns: latency_ns, is_up_blocked: false, is_down_blocked: false };
    let ways = vec![vec![way; plan.nodes()]; plan.slots];
    let mut world = World::new(Random::new(random.next()), nodes, ways);
    world.replication_lag_ns = plan.lag_ns;
    world::set(Some(world));
    let mut simulation = Simulation::new(plan, random);
    let violation = simulation.run().err();
    let (events, log_hash) = with(|world| (world.events_seen, world.log_hash()));
    let outcome = Outcome {
        log_hash,
        events,
        replica_ns: now_ns() * simulation.plan.slots as u64,
        samples: simulation.ledger.accepted(),
        violation,
    };
    drop(simulation);
    world::set(None);
    outcome
}

/// What a seed does, for people.
pub fn describe(seed: u64) -> String {
    format!("{:#?}", Plan::draw(seed).0)
}

impl Simulation {
    fn new(plan: Plan, random: Random) -> Self {
        let skews = plan.skew_us.iter().map(|&skew| Arc::new(AtomicI64::new(skew))).collect();
        Self {
            slots: vec![usize::MAX; plan.slots],
            back_ns: vec![None; plan.slots],
            ledger: Ledger::new(plan.devices),
            plan,
            random,
            processes: Vec::new(),
            skews,
            leader: 0,
            is_failing_over: false,
            failover: None,
            healed_ns: 0,
            rest: Vec::new(),
            is_asked: false,
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        with(|world| {
            for slot in 0..self.plan.slots {
                let at_ns = self.random.within(0..SECOND);
                world.push(at_ns, Event::Start(slot));
            }
            for (index, (at_ns, _)) in self.plan.deeds.iter().enumerate() {
                world.push(*at_ns, Event::Plan(index));
            }
            world.push(MS, Event::Post);
            world.push(MS, Event::Read);
            world.push(self.plan.traffic_ns, Event::Heal);
        });
        while let Some(event) = with(World::pop) {
            self.happen(event)?;
            if with(|world| world.events_seen) > EVENTS_MAX {
                return Err(Violation("the run does not end".into()));
            }
            if self.is_asked && self.processes.iter().all(|process| !process.is_alive()) {
                return Ok(());
            }
        }
        Err(Violation("nothing is left to happen".into()))
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Wake { process, serial } => {
                if with(|world| world.take_wake(process, serial)) {
                    self.processes[process].resume_store();
                    self.ledger.check_queue(&self.processes[process])?;
                }
            }
            Event::Up(conn, what) => with(|world| world.arrive(conn, what)),
            Event::Down(conn, what) => with(|world| world.deliver(conn, what)),
            Event::Replicate { node, from, sent_ns, effects } => {
                with(|world| world.apply(node, from, sent_ns, &effects));
            }
            Event::Plan(index) => {
                let (_, deed) = self.plan.deeds[index];
                self.deed(deed);
            }
            Event::Turn(process, shard) => {
                self.processes[process].turn(shard);
                self.take_reports(process)?;
                self.look_at_end(process)?;
            }
            Event::Post => self.post(),
            Event::Read => self.read()?,
            Event::WorkersEnd(process) => self.processes[process].end_workers(),
            Event::Join(process) => {
                self.processes[process].look();
                self.look_at_end(process)?;
            }
            Event::Start(slot) => self.start(slot),
            Event::Heal => self.heal(),
            Event::Rest => self.rest()?,
        }
        Ok(())
    }

    fn start(&mut self, slot: usize) {
        let index = with(World::new_process);
        let skew_us = self.skews[slot].clone();
        let window = self.plan.windows[slot];
        let process = Process::start(
            index,
            slot,
            &ProcessSettings { window, ..self.plan.settings.clone() },
            skew_us,
            self.plan.drift_ppm[slot],
            self.random.next(),
        );
        debug_assert_eq!(index, self.processes.len());
        self.slots[slot] = index;
        self.processes.push(process);
        self.ledger.add_process();
        self.processes[index].resume_store();
    }

    fn running(&self) -> Vec<usize> {
        let is_running = |&&process: &&usize| {
            self.processes.get(process).is_some_and(|process| process.phase == Phase::Running)
        };
        self.slots.iter().filter(is_running).copied().collect()
    }

    fn is_traffic(&self) -> bool {
        now_ns() < self.plan.traffic_ns
    }

    fn post(&mut self) {
        if !self.is_traffic() {
            return;
        }
        let running = self.running();
        if !running.is_empty() {
            let process = self.random.pick(&running);
            let samples = 1 + self.random.below(self.plan.samples_per_post);
            self.post_to(process, samples);
        }
        let after_ns = self.random.within(1..2 * self.plan.post_every_ns);
        with(|world| world.push(now_ns() + after_ns, Event::Post));
    }

    fn post_to(&mut self, process: usize, samples: usize) {
        let drawn = self.ledger.draw(samples, &mut self.random);
        let posted: Vec<_> = drawn
            .iter()
            .map(|sample| (sample.device.as_deref(), sample.timestamp_us, &sample.readings[..]))
            .collect();
        if self.processes[process].post(&posted) {
            self.ledger.accept(process, drawn);
        }
    }

    fn read(&mut self) -> Result<(), Violation> {
        if !self.is_traffic() {
            return Ok(());
        }
        let running = self.running();
        if !running.is_empty() {
            let process = self.random.pick(&running);
            let subject = self.random.below(self.plan.devices + 1);
            let scope = self.random.pick(&[Scope::Cluster, Scope::Local]);
            self.ledger.check_readiness(&self.processes[process])?;
            self.ask(process, subject, scope, false);
        }
        with(|world| world.push(now_ns() + READ_EVERY_NS, Event::Read));
        Ok(())
    }

    fn ask(&mut self, process: usize, subject: usize, scope: Scope, is_at_rest: bool) -> bool {
        let name = Ledger::name_of(subject);
        let own = self.ledger.own(process, subject);
        self.processes[process].ask(name.as_deref(), subject, scope, own, is_at_rest)
    }

    fn take_reports(&mut self, process: usize) -> Result<(), Violation> {
        let reads = std::mem::take(&mut self.processes[process].reads);
        for read in reads {
            match read.report.try_recv() {
                Ok(report) if read.is_at_rest => {
                    let subject = read.subject;
                    self.rest.push(RestReport { process, subject, report: Some(report) });
                }
                Ok(report) => {
                    let goes_back = self.plan.may_lose || self.plan.has_failover();
                    self.ledger.check_read(process, &read, &report, !goes_back)?;
                    if self.plan.has_right_clocks() {
                        check_synced(&self.processes[process], &report)?;
                    }
                }
                Err(_) => self.processes[process].reads.push(read),
            }
        }
        Ok(())
    }

    fn look_at_end(&mut self, process: usize) -> Result<(), Violation> {
        let ended = &self.processes[process];
        if now_ns() > ended.late_ns() {
            let late_ms = (now_ns() - ended.term_ns) / MS;
            let drain_ms = self.plan.settings.drain_ns / MS;
            return Err(Violation(format!(
                "a drain of {drain_ms} ms takes more than {late_ms} ms"
            )));
        }
        if ended.phase == Phase::Exited {
            self.ledger.check_exit(ended)?;
            if let Some(back_ns) = self.back_ns[ended.slot].take() {
                let slot = ended.slot;
                with(|world| world.push(now_ns() + back_ns, Event::Start(slot)));
            }
        }
        Ok(())
    }

    /// All faults end; clients have ended before.
    fn heal(&mut self) {
        with(World::heal);
        self.healed_ns = now_ns();
        with(|world| world.push(now_ns() + QUIET_NS, Event::Rest));
    }

    /// First the windows are read, then the laws are checked and all processes end.
    fn rest(&mut self) -> Result<(), Violation> {
        let running = self.running();
        if !self.is_asked {
            let waits =
                running.iter().any(|&at| self.processes[at].store_counters.queue_samples.get() > 0);
            if waits {
                if now_ns() > self.healed_ns + EMPTY_WITHIN_NS {
                    return Err(Violation("samples wait though Redis answers".into()));
                }
                with(|world| world.push(now_ns() + SECOND, Event::Rest));
                return Ok(());
            }
            self.is_asked = true;
            for &at in &running {
                if !self.processes[at].says_up() {
                    let text = format!("process {at} says that Redis is away, and it answers");
                    return Err(Violation(text));
                }
            }
            for process in running {
                for subject in 0..=self.plan.devices {
                    if !self.ask(process, subject, Scope::Cluster, true) {
                        self.rest.push(RestReport { process, subject, report: None });
                    }
                }
            }
            with(|world| world.push(now_ns() + REPORTS_NS, Event::Rest));
            return Ok(());
        }
        let leader = self.leader;
        with(|world| {
            let data = world.nodes[leader].data_now();
            self.ledger.check_rest(data, &self.processes, &self.rest, self.plan.may_lose)
        })?;
        let alive: Vec<_> = running.iter().map(|&at| &self.processes[at]).collect();
        Ledger::check_lists(&alive)?;
        for process in running {
            self.processes[process].terminate(self.plan.settings.drain_ns, MS);
        }
        Ok(())
    }

    fn deed(&mut self, deed: Deed) {
        match deed {
            Deed::Block { .. } | Deed::Stall { .. } | Deed::Cut { .. } | Deed::Latency { .. } => {
                self.disturb(deed);
            }
            Deed::Failover { named_after_ns, demoted_after_ns } => {
                self.fail_over(named_after_ns, demoted_after_ns);
            }
            Deed::Crash { named_after_ns, back_after_ns } => {
                self.crash(named_after_ns, back_after_ns);
            }
            Deed::Step { slot, by_us } => _ = self.skews[slot].fetch_add(by_us, Ordering::Relaxed),
            Deed::Terminate { slot, .. } | Deed::Kill { slot, .. } | Deed::Burst { slot, .. } => {
                if let Some(process) = self.running_in(slot) {
                    self.command(process, deed);
                }
            }
            Deed::Over(over) => self.over(over),
            _ => self.harm(deed),
        }
    }

    /// Ends a deed after a while.
    fn later(&mut self, for_ns: u64, over: Over) {
        let index = self.plan.deeds.len();
        let at_ns = now_ns() + for_ns;
        self.plan.deeds.push((at_ns, Deed::Over(over)));
        with(|world| world.push(at_ns, Event::Plan(index)));
    }

    /// Deeds against the network.
    fn disturb(&mut self, deed: Deed) {
        match deed {
            Deed::Block { slot, node, up, down, for_ns } => {
                with(|world| {
                    world.ways[slot][node].is_up_blocked |= up;
                    world.ways[slot][node].is_down_blocked |= down;
                });
                self.later(for_ns, Over::Block { slot, node });
            }
            Deed::Stall { slot, for_ns } => with(|world| {
                for conn in world.open_conns(slot) {
                    world.conns[conn].stalled_until_ns = now_ns() + for_ns;
                }
            }),
            Deed::Cut { slot, arrives } => with(|world| {
                for conn in world.open_conns(slot) {
                    world.cut(conn, arrives);
                }
            }),
            Deed::Latency { slot, one_way_ns, for_ns } => {
                with(|world| world.set_latency(slot, one_way_ns));
                self.later(for_ns, Over::Latency { slot });
            }
            _ => unreachable!("deeds against the network only"),
        }
    }

    /// Deeds against a Redis.
    fn harm(&mut self, deed: Deed) {
        match deed {
            Deed::Pause { node, for_ns } => {
                with(|world| world.faults(node).paused_until_ns = now_ns() + for_ns);
            }
            Deed::Slow { node, each_ns, for_ns } => {
                with(|world| world.faults(node).slow_ns = each_ns);
                self.later(for_ns, Over::Slow { node });
            }
            Deed::Refuse { node, refusal, for_ns } => {
                with(|world| world.faults(node).refusal = Some(refusal));
                self.later(for_ns, Over::Refuse { node });
            }
            Deed::Foreign { node, key, for_ns } => {
                with(|world| world.set_foreign(node, key, true));
                self.later(for_ns, Over::Foreign { node, key });
            }
            Deed::Restart { node, keeps, for_ns } => {
                with(|world| world.set_down(node, true));
                self.later(for_ns, Over::Up { node, keeps });
            }
            _ => unreachable!("deeds against a Redis only"),
        }
    }

    /// The other Redis becomes the master; sentinels and the old one hear of it later.
    fn fail_over(&mut self, named_after_ns: u64, demoted_after_ns: u64) {
        let (old, new) = (self.leader, 1 - self.leader);
        let is_possible =
            with(|world| !world.nodes[new].faults.is_down && !world.nodes[old].faults.is_down);
        if is_possible && !std::mem::replace(&mut self.is_failing_over, true) {
            self.leader = new;
            self.failover = Some((now_ns(), now_ns() + FAILOVER_KNOWN_NS));
            with(|world| world.promote(new));
            self.later(named_after_ns, Over::Name { master: new });
            let demoted_ns = named_after_ns + demoted_after_ns;
            self.later(demoted_ns, Over::Demote { node: old, master: new });
        }
    }

    /// The master is gone, and sentinels promote the other Redis once they are sure.
    fn crash(&mut self, named_after_ns: u64, back_after_ns: u64) {
        let (old, new) = (self.leader, 1 - self.leader);
        let is_possible =
            with(|world| !world.nodes[new].faults.is_down && !world.nodes[old].faults.is_down);
        if is_possible && !std::mem::replace(&mut self.is_failing_over, true) {
            self.leader = new;
            self.failover = Some((now_ns(), now_ns() + named_after_ns + FAILOVER_KNOWN_NS));
            with(|world| world.crash(old));
            self.later(named_after_ns, Over::Promote { master: new });
            self.later(named_after_ns + MS, Over::Name { master: new });
            self.later(named_after_ns + back_after_ns, Over::Return { node: old, master: new });
        }
    }

    /// Deeds of an operator or a client against a process that runs.
    fn command(&mut self, process: usize, deed: Deed) {
        match deed {
            Deed::Terminate { slot, workers_ns, back_ns } => {
                self.back_ns[slot] = Some(back_ns);
                self.processes[process].terminate(self.plan.settings.drain_ns, workers_ns);
            }
            Deed::Kill { slot, back_ns } => {
                let risk = self.failover.filter(|&(_, until_ns)| now_ns() < until_ns);
                let lag_ns = self.plan.lag_ns;
                let replicated_ns = risk.map(|(since_ns, _)| since_ns.saturating_sub(lag_ns));
                self.processes[process].kill(replicated_ns);
                with(|world| world.push(now_ns() + back_ns, Event::Start(slot)));
            }
            Deed::Burst { samples, .. } => self.post_to(process, samples),
            _ => unreachable!("deeds against a process only"),
        }
    }

    fn running_in(&self, slot: usize) -> Option<usize> {
        let process = self.slots[slot];
        let is_running = |process: &Process| process.phase == Phase::Running;
        self.processes.get(process).is_some_and(is_running).then_some(process)
    }

    fn over(&mut self, over: Over) {
        match over {
            Over::Block { slot, node } => with(|world| world.unblock(slot, node)),
            Over::Latency { slot } => with(|world| world.set_latency(slot, MS)),
            Over::Slow { node } => with(|world| world.faults(node).slow_ns = 0),
            Over::Refuse { node } => with(|world| world.faults(node).refusal = None),
            Over::Foreign { node, key } => {
                with(|world| world.set_foreign(node, key, false));
            }
            Over::Snapshot { node } => with(|world| {
                let snapshot = world.nodes[node].data.clone();
                world.nodes[node].disk = Some(snapshot);
            }),
            Over::Up { node, keeps } => {
                with(|world| world.restart(node, keeps == Keeps::All, keeps == Keeps::Snapshot))
            }
            Over::Name { master } => with(|world| world.name_master(master)),
            Over::Promote { master } => with(|world| world.promote(master)),
            Over::Return { node, master } => {
                with(|world| {
                    world.restart(node, true, false);
                    world.demote(node, master);
                });
                self.is_failing_over = false;
            }
            Over::Demote { node, master } => {
                with(|world| world.demote(node, master));
                self.is_failing_over = false;
            }
        }
    }
}

/// The moment that the clients write into their samples.
pub fn timestamp_us(serial: u64) -> i64 {
    EPOCH_US + serial as i64 * 1_000
}
