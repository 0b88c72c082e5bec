//! Machines, the network between them, clients, the admin, and the one queue of what happens next.
//!
//! | part | what it does |
//! |---|---|
//! | this one | the queue; starting, stopping, delivering |
//! | `turns` | what a driver does with a turn, and how it may die doing it |
//! | `faults` | what goes wrong by plan |
//! | `people` | clients and the admin |

mod faults;
mod people;
mod turns;

use crate::{
    admin::Admin,
    byzantine::{Attacker, Collusion},
    crypto::genesis,
    disk::Disk,
    invariants::{Broken, Checks},
    machine::{BEGINNING_MS, Machine},
    network::{Network, Weather},
    rng::Rng,
    scenario::{self, Scenario},
    trace::{Entry, Trace},
};
use cretoai_consensus::{
    Message,
    engine::{Input, Role},
};
use cretoai_types::{Epoch, Genesis, Hash, NodeId, Payload, Sequence, View, encode};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
};

/// T0, the timeout of the default timing, in microseconds.
pub const T0: u64 = 250_000;

/// After the network healed and all honest nodes run again, everything accepted is final everywhere
/// within so many T0.
///
/// A node waits at most T0 * 2^k + T0 / 2 in its k-th view in a row. Trouble lasts 2.5 s = 10 T0 at
/// most; attackers can push views faster than timeouts do, but whoever entered k views by timeouts
/// alone spent (2^k - 1) T0, so k <= 3. After healing at most f = 2 bad leaders come before a good
/// one: 2^3 + 2^4 + 2^5 + three halves < 58 T0, and 6 T0 for catching up.
pub const RECOVERY_TIMEOUTS: u64 = 64;

/// Each reconfiguration that is still to be done may take so many T0 more: a learner must catch up
/// first.
const CHANGE_TIMEOUTS: u64 = 16;

#[derive(Debug)]
enum Event {
    Deliver { from: usize, to: usize, life: u64, era: u64, message: Arc<Message> },
    Connected { node: usize, peer: usize },
    Wake { node: usize, life: u64 },
    Flushed { node: usize, life: u64 },
    Start(usize),
    Submit(usize),
    Fault(usize),
    FaultEnds(usize),
    Flap { node: usize, until: u64 },
    Restart(usize),
    Backup,
    Admin,
    Calm,
}

/// Something that will happen, by time and then in the order in which it was scheduled.
struct Due {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

struct Client {
    payload: Payload,
    id: Hash,
    /// When, first.
    submitted: Option<u64>,
    settled: bool,
}

/// When honest nodes did something first, for the tests of message delays and outages.
#[derive(Debug, Default)]
pub struct Timeline {
    /// When a sequence was proposed first.
    pub proposed: BTreeMap<Sequence, u64>,
    /// When a node executed a sequence first.
    pub executed: BTreeMap<(Sequence, usize), u64>,
}

/// What a run was like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps of the queue.
    pub events: u64,
    /// Processes that ended, however.
    pub crashes: u64,
    /// Decisions.
    pub sequences: u64,
    /// Views that were changed.
    pub views: u64,
    /// Reconfigurations.
    pub epochs: u64,
    /// Microseconds from healing to all being final.
    pub recovery: u64,
    /// The longest that a client waited for what is final, or for the end of its payload's
    /// validity.
    pub slowest_answer: u64,
    /// Faults that were injected, by name.
    pub faults: BTreeMap<String, u64>,
}

/// A whole cluster.
pub struct World {
    /// What it is made of.
    pub scenario: Scenario,
    /// Microseconds since the beginning.
    pub now: u64,
    /// All of them, members or not.
    pub machines: Vec<Machine>,
    /// First times.
    pub timeline: Timeline,
    /// What happened, if somebody wants to know.
    pub trace: Option<Trace>,
    /// The network.
    pub network: Network,
    /// The admin.
    pub admin: Admin,
    rng: Rng,
    genesis: Genesis,
    queue: BinaryHeap<Due>,
    next_event: u64,
    checks: Checks,
    clients: Vec<Client>,
    collusion: Collusion,
    /// What each planned fault did, to be taken back.
    undo: BTreeMap<usize, faults::Undo>,
    calm: bool,
    /// Clients wait.
    idle_until: u64,
    report: Report,
}

