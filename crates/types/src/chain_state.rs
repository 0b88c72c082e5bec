//! What all nodes know equally from the chain alone: tips, reputation, bans, leader statistics, and
//! what reconfigurations rest on. Executing a record changes it; nothing else does.

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

/// READY names one of the sequences that this divides.
const READY_INTERVAL: u64 = 64;
/// So many of them are kept.
const READY_KEPT: usize = 64;
/// A validator without a violation, in tenths.
pub const FULL_REPUTATION: u32 = 10;
/// At this reputation or less it is banned.
const BANNED_AT: u32 = 2;
/// In one rotation of this many nobody but the banned is skipped: who came back is tried again.
const SKIP_ROTATIONS: u64 = 8;
/// So many offences of one validator are kept, to count each once. More than lead to a ban.
const OFFENCES_KEPT: usize = 16;

/// What a validator did.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Conduct {
    /// Who.
    pub id: NodeId,
    /// Its offences, each counted once.
    pub offences: Vec<Offence>,
}

impl Conduct {
    /// 10 without a violation, one less for each.
    #[must_use]
    pub fn reputation(&self) -> u32 {
        FULL_REPUTATION.saturating_sub(self.offences.len() as u32)
    }
}

/// Who led with success in this epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Leaders {
    /// The origin view of the newest record of the epoch.
    pub newest_origin: View,
    /// Of each position the newest view that gave a record.
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
    /// Its time, Unix milliseconds.
    pub time_ms: u64,
    /// The decided tip of each lane.
    pub tips: Vec<Tip>,
    /// Chain hashes that READY may name, oldest first.
    pub known: VecDeque<(Sequence, Hash)>,
    /// Conduct of each member.
    pub conduct: Vec<Conduct>,
    /// Who is banned, in the order in which it happened.
    pub bans: Vec<NodeId>,
    /// Leader statistics of the epoch.
    pub leaders: Leaders,
    /// Short hashes of all keys that ever were in use.
    pub keys: BTreeSet<Hash>,
    /// Whether the epoch ended with this sequence; then its successor's hash.
    pub successor: Option<Hash>,
}

/// What executing a sequence's system items led to.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// Evidence that counted, in its order.
    pub counted: Vec<(Offence, Evidence)>,
    /// The validators of the next epoch, if this sequence ended its own.
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

    /// The hash of all of it and of the validators: equal on all nodes after the same sequence.
    #[must_use]
    pub fn root(&self, validators: &Validators) -> Hash {
        TaggedHasher::new("creto state v1").with(self).with(&validators.hash()).finish()
    }

    /// Whether a key is or was a validator's or an admin's.
    #[must_use]
    pub fn used_key(&self, key: &PublicKey) -> bool {
        self.keys.contains(&key.fingerprint())
    }

    /// Whether READY may name this.
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

    /// Who is banned: the first max(1, f) that violations took there, nobody below three
    /// validators. A banned one stays a voter, so that a ban never costs a quorum.
    pub fn banned<'a>(
        &'a self,
        validators: &Validators,
    ) -> impl Iterator<Item = NodeId> + Clone + 'a {
        let most = if validators.members.len() < 3 { 0 } else { validators.quorum().f.max(1) };
        self.bans.iter().copied().take(most)
    }

    /// Whose views nobody wants: the banned, and those whose last two views below the newest
    /// record's origin gave none; at most f, the banned first, then the most recent. Now and then
    /// the failed are tried again.
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

    /// Takes in what a record decided beside its system items.
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

    /// Judges the system items of an executed sequence, in its order. They are judged here, from
    /// the state that all share, and never on arrival; a bad one has no effect. Called after
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
            // Bad items cost signature checks on every node: a few of each author, and its others
            // are void here.
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
                // The first valid one ended the epoch; its sender looks again.
                Item::Reconfig(_) => {}
            }
        }
        self.successor = judged.successor.as_ref().map(|next| next.hash());
        judged
    }

    /// Whether evidence could still count: of this epoch or the one before, of a key that still
    /// answers, not counted yet. Signatures are not looked at, and not worth it where this says no.
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
