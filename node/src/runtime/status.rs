//! What a node says of itself.

use crate::{sync::unix_ms, version::VERSION};
use cretoai_consensus::{
    Status,
    engine::{self, Engine, Sizes},
};
use cretoai_control::api::{
    MemberStatus, NodeStatus, PeerStatus, QuorumStatus, RecentRecord, Role,
};
use cretoai_types::{Epoch, Hash, NodeId, PublicKey, Quorum, Sequence, Validators, View};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

/// How many of the newest records' chain hashes a status carries.
pub(super) const RECENT: u64 = 64;

/// A member that was not heard for so long does not participate.
const HEARD_WITHIN_MS: u64 = 1_000;

/// A clock further than this from the median of the others' raises an alarm: at twice as much,
/// proposals wait.
const CLOCK_ALARM_MS: u64 = 500;

/// And from here on it is good again.
const CLOCK_GOOD_MS: u64 = 400;

/// A clock this far off makes what clients submit here early or expired.
const CLOCK_UNUSABLE_MS: u64 = 5_000;

/// How far behind the others a ready node may be.
const CAUGHT_UP: u64 = 64;

/// How many finality times the 99th percentile is taken of.
const MEASURED: usize = 1024;

/// What stays the same while the node runs.
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) key: PublicKey,
    pub(super) chain_id: Hash,
}

/// What a member said last.
#[derive(Clone, Copy)]
struct Heard {
    executed: Sequence,
    /// Whether it may sign: a stale or checking member decides nothing.
    signs: bool,
    at: Instant,
    /// This node's clock less the member's, when it was heard.
    clock_offset_ms: i64,
}

/// A member's conduct, as the chain knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemberRecord {
    pub(super) id: NodeId,
    pub(super) reputation: u32,
    pub(super) banned: bool,
}

/// What the engine's thread left after its newest turn.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) validators: Arc<Validators>,
    /// This node's id in them.
    pub(super) own: Option<NodeId>,
    pub(super) role: engine::Role,
    pub(super) view: View,
    pub(super) active: bool,
    pub(super) want: View,
    pub(super) leader: NodeId,
    pub(super) sequence: Sequence,
    pub(super) chain_hash: Hash,
    pub(super) time_ms: u64,
    pub(super) stable: Sequence,
    pub(super) member_records: Vec<MemberRecord>,
    pub(super) recent: VecDeque<(Sequence, Hash)>,
    pub(super) sizes: Sizes,
    peers: BTreeMap<NodeId, Heard>,
    clock_is_off: bool,
    finality_ms: VecDeque<f64>,
}

/// The conduct of every member after the newest decision.
fn member_records(engine: &Engine) -> Vec<MemberRecord> {
    let (state, validators) = (engine.state(), engine.validators());
    let banned: Vec<NodeId> = state.banned(validators).collect();
    validators
        .ids()
        .map(|id| MemberRecord {
            id,
            reputation: state.reputation(id),
            banned: banned.contains(&id),
        })
        .collect()
}

impl Snapshot {
    pub(super) fn of(engine: &Engine, key: &PublicKey) -> Self {
        let validators = Arc::clone(engine.validators());
        Self {
            own: validators.by_key(key).map(|member| member.id),
            role: engine.role(),
            view: engine.view(),
            active: engine.is_active(),
            want: engine.want(),
            leader: engine.leader(),
            sequence: engine.executed(),
            chain_hash: engine.chain_hash(),
            time_ms: engine.time_ms(),
            stable: engine.stable(),
            member_records: member_records(engine),
            recent: VecDeque::new(),
            sizes: engine.sizes(),
            peers: BTreeMap::new(),
            clock_is_off: false,
            finality_ms: VecDeque::new(),
            validators,
        }
    }

    /// Takes over what a turn changed. Says whether what the chain knows of the members changed.
    pub(super) fn take(&mut self, engine: &Engine, key: &PublicKey) -> bool {
        let mut judged = false;
        if self.sequence != engine.executed() || self.validators.epoch != engine.epoch() {
            let member_records = member_records(engine);
            judged = member_records != self.member_records;
            self.member_records = member_records;
        }
        if self.validators.epoch != engine.epoch() {
            self.validators = Arc::clone(engine.validators());
            self.own = self.validators.by_key(key).map(|member| member.id);
            let validators = &self.validators;
            self.peers.retain(|id, _| validators.position(*id).is_some());
        }
        if engine.is_active() && !self.active {
            tracing::info!(
                view = engine.view().0,
                executed = engine.executed().0,
                "the view begins"
            );
        }
        self.role = engine.role();
        self.view = engine.view();
        self.active = engine.is_active();
        self.want = engine.want();
        self.leader = engine.leader();
        self.sequence = engine.executed();
        self.chain_hash = engine.chain_hash();
        self.time_ms = engine.time_ms();
        self.stable = engine.stable();
        self.sizes = engine.sizes();
        judged
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.validators.epoch
    }

