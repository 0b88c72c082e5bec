//! The state that follows from the chain alone: tips, reputation, bans, statistics of leaders, and
//! the facts that reconfigurations rest on. Only the execution of a record changes it, so it is
//! equal on all honest nodes after the same sequence.

mod reconfig;

use crate::{
    crypto::{PublicKey, Verifier},
    evidence::{Evidence, Offence},
    genesis::Genesis,
    hash::{Hash, TaggedHasher},
    ids::{Epoch, NodeId, Sequence, View},
    item::{Item, MAX_ITEMS},
    tip::Tip,
    validators::Validators,
    vertex::CheckedVertex,
};
use borsh::{BorshDeserialize, BorshSerialize};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// A READY names a multiple of this sequence number.
const READY_INTERVAL: u64 = 64;
/// The number of chain hashes that are kept for READY.
const READY_KEPT: usize = 64;
/// The reputation of a validator without an offence.
pub const FULL_REPUTATION: u32 = 10;
/// A validator with this reputation or less is banned.
const BANNED_AT: u32 = 2;
/// In one rotation of this many only banned validators are skipped, so that a validator that came
/// back leads again.
const SKIP_ROTATIONS: u64 = 8;
/// The most offences of one validator that are kept, so that each counts once. It is more than lead
/// to a ban.
const OFFENCES_KEPT: usize = 16;

/// The offences of a validator.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Conduct {
    /// The validator.
    pub id: NodeId,
    /// The offences that counted, each once.
    pub offences: Vec<Offence>,
}

impl Conduct {
    /// [`FULL_REPUTATION`] less one for each offence.
    #[must_use]
    pub fn reputation(&self) -> u32 {
        FULL_REPUTATION.saturating_sub(self.offences.len() as u32)
    }
}

/// Statistics of the leaders of an epoch: which views gave a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Leaders {
    /// The origin view of the newest record of the epoch.
    pub newest_origin: View,
    /// For each position, the newest view in which that member led and that gave a record.
    pub succeeded: Vec<Option<View>>,
}

/// The state after a sequence.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ChainState {
    /// The epoch that the next sequence belongs to, unless this one ended it.
    pub epoch: Epoch,
    /// The newest executed sequence.
    pub sequence: Sequence,
    /// The chain hash after it.
    pub chain_hash: Hash,
    /// The time of that sequence in Unix milliseconds.
    pub time_ms: u64,
    /// The decided tip of each lane.
    pub tips: Vec<Tip>,
    /// Chain hashes that READY may name, oldest first.
    pub known: VecDeque<(Sequence, Hash)>,
    /// The conduct of each member.
    pub conduct: Vec<Conduct>,
    /// The banned validators, in the order of their bans.
    pub bans: Vec<NodeId>,
    /// The statistics of the epoch's leaders.
    pub leaders: Leaders,
    /// The fingerprints of all keys that ever were in use.
    pub keys: BTreeSet<Hash>,
    /// The hash of the next epoch's validators, if the epoch ended with this sequence.
    pub successor: Option<Hash>,
}

/// The result of executing the system items of a sequence.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// The evidence that counted, in the order of execution.
    pub counted: Vec<(Offence, Evidence)>,
    /// The validators of the next epoch, if this sequence ended the epoch.
    pub successor: Option<Arc<Validators>>,
}

impl ChainState {
    /// The state before the first decision.
    #[must_use]
    pub fn at_genesis(genesis: &Genesis) -> Self {
        let members = genesis.members();
        let chain_id = genesis.chain_id();
        Self {
            epoch: Epoch(0),
            sequence: Sequence(0),
            chain_hash: chain_id,
            time_ms: genesis.created_ms,
            tips: vec![Tip::default(); members.len()],
            known: VecDeque::from([(Sequence(0), chain_id)]),
            conduct: members.iter().map(|m| Conduct { id: m.id, offences: Vec::new() }).collect(),
            bans: Vec::new(),
            leaders: Leaders { newest_origin: View(0), succeeded: vec![None; members.len()] },
            keys: members
                .iter()
                .map(|m| m.key.fingerprint())
                .chain([genesis.admin_key.fingerprint()])
                .collect(),
            successor: None,
        }
    }

