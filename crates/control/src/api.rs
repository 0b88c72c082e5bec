//! The JSON of port 9000, and what is signed in an attestation.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/attest` | [`AttestRequest`] | [`Attestation`] |
//! | `PUT /v1/genesis` | `SignedGenesis::encode`, application/octet-stream | 204; 409 if the volume holds another chain |
//! | `PUT /v1/genesis?as=learner` | the same, for a node that the genesis does not name | 204 |
//! | `PUT /v1/learners` | [`Learners`] | 204: from now on these may connect to this node and fetch |
//! | `POST /v1/ready` | [`ReadyRequest`] | [`ReadyAnswer`]: the node's word for an order that brings its key in |
//! | `POST /v1/reconfig` | an encoded `SignedReconfig`, application/octet-stream | 202; 409 and why it is void |
//! | `GET /v1/status` | | [`NodeStatus`] |
//!
//! Every answer that is not 2xx is an [`ErrorBody`].

use base64::{Engine, engine::general_purpose::STANDARD};
use cretoai_types::{Genesis, PublicKey, Signature, Verifier};
use serde::{Deserialize, Serialize};

/// The ALPN name of port 9000.
pub const CONTROL_ALPN: &[u8] = b"http/1.1";
/// Asks a node who it is.
pub const ATTEST_PATH: &str = "/v1/attest";
/// Gives a node the genesis.
pub const GENESIS_PATH: &str = "/v1/genesis";
/// Gives a learner the genesis.
pub const LEARNER_GENESIS_PATH: &str = "/v1/genesis?as=learner";
/// Names learners to a member.
pub const LEARNERS_PATH: &str = "/v1/learners";
/// Asks a learner for its READY.
pub const READY_PATH: &str = "/v1/ready";
/// Orders a change of the validators.
pub const RECONFIG_PATH: &str = "/v1/reconfig";
/// Asks a node how it is.
pub const STATUS_PATH: &str = "/v1/status";
/// The largest body that port 9000 takes, and that a client takes as an answer. A genesis of 31
/// members has 230 KiB.
pub const MAX_BODY: usize = 1 << 20;

/// The question "who are you", with something that no earlier answer can know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttestRequest {
    /// 32 random bytes in hexadecimal.
    pub nonce: String,
}

/// Who may connect to a member without being one. It is forgotten when the node stops, and added to
/// what is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Learners {
    /// ML-DSA-87 public keys, base64; at most 31.
    pub keys: Vec<String>,
}

/// Asks a learner to sign that it follows the chain and holds the key which a change brings in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReadyRequest {
    /// The epoch that the change ends.
    pub epoch: u64,
    /// Base64 of the encoded `Change`.
    pub change: String,
}

/// What belongs into the order: `Reconfig::ready` and `SignedReconfig::new_key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadyAnswer {
    /// A recent sequence that 64 divides.
    pub sequence: u64,
    /// The chain hash there, 64 hex digits.
    pub chain_hash: String,
    /// Base64 signature over `Reconfig::possession_message`.
    pub signature: String,
}

/// A node's answer to [`AttestRequest`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attestation {
    /// The node's ML-DSA-87 public key, base64. The TLS connection must have shown the same.
    pub public_key: String,
    /// The pod's name, which will be the validator's name.
    pub pod_name: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// The UID of the CretoCluster that this pod was made for.
    pub cluster_uid: String,
    /// Base64 signature over [`attest_message`].
    pub proof: String,
    /// Base64 signature over [`Genesis::possession_message`], to be put into the genesis.
    pub possession: String,
    /// The pod's projected ServiceAccount token, audience `creto.cretoai.io/<cluster UID>`; empty
    /// outside Kubernetes.
    pub token: String,
    /// The chain that the node's volume holds (64 hex digits), if any.
    pub chain_id: Option<String>,
    /// The node's version.
    pub version: String,
}

