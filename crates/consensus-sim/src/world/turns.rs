//! What a driver does with a turn: writes, then fsync, then sends, then tells clients. It may die
//! at any point of this.

use super::{Broken, Event, World};
use crate::{
    byzantine::{Situation, Strategy},
    scenario,
    trace::{Entry, kind},
};
use cretoai_consensus::{
    Message,
    engine::{Input, Recipient, Turn, Write},
};
use cretoai_types::{MAX_FRAME, NodeId, encode};
use std::sync::Arc;

/// So many turns in a row may be asked for at once without leading to anything.
const MOST_VAIN_TURNS: u32 = 200;

impl World {
    /// Gives an input to an engine, and takes its turn now or a little later, with what comes until
    /// then.
    pub(super) fn input(&mut self, node: usize, input: Input) -> Result<(), Broken> {
        let machine = &mut self.machines[node];
        let now = machine.now(self.now);
        if machine.is_busy() {
            machine.inbox.push_back(input);
            return Ok(());
        }
        let Some(engine) = &mut machine.engine else { return Ok(()) };
        engine.handle(now, input);
        if self.scenario.trouble == 0 || self.rng.chance(600) {
            return self.turn(node);
        }
        let soon = self.now + self.rng.below(1_000);
        self.wake_at(node, soon);
        Ok(())
    }

    pub(super) fn wake_at(&mut self, node: usize, at: u64) {
        let machine = &mut self.machines[node];
        let at = at.max(self.now);
        if machine.wake.is_some_and(|wake| wake <= at) {
            return;
        }
        machine.wake = Some(at);
        let life = machine.life;
        self.schedule(at, Event::Wake { node, life });
    }

    /// Takes a turn. What it needs durable first leaves when the fsync is done.
    pub(super) fn turn(&mut self, node: usize) -> Result<(), Broken> {
        let machine = &mut self.machines[node];
        let (now, honest, own) = (machine.now(self.now), machine.is_honest(), machine.own);
        let Some(engine) = &mut machine.engine else { return Ok(()) };
        let before = engine.role();
        let turn = engine.end_turn(now);
        if honest {
            if let Some(reason) = &turn.diverged {
                return Err(format!("divergence: honest node {own} stopped: {reason}"));
            }
            self.checks.may_sign(own, before, engine.role(), &turn.writes)?;
            self.checks.bounds(own, engine.sizes(), engine.validators())?;
            let epoch = engine.epoch();
            turn.violations
                .iter()
                .try_for_each(|violation| self.checks.accused(own, epoch, *violation))?;
        }
        let wake = machine.micros(turn.wake).max(self.now + 1);
        let in_vain = machine.micros(turn.wake) <= self.now
            && turn.writes.is_empty()
            && turn.sends.is_empty();
        machine.vain_turns = if in_vain { machine.vain_turns + 1 } else { 0 };
        if honest && machine.vain_turns > MOST_VAIN_TURNS {
            return Err(format!(
                "wake: node {own} asks for a turn at once, again and again, and does nothing in it"
            ));
        }
        self.wake_at(node, wake);
        if self.machines[node].full && !turn.writes.is_empty() {
            // The write fails, and the node stops: it never acts on what it may forget.
            self.stop(node, false);
            return Ok(());
        }
        let dies =
            !self.calm && self.rng.below(10_000) < self.scenario.crashes && self.may_crash(node);
        let power = self.rng.chance(500);
        // Before the writes, after them but before the fsync, after the fsync, or in the middle of
        // the sends.
        let stage = if dies { self.rng.below(4) } else { 4 };
        if self.scenario.broken == Some(scenario::Broken::SendsBeforeWriting) {
            self.send_all(node, &turn, usize::MAX)?;
        }
        if stage == 0 {
            self.crash(node, power);
            return Ok(());
        }
        let mut turn = turn;
        let writes = Arc::new(std::mem::take(&mut turn.writes));
        if !writes.is_empty() {
            self.machines[node].disk.write(writes);
        }
        if stage == 1 {
            self.crash(node, power);
            return Ok(());
        }
        let takes = if turn.sync { self.fsync(node) } else { 0 };
        if takes > 0 && stage == 4 {
            let life = self.machines[node].life;
            self.machines[node].flushing = Some(turn);
            self.schedule(self.now + takes, Event::Flushed { node, life });
            return Ok(());
        }
        if turn.sync {
            self.machines[node].disk.sync();
        }
        if stage == 2 {
            self.crash(node, power);
            return Ok(());
        }
        let sent = if stage == 3 { self.rng.index(turn.sends.len() + 1) } else { usize::MAX };
        self.finish(node, &turn, sent)?;
        if stage == 3 {
            self.crash(node, power);
        }
        Ok(())
    }

