//! The JSON of port 9000, and the messages that an attestation signs.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/attest` | [`AttestRequest`] | [`Attestation`] |
//! | `PUT /v1/genesis` | `SignedGenesis::encode`, application/octet-stream | 204; 409 if the volume holds another chain |
//! | `PUT /v1/genesis?as=learner` | the same, for a node that the genesis does not name | 204 |
//! | `PUT /v1/learners` | [`Learners`] | 204: these keys may connect to this node and fetch until it stops |
//! | `POST /v1/ready` | [`ReadyRequest`] | [`ReadyAnswer`]: the node's signature for an order that brings its key in |
//! | `POST /v1/reconfig` | an encoded `SignedReconfig`, application/octet-stream | 202; 409 and the reason why it is void |
//! | `GET /v1/status` | | [`NodeStatus`] |
//!
//! Every answer that is not 2xx is a [`Problem`].

use base64::{Engine, engine::general_purpose::STANDARD};
use cretoai_types::{Genesis, PublicKey, Signature, Verifier};
use serde::{Deserialize, Serialize};

/// The ALPN protocol name of port 9000.
pub const CONTROL_ALPN: &[u8] = b"http/1.1";
/// The path of attestation.
pub const ATTEST_PATH: &str = "/v1/attest";
/// The path that takes a member's genesis.
pub const GENESIS_PATH: &str = "/v1/genesis";
/// The path that takes a learner's genesis.
pub const LEARNER_GENESIS_PATH: &str = "/v1/genesis?as=learner";
/// The path that takes the learners to admit.
pub const LEARNERS_PATH: &str = "/v1/learners";
/// The path that asks a learner for its READY.
pub const READY_PATH: &str = "/v1/ready";
/// The path that takes an order to change the validators.
pub const RECONFIG_PATH: &str = "/v1/reconfig";
/// The path of the node's status.
pub const STATUS_PATH: &str = "/v1/status";
/// The largest body of a request or answer on port 9000, in bytes. A genesis of 31 members has 230
/// KiB.
pub const MAX_BODY: usize = 1 << 20;

/// A request for attestation. Its nonce is fresh, so no earlier answer fits it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttestRequest {
    /// 32 random bytes in hexadecimal.
    pub nonce: String,
}

/// Keys that may connect to a member without being members. The node adds them to the ones that it
/// knows, and forgets them when it stops.
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

/// A learner's part of an order: `Reconfig::ready` and `SignedReconfig::new_key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadyAnswer {
    /// A recent multiple of 64.
    pub sequence: u64,
    /// The chain hash after that sequence, 64 hex digits.
    pub chain_hash: String,
    /// Base64 signature over `Reconfig::possession_message`.
    pub signature: String,
}

/// A node's answer to [`AttestRequest`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attestation {
    /// The node's ML-DSA-87 public key, base64. It must be the key of the TLS connection.
    pub public_key: String,
    /// The pod's name, which will be the validator's name.
    pub pod_name: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// The UID of the CretoCluster to which the pod belongs.
    pub cluster_uid: String,
    /// Base64 signature over [`attest_message`].
    pub proof: String,
    /// Base64 signature over [`Genesis::possession_message`], for the genesis.
    pub possession: String,
    /// The pod's projected ServiceAccount token, audience `creto.cretoai.io/<cluster UID>`; empty
    /// outside Kubernetes.
    pub token: String,
    /// The id of the chain that the node's volume holds, 64 hex digits.
    pub chain_id: Option<String>,
    /// The node's version.
    pub version: String,
}

impl std::fmt::Debug for Attestation {
    /// Leaves out the token, which is a secret.
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

/// The bytes that the node signs for [`Attestation::proof`].
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
    /// A field is not base64 of the right number of bytes.
    #[error("{0} is not base64 of the right number of bytes")]
    Encoding(&'static str),
    /// The signature over the nonce does not verify.
    #[error("proof does not verify over this nonce, cluster UID and pod UID")]
    Proof,
    /// The signature for the genesis does not verify.
    #[error("possession does not verify over this cluster UID and pod name")]
    Possession,
}

impl Attestation {
    /// Checks that the holder of `tls_key` gave this answer to `nonce`. The caller has to check the
    /// token and the UIDs.
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