impl std::fmt::Debug for Attestation {
    /// Without the token, which is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attestation")
            .field("pod_name", &self.pod_name)
            .field("pod_uid", &self.pod_uid)
            .field("cluster_uid", &self.cluster_uid)
            .field("chain_id", &self.chain_id)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What the node signs as [`Attestation::proof`].
#[must_use]
pub fn attest_message(nonce: &[u8; 32], cluster_uid: &str, pod_uid: &str) -> Vec<u8> {
    let mut message = b"creto attestation v1".to_vec();
    message.extend_from_slice(nonce);
    for text in [cluster_uid, pod_uid] {
        message.extend_from_slice(&(text.len() as u64).to_le_bytes());
        message.extend_from_slice(text.as_bytes());
    }
    message
}

/// Why an attestation is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// The body names another key than the connection.
    #[error("publicKey is not the key that the TLS connection proved")]
    OtherKey,
    /// Not base64 of the right size.
    #[error("{0} is not base64 of the right number of bytes")]
    Encoding(&'static str),
    /// The signature over the nonce is wrong.
    #[error("proof does not verify over this nonce, cluster UID and pod UID")]
    Proof,
    /// The signature for the genesis is wrong.
    #[error("possession does not verify over this cluster UID and pod name")]
    Possession,
}

impl Attestation {
    /// Checks that the answer is from the holder of `tls_key` and for this `nonce`. Whether the pod
    /// is the right one (token, UIDs) is for the caller to check.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(
        &self,
        verifier: &dyn Verifier,
        tls_key: &PublicKey,
        nonce: &[u8; 32],
    ) -> Result<(), AttestationError> {
        let key = decode_base64(&self.public_key)
            .and_then(|b| PublicKey::from_slice(&b))
            .ok_or(AttestationError::Encoding("publicKey"))?;
        if key != *tls_key {
            return Err(AttestationError::OtherKey);
        }
        let signature = |text: &str, field| {
            decode_base64(text)
                .and_then(|b| Signature::from_slice(&b))
                .ok_or(AttestationError::Encoding(field))
        };
        let message = attest_message(nonce, &self.cluster_uid, &self.pod_uid);
        if !verifier.verify(&key, &message, &signature(&self.proof, "proof")?) {
            return Err(AttestationError::Proof);
        }
        let message = Genesis::possession_message(&self.cluster_uid, &self.pod_name);
        if !verifier.verify(&key, &message, &signature(&self.possession, "possession")?) {
            return Err(AttestationError::Possession);
        }
        Ok(())
    }

    /// The signature that belongs into the genesis as the member's proof.
    ///
    /// # Errors
    /// [`AttestationError::Encoding`].
    pub fn possession_signature(&self) -> Result<Signature, AttestationError> {
        decode_base64(&self.possession)
            .and_then(|b| Signature::from_slice(&b))
            .ok_or(AttestationError::Encoding("possession"))
    }
}

/// Standard base64 with padding.
#[must_use]
pub fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of standard base64 with padding, or nothing.
#[must_use]
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// What a node is to the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It has no genesis yet.
    Waiting,
    /// It follows the chain without a vote.
    Learner,
    /// A member that has started and asks the others what it signed before: it does not vote yet.
    Checking,
    /// It votes.
    Validator,
    /// A member whose volume was restored from an older copy: it never votes again with its key,
    /// and is to be replaced.
    Stale,
}