    pub(super) fn executed(&mut self, sequence: Sequence, chain_hash: Hash) {
        self.recent.push_back((sequence, chain_hash));
        while self.recent.len() as u64 > RECENT {
            self.recent.pop_front();
        }
    }

    pub(super) fn measured(&mut self, finality_ms: f64) {
        self.finality_ms.push_back(finality_ms);
        if self.finality_ms.len() > MEASURED {
            self.finality_ms.pop_front();
        }
    }

    /// Notes a member's heartbeat.
    pub(super) fn heard(&mut self, from: NodeId, status: &Status) {
        if self.validators.position(from).is_some() {
            let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
            let clock_offset_ms = signed(unix_ms()).saturating_sub(signed(status.clock_ms));
            self.peers.insert(
                from,
                Heard {
                    executed: status.executed,
                    signs: status.signs,
                    at: Instant::now(),
                    clock_offset_ms,
                },
            );
        }
    }

    /// [`Self::clock_offset_ms`], and an alarm when it becomes large.
    pub(super) fn watch_clock(&mut self) -> Option<i64> {
        let offset_ms = self.clock_offset_ms()?;
        let bound = if self.clock_is_off { CLOCK_GOOD_MS } else { CLOCK_ALARM_MS };
        let is_off = offset_ms.unsigned_abs() > bound;
        if is_off != self.clock_is_off {
            self.clock_is_off = is_off;
            if is_off {
                tracing::warn!(
                    offset_ms,
                    "this machine's clock is not that of the other validators; set it by NTP"
                );
            } else {
                tracing::info!(
                    offset_ms,
                    "this machine's clock is that of the other validators again"
                );
            }
        }
        Some(offset_ms)
    }

    /// This node's clock less the median of all of the members heard lately, its own among them.
    fn clock_offset_ms(&self) -> Option<i64> {
        let lately = self.peers.values().filter(|heard| millis(&heard.at) <= HEARD_WITHIN_MS);
        let mut offsets: Vec<i64> = lately.map(|heard| heard.clock_offset_ms).chain([0]).collect();
        offsets.sort_unstable();
        // Of two in the middle the one nearer to this clock.
        let middle = [offsets.get((offsets.len() - 1) / 2), offsets.get(offsets.len() / 2)];
        middle.into_iter().flatten().copied().min_by_key(|offset| offset.unsigned_abs())
    }

    fn finality_p99_ms(&self) -> Option<f64> {
        let mut sorted: Vec<f64> = self.finality_ms.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied()
    }

    /// Members heard of lately; this node, if it is one, among them.
    pub(super) fn participating(&self) -> usize {
        let heard =
            self.peers.values().filter(|heard| millis(&heard.at) <= HEARD_WITHIN_MS).count();
        heard + usize::from(self.own.is_some())
    }

    fn is_banned(&self, id: NodeId) -> bool {
        self.member_records.iter().any(|record| record.id == id && record.banned)
    }

    /// Whether a member counts towards a decision: heard lately, able to sign, not banned.
    fn votes(&self, id: NodeId) -> bool {
        let able = if Some(id) == self.own {
            matches!(self.role, engine::Role::Validator)
        } else {
            self.peers
                .get(&id)
                .is_some_and(|heard| heard.signs && millis(&heard.at) <= HEARD_WITHIN_MS)
        };
        able && !self.is_banned(id)
    }

    /// How many members count towards a decision.
    pub(super) fn voters(&self) -> usize {
        self.validators.ids().filter(|id| self.votes(*id)).count()
    }

