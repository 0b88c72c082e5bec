//! n machines, the network between them, clients, and the one queue of what happens next.

use crate::{
    byzantine::{Attacker, Collusion, Strategy},
    crypto::{genesis, member_key},
    disk::Disk,
    invariants::{Broken, Checks},
    network::{Network, Weather},
    node::{EPOCH_MS, LIMITS, Machine},
    rng::Rng,
    scenario::{Mutant, Scenario},
};
use cretoai_consensus::{
    Domain, Epoch, FaultModel, Genesis, Hash, MAX_FRAME, Message, NodeId, Outcome, Payload, Quorum, Sequence, Signer, encode,
    engine::{Engine, Execution, Input, Recipient, Turn},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    sync::Arc,
};

/// After the network healed and all honest nodes run again, everything accepted is final everywhere within this, in
/// microseconds: twenty times the patience of the default timing.
pub const RECOVERY: u64 = 2_000_000;
const CLIENT_RETRY: u64 = 300_000;

enum Event {
    Deliver { from: NodeId, to: NodeId, life: u64, message: Message },
    Connected { node: NodeId, peer: NodeId },
    Wake { node: NodeId, life: u64 },
    Start(NodeId),
    Submit(usize),
    Split,
    Heal,
    Blackout,
    Calm,
}

struct Client {
    payload: Payload,
    id: Hash,
    submitted: Option<u64>,
    settled: bool,
}

/// When honest nodes first did something, for the tests of message delays.
#[derive(Default)]
pub struct Timeline {
    pub proposed: BTreeMap<Sequence, u64>,
    pub executed: BTreeMap<(Sequence, NodeId), u64>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub events: u64,
    pub crashes: u64,
    pub sequences: u64,
    /// Microseconds from healing to all being final.
    pub recovery: u64,
}

pub struct World {
    pub scenario: Scenario,
    rng: Rng,
    genesis: Genesis,
    pub now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: HashMap<u64, Event>,
    next_event: u64,
    pub machines: Vec<Machine>,
    network: Network,
    checks: Checks,
    clients: Vec<Client>,
    collusion: Collusion,
    calm: bool,
    pub timeline: Timeline,
    report: Report,
    trace: Option<()>,
}

impl World {
    pub fn new(scenario: Scenario) -> Self {
        let mut rng = Rng::new(scenario.seed ^ 0xC2E7);
        let n = scenario.n;
        let engines = if scenario.mutant == Some(Mutant::SmallQuorum) { FaultModel::Crash } else { scenario.model };
        let genesis = genesis(n, engines, EPOCH_MS);
        let domain = Domain { chain_id: genesis.chain_id(), epoch: Epoch(0) };
        let machines: Vec<Machine> = (0..n as u32)
            .map(NodeId)
            .map(|own| {
                let fault = scenario.mutant.and_then(|mutant| if let Mutant::Disk(fault) = mutant { Some(fault) } else { None });
                let attacker = scenario.attackers.get(&own).map(|s| Attacker::new(own, n, domain, s.clone(), &mut rng));
                Machine::new(own, Disk::new(fault), attacker, rng.below(400))
            })
            .collect();
        let honest: BTreeSet<NodeId> = machines.iter().filter(|m| m.is_honest()).map(|m| m.own).collect();
        let keys = (0..n).map(|i| member_key(i).public_key().clone()).collect();
        let checks = Checks::new(domain, keys, Quorum::new(n, scenario.model), honest, EPOCH_MS);
        let mut world = Self {
            network: Network::new(n, scenario.weather),
            rng,
            genesis,
            now: 0,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            next_event: 0,
            machines,
            checks,
            clients: Vec::new(),
            collusion: Collusion::new(),
            calm: scenario.trouble == 0,
            timeline: Timeline::default(),
            report: Report::default(),
            trace: std::env::var_os("CRETO_SIM_TRACE").map(|_| ()),
            scenario,
        };
        for node in (0..n as u32).map(NodeId) {
            world.schedule(0, Event::Start(node));
        }
        world.plan();
        world
    }

    /// What the scenario does by the clock.
    fn plan(&mut self) {
        let trouble = self.scenario.trouble;
        for _ in 0..self.scenario.payloads {
            let at = self.rng.below(trouble.max(1));
            let big = self.rng.chance(40);
            let len = if big { self.rng.range(50_000, 128 * 1024) } else { self.rng.range(1, 300) };
            let kind = self.rng.below(20);
            let mut key = [0; 16];
            key[..8].copy_from_slice(&self.rng.next().to_le_bytes());
            // Expired already, too early for a while, or a usual half minute.
            let valid = EPOCH_MS + at / 1000 + [0, 60_700].get(kind as usize).copied().unwrap_or(30_000);
            let payload = Payload { key, valid_until_ms: valid, data: vec![key[0]; len as usize] };
            self.submit_at(at, payload);
        }
        if self.scenario.partitions {
            for _ in 0..self.rng.range(1, 3) {
                let at = self.rng.below(trouble);
                self.schedule(at, Event::Split);
                let until = at + self.rng.range(50_000, 800_000);
                self.schedule(until, Event::Heal);
            }
        }
        if let Some(at) = self.scenario.blackout {
            self.schedule(at, Event::Blackout);
        }
        self.schedule(trouble, Event::Calm);
    }

