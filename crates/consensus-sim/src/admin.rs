//! The admin: holds the key that signs reconfigurations, prepares the machines for them, and orders
//! one after the other. An order that came too late is made anew for the next epoch.

use crate::{
    crypto::{SimKey, admin_key, member_key, member_name},
    scenario::Change,
};
use cretoai_types::{
    Change as Step, Epoch, Hash, NodeId, Parameters, Ready, Reconfig, Sequence, SignedReconfig,
    Signer, Validators,
};
use std::collections::VecDeque;

/// An order that is on its way.
#[derive(Clone, Debug)]
pub struct Issued {
    /// What.
    pub change: Change,
    /// As it is submitted.
    pub order: SignedReconfig,
}

/// The holder of the admin key.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What is still to be ordered.
    pub plan: VecDeque<Change>,
    /// What is ordered and not executed yet.
    pub issued: Option<Issued>,
    generation: u32,
}

impl Admin {
    /// With a plan.
    #[must_use]
    pub fn new(changes: &[Change]) -> Self {
        Self { plan: changes.iter().copied().collect(), issued: None, generation: 0 }
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.plan.is_empty() && self.issued.is_none()
    }

    /// A volume was lost: its validator gets a new key before anything else happens.
    pub fn replace(&mut self, node: NodeId) {
        let change = Change::Replace(node);
        let ordered = self.issued.as_ref().is_some_and(|issued| issued.change == change);
        if !ordered && !self.plan.contains(&change) {
            self.plan.push_front(change);
        }
    }

    fn key(&self) -> SimKey {
        admin_key(self.generation)
    }

    /// Looks at the newest validators: whether what was ordered is executed. Gives back what was.
    pub fn observe(&mut self, validators: &Validators) -> Option<Change> {
        let issued = self.issued.as_ref()?;
        if issued.order.reconfig.epoch >= validators.epoch {
            return None;
        }
        let issued = self.issued.take()?;
        if !is_done(&issued.order.reconfig.change, validators) {
            // Another one ended that epoch.
            self.plan.push_front(issued.change);
            return None;
        }
        if issued.change == Change::RotateAdmin {
            self.generation += 1;
        }
        Some(issued.change)
    }

    /// An order that can never be executed any more is made anew.
    pub fn expire(&mut self, chain_time_ms: u64) {
        if let Some(issued) =
            self.issued.take_if(|issued| issued.order.reconfig.valid_until_ms < chain_time_ms)
        {
            self.plan.push_front(issued.change);
        }
    }

    /// Signs an order for an epoch.
    pub fn issue(
        &mut self,
        change: Change,
        step: Step,
        sign: &Signing,
        chain_id: Hash,
        epoch: Epoch,
        time_ms: u64,
    ) {
        let reconfig =
            Reconfig { epoch, valid_until_ms: time_ms + 60_000, change: step, ready: sign.ready };
        let message = reconfig.signing_message(chain_id);
        let new_key = sign.new.as_ref().map(|key| key.sign(&reconfig.possession_message(chain_id)));
        let order = SignedReconfig {
            admin: self.key().sign(&message),
            new_key,
            old_key: sign.old.as_ref().map(|key| key.sign(&message)),
            reconfig,
        };
        self.issued = Some(Issued { change, order });
    }

    /// The next admin key.
    #[must_use]
    pub fn next_key(&self) -> SimKey {
        admin_key(self.generation + 1)
    }
}

/// Whose signatures an order needs beside the admin's.
#[derive(Default)]
pub struct Signing {
    /// The new key's.
    pub new: Option<SimKey>,
    /// The old key's.
    pub old: Option<SimKey>,
    /// What the new key's node knows.
    pub ready: Option<Ready>,
}

fn is_done(step: &Step, validators: &Validators) -> bool {
    match step {
        Step::Add { key, .. } | Step::Rotate { key, .. } | Step::Replace { key, .. } => {
            validators.by_key(key).is_some()
        }
        Step::Remove { id } => validators.member(*id).is_none(),
        Step::RotateAdmin { key } => validators.admin_key == *key,
        Step::SetParameters(parameters) => validators.parameters == *parameters,
    }
}

/// What a change is on the chain, for a machine with this next key.
#[must_use]
pub fn step_of(
    change: Change,
    validators: &Validators,
    leader: NodeId,
    admin: &Admin,
    next_generation: u32,
) -> Step {
    let key = |node: NodeId| member_key(node.0 as usize, next_generation).public_key().clone();
    match change {
        Change::Add => Step::Add {
            name: member_name(validators.next_id.0 as usize),
            key: member_key(validators.next_id.0 as usize, 0).public_key().clone(),
        },
        Change::Remove(id) => Step::Remove { id },
        Change::RemoveLeader => Step::Remove { id: leader },
        Change::Rotate(id) => Step::Rotate { id, key: key(id) },
        Change::Replace(id) => Step::Replace { id, key: key(id) },
        Change::RotateAdmin => Step::RotateAdmin { key: admin.next_key().public_key().clone() },
        Change::SetParameters => {
            let old = validators.parameters;
            let checkpoint_interval = if old.checkpoint_interval == 8 { 4 } else { 8 };
            Step::SetParameters(Parameters {
                checkpoint_interval,
                window: checkpoint_interval * 4,
                ..old
            })
        }
    }
}

/// The newest sequence that READY may name.
#[must_use]
pub const fn ready_sequence(executed: Sequence) -> Sequence {
    Sequence(executed.0 / 64 * 64)
}