    /// The hash of this state and of the validators. It is equal on all honest nodes after the same
    /// sequence.
    #[must_use]
    pub fn root(&self, validators: &Validators) -> Hash {
        TaggedHasher::new("creto state v1").with(self).with(&validators.hash()).finish()
    }

    /// Whether a key is or was a validator's or an admin's.
    #[must_use]
    pub fn used_key(&self, key: &PublicKey) -> bool {
        self.keys.contains(&key.fingerprint())
    }

    /// Whether a READY may name this sequence with this chain hash.
    #[must_use]
    pub fn knows(&self, sequence: Sequence, chain_hash: Hash) -> bool {
        self.known.contains(&(sequence, chain_hash))
    }

    /// The reputation of a validator, 0 to 10.
    #[must_use]
    pub fn reputation(&self, id: NodeId) -> u32 {
        self.conduct
            .iter()
            .find(|conduct| conduct.id == id)
            .map_or(FULL_REPUTATION, Conduct::reputation)
    }

    /// The banned validators that are treated as such: the first max(1, f), and none in a chain of
    /// fewer than three. A banned validator stays a voter, so that a ban never costs a quorum.
    pub fn banned<'a>(
        &'a self,
        validators: &Validators,
    ) -> impl Iterator<Item = NodeId> + Clone + 'a {
        let most = if validators.members.len() < 3 { 0 } else { validators.quorum().f.max(1) };
        self.bans.iter().copied().take(most)
    }

    /// The validators whose views no node wants: the banned ones, then those whose last two views
    /// below the origin of the newest record gave no record, the most recent failure first; at most
    /// f in all. In one rotation of eight only the banned ones are skipped.
    #[must_use]
    pub fn skipped(&self, validators: &Validators) -> BTreeSet<NodeId> {
        let n = validators.members.len() as u64;
        let most = validators.quorum().f;
        let mut failed: Vec<(u64, NodeId)> = Vec::new();
        let forgiving =
            n > 0 && (self.leaders.newest_origin.0 / n) % SKIP_ROTATIONS == SKIP_ROTATIONS - 1;
        let tried = if forgiving { 0 } else { validators.members.len() };
        for (position, (id, succeeded)) in
            (0_u64..).zip(validators.ids().zip(&self.leaders.succeeded)).take(tried)
        {
            // The views that it leads are offset, offset + n, ...
            let offset = (position + n - u64::from(validators.first) % n) % n;
            let below = self.leaders.newest_origin.0;
            let Some(last) =
                below.checked_sub(offset + 1).map(|distance| offset + distance / n * n)
            else {
                continue;
            };
            let Some(one_before) = last.checked_sub(n) else { continue };
            if succeeded.is_none_or(|view| view.0 < one_before) {
                failed.push((last, id));
            }
        }
        failed.sort_by_key(|(last, id)| (std::cmp::Reverse(*last), *id));
        self.banned(validators).chain(failed.into_iter().map(|(_, id)| id)).take(most).collect()
    }

    /// Applies a record, except for its system items and outcomes.
    pub fn executed(
        &mut self,
        validators: &Validators,
        sequence: Sequence,
        origin: View,
        chain_hash: Hash,
        time_ms: u64,
        tips: Vec<Tip>,
    ) {
        self.sequence = sequence;
        self.chain_hash = chain_hash;
        self.time_ms = time_ms;
        self.tips = tips;
        if sequence.0.is_multiple_of(READY_INTERVAL) {
            if self.known.len() >= READY_KEPT {
                self.known.pop_front();
            }
            self.known.push_back((sequence, chain_hash));
        }
        self.leaders.newest_origin = self.leaders.newest_origin.max(origin);
        let leader = validators.position(validators.leader(origin));
        if let Some(succeeded) =
            leader.and_then(|position| self.leaders.succeeded.get_mut(position))
        {
            *succeeded = (*succeeded).max(Some(origin));
        }
    }

    /// Judges the system items of an executed sequence, in the order of execution, from the state
    /// that all nodes share. An invalid item has no effect. This is called after
    /// [`Self::executed`].
    pub fn judge_items(
        &mut self,
        chain_id: Hash,
        validators: &Validators,
        previous: Option<&Validators>,
        vertices: &[Arc<CheckedVertex>],
        verifier: &dyn Verifier,
    ) -> Judged {
        let mut judged = Judged::default();
        let mut judged_of: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (author, item) in vertices.iter().flat_map(|vertex| {
            vertex.vertex().items.iter().map(|item| (vertex.header().author, item))
        }) {
            // Invalid items cost signature checks on every node, so only the first few of each
            // author are judged and its others are void.
            let count = judged_of.entry(author).or_default();
            *count += 1;
            if *count > MAX_ITEMS {
                continue;
            }
            match item {
                Item::Evidence(evidence) => {
                    if let Some(offence) =
                        self.count(chain_id, validators, previous, evidence, verifier)
                    {
                        judged.counted.push((offence, evidence.as_ref().clone()));
                    }
                }
                Item::Reconfig(order) if judged.successor.is_none() => {
                    if let Ok(next) =
                        self.judge_reconfig(order, chain_id, validators, self.time_ms, verifier)
                    {
                        judged.successor = Some(Arc::new(next));
                    }
                }
                // The first valid order ended the epoch. The sender of this one has to make a new
                // order.
                Item::Reconfig(_) => {}
            }
        }
        self.successor = judged.successor.as_ref().map(|next| next.hash());
        judged
    }

    /// The offence, if the evidence could still count: it is of this epoch or the previous one, the
    /// accused key still answers for it, and it did not count yet. Signatures are not checked here.
    /// They need not be checked where this returns nothing.
    #[must_use]
    pub fn could_count(&self, validators: &Validators, evidence: &Evidence) -> Option<Offence> {
        let offence = evidence.offence()?;
        let recent = offence.epoch == validators.epoch
            || offence.epoch.0.checked_add(1) == Some(validators.epoch.0);
        let answers =
            validators.member(offence.accused).is_some_and(|member| offence.epoch >= member.since);
        let conduct = self.conduct.iter().find(|conduct| conduct.id == offence.accused)?;
        let is_new = !conduct.offences.contains(&offence) && conduct.offences.len() < OFFENCES_KEPT;
        (recent && answers && is_new).then_some(offence)
    }

    fn count(
        &mut self,
        chain_id: Hash,
        validators: &Validators,
        previous: Option<&Validators>,
        evidence: &Evidence,
        verifier: &dyn Verifier,
    ) -> Option<Offence> {
        let offence = self.could_count(validators, evidence)?;
        let judges = [Some(validators), previous]
            .into_iter()
            .flatten()
            .find(|set| set.epoch == offence.epoch)?;
        if !evidence.is_signed(chain_id, judges, verifier) {
            return None;
        }
        let conduct = self.conduct.iter_mut().find(|conduct| conduct.id == offence.accused)?;
        conduct.offences.push(offence);
        if conduct.reputation() <= BANNED_AT && !self.bans.contains(&offence.accused) {
            self.bans.push(offence.accused);
        }
        Some(offence)
    }

    /// The state with which the next epoch begins.
    #[must_use]
    pub fn opened(&self, validators: &Validators, next: &Validators) -> Self {
        let tip = |id: NodeId| {
            validators
                .position(id)
                .and_then(|position| self.tips.get(position))
                .copied()
                .unwrap_or_default()
        };
        let stays = |member: &crate::Member| {
            validators.member(member.id).is_some_and(|old| old.since == member.since)
        };
        let conduct = |member: &crate::Member| {
            let known =
                self.conduct.iter().find(|conduct| conduct.id == member.id && stays(member));
            known.cloned().unwrap_or(Conduct { id: member.id, offences: Vec::new() })
        };
        let mut keys = self.keys.clone();
        keys.extend(next.members.iter().map(|member| member.key.fingerprint()));
        keys.insert(next.admin_key.fingerprint());
        let banned = |id: &NodeId| next.member(*id).is_some_and(stays);
        Self {
            epoch: next.epoch,
            tips: next.ids().map(tip).collect(),
            conduct: next.members.iter().map(conduct).collect(),
            bans: self.bans.iter().copied().filter(banned).collect(),
            leaders: Leaders { newest_origin: View(0), succeeded: vec![None; next.members.len()] },
            keys,
            successor: None,
            ..self.clone()
        }
    }
}