    /// Why the node is not ready, or nothing.
    pub(super) fn hindrance(&self, node: &Identity) -> Option<String> {
        let Quorum { n, q, w, .. } = self.validators.quorum();
        match self.role {
            engine::Role::Learner => {
                let (epoch, key) = (self.epoch(), node.key.fingerprint());
                let fix = "it follows the chain and votes once a reconfiguration names this key";
                return Some(format!(
                    "key {key} is not among the {n} validators of epoch {epoch}: {fix}"
                ));
            }
            engine::Role::Stale => {
                let fix = "replace this validator by one with a new key";
                return Some(format!(
                    "this volume is an older copy: the key signed what it does not remember, and votes no more; {fix}"
                ));
            }
            engine::Role::Checking if n > 1 => {
                return Some(format!(
                    "asks the other validators what it signed before it stopped; {} answers are needed",
                    q - 1
                ));
            }
            engine::Role::Checking | engine::Role::Validator => {}
        }
        if self.own.is_some_and(|own| self.is_banned(own)) {
            return Some(format!(
                "validator {} is banned by evidence in the chain, and nobody counts its votes or its vertices; replace it by one \
                 with a new key",
                node.name
            ));
        }
        let off_ms = self.clock_offset_ms().unwrap_or(0);
        if off_ms.unsigned_abs() > CLOCK_UNUSABLE_MS {
            return Some(format!(
                "this machine's clock is {off_ms} ms off the other validators' clocks, and at most {CLOCK_UNUSABLE_MS} ms are \
                 usable: payloads would count as early or expired; set it by NTP"
            ));
        }
        let voters = self.voters();
        if voters < q && n > 1 {
            return Some(format!(
                "{voters} of {n} validators can vote and a decision needs {q}; {}",
                self.missing()
            ));
        }
        let mut sequences: Vec<u64> = self.peers.values().map(|heard| heard.executed.0).collect();
        sequences.sort_unstable_by(|a, b| b.cmp(a));
        let known = sequences.get(w.saturating_sub(1)).copied().unwrap_or(0);
        let behind = known.saturating_sub(self.sequence.0);
        (behind > CAUGHT_UP).then(|| format!("catching up: {behind} decisions behind the others"))
    }

    /// Who does not vote, and why.
    fn missing(&self) -> String {
        let others = self.validators.members.iter().filter(|member| Some(member.id) != self.own);
        let missing = others.filter(|member| !self.votes(member.id)).map(|member| {
            let heard = self.peers.get(&member.id);
            let why = match heard.filter(|heard| millis(&heard.at) <= HEARD_WITHIN_MS) {
                None => "silent",
                Some(_) if self.is_banned(member.id) => "banned",
                Some(_) => "stale, or still checking what it signed",
            };
            format!("{} is {why}", member.name)
        });
        missing.collect::<Vec<_>>().join(", ")
    }

    fn members(&self) -> Vec<MemberStatus> {
        let members = self.validators.members.iter().zip(&self.member_records);
        members
            .map(|(member, record)| MemberStatus {
                name: member.name.clone(),
                node_id: member.id.0,
                key_fingerprint: member.key.fingerprint().to_string(),
                reputation: record.reputation,
                banned: record.banned,
            })
            .collect()
    }

    pub(super) fn status(&self, node: &Identity, connected: &[(NodeId, bool)]) -> NodeStatus {
        let hindrance = self.hindrance(node);
        let connected = |id: NodeId| connected.iter().any(|(peer, both)| *peer == id && *both);
        let others = self.validators.members.iter().filter(|member| Some(member.id) != self.own);
        let quorum = self.validators.quorum();
        let members = self.members();
        NodeStatus {
            name: node.name.clone(),
            node_id: self.own.map(|id| id.0),
            key_fingerprint: node.key.fingerprint().to_string(),
            role: match self.role {
                engine::Role::Learner => Role::Learner,
                engine::Role::Checking => Role::Checking,
                engine::Role::Validator => Role::Validator,
                engine::Role::Stale => Role::Stale,
            },
            chain_id: Some(node.chain_id.to_string()),
            epoch: self.epoch().0,
            view: self.view.0,
            active: self.active,
            want: self.want.0,
            leader: self.validators.member(self.leader).map(|member| member.name.clone()),
            sequence: self.sequence.0,
            chain_hash: self.chain_hash.to_string(),
            time_ms: self.time_ms,
            stable: self.stable.0,
            quorum: Some(QuorumStatus {
                members: quorum.n as u32,
                required: quorum.q as u32,
                fault_tolerance: quorum.f as u32,
            }),
            suspected: members
                .iter()
                .filter(|m| m.reputation < cretoai_types::FULL_REPUTATION)
                .map(|m| m.name.clone())
                .collect(),
            members,
            peers: others
                .map(|member| {
                    let heard = self.peers.get(&member.id);
                    PeerStatus {
                        name: member.name.clone(),
                        connected: connected(member.id),
                        sequence: heard.map_or(0, |heard| heard.executed.0),
                        last_seen_ms: heard.map(|heard| millis(&heard.at)),
                    }
                })
                .collect(),
            recent: self
                .recent
                .iter()
                .map(|(s, hash)| RecentRecord { sequence: s.0, chain_hash: hash.to_string() })
                .collect(),
            finality_p99_ms: self.finality_p99_ms(),
            version: VERSION.to_owned(),
            ready: hindrance.is_none(),
            waiting_for: hindrance
                .unwrap_or_else(|| "nothing: it is a caught-up validator with a quorum".to_owned()),
        }
    }
}

