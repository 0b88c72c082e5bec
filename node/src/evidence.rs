//! Evidence for people: how it is told, and how it is verified without any node.
//!
//! The rule: whoever verifies believes nothing but two signatures. That the key is this
//! validator's, the genesis says.

use crate::storage::Counted;
use cretoai_control::api::{Accused, EvidenceItem, decode_base64, encode_base64};
use cretoai_types::{
    Domain, Epoch, Evidence, FaultModel, Hash, Member, NodeId, Offence, OffenceKind, Parameters,
    Phase, PublicKey, SignedGenesis, Validators, Verifier, decode, encode,
};
use std::fmt::Write;

/// Why evidence is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A field that does not say what it should.
    #[error(
        "`{field}` is not {expected}; give the file as GET /v1/evidence/{{number}} answered it"
    )]
    Field {
        /// Which.
        field: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// Two objects that an honest validator can sign.
    #[error("the two signed objects do not contradict each other: this proves nothing")]
    NoContradiction,
    /// The file tells something else than the signed objects.
    #[error(
        "`{field}` in the file is not what the signed objects say ({signed}): the file was changed"
    )]
    Told {
        /// Which.
        field: &'static str,
        /// What the objects say.
        signed: String,
    },
    /// Not signed by the accused.
    #[error("the signatures are not those of the accused's key on this chain: this proves nothing")]
    Signature,
    /// The genesis does not hold.
    #[error("the genesis is not valid: {0}")]
    Genesis(String),
    /// Of another chain.
    #[error("the evidence is of chain {evidence}, the genesis makes chain {genesis}")]
    OtherChain {
        /// In the evidence.
        evidence: Hash,
        /// Of the genesis.
        genesis: Hash,
    },
    /// The genesis gives this id another key, or none.
    #[error("validator {id} of the genesis does not have this key{later}")]
    OtherKey {
        /// The accused.
        id: NodeId,
        /// What explains it, in a later epoch.
        later: &'static str,
    },
}

/// Evidence as the API tells it. `member` is the accused in the epoch of the offence.
#[must_use]
pub fn item(chain_id: Hash, number: usize, counted: &Counted, member: &Member) -> EvidenceItem {
    let Offence { epoch, kind, .. } = counted.offence;
    let (view, voted_sequence, height) = match kind {
        OffenceKind::Fork(height) => (None, None, Some(height.0)),
        OffenceKind::Votes(_, view, sequence) | OffenceKind::Concealed(view, sequence) => {
            (Some(view.0), Some(sequence.0), None)
        }
    };
    EvidenceItem {
        chain_id: chain_id.to_string(),
        number: number as u64,
        sequence: counted.sequence.0,
        epoch: epoch.0,
        accused: Accused {
            id: member.id.0,
            name: member.name.clone(),
            key: hex::encode(member.key.as_bytes()),
        },
        kind: kind.label().to_owned(),
        view,
        voted_sequence,
        height,
        evidence: encode_base64(&encode(&counted.evidence)),
    }
}

/// What evidence proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The chain.
    pub chain_id: Hash,
    /// Who did what.
    pub offence: Offence,
    /// What the file calls the accused.
    pub name: String,
    /// The key that signed both objects.
    pub key: PublicKey,
    evidence: Evidence,
}

/// Verifies what a file holds, with nothing but itself.
///
/// # Errors
/// [`Refused`].
pub fn verify(item: &EvidenceItem, verifier: &dyn Verifier) -> Result<Proven, Refused> {
    let bad = |field, expected| Refused::Field { field, expected };
    let chain_id: Hash =
        item.chain_id.parse().map_err(|_| bad("chainId", "64 hexadecimal digits"))?;
    let key = hex::decode(&item.accused.key).ok().and_then(|bytes| PublicKey::from_slice(&bytes));
    let key =
        key.ok_or_else(|| bad("accused.key", "the hexadecimal digits of an ML-DSA-87 public key"))?;
    let evidence = decode_base64(&item.evidence).and_then(|bytes| decode::<Evidence>(&bytes).ok());
    let evidence = evidence.ok_or_else(|| bad("evidence", "base64 of two signed objects"))?;
    let offence = evidence.offence().ok_or(Refused::NoContradiction)?;
    let told = |field, signed: String| Err(Refused::Told { field, signed });
    if offence.epoch.0 != item.epoch {
        return told("epoch", offence.epoch.to_string());
    }
    if offence.accused.0 != item.accused.id {
        return told("accused.id", offence.accused.to_string());
    }
    if offence.kind.label() != item.kind {
        return told("kind", offence.kind.label().to_owned());
    }
    let accused = Member {
        id: offence.accused,
        name: item.accused.name.clone(),
        key: key.clone(),
        since: Epoch(0),
    };
    let alone = Validators {
        epoch: offence.epoch,
        members: vec![accused],
        next_id: NodeId(0),
        admin_key: key.clone(),
        fault_model: FaultModel::Byzantine,
        parameters: Parameters::default(),
        first: 0,
    };
    if !evidence.is_signed(chain_id, &alone, verifier) {
        return Err(Refused::Signature);
    }
    Ok(Proven { chain_id, offence, name: item.accused.name.clone(), key, evidence })
}