impl World {
    /// A cluster that is about to start.
    #[must_use]
    pub fn new(scenario: Scenario) -> Self {
        let mut rng = Rng::new(scenario.seed ^ 0xC2E7);
        let n = scenario.n;
        let genesis = genesis(n, scenario.model, scenario.parameters, BEGINNING_MS);
        let fault = match scenario.broken {
            Some(scenario::Broken::Disk(fault)) => Some(fault),
            _ => None,
        };
        let chain_id = genesis.chain_id();
        let mut machines = Vec::new();
        let twins = usize::from(scenario.twin.is_some());
        for index in 0..n + scenario.spare + twins {
            let own = scenario
                .twin
                .filter(|_| index == n + scenario.spare)
                .unwrap_or(NodeId(index as u32));
            let strategies = scenario.attackers.get(&own).cloned();
            let twin = (scenario.twin == Some(own)).then(BTreeSet::new);
            let attacker =
                strategies.or(twin).map(|s| Attacker::new(own, n, chain_id, s, &mut rng));
            let skew = rng.below(scenario.skew_ms.max(1)) as i64;
            let mut machine = Machine::new(index, own, Disk::new(fault), attacker, skew);
            machine.off = (n..n + scenario.spare).contains(&index);
            machines.push(machine);
        }
        let attackers = scenario.attackers.keys().copied().chain(scenario.twin).collect();
        let mut world = Self {
            network: Network::new(machines.len(), scenario.weather),
            checks: Checks::new(&genesis, attackers),
            admin: Admin::new(&scenario.changes),
            rng,
            genesis,
            now: 0,
            queue: BinaryHeap::new(),
            next_event: 0,
            machines,
            clients: Vec::new(),
            collusion: Collusion::default(),
            undo: BTreeMap::new(),
            calm: scenario.trouble == 0,
            idle_until: 0,
            timeline: Timeline::default(),
            report: Report::default(),
            trace: None,
            scenario,
        };
        for node in 0..world.machines.len() {
            world.schedule(0, Event::Start(node));
        }
        world.plan();
        world
    }

    /// What the scenario does by the clock.
    fn plan(&mut self) {
        let trouble = self.scenario.trouble;
        self.plan_clients();
        for (index, planned) in self.scenario.faults.clone().into_iter().enumerate() {
            self.schedule(planned.from, Event::Fault(index));
            self.schedule(planned.until, Event::FaultEnds(index));
        }
        if self
            .scenario
            .faults
            .iter()
            .any(|planned| planned.fault == scenario::Fault::RestoredVolume)
        {
            let at = self.rng.below(trouble.max(1));
            self.schedule(at, Event::Backup);
        }
        let admin = self.rng.below(trouble / 2 + 1);
        self.schedule(admin, Event::Admin);
        self.schedule(trouble, Event::Calm);
    }

