//! Helpers that several test binaries share: keys that cost only a hash, a genesis of any size, and
//! objects signed with such keys.

#![allow(dead_code, reason = "no test binary needs all of it")]

use cretoai_types::{
    Ballot, Certificate, CheckedVertex, Checkpoint, CheckpointCertificate, CheckpointState, Domain,
    Epoch, FaultModel, Genesis, GenesisMember, Hash, Height, Item, NodeId, Parameters, Payload,
    Phase, PublicKey, Sequence, Signature, Signer, Tip, Validators, Verifier, View, ViewChangeHead,
    Vote,
};

const TAG: usize = 32;

/// The time of sequence 0.
pub const CREATED_MS: u64 = 1_790_000_000_000;

/// A key whose signatures are keyed hashes. Anyone could forge them; tests only sign with the keys
/// that they may have.
#[derive(Clone)]
pub struct Key(pub PublicKey);

impl Key {
    pub fn new(name: &str) -> Self {
        let mut bytes = [0; PublicKey::SIZE];
        bytes[..TAG].copy_from_slice(blake3::hash(name.as_bytes()).as_bytes());
        Self(PublicKey(Box::new(bytes)))
    }

    pub fn member(index: u32) -> Self {
        Self::new(&format!("member {index}"))
    }

    pub fn admin() -> Self {
        Self::new("admin")
    }
}

fn tag(key: &PublicKey, message: &[u8]) -> [u8; TAG] {
    let mut secret = [0; TAG];
    secret.copy_from_slice(&key.as_bytes()[..TAG]);
    *blake3::keyed_hash(&secret, message).as_bytes()
}

impl Signer for Key {
    fn public_key(&self) -> &PublicKey {
        &self.0
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; Signature::SIZE];
        bytes[..TAG].copy_from_slice(&tag(&self.0, message));
        Signature(Box::new(bytes))
    }
}

pub struct Check;

impl Verifier for Check {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        signature.as_bytes()[..TAG] == tag(key, message)
    }
}

/// A signature that no key made.
pub fn forged() -> Signature {
    Signature(Box::new([0xEE; Signature::SIZE]))
}

pub fn hash(text: &str) -> Hash {
    Hash::of_bytes(text.as_bytes())
}

pub fn genesis_of(n: u32, fault_model: FaultModel) -> Genesis {
    let member = |index: u32| {
        let (name, key) = (format!("m-{index}"), Key::member(index));
        let proof = key.sign(&Genesis::possession_message("uid", &name));
        GenesisMember { name, key: key.0, proof }
    };
    Genesis {
        cluster_uid: "uid".into(),
        admin_key: Key::admin().0,
        members: (0..n).map(member).collect(),
        fault_model,
        parameters: Parameters::default(),
        created_ms: CREATED_MS,
    }
}

pub fn genesis(n: u32) -> Genesis {
    genesis_of(n, FaultModel::Byzantine)
}

pub fn validators(n: u32) -> Validators {
    genesis(n).validators()
}

pub fn payload(number: u8, bytes: usize) -> Payload {
    Payload {
        key: [number; 16],
        valid_until_ms: CREATED_MS + 30_000,
        topic: None,
        data: vec![number; bytes],
    }
}

/// A vertex of a member's lane after `previous`. Another `stamp` is another vertex of that slot.
pub fn vertex(
    domain: &Domain,
    author: u32,
    key: &Key,
    previous: Tip,
    stamp: u64,
    items: Vec<Item>,
) -> CheckedVertex {
    CheckedVertex::seal(domain, key, NodeId(author), previous, Vec::new(), stamp, Vec::new(), items)
}

pub const fn tip(height: u64, id: Hash) -> Tip {
    Tip { height: Height(height), id }
}

/// A vote of epoch 0 or another one, signed by `key`.
pub fn vote_by(key: &Key, chain_id: Hash, ballot: Ballot) -> Vote {
    Vote { signature: key.sign(&ballot.signing_message(chain_id)), ballot }
}

pub fn ballot(
    epoch: u64,
    phase: Phase,
    view: u64,
    sequence: u64,
    digest: Hash,
    voter: u32,
) -> Ballot {
    Ballot {
        epoch: Epoch(epoch),
        phase,
        view: View(view),
        sequence: Sequence(sequence),
        digest,
        voter: NodeId(voter),
    }
}

/// A certificate of epoch 0 with the signatures of `voters`, whether they make a quorum or not.
pub fn certificate(
    chain_id: Hash,
    validators: &Validators,
    phase: Phase,
    view: u64,
    sequence: u64,
    digest: Hash,
    voters: &[u32],
) -> Certificate {
    let mut certificate = Certificate {
        epoch: validators.epoch,
        phase,
        view: View(view),
        sequence: Sequence(sequence),
        digest,
        votes: Vec::new(),
    };
    let leader = validators.leader(View(view));
    for voter in voters {
        let message = certificate.ballot(NodeId(*voter), leader).signing_message(chain_id);
        certificate.votes.push((NodeId(*voter), Key::member(*voter).sign(&message)));
    }
    certificate
}

pub fn checkpoint(chain_id: Hash, state: &CheckpointState, node: u32) -> Checkpoint {
    let signature = Key::member(node).sign(&state.signing_message(chain_id));
    Checkpoint { state: state.clone(), node: NodeId(node), signature }
}

pub fn checkpoint_certificate(
    chain_id: Hash,
    state: &CheckpointState,
    nodes: &[u32],
) -> CheckpointCertificate {
    let signatures =
        nodes.iter().map(|node| (NodeId(*node), checkpoint(chain_id, state, *node).signature));
    CheckpointCertificate { state: state.clone(), signatures: signatures.collect() }
}

pub fn signed_head(chain_id: Hash, head: ViewChangeHead) -> (ViewChangeHead, Signature) {
    let signature = Key::member(head.node.0).sign(&head.signing_message(chain_id));
    (head, signature)
}
