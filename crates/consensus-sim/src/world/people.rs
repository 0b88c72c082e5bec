//! Clients, who submit again until they have an answer, and the admin.

use super::{Broken, Client, Event, World};
use crate::{
    admin::{Signing, ready_sequence, step_of},
    crypto::member_key,
    machine::BEGINNING_MS,
    scenario::Change,
};
use cretoai_consensus::engine::{Execution, Input, Role};
use cretoai_types::{Hash, NodeId, Outcome, Payload, Ready, Sequence, Signer, Topic, Validators};
use std::{collections::HashMap, sync::Arc};

/// After so long, in microseconds, a client submits the same bytes again.
const CLIENT_RETRY: u64 = 300_000;
/// How often the admin looks, in microseconds.
const ADMIN_LOOKS: u64 = 40_000;
/// How far behind a learner may be to be called ready.
const NEARLY: u64 = 16;

impl World {
    pub(super) fn plan_clients(&mut self) {
        let trouble = self.scenario.trouble;
        for _ in 0..self.scenario.payloads {
            let at = self.rng.below(trouble.max(1));
            let big = self.scenario.payload_bytes > 100 && self.rng.chance(20);
            let len = if big {
                self.rng.range(20_000, 128 * 1024)
            } else {
                self.rng.range(1, self.scenario.payload_bytes)
            };
            let kind = self.rng.below(20);
            let mut key = [0; 16];
            key[..8].copy_from_slice(&self.rng.next().to_le_bytes());
            let topic = if kind.is_multiple_of(3) { Topic::new("orders").ok() } else { None };
            // Expired already, too early for a while, or a usual half minute.
            let valid = BEGINNING_MS
                + at / 1000
                + [0, 60_700].get(kind as usize).copied().unwrap_or(30_000);
            self.submit_at(
                at,
                Payload { key, valid_until_ms: valid, topic, data: vec![key[0]; len as usize] },
            );
        }
    }

    /// Has a client submit something from a time on.
    pub fn submit_at(&mut self, at: u64, payload: Payload) {
        let id = payload.id(self.genesis.chain_id());
        self.clients.push(Client { payload, id, submitted: None, settled: false });
        self.schedule(at, Event::Submit(self.clients.len() - 1));
    }

    pub(super) fn submit(&mut self, client: usize) -> Result<(), Broken> {
        let Client { payload, settled, submitted, .. } = &self.clients[client];
        // What expired before it took effect never will.
        if *settled || (submitted.is_some() && self.checks.time_ms() > payload.valid_until_ms) {
            self.settle(client);
            return Ok(());
        }
        if self.now < self.idle_until && submitted.is_none() && !self.calm {
            self.schedule(self.idle_until, Event::Submit(client));
            return Ok(());
        }
        let payload = payload.clone();
        self.clients[client].submitted.get_or_insert(self.now);
        let again = self.now + CLIENT_RETRY;
        self.schedule(again, Event::Submit(client));
        let copies = 1 + u64::from(self.rng.chance(150));
        for _ in 0..copies {
            let node = self.some_member();
            self.input(node, Input::Submit(payload.clone()))?;
        }
        Ok(())
    }