/// A node's account of itself. One node's word: chain facts need agreeing words of `w` nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The pod's name.
    pub name: String,
    /// Its id as a validator.
    pub node_id: Option<u32>,
    /// BLAKE3 of its public key, 64 hex digits.
    pub key_fingerprint: String,
    /// What it is to the chain.
    pub role: Role,
    /// The chain id, 64 hex digits, once there is a genesis.
    pub chain_id: Option<String>,
    /// The epoch that it is in.
    pub epoch: u64,
    /// The view that it is in.
    pub view: u64,
    /// Whether that view has begun. If not, a change of the leader is going on.
    #[serde(default)]
    pub active: bool,
    /// The view that it is in or ready to go to. Above `view`, it suspects the leader.
    #[serde(default)]
    pub want: u64,
    /// The name of that view's leader.
    pub leader: Option<String>,
    /// The newest sequence that it executed; 0 is the genesis.
    pub sequence: u64,
    /// The chain hash of that sequence, 64 hex digits.
    pub chain_hash: String,
    /// The commit time of that sequence, Unix milliseconds.
    pub time_ms: u64,
    /// The sequence of its stable checkpoint.
    #[serde(default)]
    pub stable: u64,
    /// The counts of the current epoch.
    pub quorum: Option<QuorumStatus>,
    /// The members of the epoch with what the chain knows of them, in order of their ids.
    #[serde(default)]
    pub members: Vec<MemberStatus>,
    /// The names of the members against whom evidence counted.
    #[serde(default)]
    pub suspected: Vec<String>,
    /// The other members, as this node sees them.
    pub peers: Vec<PeerStatus>,
    /// The newest records, newest last, at most 64, so that nodes at slightly different sequences
    /// can be compared.
    pub recent: Vec<RecentRecord>,
    /// The 99th percentile of submit-to-final in milliseconds, of the newest payloads submitted
    /// here.
    pub finality_p99_ms: Option<f64>,
    /// The node's version.
    pub version: String,
    /// Whether it is a validator with a connected quorum, and caught up.
    pub ready: bool,
    /// One sentence: what it waits for, or what it does.
    pub waiting_for: String,
}

/// The counts of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// Validators.
    pub members: u32,
    /// How many of them a decision needs.
    pub required: u32,
    /// How many may lie or fail.
    pub fault_tolerance: u32,
}

/// A member as the chain knows it: equal on all nodes at the same sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub node_id: u32,
    /// BLAKE3 of its public key, 64 hex digits.
    pub key_fingerprint: String,
    /// 10 without a violation, one less for each, not below 0.
    pub reputation: u32,
    /// Whether its lane and its turns to lead are passed over.
    pub banned: bool,
}

/// A member as another node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Whether there are connections in both directions.
    pub connected: bool,
    /// The newest sequence that it reported.
    pub sequence: u64,
    /// Milliseconds since it was last heard.
    pub last_seen_ms: Option<u64>,
}

/// One record's place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentRecord {
    /// Its sequence.
    pub sequence: u64,
    /// Its chain hash, 64 hex digits.
    pub chain_hash: String,
}

/// `GET /v1/evidence?from=number` on the client port: what the chain counted against its
/// validators, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceList {
    /// The chain id, 64 hex digits.
    pub chain_id: String,
    /// How many there are in all.
    pub total: u64,
    /// At most 64.
    pub items: Vec<EvidenceItem>,
    /// The number to go on `from`, if there are more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<u64>,
}

/// `GET /v1/evidence/{number}`: one proof that a validator broke a rule. It needs nothing else to
/// be verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceItem {
    /// The chain id, 64 hex digits.
    pub chain_id: String,
    /// Its place among all that counted, from 0. Equal on all nodes.
    pub number: u64,
    /// The sequence at which it counted.
    pub sequence: u64,
    /// The epoch in which it was done.
    pub epoch: u64,
    /// Who did it.
    pub accused: Accused,
    /// What was done: a fixed word.
    pub kind: String,
    /// Of votes: their view.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub view: Option<u64>,
    /// Of votes: their sequence.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub voted_sequence: Option<u64>,
    /// Of vertices: their height.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub height: Option<u64>,
    /// The two signed objects: base64 of the canonical encoding of `Evidence`.
    pub evidence: String,
}

/// A validator as it was in the epoch of an offence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accused {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its ML-DSA-87 public key, hexadecimal.
    pub key: String,
}

/// Every answer that is not a success, on every port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong, for programs (`code`, `field`) and for people (`message`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A fixed word.
    pub code: String,
    /// The header, parameter or field that is wrong, if one is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub field: Option<String>,
    /// One sentence that names the fix.
    pub message: String,
}
