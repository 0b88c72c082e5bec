//! What a node says of itself.

use super::name_of;
use cretoai_consensus::{Genesis, Hash, Member, NodeId, Quorum, Sequence, View, engine::Engine, engine::Sizes};
use cretoai_control::api::{NodeStatus, PeerStatus, QuorumStatus, RecentRecord, Role};
use std::{collections::VecDeque, time::Instant};

/// How many of the newest records' chain hashes a status carries.
pub(super) const RECENT: u64 = 64;

/// A member that was not heard for so long does not participate.
const HEARD_WITHIN_MS: u64 = 1_000;

/// How far behind the others a ready node may be.
const CAUGHT_UP: u64 = 64;

/// How many finality times the 99th percentile is taken of.
const MEASURED: usize = 1024;

/// What stays the same while the node runs.
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) key: Hash,
    pub(super) own: Option<NodeId>,
    pub(super) chain_id: Hash,
    pub(super) members: Vec<Member>,
    pub(super) quorum: Quorum,
}

impl Identity {
    pub(super) fn new(name: String, key: Hash, own: Option<NodeId>, genesis: &Genesis) -> Self {
        Self { name, key, own, chain_id: genesis.chain_id(), members: genesis.members(), quorum: genesis.quorum() }
    }
}

/// What the engine's thread left after its newest turn.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) view: View,
    pub(super) leader: Option<NodeId>,
    pub(super) sequence: Sequence,
    pub(super) chain_hash: Hash,
    pub(super) time_ms: u64,
    pub(super) recent: VecDeque<(Sequence, Hash)>,
    /// Each member's newest executed sequence, and when it was heard.
    pub(super) peers: Vec<Option<(Sequence, Instant)>>,
    pub(super) sizes: Sizes,
    finality_ms: VecDeque<f64>,
}

impl Snapshot {
    pub(super) fn new(genesis: &Genesis) -> Self {
        Self {
            view: View(0),
            leader: None,
            sequence: Sequence(0),
            chain_hash: genesis.chain_id(),
            time_ms: genesis.created_ms,
            recent: VecDeque::new(),
            peers: vec![None; genesis.members.len()],
            sizes: Sizes::default(),
            finality_ms: VecDeque::new(),
        }
    }

    pub(super) fn take(&mut self, engine: &Engine) {
        self.view = engine.view();
        self.leader = Some(engine.leader());
        self.sequence = engine.executed();
        self.chain_hash = engine.chain_hash();
        self.time_ms = engine.time_ms();
        self.sizes = engine.sizes();
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

    fn finality_p99_ms(&self) -> Option<f64> {
        let mut sorted: Vec<f64> = self.finality_ms.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied()
    }

    /// Members heard of lately; this node, if it is one, among them.
    pub(super) fn participating(&self, node: &Identity) -> usize {
        let heard = self.peers.iter().flatten().filter(|(_, at)| millis(at) <= HEARD_WITHIN_MS).count();
        heard + usize::from(node.own.is_some())
    }

    /// Why the node is not ready, or nothing.
    pub(super) fn hindrance(&self, node: &Identity) -> Option<String> {
        let Quorum { n, q, w, .. } = node.quorum;
        if node.own.is_none() {
            let fix = "restore the volume that holds this validator's key, or wait for a reconfiguration that names this key";
            return Some(format!("key {} is not among the {n} validators of the genesis: {fix}", node.key));
        }
        let participating = self.participating(node);
        if participating < q {
            return Some(format!("hears {participating} of {n} validators and needs {q} for a decision; missing: {}", self.missing(node)));
        }
        let mut sequences: Vec<u64> = self.peers.iter().flatten().map(|(sequence, _)| sequence.0).collect();
        sequences.sort_unstable_by(|a, b| b.cmp(a));
        let known = sequences.get(w.saturating_sub(1)).copied().unwrap_or(0);
        let behind = known.saturating_sub(self.sequence.0);
        (behind > CAUGHT_UP).then(|| format!("catching up: {behind} decisions behind the others"))
    }

    fn missing(&self, node: &Identity) -> String {
        let silent = node
            .members
            .iter()
            .zip(&self.peers)
            .filter(|(member, heard)| Some(member.id) != node.own && heard.is_none_or(|(_, at)| millis(&at) > HEARD_WITHIN_MS));
        silent.map(|(member, _)| member.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn status(&self, node: &Identity, connected: &[(NodeId, bool)]) -> NodeStatus {
        let hindrance = self.hindrance(node);
        let connected = |id: NodeId| connected.iter().any(|(peer, both)| *peer == id && *both);
        let others = node.members.iter().zip(&self.peers).filter(|(member, _)| Some(member.id) != node.own);
        NodeStatus {
            name: node.name.clone(),
            node_id: node.own.map(|id| id.0),
            key_fingerprint: node.key.to_string(),
            role: if node.own.is_some() { Role::Validator } else { Role::Learner },
            chain_id: Some(node.chain_id.to_string()),
            epoch: 0,
            view: self.view.0,
            leader: self.leader.and_then(|leader| name_of(&node.members, leader)),
            sequence: self.sequence.0,
            chain_hash: self.chain_hash.to_string(),
            time_ms: self.time_ms,
            quorum: Some(QuorumStatus {
                members: node.quorum.n as u32,
                required: node.quorum.q as u32,
                fault_tolerance: node.quorum.f as u32,
            }),
            peers: others
                .map(|(member, heard)| PeerStatus {
                    name: member.name.clone(),
                    connected: connected(member.id),
                    sequence: heard.map_or(0, |(sequence, _)| sequence.0),
                    last_seen_ms: heard.map(|(_, at)| millis(&at)),
                })
                .collect(),
            recent: self.recent.iter().map(|(s, hash)| RecentRecord { sequence: s.0, chain_hash: hash.to_string() }).collect(),
            finality_p99_ms: self.finality_p99_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: hindrance.is_none(),
            waiting_for: hindrance.unwrap_or_else(|| "nothing: it is a caught-up validator with a quorum".to_owned()),
        }
    }
}

fn millis(since: &Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