    /// Submits at a chosen node, for tests of delays.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn submit_now(&mut self, node: usize, payload: Payload) -> Result<(), Broken> {
        self.input(node, Input::Submit(payload))
    }

    /// Has a node hand over the lead.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn resign(&mut self, node: usize) -> Result<(), Broken> {
        self.input(node, Input::Resign)
    }

    fn some_member(&mut self) -> usize {
        let members = self.members();
        let running: Vec<usize> = members
            .iter()
            .map(|id| self.machine_of(*id))
            .filter(|m| self.machines[*m].engine.is_some())
            .collect();
        if running.is_empty() { 0 } else { running[self.rng.index(running.len())] }
    }

    pub(super) fn answer_clients(&mut self, execution: &Execution) {
        if self.clients.iter().all(|client| client.settled) {
            return;
        }
        let outcomes = execution
            .vertices
            .iter()
            .flat_map(|(v, outcomes)| v.payloads().map(|(id, _)| id).zip(outcomes));
        let answered: HashMap<Hash, Outcome> =
            outcomes.map(|(id, outcome)| (id, *outcome)).collect();
        for client in 0..self.clients.len() {
            if answered.get(&self.clients[client].id).is_some_and(|outcome| outcome.is_final()) {
                self.settle(client);
            }
        }
    }

    fn settle(&mut self, client: usize) {
        let client = &mut self.clients[client];
        if !std::mem::replace(&mut client.settled, true)
            && let Some(submitted) = client.submitted
        {
            let waited = self.now.saturating_sub(submitted);
            self.report.slowest_answer = self.report.slowest_answer.max(waited);
        }
    }

    // ---- the admin

    pub(super) fn administer(&mut self) -> Result<(), Broken> {
        self.schedule(self.now + ADMIN_LOOKS, Event::Admin);
        let Some(validators) = self.checks.validators().cloned() else { return Ok(()) };
        self.notice_useless_volumes(&validators)?;
        if let Some(done) = self.admin.observe(&validators) {
            self.note(|| format!("the admin's {done:?} is executed: epoch {}", validators.epoch));
            if let Change::Replace(node) = done {
                self.checks.suspect(node, Some(validators.epoch));
            }
        }
        self.admin.expire(self.checks.time_ms());
        self.switch_off_removed(&validators);
        if let Some(issued) = &self.admin.issued {
            let order = Box::new(issued.order.clone());
            if self.rng.chance(300) {
                let node = self.some_member();
                return self.input(node, Input::Reconfigure(order));
            }
            return Ok(());
        }
        let Some(change) = self.admin.plan.front().copied() else { return Ok(()) };
        self.order(change, &validators)
    }

    /// Issues the next change, once the machines that it needs are ready; drops it when it has
    /// become pointless.
    fn order(&mut self, change: Change, validators: &Arc<Validators>) -> Result<(), Broken> {
        let machine = match change {
            Change::Add => Some(validators.next_id),
            Change::Rotate(id) | Change::Replace(id) | Change::Remove(id) => Some(id),
            Change::RemoveLeader | Change::RotateAdmin | Change::SetParameters => None,
        };
        let index = machine.and_then(|id| self.machines.iter().position(|m| m.own == id));
        let member = machine.and_then(|id| validators.member(id));
        let pointless = match change {
            Change::Add => index.is_none(),
            Change::Rotate(_) => index.is_none_or(|i| self.machines[i].suspect) || member.is_none(),
            Change::Replace(_) | Change::Remove(_) => member.is_none(),
            Change::RemoveLeader | Change::RotateAdmin | Change::SetParameters => false,
        };
        if pointless {
            self.admin.plan.pop_front();
            return Ok(());
        }
        let mut signing = Signing::default();
        let mut generation = 0;
        if let Some(index) = index {
            let Some(ready) = self.prepare(change, index, validators)? else { return Ok(()) };
            let machine = &self.machines[index];
            generation = machine.keys.last().copied().unwrap_or(0);
            let own = machine.own.0 as usize;
            match change {
                Change::Add | Change::Replace(_) => {
                    (signing.new, signing.ready) = (Some(member_key(own, generation)), Some(ready));
                }
                Change::Rotate(_) => {
                    signing.new = Some(member_key(own, generation));
                    let old = machine
                        .signers()
                        .into_iter()
                        .find(|key| member.is_some_and(|m| m.key == *key.public_key()));
                    signing.old = old;
                }
                _ => {}
            }
        }
        if change == Change::RotateAdmin {
            signing.new = Some(self.admin.next_key());
        }
        let step = step_of(change, validators, self.leader(), &self.admin, generation);
        let time_ms = self.checks.time_ms().max(BEGINNING_MS + self.now / 1000);
        self.admin.plan.pop_front();
        self.admin.issue(
            change,
            step,
            &signing,
            self.genesis.chain_id(),
            validators.epoch,
            time_ms,
        );
        self.note(|| format!("the admin orders {change:?}"));
        Ok(())
    }

    /// Brings a machine to where a change can be ordered. What its new key may say that it knows,
    /// once it is there.
    fn prepare(
        &mut self,
        change: Change,
        index: usize,
        validators: &Validators,
    ) -> Result<Option<Ready>, Broken> {
        match change {
            Change::Add if self.machines[index].off => {
                self.machines[index].off = false;
                self.start(index)?;
            }
            Change::Rotate(id) if self.has_no_next_key(index, id, validators) => {
                let machine = &mut self.machines[index];
                // The key before is of no use any more.
                let current = machine.keys.pop();
                machine.keys = current.into_iter().chain([machine.next_key]).collect();
                machine.next_key += 1;
                self.restart(index)?;
                return Ok(None);
            }
            _ => {}
        }
        let machine = &self.machines[index];
        let Some(engine) = &machine.engine else { return Ok(None) };
        let joins = matches!(change, Change::Add | Change::Replace(_));
        let near = engine.executed().0 + NEARLY >= self.checks.length().0
            && engine.epoch() == validators.epoch;
        if joins && !near {
            return Ok(None);
        }
        let sequence = ready_sequence(engine.executed());
        let known = if sequence == Sequence(0) {
            Some(self.genesis.chain_id())
        } else {
            machine.disk.chain_hash(sequence)
        };
        Ok(known.map(|chain_hash| Ready { sequence, chain_hash }))
    }

    fn has_no_next_key(&self, index: usize, id: NodeId, validators: &Validators) -> bool {
        let newest = self.machines[index].signers().pop();
        validators
            .member(id)
            .is_some_and(|member| newest.is_none_or(|newest| *newest.public_key() == member.key))
    }

    /// A member whose volume is an older copy, or whose key is gone, is of no use: it starts anew.
    fn notice_useless_volumes(&mut self, validators: &Validators) -> Result<(), Broken> {
        for index in 0..self.machines.len() {
            let machine = &self.machines[index];
            let (Some(engine), Some(member)) = (&machine.engine, validators.member(machine.own))
            else {
                continue;
            };
            if machine.attacker.is_some() {
                continue;
            }
            let stale = engine.role() == Role::Stale;
            let keyless = machine.suspect
                && machine.signers().iter().all(|key| *key.public_key() != member.key);
            if stale || keyless {
                self.lose_volume(index)?;
            }
        }
        Ok(())
    }

    /// A removed pod goes only after the new epoch works everywhere.
    fn switch_off_removed(&mut self, validators: &Validators) {
        let works = self
            .honest_members()
            .all(|m| m.engine.as_ref().is_some_and(|e| e.epoch() == validators.epoch));
        let removed = |id: NodeId| id < validators.next_id && validators.member(id).is_none();
        for index in 0..self.machines.len() {
            let at_last = self.calm || self.rng.chance(50);
            if works && at_last && removed(self.machines[index].own) && !self.machines[index].off {
                self.machines[index].off = true;
                self.stop(index, false);
            }
        }
    }
}