    pub fn submit_at(&mut self, at: u64, payload: Payload) {
        let id = payload.id(self.genesis.chain_id());
        self.clients.push(Client { payload, id, submitted: None, settled: false });
        self.schedule(at, Event::Submit(self.clients.len() - 1));
    }

    fn schedule(&mut self, at: u64, event: Event) {
        let number = self.next_event;
        self.next_event += 1;
        self.queue.push(Reverse((at, number)));
        self.events.insert(number, event);
    }

    fn log(&self, line: impl FnOnce() -> String) {
        if self.trace.is_some() {
            eprintln!("{:>9.3} ms  {}", self.now as f64 / 1000.0, line());
        }
    }

    /// Runs until everything accepted is final everywhere, or for safety only for a while after the faults.
    pub fn run(&mut self) -> Result<Report, Broken> {
        let deadline = self.scenario.trouble + RECOVERY;
        let safety_only = self.scenario.trouble + 500_000;
        loop {
            if self.calm && self.scenario.must_progress() && self.all_final() {
                self.report.recovery = self.now.saturating_sub(self.scenario.trouble);
                break;
            }
            if !self.scenario.must_progress() && self.now > safety_only {
                break;
            }
            if self.now > deadline {
                return Err(format!("liveness: {}", self.what_is_missing()));
            }
            self.step()?;
        }
        self.report.sequences = self.checks.length().0;
        Ok(self.report)
    }

    /// Runs until a time.
    pub fn run_until(&mut self, at: u64) -> Result<(), Broken> {
        while self.queue.peek().is_some_and(|Reverse((next, _))| *next <= at) {
            self.step()?;
        }
        self.now = at;
        Ok(())
    }

    fn all_final(&self) -> bool {
        let length = self.checks.length();
        let settled = self.clients.iter().all(|c| c.settled);
        settled && self.honest().all(|m| m.engine.as_ref().is_some_and(|e| e.executed() == length))
    }

    fn what_is_missing(&self) -> String {
        let open = self.clients.iter().filter(|c| !c.settled).count();
        let nodes: Vec<String> = self
            .machines
            .iter()
            .map(|m| m.engine.as_ref().map_or_else(|| "down".into(), |e| format!("{}:{} {:?}", m.own, e.executed(), e.sizes())))
            .collect();
        format!("{open} payloads open {RECOVERY} us after healing; chain {}; nodes {nodes:?}", self.checks.length())
    }