    /// The member's proof of possession for the genesis.
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

/// Decodes standard base64 with padding.
#[must_use]
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// The part that a node takes in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Role {
    /// The node has no genesis yet.
    Waiting,
    /// The node follows the chain without a vote.
    Learner,
    /// The member has started and asks the others what it signed before. It does not vote yet.
    Checking,
    /// The member votes.
    Validator,
    /// The member's volume was restored from an older copy. It never votes again with its key and
    /// has to be replaced.
    Stale,
}

/// A node's account of itself. One node may lie, so a fact of the chain needs equal accounts of `w`
/// nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The pod's name.
    pub name: String,
    /// The node's id as a validator.
    pub node_id: Option<u32>,
    /// BLAKE3 of the public key, 64 hex digits.
    pub key_fingerprint: String,
    /// The part that the node takes in the chain.
    pub role: Role,
    /// The chain id, 64 hex digits, once there is a genesis.
    pub chain_id: Option<String>,
    /// The node's epoch.
    pub epoch: u64,
    /// The node's view.
    pub view: u64,
    /// Whether that view has begun. Until then a view change goes on.
    #[serde(default)]
    pub active: bool,
    /// The view that the node wants. If it is above `view`, the node suspects the leader.
    #[serde(default)]
    pub want: u64,
    /// The name of the view's leader.
    pub leader: Option<String>,
    /// The newest sequence that the node executed; 0 is the genesis.
    pub sequence: u64,
    /// The chain hash after that sequence, 64 hex digits.
    pub chain_hash: String,
    /// The decision time of that sequence, Unix milliseconds.
    pub time_ms: u64,
    /// The sequence of the node's stable checkpoint.
    #[serde(default)]
    pub stable: u64,
    /// The quorum sizes of the current epoch.
    pub quorum: Option<QuorumStatus>,
    /// The members of the epoch as the chain knows them, in order of their ids.
    #[serde(default)]
    pub members: Vec<MemberStatus>,
    /// The names of the members against whom evidence counted.
    #[serde(default)]
    pub suspected: Vec<String>,
    /// The other members, as this node sees them.
    pub peers: Vec<PeerStatus>,
    /// At most 64 of the newest records, newest last. Nodes at slightly different sequences can be
    /// compared by them.
    pub recent: Vec<RecentRecord>,
    /// The 99th percentile, in milliseconds, of the time from submission to finality of the newest
    /// payloads that were submitted to this node.
    pub finality_p99_ms: Option<f64>,
    /// The node's version.
    pub version: String,
    /// Whether the node is a validator with a connected quorum and has caught up.
    pub ready: bool,
    /// One sentence that says what the node waits for or does.
    pub waiting_for: String,
}

/// The quorum sizes of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// The number of validators.
    pub members: u32,
    /// The number of validators that a decision needs.
    pub required: u32,
    /// The number of validators that may lie or fail.
    pub fault_tolerance: u32,
}

/// A member as the chain knows it. It is equal on all honest nodes at the same sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// The member's name.
    pub name: String,
    /// The member's id.
    pub node_id: u32,
    /// BLAKE3 of the public key, 64 hex digits.
    pub key_fingerprint: String,
    /// The reputation: 10 less the number of offences, and not below 0.
    pub reputation: u32,
    /// Whether the member is banned: its turns to lead and its lane are passed over.
    pub banned: bool,
}

/// A member as another node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// The member's name.
    pub name: String,
    /// Whether connections exist in both directions.
    pub connected: bool,
    /// The newest sequence that the member reported.
    pub sequence: u64,
    /// Milliseconds since the node last heard it.
    pub last_seen_ms: Option<u64>,
}

/// One record's place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RecentRecord {
    /// The record's sequence.
    pub sequence: u64,
    /// The chain hash after it, 64 hex digits.
    pub chain_hash: String,
}

/// The answer to `GET /v1/evidence?from=NUMBER` on the client port: the evidence that counted
/// against validators, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EvidenceList {
    /// The chain id, 64 hex digits.
    pub chain_id: String,
    /// The number of pieces of evidence in all.
    pub total: u64,
    /// At most 64 pieces.
    pub items: Vec<EvidenceItem>,
    /// The number for the next `from`, if there are more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<u64>,
}

/// The answer to `GET /v1/evidence/{number}`: one proof that a validator broke a rule. It verifies
/// without anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EvidenceItem {
    /// The chain id, 64 hex digits.
    pub chain_id: String,
    /// The number among all evidence that counted, from 0. It is equal on all nodes.
    pub number: u64,
    /// The sequence whose execution counted it.
    pub sequence: u64,
    /// The epoch of the offence.
    pub epoch: u64,
    /// The validator that committed the offence.
    pub accused: Accused,
    /// The kind of offence, a fixed word.
    pub kind: String,
    /// The view of contradicting votes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub view: Option<u64>,
    /// The sequence of contradicting votes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub voted_sequence: Option<u64>,
    /// The height of contradicting vertices.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub height: Option<u64>,
    /// The two signed objects: base64 of the canonical encoding of `Evidence`.
    pub evidence: String,
}

/// A validator as it was in the epoch of an offence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Accused {
    /// The validator's id.
    pub id: u32,
    /// The validator's name.
    pub name: String,
    /// The validator's ML-DSA-87 public key, hexadecimal.
    pub key: String,
}

/// Every answer that is not a success, on every port: a problem document (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// A URN that ends with `code`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `code` in words.
    pub title: String,
    /// The status of the answer.
    pub status: u16,
    /// One sentence: what is wrong, with the value that is wrong.
    pub detail: String,
    /// A fixed word for programs.
    pub code: String,
    /// The header, parameter or field that is wrong, if one is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub field: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fix: Option<String>,
}

impl Problem {
    /// The content type of a problem document.
    pub const CONTENT_TYPE: &str = "application/problem+json";

    /// A document whose type and title follow from `code`.
    #[must_use]
    pub fn new(
        status: u16,
        code: &str,
        field: Option<String>,
        detail: String,
        fix: Option<String>,
    ) -> Self {
        Self {
            kind: format!("urn:cretoai:problem:{code}"),
            title: code.replace('_', " "),
            status,
            detail,
            code: code.into(),
            field,
            fix,
        }
    }

    /// What is wrong and what to do, for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        match &self.fix {
            Some(fix) => format!("{}; {fix}", self.detail),
            None => self.detail.clone(),
        }
    }
}