fn millis(since: &Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use cretoai_control::keys::SecretKey;
    use cretoai_types::{FULL_REPUTATION, FaultModel, Member, Parameters};

    fn key(n: u8) -> PublicKey {
        SecretKey::from_seed(&[n; 32]).unwrap().public_key().clone()
    }

    fn member(id: u32) -> Member {
        Member { id: NodeId(id), name: format!("node-{id}"), key: key(id as u8), since: Epoch(0) }
    }

    /// Node 0 of four, all of which are heard and may sign.
    fn setting() -> (Snapshot, Identity) {
        let validators = Validators {
            epoch: Epoch(0),
            members: (0..4).map(member).collect(),
            next_id: NodeId(4),
            admin_key: key(9),
            fault_model: FaultModel::Byzantine,
            parameters: Parameters::default(),
            first: 0,
        };
        let record = |id| MemberRecord { id, reputation: FULL_REPUTATION, banned: false };
        let mut snapshot = Snapshot {
            own: Some(NodeId(0)),
            role: engine::Role::Validator,
            view: View(0),
            active: true,
            want: View(0),
            leader: NodeId(0),
            sequence: Sequence(5),
            chain_hash: Hash::ZERO,
            time_ms: 0,
            stable: Sequence(0),
            member_records: (0..4).map(NodeId).map(record).collect(),
            recent: VecDeque::new(),
            sizes: Sizes::default(),
            peers: BTreeMap::new(),
            clock_is_off: false,
            finality_ms: VecDeque::new(),
            validators: Arc::new(validators),
        };
        for id in 1..4 {
            says(&mut snapshot, id, true, unix_ms());
        }
        (snapshot, Identity { name: "node-0".into(), key: key(0), chain_id: Hash::ZERO })
    }

    fn says(snapshot: &mut Snapshot, id: u32, signs: bool, clock_ms: u64) {
        let status = Status {
            epoch: Epoch(0),
            view: View(0),
            active: true,
            want: View(0),
            signs,
            executed: Sequence(5),
            chain_hash: Hash::ZERO,
            stable: Sequence(0),
            voted: None,
            acknowledged: vec![],
            clock_ms,
        };
        snapshot.heard(NodeId(id), &status);
    }

    #[test]
    fn only_members_that_can_vote_make_a_quorum() {
        let (mut snapshot, identity) = setting();
        assert_eq!((snapshot.voters(), snapshot.hindrance(&identity)), (4, None));
        says(&mut snapshot, 1, false, unix_ms());
        assert_eq!((snapshot.voters(), snapshot.hindrance(&identity)), (3, None));
        snapshot.member_records[2].banned = true;
        let told = snapshot.hindrance(&identity).unwrap();
        assert!(told.contains("2 of 4 validators can vote and a decision needs 3"), "{told}");
        assert!(told.contains("node-1 is stale") && told.contains("node-2 is banned"), "{told}");
        assert_eq!(snapshot.participating(), 4, "all of them are heard");
    }

    #[test]
    fn a_banned_node_and_one_whose_clock_is_far_off_are_not_ready() {
        let (mut snapshot, identity) = setting();
        for id in 1..4 {
            says(&mut snapshot, id, true, unix_ms() - CLOCK_UNUSABLE_MS - 1_000);
        }
        let told = snapshot.hindrance(&identity).unwrap();
        assert!(told.contains("clock") && told.contains("NTP"), "{told}");
        let (mut snapshot, identity) = setting();
        snapshot.member_records[0].banned = true;
        assert!(snapshot.hindrance(&identity).unwrap().contains("is banned"));
    }
}