    fn honest(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|m| m.is_honest())
    }

    fn step(&mut self) -> Result<(), Broken> {
        let Some(Reverse((at, number))) = self.queue.pop() else { return Err("the queue ran dry".into()) };
        let Some(event) = self.events.remove(&number) else { return Ok(()) };
        self.now = at;
        self.report.events += 1;
        match event {
            Event::Deliver { from, to, life, message } => self.deliver(from, to, life, message),
            Event::Connected { node, peer } => self.input(node, Input::Connected(peer)),
            Event::Wake { node, life } => {
                let machine = &mut self.machines[node.lane()];
                if machine.life != life || machine.engine.is_none() {
                    return Ok(());
                }
                machine.wake = None;
                self.turn(node)
            }
            Event::Start(node) => self.start(node),
            Event::Submit(client) => self.submit(client),
            Event::Split => {
                let cut = self.network.split(&mut self.rng);
                self.log(|| format!("network: cut {cut:?}"));
                Ok(())
            }
            Event::Heal => self.heal(),
            Event::Blackout => {
                self.log(|| "blackout".into());
                (0..self.machines.len()).for_each(|node| self.crash(NodeId(node as u32), true));
                Ok(())
            }
            Event::Calm => {
                self.log(|| "calm: no more faults".into());
                self.calm = true;
                self.network.weather = if self.scenario.trouble == 0 { self.scenario.weather } else { Weather::fair() };
                for node in 0..self.machines.len() {
                    if self.machines[node].engine.is_none() {
                        self.start(NodeId(node as u32))?;
                    }
                }
                self.heal()
            }
        }
    }

    fn heal(&mut self) -> Result<(), Broken> {
        self.network.heal();
        // Broken channels are made again.
        for node in (0..self.machines.len() as u32).map(NodeId) {
            for peer in (0..self.machines.len() as u32).map(NodeId).filter(|peer| *peer != node) {
                let at = self.now + self.rng.below(20_000);
                self.schedule(at, Event::Connected { node, peer });
            }
        }
        Ok(())
    }

    fn start(&mut self, node: NodeId) -> Result<(), Broken> {
        let machine = &mut self.machines[node.lane()];
        if machine.engine.is_some() {
            return Ok(());
        }
        machine.start(&self.genesis, self.now);
        if machine.is_honest() {
            // It may have died after writing a decision that it told nobody.
            let told_nobody = machine.disk.executions_above(self.checks.length());
            told_nobody.iter().try_for_each(|execution| self.checks.executed(node, execution, &machine.disk))?;
        }
        self.log(|| format!("node {node} starts"));
        for peer in (0..self.machines.len() as u32).map(NodeId).filter(|peer| *peer != node) {
            let at = self.now + self.rng.below(5_000);
            self.schedule(at, Event::Connected { node: peer, peer: node });
            self.schedule(at, Event::Connected { node, peer });
        }
        self.turn(node)
    }

    fn crash(&mut self, node: NodeId, power: bool) {
        let machine = &mut self.machines[node.lane()];
        if machine.engine.is_none() {
            return;
        }
        machine.stop();
        if power {
            let kept = self.rng.below(machine.disk.unsynced() as u64 + 1) as usize;
            machine.disk.lose_power(kept);
        }
        self.report.crashes += 1;
        let back = self.now + self.rng.range(1_000, 600_000);
        self.log(|| format!("node {node} {}", if power { "loses power" } else { "is killed" }));
        self.schedule(back, Event::Start(node));
    }

    fn submit(&mut self, client: usize) -> Result<(), Broken> {
        let Client { payload, id, settled, .. } = &self.clients[client];
        // What expired before it took effect never will.
        let expired = EPOCH_MS + self.now / 1000 > payload.valid_until_ms + 1_000 && self.checks.where_executed(id).is_none();
        if *settled || expired {
            self.clients[client].settled = true;
            return Ok(());
        }
        let payload = payload.clone();
        self.clients[client].submitted.get_or_insert(self.now);
        let again = self.now + CLIENT_RETRY;
        self.schedule(again, Event::Submit(client));
        let n = self.machines.len() as u64;
        let copies = 1 + u64::from(self.rng.chance(150));
        for _ in 0..copies {
            let node = NodeId(self.rng.below(n) as u32);
            self.input(node, Input::Submit(payload.clone()))?;
        }
        Ok(())
    }

    /// Submits at a chosen node, for tests of delays.
    pub fn submit_now(&mut self, node: NodeId, payload: Payload) -> Result<(), Broken> {
        self.input(node, Input::Submit(payload))
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, life: u64, message: Message) -> Result<(), Broken> {
        let machine = &mut self.machines[to.lane()];
        if machine.life != life || machine.engine.is_none() {
            return Ok(());
        }
        if matches!(message, Message::FetchRecords { .. } | Message::FetchLane { .. }) {
            let answers = machine.disk.answer(&message);
            answers.into_iter().for_each(|answer| self.send(to, from, answer));
            return Ok(());
        }
        self.input(to, Input::Message { from, message })
    }

    /// Gives an input to an engine, and takes its turn now or a little later, with what comes until then.
    fn input(&mut self, node: NodeId, input: Input) -> Result<(), Broken> {
        let machine = &mut self.machines[node.lane()];
        let now = machine.now(self.now);
        let Some(engine) = &mut machine.engine else { return Ok(()) };
        engine.handle(now, input);
        if self.calm && self.scenario.trouble == 0 || self.rng.chance(600) {
            return self.turn(node);
        }
        let soon = self.now + self.rng.below(1_000);
        self.wake_at(node, soon);
        Ok(())
    }

    fn wake_at(&mut self, node: NodeId, at: u64) {
        let machine = &mut self.machines[node.lane()];
        let at = at.max(self.now);
        if machine.wake.is_some_and(|wake| wake <= at) {
            return;
        }
        machine.wake = Some(at);
        let life = machine.life;
        self.schedule(at, Event::Wake { node, life });
    }

    /// What a driver does with a turn: writes, then sends, then tells clients. It may die at any point of this.
    fn turn(&mut self, node: NodeId) -> Result<(), Broken> {
        let machine = &mut self.machines[node.lane()];
        let now = machine.now(self.now);
        let honest = machine.is_honest();
        let Some(engine) = &mut machine.engine else { return Ok(()) };
        let turn = engine.end_turn(now);
        if honest {
            bounds(node, engine)?;
            if let Some(reason) = &turn.diverged {
                return Err(format!("divergence: honest node {node} stopped: {reason}"));
            }
            turn.violations.iter().try_for_each(|violation| self.checks.accused(node, *violation))?;
        }
        let wake = machine.micros(turn.wake).max(self.now + 1);
        self.wake_at(node, wake);
        let dies = !self.calm && self.rng.below(10_000) < self.scenario.crashes;
        let power = self.rng.chance(500);
        // Before the writes, after them but before the fsync, after the fsync, or in the middle of the sends.
        let stage = if dies { self.rng.below(4) } else { 4 };
        let early = self.scenario.mutant == Some(Mutant::SendsBeforeWriting);
        if early {
            self.send_all(node, &turn, usize::MAX)?;
        }
        if stage == 0 {
            self.crash(node, power);
            return Ok(());
        }
        self.machines[node.lane()].disk.write(&turn.writes, turn.sync && stage != 1);
        if stage <= 2 {
            self.crash(node, power);
            return Ok(());
        }
        if !early {
            let sent = if stage == 3 { self.rng.below(turn.sends.len() as u64 + 1) as usize } else { usize::MAX };
            self.send_all(node, &turn, sent)?;
        }
        if stage == 3 {
            self.crash(node, power);
            return Ok(());
        }
        if self.machines[node.lane()].is_honest() {
            turn.executions.iter().try_for_each(|execution| self.executed(node, execution))?;
        }
        Ok(())
    }

    fn executed(&mut self, node: NodeId, execution: &Arc<Execution>) -> Result<(), Broken> {
        self.checks.executed(node, execution, &self.machines[node.lane()].disk)?;
        let sequence = execution.record.proposal.sequence;
        self.log(|| format!("node {node} executes {sequence}: {} vertices", execution.vertices.len()));
        self.timeline.executed.entry((sequence, node)).or_insert(self.now);
        let outcomes = execution.vertices.iter().flat_map(|(v, outcomes)| v.payloads().map(|(id, _)| id).zip(outcomes));
        let answered: HashMap<Hash, Outcome> = outcomes.map(|(id, outcome)| (id, *outcome)).collect();
        for client in self.clients.iter_mut().filter(|c| !c.settled) {
            client.settled = answered.get(&client.id).is_some_and(|outcome| *outcome != Outcome::Early);
        }
        Ok(())
    }

    fn send_all(&mut self, node: NodeId, turn: &Turn, count: usize) -> Result<(), Broken> {
        let others: Vec<NodeId> = (0..self.machines.len() as u32).map(NodeId).filter(|peer| *peer != node).collect();
        if let Some(attacker) = &mut self.machines[node.lane()].attacker {
            attacker.begin_turn(&mut self.rng);
        }
        for (to, message) in turn.sends.iter().take(count) {
            if self.machines[node.lane()].is_honest() {
                self.checks.sent(node, message, &self.machines[node.lane()].disk)?;
                if matches!(message, Message::Vertex(_)) && encode(message).len() > MAX_FRAME {
                    return Err(format!("bounds: node {node} sent a frame beyond {MAX_FRAME} bytes"));
                }
            }
            if let Message::PrePrepare { proposal, .. } = message {
                self.timeline.proposed.entry(proposal.sequence).or_insert(self.now);
            }
            let to: &[NodeId] = match to {
                Recipient::All => &others,
                Recipient::One(peer) => std::slice::from_ref(peer),
            };
            to.iter().for_each(|peer| self.send(node, *peer, message.clone()));
        }
        Ok(())
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let messages = match &mut self.machines[from.lane()].attacker {
            Some(attacker) => attacker.tamper(&mut self.rng, &mut self.collusion, to, message),
            None => vec![message],
        };
        let life = self.machines[to.lane()].life;
        for message in messages {
            for delay in self.network.delays(&mut self.rng, from.lane(), to.lane()) {
                let at = self.now + delay;
                self.schedule(at, Event::Deliver { from, to, life, message: message.clone() });
            }
        }
    }

    /// Whether some attacker follows a strategy.
    pub fn attacks(&self, strategy: Strategy) -> bool {
        self.machines.iter().any(|m| m.attacker.as_ref().is_some_and(|a| a.does(strategy)))
    }
}

fn bounds(node: NodeId, engine: &Engine) -> Result<(), Broken> {
    let sizes = engine.sizes();
    let lanes = LIMITS.lane * 7;
    if sizes.pool_bytes > LIMITS.pool_bytes || sizes.undecided_vertices > lanes {
        return Err(format!("bounds: node {node} holds {sizes:?}"));
    }
    Ok(())
}