    /// A removed or replaced machine is not what crashes are about.
    fn may_crash(&self, node: usize) -> bool {
        !self.machines[node].off
    }

    fn fsync(&mut self, node: usize) -> u64 {
        let (low, high) = self.scenario.fsync;
        let usual = if high == 0 { 0 } else { self.rng.range(low, high) };
        usual + self.machines[node].slow_disk
    }

    /// The fsync of a turn is done: it leaves, and what came meanwhile is handled.
    pub(super) fn flushed(&mut self, node: usize, life: u64) -> Result<(), Broken> {
        let machine = &mut self.machines[node];
        if machine.life != life {
            return Ok(());
        }
        if machine.paused {
            self.schedule(self.now + 5_000, Event::Flushed { node, life });
            return Ok(());
        }
        let Some(turn) = machine.flushing.take() else { return Ok(()) };
        machine.disk.sync();
        self.finish(node, &turn, usize::MAX)?;
        self.take_inbox(node)
    }

    /// What came while the machine was busy.
    pub(super) fn take_inbox(&mut self, node: usize) -> Result<(), Broken> {
        let machine = &mut self.machines[node];
        let now = machine.now(self.now);
        let inputs = std::mem::take(&mut machine.inbox);
        let Some(engine) = &mut machine.engine else { return Ok(()) };
        inputs.into_iter().for_each(|input| engine.handle(now, input));
        self.turn(node)
    }

    /// All is durable that had to be: sends, and tells clients.
    fn finish(&mut self, node: usize, turn: &Turn, count: usize) -> Result<(), Broken> {
        let (own, honest) = (self.machines[node].own, self.machines[node].is_honest());
        let fresh = self.machines[node].disk.take_fresh();
        let writes = || fresh.iter().flat_map(|batch| batch.iter());
        if honest {
            let votes = |write: &&Write| matches!(write, Write::Vote { .. } | Write::Vertex(_));
            for write in writes().filter(votes) {
                self.checks.durable(own, write, &self.machines[node].disk)?;
            }
            turn.executions
                .iter()
                .try_for_each(|execution| self.checks.executed(own, execution))?;
            for write in writes().filter(|write| !votes(write)) {
                self.checks.durable(own, write, &self.machines[node].disk)?;
            }
        }
        if self.scenario.broken != Some(scenario::Broken::SendsBeforeWriting) {
            self.send_all(node, turn, count)?;
        }
        if honest {
            writes().for_each(|write| self.checks.entered(own, write));
            for execution in &turn.executions {
                let sequence = execution.record.proposal.sequence;
                self.timeline.executed.entry((sequence, node)).or_insert(self.now);
                if let Some(trace) = &mut self.trace {
                    trace.add(Entry::Executed { at: self.now, node, sequence });
                }
                self.answer_clients(execution);
            }
        }
        Ok(())
    }

    /// After a restart: what the store gives back is durable, and the node stands by it.
    pub(super) fn became_durable(&mut self, node: usize) -> Result<(), Broken> {
        let machine = &mut self.machines[node];
        let fresh = machine.disk.take_fresh();
        if !machine.is_honest() {
            return Ok(());
        }
        let (own, disk) = (machine.own, &machine.disk);
        for write in fresh.iter().flat_map(|batch| batch.iter()) {
            if matches!(write, Write::Vote { .. } | Write::Vertex(_)) {
                self.checks.durable(own, write, disk)?;
            }
            self.checks.entered(own, write);
        }
        Ok(())
    }