impl Proven {
    /// Checks that the key is that of the accused in a genesis, and the chain that of the genesis.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check_genesis(
        &self,
        signed: &SignedGenesis,
        verifier: &dyn Verifier,
    ) -> Result<(), Refused> {
        signed.verify(verifier).map_err(|error| Refused::Genesis(error.to_string()))?;
        let genesis = signed.genesis.chain_id();
        if genesis != self.chain_id {
            return Err(Refused::OtherChain { evidence: self.chain_id, genesis });
        }
        let members = signed.genesis.members();
        let named = members.iter().find(|member| member.id == self.offence.accused);
        if named.is_some_and(|member| member.key == self.key && member.name == self.name) {
            return Ok(());
        }
        let later = if self.offence.epoch == Epoch(0) {
            ""
        } else {
            ": it was done in a later epoch, whose validators the genesis does not name; verify without --genesis, and the key by the \
             status of a quorum"
        };
        Err(Refused::OtherKey { id: self.offence.accused, later })
    }

    /// Who did what, in plain words.
    #[must_use]
    pub fn told(&self) -> String {
        let Offence { epoch, accused, kind } = self.offence;
        let (name, key, chain_id) = (&self.name, self.key.fingerprint(), self.chain_id);
        let what = match kind {
            OffenceKind::Fork(height) => {
                format!("signed two different vertices of height {height} of its lane")
            }
            OffenceKind::Votes(false, view, sequence) => {
                format!(
                    "proposed or prepared two different decisions for sequence {sequence} in view {view}"
                )
            }
            OffenceKind::Votes(true, view, sequence) => {
                format!("committed two different decisions for sequence {sequence} in view {view}")
            }
            OffenceKind::Concealed(view, sequence) => {
                format!(
                    "committed sequence {sequence} in view {view} and later signed that it had not"
                )
            }
        };
        let (first, second) = self.objects();
        let mut told = format!(
            "validator {name} (id {accused}) {what}, in epoch {epoch} of chain {chain_id}\n"
        );
        let lines = [("first", first), ("second", second), ("key", key.to_string())];
        for (label, text) in lines {
            // Writing to a string cannot fail.
            if writeln!(told, "  {label:<7} {text}").is_err() {
                unreachable!("a string takes every text");
            }
        }
        told.push_str("both signatures verify with this key; no honest node signs such a pair\n");
        told
    }

    /// The two signed objects, each in a few words.
    fn objects(&self) -> (String, String) {
        match &self.evidence {
            Evidence::Fork(a, b) => {
                let vertex = |header: &cretoai_types::VertexHeader| {
                    let domain = Domain { chain_id: self.chain_id, epoch: header.epoch };
                    format!("vertex {}", header.id(&domain))
                };
                (vertex(&a.header), vertex(&b.header))
            }
            Evidence::Votes(a, b) => {
                let vote = |vote: &cretoai_types::Vote| {
                    let phase = match vote.ballot.phase {
                        Phase::PrePrepare => "PRE-PREPARE",
                        Phase::Prepare => "PREPARE",
                        Phase::Commit => "COMMIT",
                    };
                    format!("{phase} of {}", vote.ballot.digest)
                };
                (vote(a), vote(b))
            }
            Evidence::Concealed(commit, head, _) => {
                let prepared = head.prepared.map_or_else(
                    || "nothing prepared".to_owned(),
                    |(view, _)| format!("prepared in view {view}"),
                );
                (
                    format!("COMMIT of {}", commit.ballot.digest),
                    format!(
                        "VIEW-CHANGE to view {}: executed up to {}, {prepared}",
                        head.view, head.executed
                    ),
                )
            }
        }
    }
}
