//! The judgement of orders that change the validators: whether an order is valid, and which
//! validators follow from it.

use super::ChainState;
use crate::{
    crypto::Verifier,
    hash::Hash,
    ids::NodeId,
    payload::VALIDITY_WINDOW_MS,
    quorum::{FaultModel, MAX_MEMBERS},
    reconfig::{Change, Reconfig, SignedReconfig, Void},
    validators::{MAX_NAME, Member, Validators},
};

impl ChainState {
    /// The validators of the next epoch, if the order is valid in a decision at `time_ms` in this
    /// epoch and state.
    ///
    /// # Errors
    /// Why the order is void.
    pub fn judge_reconfig(
        &self,
        order: &SignedReconfig,
        chain_id: Hash,
        validators: &Validators,
        time_ms: u64,
        verifier: &dyn Verifier,
    ) -> Result<Validators, Void> {
        let Reconfig { epoch, valid_until_ms, change, ready } = &order.reconfig;
        if *epoch != validators.epoch
            || time_ms > *valid_until_ms
            || *valid_until_ms > time_ms.saturating_add(VALIDITY_WINDOW_MS)
        {
            return Err(Void::Late);
        }
        if let Some(key) = change.new_key() {
            if self.used_key(key) {
                return Err(Void::KeyUsed);
            }
            let message = order.reconfig.possession_message(chain_id);
            if !order
                .new_key
                .as_ref()
                .is_some_and(|signature| verifier.verify(key, &message, signature))
            {
                return Err(Void::Signature);
            }
        }
        let message = order.reconfig.signing_message(chain_id);
        if !verifier.verify(&validators.admin_key, &message, &order.admin) {
            return Err(Void::Signature);
        }
        if matches!(change, Change::Add { .. } | Change::Replace { .. })
            && !ready.is_some_and(|ready| self.knows(ready.sequence, ready.chain_hash))
        {
            return Err(Void::Ready);
        }
        let mut next = validators.clone();
        next.epoch = validators.epoch.next();
        let position = |id: NodeId| validators.position(id).ok_or(Void::Member);
        match change {
            Change::Add { name, key } => {
                if name.is_empty()
                    || name.len() > MAX_NAME
                    || validators.members.iter().any(|member| member.name == *name)
                {
                    return Err(Void::Member);
                }
                let member = Member {
                    id: validators.next_id,
                    name: name.clone(),
                    key: key.clone(),
                    since: next.epoch,
                };
                next.members.push(member);
                next.next_id = validators.next_id.next();
            }
            Change::Remove { id } => {
                next.members.remove(position(*id)?);
            }
            Change::Rotate { id, key } => {
                let position = position(*id)?;
                let member = next.members.get_mut(position).ok_or(Void::Member)?;
                if !order
                    .old_key
                    .as_ref()
                    .is_some_and(|signature| verifier.verify(&member.key, &message, signature))
                {
                    return Err(Void::Signature);
                }
                member.key = key.clone();
            }
            Change::Replace { id, key } => {
                let (position, since) = (position(*id)?, next.epoch);
                let member = next.members.get_mut(position).ok_or(Void::Member)?;
                member.key = key.clone();
                member.since = since;
            }
            Change::RotateAdmin { key } => next.admin_key = key.clone(),
            Change::SetParameters(parameters) if parameters.are_sound() => {
                next.parameters = *parameters
            }
            Change::SetParameters(_) => return Err(Void::Parameters),
        }
        let n = next.members.len();
        // Two validators exist only as a step between one and three.
        let fits =
            (1..=MAX_MEMBERS).contains(&n) && (next.fault_model != FaultModel::Crash || n <= 3);
        if !fits {
            return Err(Void::Count);
        }
        // The leader of the old epoch's last origin view goes on leading if it is still a member.
        let last = validators.leader(self.leaders.newest_origin);
        next.first = next.position(last).unwrap_or(0) as u32;
        Ok(next)
    }
}