    fn schedule(&mut self, at: u64, event: Event) {
        let number = self.next_event;
        self.next_event += 1;
        self.queue.push(Due { at: at.max(self.now), number, event });
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.add(Entry::Note { at: self.now, text: text() });
        }
    }

    /// Runs until everything accepted is final everywhere and all that the admin wants is done.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn run(&mut self) -> Result<Report, Broken> {
        let changes = self.scenario.changes.len() + self.scenario.faults.len();
        let deadline =
            self.scenario.trouble + (RECOVERY_TIMEOUTS + CHANGE_TIMEOUTS * changes as u64) * T0;
        let mut looked = 0;
        loop {
            if self.calm && self.now >= looked {
                looked = self.now + 1_000;
                if self.all_final() {
                    break;
                }
            }
            if self.now > deadline {
                return Err(format!("liveness: {}", self.what_is_missing()));
            }
            self.step()?;
        }
        self.report.recovery = self.now.saturating_sub(self.scenario.trouble);
        self.report.sequences = self.checks.length().0;
        self.report.views = self.checks.views();
        self.report.epochs = self.checks.epoch().0;
        if !self.scenario.attackers.is_empty() {
            self.decide_without_attackers()?;
        }
        Ok(self.report.clone())
    }

    /// What attackers did while they could must not outlive them: when they are silent, and again
    /// when every honest node has lost power since, the honest ones decide.
    fn decide_without_attackers(&mut self) -> Result<(), Broken> {
        self.note(|| "attackers fall silent".into());
        for node in 0..self.machines.len() {
            if self.scenario.attackers.contains_key(&self.machines[node].own) {
                self.stop(node, false);
                self.machines[node].off = true;
            }
        }
        self.decide("with the attackers silent")?;
        self.note(|| "all honest nodes restart".into());
        for node in 0..self.machines.len() {
            if !self.machines[node].off {
                self.stop(node, true);
                self.start(node)?;
            }
        }
        self.decide("after a restart of every honest node")
    }

    /// Submits one payload, which must be final everywhere within [`RECOVERY_TIMEOUTS`].
    fn decide(&mut self, when: &str) -> Result<(), Broken> {
        let mut key = [0xD; 16];
        key[..8].copy_from_slice(&self.rng.next().to_le_bytes());
        let valid_until_ms = BEGINNING_MS + self.now / 1000 + 30_000;
        self.submit_at(self.now, Payload { key, valid_until_ms, topic: None, data: vec![1; 32] });
        let (before, deadline) = (self.checks.length(), self.now + RECOVERY_TIMEOUTS * T0);
        while self.checks.length() == before || !self.all_final() {
            if self.now > deadline {
                return Err(format!("liveness: {when}: {}", self.what_is_missing()));
            }
            self.step()?;
        }
        Ok(())
    }

    /// Runs until a time.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn run_until(&mut self, at: u64) -> Result<(), Broken> {
        while self.queue.peek().is_some_and(|due| due.at <= at) {
            self.step()?;
        }
        self.now = at;
        Ok(())
    }

    /// Whether clients, admin and all honest members have what they want.
    #[must_use]
    pub fn all_final(&self) -> bool {
        let (length, epoch) = (self.checks.length(), self.checks.epoch());
        let there = |m: &Machine| {
            m.engine.as_ref().is_some_and(|e| e.executed() == length && e.epoch() == epoch)
        };
        self.clients.iter().all(|c| c.settled)
            && self.admin.is_done()
            && self.honest_members().all(there)
    }

    fn what_is_missing(&self) -> String {
        let open = self.clients.iter().filter(|c| !c.settled).count();
        let nodes: Vec<String> = self.machines.iter().map(describe).collect();
        format!(
            "{open} payloads open {} us after healing; chain {} in epoch {}; admin {:?} {:?}; nodes {nodes:#?}",
            self.now - self.scenario.trouble,
            self.checks.length(),
            self.checks.epoch(),
            self.admin.plan,
            self.admin.issued.as_ref().map(|issued| issued.change)
        )
    }

    fn honest_members(&self) -> impl Iterator<Item = &Machine> {
        let members: BTreeSet<NodeId> =
            self.checks.validators().map(|set| set.ids().collect()).unwrap_or_default();
        self.machines.iter().filter(move |m| m.is_honest() && members.contains(&m.own))
    }

    /// The newest sequence that an honest node executed.
    #[must_use]
    pub fn length(&self) -> Sequence {
        self.checks.length()
    }

    /// The epoch that decides next.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.checks.epoch()
    }

    /// The members that decide next.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        self.checks.validators().map(|set| set.ids().collect()).unwrap_or_default()
    }

    /// What a machine's engine says that it is.
    #[must_use]
    pub fn role(&self, node: usize) -> Option<Role> {
        self.machines.get(node)?.engine.as_ref().map(cretoai_consensus::Engine::role)
    }

    /// The leader of the newest view that a running member entered.
    #[must_use]
    pub fn leader(&self) -> NodeId {
        let epoch = self.checks.epoch();
        let engines =
            self.honest_members().filter_map(|m| m.engine.as_ref()).filter(|e| e.epoch() == epoch);
        let newest = engines.map(|e| (e.view(), e.leader())).max();
        newest.map_or_else(
            || self.members().first().copied().unwrap_or_default(),
            |(_, leader)| leader,
        )
    }

    /// The newest view that a running member entered.
    #[must_use]
    pub fn view(&self) -> View {
        self.honest_members()
            .filter_map(|m| m.engine.as_ref())
            .map(cretoai_consensus::Engine::view)
            .max()
            .unwrap_or_default()
    }

    fn step(&mut self) -> Result<(), Broken> {
        let Some(Due { at, event, .. }) = self.queue.pop() else {
            return Err("the queue ran dry".into());
        };
        self.now = at;
        self.report.events += 1;
        match event {
            Event::Deliver { from, to, life, era, message } => {
                self.deliver(from, to, life, era, message)
            }
            Event::Connected { node, peer } => self.connected(node, peer),
            Event::Wake { node, life } => {
                let machine = &mut self.machines[node];
                if machine.life != life || machine.engine.is_none() {
                    return Ok(());
                }
                machine.wake = None;
                if machine.is_busy() { Ok(()) } else { self.turn(node) }
            }
            Event::Flushed { node, life } => self.flushed(node, life),
            Event::Start(node) => self.start(node),
            Event::Submit(client) => self.submit(client),
            Event::Fault(index) => self.fault(index),
            Event::FaultEnds(index) => self.fault_ends(index),
            Event::Flap { node, until } => self.flap(node, until),
            Event::Restart(node) => self.restart(node),
            Event::Backup => self.back_up(),
            Event::Admin => self.administer(),
            Event::Calm => self.calm_down(),
        }
    }

    /// No more faults: everything works, and who is down starts.
    fn calm_down(&mut self) -> Result<(), Broken> {
        self.note(|| "calm: no more faults".into());
        self.calm = true;
        self.network.weather =
            if self.scenario.trouble == 0 { self.scenario.weather } else { Weather::lan() };
        for index in self.undo.keys().copied().collect::<Vec<_>>() {
            self.fault_ends(index)?;
        }
        for node in 0..self.machines.len() {
            let machine = &mut self.machines[node];
            machine.skew_ms = machine.skew_ms.clamp(-200, 200);
            (machine.full, machine.slow_disk) = (false, 0);
            self.start(node)?;
        }
        self.network.heal();
        self.reconnect_all();
        Ok(())
    }

    fn reconnect_all(&mut self) {
        for node in 0..self.machines.len() {
            for peer in (0..self.machines.len()).filter(|peer| *peer != node) {
                let at = self.now + self.rng.below(20_000);
                self.schedule(at, Event::Connected { node, peer });
            }
        }
    }

    fn connected(&mut self, node: usize, peer: usize) -> Result<(), Broken> {
        if self.network.is_cut((node, peer))
            || self.network.is_cut((peer, node))
            || self.machines[peer].engine.is_none()
        {
            return Ok(());
        }
        let time = self.network.round_trip((node, peer));
        let peer = self.machines[peer].own;
        self.input(node, Input::Connected(peer))?;
        if self.scenario.measured {
            self.input(node, Input::RoundTrip { peer, time })?;
        }
        Ok(())
    }

    /// Starts the process of a machine, if it is down and may run.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn start(&mut self, node: usize) -> Result<(), Broken> {
        let seed = self.rng.next();
        let machine = &mut self.machines[node];
        if machine.engine.is_some() || machine.off || machine.full {
            return Ok(());
        }
        machine.start(&self.genesis, self.now, seed, self.scenario.timing);
        if let Some(trace) = &mut self.trace {
            trace.add(Entry::Up { at: self.now, node });
        }
        let own = self.machines[node].own;
        self.checks.started(own);
        self.became_durable(node)?;
        let machine = &self.machines[node];
        if machine.is_honest() {
            // It may have died after writing a decision that it told nobody.
            let told_nobody = machine.disk.executions_above(self.checks.length());
            told_nobody.iter().try_for_each(|execution| self.checks.executed(own, execution))?;
        }
        for peer in (0..self.machines.len()).filter(|peer| *peer != node) {
            let at = self.now + self.rng.below(5_000);
            self.schedule(at, Event::Connected { node: peer, peer: node });
            self.schedule(at, Event::Connected { node, peer });
        }
        self.turn(node)
    }

    /// The process of a machine ends; with `power`, so does what no fsync covered. It starts again
    /// later.
    pub fn crash(&mut self, node: usize, power: bool) {
        let back = self.now + self.rng.range(1_000, 600_000);
        self.stop(node, power);
        self.schedule(back, Event::Start(node));
    }

    /// The process of a machine ends, until somebody starts it.
    pub fn stop(&mut self, node: usize, power: bool) {
        let machine = &mut self.machines[node];
        if machine.engine.is_none() {
            return;
        }
        machine.stop();
        if power {
            let kept = self.rng.index(machine.disk.unsynced() + 1);
            machine.disk.lose_power(kept);
        }
        self.report.crashes += 1;
        if let Some(trace) = &mut self.trace {
            trace.add(Entry::Down { at: self.now, node });
        }
    }

    fn deliver(
        &mut self,
        from: usize,
        to: usize,
        life: u64,
        era: u64,
        message: Arc<Message>,
    ) -> Result<(), Broken> {
        let machine = &self.machines[to];
        if machine.life != life || machine.engine.is_none() || self.network.era((from, to)) != era {
            return Ok(());
        }
        if matches!(
            *message,
            Message::FetchRecords { .. } | Message::FetchLane { .. } | Message::FetchBranch { .. }
        ) {
            if machine.paused || self.scenario.broken == Some(scenario::Broken::AnswersNothing) {
                return Ok(());
            }
            if machine.flushing.is_some() {
                // What is not durable yet is not shown to anyone: a certificate in it may hold this
                // node's own vote.
                self.schedule(self.now + 500, Event::Deliver { from, to, life, era, message });
                return Ok(());
            }
            let machine = &mut self.machines[to];
            if !machine.serves(from, self.now) {
                return Ok(());
            }
            let answers = machine.disk.answer(&message);
            machine.served(from, answers.iter().map(|answer| encode(answer).len()).sum());
            for answer in answers {
                self.send(to, from, answer)?;
            }
            return Ok(());
        }
        if let Some(attacker) = &mut self.machines[to].attacker {
            attacker.hear(&mut self.rng, &message);
        }
        let from = self.machines[from].own;
        self.input(to, Input::Message { from, message: Arc::unwrap_or_clone(message) })
    }
}

fn describe(machine: &Machine) -> String {
    let role = if machine.is_honest() { "" } else { " (faulty)" };
    match &machine.engine {
        None => {
            format!("{}{role}: down{}", machine.own, if machine.off { " for good" } else { "" })
        }
        Some(e) => format!(
            "{}{role}: {:?} epoch {} view {} active {} want {} executed {} stable {} {:?}",
            machine.own,
            e.role(),
            e.epoch(),
            e.view(),
            e.is_active(),
            e.want(),
            e.executed(),
            e.stable(),
            e.sizes()
        ),
    }
}