    fn send_all(&mut self, node: usize, turn: &Turn, count: usize) -> Result<(), Broken> {
        let machine = &mut self.machines[node];
        let (own, honest) = (machine.own, machine.is_honest());
        let Some(engine) = &machine.engine else { return Ok(()) };
        let mut members: Vec<NodeId> = engine.validators().ids().collect();
        if turn.opened.is_some() || self.scenario.lax_senders {
            // What the old epoch's last turn says is for its members, too.
            members.extend(self.machines.iter().filter(|m| m.engine.is_some()).map(|m| m.own));
            members.sort_unstable();
            members.dedup();
        }
        if let Some(attacker) = &mut self.machines[node].attacker {
            attacker.begin_turn(&mut self.rng);
            if attacker.does(Strategy::PushRecords) {
                self.push_records(node)?;
            }
        }
        for (to, message) in turn.sends.iter().take(count) {
            if honest {
                self.checks.sent(own, message, &self.machines[node].disk)?;
                if matches!(message, Message::Vertex(_)) && encode(message).len() > MAX_FRAME {
                    return Err(format!(
                        "bounds: node {own} sent a frame beyond {MAX_FRAME} bytes"
                    ));
                }
            }
            if let Message::PrePrepare { proposal, vote } = message {
                if honest {
                    let lost = self.machines.iter().filter(|m| m.next_key > 1).count();
                    let holders = |author, tip| {
                        lost + self
                            .machines
                            .iter()
                            .filter(|m| m.disk.holds_tip(author, tip))
                            .count()
                    };
                    self.checks.is_backed(own, proposal, &vote.ballot, holders)?;
                }
                self.timeline.proposed.entry(proposal.sequence).or_insert(self.now);
            }
            match to {
                Recipient::One(peer) => self.send_to(node, *peer, message)?,
                Recipient::All => members
                    .iter()
                    .filter(|peer| **peer != own)
                    .try_for_each(|peer| self.send_to(node, *peer, message))?,
            }
        }
        Ok(())
    }

    /// One record to each honest member that is behind.
    fn push_records(&mut self, node: usize) -> Result<(), Broken> {
        for to in 0..self.machines.len() {
            let behind = self.machines[to].engine.as_ref().filter(|_| to != node);
            let record = behind
                .map(|engine| engine.executed().next())
                .and_then(|next| self.machines[node].disk.single_record(next));
            if let Some(record) = record {
                self.send(node, to, record)?;
            }
        }
        Ok(())
    }

    /// To every machine that runs with this id.
    fn send_to(&mut self, from: usize, to: NodeId, message: &Message) -> Result<(), Broken> {
        for index in 0..self.machines.len() {
            if self.machines[index].own == to && index != from {
                self.send(from, index, message.clone())?;
            }
        }
        Ok(())
    }

    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) -> Result<(), Broken> {
        let recipient = self.machines[to].own;
        let machine = &mut self.machines[from];
        if let Message::Records { .. } = &message
            && machine.is_honest()
        {
            self.checks.sent(machine.own, &message, &machine.disk)?;
        }
        let (keys, wall_ms) =
            (machine.attacker.as_ref().map(|_| machine.signers()), machine.now(self.now).wall_ms);
        let messages = match (&mut machine.attacker, &machine.engine, keys) {
            (Some(attacker), Some(engine), Some(keys)) => {
                let validators = Arc::clone(engine.validators());
                let situation = Situation {
                    validators: &validators,
                    keys: &keys,
                    executed: engine.executed(),
                    wall_ms,
                    view: engine.view(),
                    chain_ms: engine.time_ms(),
                    now: self.now,
                };
                attacker.tamper(&mut self.rng, &mut self.collusion, &situation, recipient, message)
            }
            _ => vec![(0, message)],
        };
        let life = self.machines[to].life;
        for (late, message) in messages {
            self.checks.names(&message);
            let delays = self.network.delays(&mut self.rng, (from, to), &message);
            if let Some(trace) = &mut self.trace {
                let arrives = delays.first().map(|delay| self.now + late + delay);
                trace.add(Entry::Sent { at: self.now, from, to, kind: kind(&message), arrives });
            }
            let message = Arc::new(message);
            let era = self.network.era((from, to));
            for delay in delays {
                let at = self.now + late + delay;
                self.schedule(
                    at,
                    Event::Deliver { from, to, life, era, message: Arc::clone(&message) },
                );
            }
        }
        Ok(())
    }
}
