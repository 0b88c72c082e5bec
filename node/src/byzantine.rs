//! A node that attacks, for tests of whole clusters. Only with the feature `byzantine`, which no
//! image has.
//!
//! It runs an honest engine and changes what leaves it; nothing is signed with another's key.
//! `CRETO_BYZANTINE` names what it does, separated by commas:
//!
//! | word | attack |
//! |---|---|
//! | `equivocate` | as leader it proposes one decision to peers with an even id and another to those with an odd one, and commits both to everybody; it forks its lane alike |
//! | `withhold` | it sends its vertices to all but one peer, and does not answer that peer's fetches |
//! | `lie-catch-up` | it answers fetches with altered records, broken proofs and altered vertices |

use crate::sync::lock;
use anyhow::bail;
use cretoai_consensus::Message;
use cretoai_types::{
    Ballot, CheckedVertex, Domain, Hash, NodeId, Payload, Phase, Proof, Proposal, Sequence, Signer,
    Tip, Validators, Vertex, View, Vote,
};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

/// The environment variable that names the attacks.
pub(crate) const VARIABLE: &str = "CRETO_BYZANTINE";

/// An attacker.
pub(crate) struct Attack {
    signer: Arc<dyn Signer>,
    chain_id: Hash,
    equivocate: bool,
    withhold: bool,
    lie_catch_up: bool,
    /// The newest two proposals that it made for one place.
    twins: Mutex<Option<Twins>>,
    lies: AtomicU64,
}

#[derive(Clone, Copy)]
struct Twins {
    view: View,
    sequence: Sequence,
    even: Hash,
    odd: Hash,
}

impl Attack {
    /// The attacks that `words` names.
    pub(crate) fn of(words: &str, signer: Arc<dyn Signer>, chain_id: Hash) -> anyhow::Result<Self> {
        let mut attack = Self {
            signer,
            chain_id,
            equivocate: false,
            withhold: false,
            lie_catch_up: false,
            twins: Mutex::new(None),
            lies: AtomicU64::new(0),
        };
        for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "equivocate" => attack.equivocate = true,
                "withhold" => attack.withhold = true,
                "lie-catch-up" => attack.lie_catch_up = true,
                _ => bail!(
                    "{VARIABLE} names {word:?}; it knows equivocate, withhold and lie-catch-up"
                ),
            }
        }
        Ok(attack)
    }

    /// What goes to `to` in place of an honest message of the engine's.
    pub(crate) fn tamper(
        &self,
        validators: &Validators,
        to: NodeId,
        message: &Message,
    ) -> Vec<Message> {
        let own = validators.by_key(self.signer.public_key()).map(|member| member.id);
        match (own, message) {
            (Some(own), Message::Vertex(vertex)) if vertex.header.author == own => {
                self.vertex(validators, to, vertex)
            }
            (Some(_), Message::PrePrepare { proposal, vote }) if self.equivocate => {
                self.proposal(to, proposal, vote)
            }
            (Some(_), Message::Vote(vote)) if self.equivocate => self.votes(to, vote),
            (_, other) => vec![other.clone()],
        }
    }

    /// What goes to `to` in place of honest answers to a fetch.
    pub(crate) fn lie(
        &self,
        validators: &Validators,
        to: NodeId,
        answers: Vec<Message>,
    ) -> Vec<Message> {
        if self.withhold && self.is_victim(validators, to) {
            return Vec::new();
        }
        if !self.lie_catch_up {
            return answers;
        }
        answers.into_iter().map(|answer| self.altered(answer)).collect()
    }

    fn altered(&self, answer: Message) -> Message {
        let lie = self.lies.fetch_add(1, Ordering::Relaxed);
        match answer {
            Message::Records { epoch, mut records, mut proof } => {
                match (lie % 4, &mut proof) {
                    (0, _) => records.iter_mut().for_each(|record| {
                        record.vertices.push(Hash::of_bytes(&lie.to_le_bytes()))
                    }),
                    (1, _) => records.iter_mut().for_each(|record| record.proposal.time_ms += 1),
                    (_, Proof::Commit(certificate)) => {
                        certificate.digest = Hash::of_bytes(&lie.to_le_bytes())
                    }
                    (_, Proof::Checkpoint(certificate)) => {
                        certificate.state.chain_hash = Hash::of_bytes(&lie.to_le_bytes())
                    }
                }
                Message::Records { epoch, records, proof }
            }
            Message::Fetched(vertex) => {
                let mut vertex = Arc::unwrap_or_clone(vertex);
                match vertex.payloads.iter_mut().find_map(|payload| payload.data.first_mut()) {
                    Some(byte) => *byte ^= 1,
                    None => vertex.header.timestamp_ms += 1,
                }
                Message::Fetched(Arc::new(vertex))
            }
            Message::Stable(certificate) => {
                let mut certificate = Arc::unwrap_or_clone(certificate);
                certificate.state.chain_hash = Hash::of_bytes(&lie.to_le_bytes());
                Message::Stable(Arc::new(certificate))
            }
            other => other,
        }
    }

    /// The peer that sees nothing of this node's lane: the one after it.
    fn is_victim(&self, validators: &Validators, to: NodeId) -> bool {
        let own = validators
            .by_key(self.signer.public_key())
            .and_then(|member| validators.position(member.id));
        let next = own.and_then(|position| {
            validators.id_at((position + 1) % validators.members.len().max(1))
        });
        next == Some(to)
    }

    fn vertex(&self, validators: &Validators, to: NodeId, vertex: &Arc<Vertex>) -> Vec<Message> {
        if self.withhold && self.is_victim(validators, to) {
            return Vec::new();
        }
        if !self.equivocate || to.0.is_multiple_of(2) {
            return vec![Message::Vertex(Arc::clone(vertex))];
        }
        let header = &vertex.header;
        let Some(below) = header.height.0.checked_sub(1) else { return Vec::new() };
        let previous = Tip { height: cretoai_types::Height(below), id: header.parent };
        let payload = Payload {
            key: [0xba; 16],
            valid_until_ms: header.timestamp_ms + 20_000,
            topic: None,
            data: b"the other branch".to_vec(),
        };
        let domain = Domain { chain_id: self.chain_id, epoch: header.epoch };
        let links = header.links.clone();
        let fork = CheckedVertex::seal(
            &domain,
            &*self.signer,
            header.author,
            previous,
            links,
            header.timestamp_ms,
            vec![payload],
            Vec::new(),
        );
        vec![Message::Vertex(Arc::new(fork.vertex().clone()))]
    }

    fn proposal(&self, to: NodeId, proposal: &Proposal, vote: &Vote) -> Vec<Message> {
        let Ballot { epoch, view, sequence, digest, .. } = vote.ballot;
        let mut other = proposal.clone();
        other.time_ms += 1;
        let twin = other.digest(&Domain { chain_id: self.chain_id, epoch });
        *lock(&self.twins) = Some(Twins { view, sequence, even: digest, odd: twin });
        let told = if to.0.is_multiple_of(2) {
            Message::PrePrepare { proposal: proposal.clone(), vote: vote.clone() }
        } else {
            Message::PrePrepare {
                proposal: other,
                vote: self.signed(Ballot { digest: twin, ..vote.ballot }),
            }
        };
        // And at once the COMMITs: its engine will see no quorum for either.
        let commit = self.signed(Ballot { phase: Phase::Commit, ..vote.ballot });
        std::iter::once(told).chain(self.votes(to, &commit)).collect()
    }

    /// Commits both of two proposals to everybody, the one that the peer knows first.
    fn votes(&self, to: NodeId, vote: &Vote) -> Vec<Message> {
        let twins = *lock(&self.twins);
        let here = |twins: &Twins| {
            (twins.view, twins.sequence) == (vote.ballot.view, vote.ballot.sequence)
        };
        match twins.filter(here) {
            Some(Twins { even, odd, .. }) if vote.ballot.phase == Phase::Commit => {
                let digests = if to.0.is_multiple_of(2) { [even, odd] } else { [odd, even] };
                digests
                    .map(|digest| Message::Vote(self.signed(Ballot { digest, ..vote.ballot })))
                    .to_vec()
            }
            _ => vec![Message::Vote(vote.clone())],
        }
    }

    fn signed(&self, ballot: Ballot) -> Vote {
        Vote { ballot, signature: self.signer.sign(&ballot.signing_message(self.chain_id)) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use cretoai_control::keys::{MlDsa87, SecretKey};
    use cretoai_types::{
        Epoch, Evidence, FaultModel, Height, Member, OffenceKind, Parameters, SignedHeader,
    };

    const CHAIN: Hash = Hash([7; 32]);

    fn setting(words: &str) -> (Attack, Validators) {
        let keys: Vec<SecretKey> =
            (1..=4).map(|n| SecretKey::from_seed(&[n; 32]).unwrap()).collect();
        let member = |(id, key): (u32, &SecretKey)| Member {
            id: NodeId(id),
            name: format!("node-{id}"),
            key: key.public_key().clone(),
            since: Epoch(0),
        };
        let validators = Validators {
            epoch: Epoch(0),
            members: (0..).zip(&keys).map(member).collect(),
            next_id: NodeId(4),
            admin_key: SecretKey::from_seed(&[9; 32]).unwrap().public_key().clone(),
            fault_model: FaultModel::Byzantine,
            parameters: Parameters::default(),
            first: 0,
        };
        (Attack::of(words, Arc::new(keys[0].clone()), CHAIN).unwrap(), validators)
    }

    fn sealed(attack: &Attack) -> Arc<Vertex> {
        let domain = Domain { chain_id: CHAIN, epoch: Epoch(0) };
        let vertex = CheckedVertex::seal(
            &domain,
            &*attack.signer,
            NodeId(0),
            Tip::default(),
            vec![],
            1_000,
            vec![],
            vec![],
        );
        Arc::new(vertex.vertex().clone())
    }

    #[test]
    fn what_it_signs_for_odd_and_even_peers_is_evidence_against_it() {
        let (attack, validators) = setting("equivocate");
        let vertex = sealed(&attack);
        let shown = |to| match attack
            .tamper(&validators, NodeId(to), &Message::Vertex(Arc::clone(&vertex)))
            .pop()
        {
            Some(Message::Vertex(vertex)) => {
                SignedHeader { header: vertex.header.clone(), signature: vertex.signature.clone() }
            }
            other => panic!("{other:?}"),
        };
        let fork = Evidence::Fork(Box::new(shown(1)), Box::new(shown(2)));
        assert_eq!(fork.offence().unwrap().kind, OffenceKind::Fork(Height(1)));
        assert!(fork.is_signed(CHAIN, &validators, &MlDsa87));

        let proposal = Proposal {
            sequence: Sequence(1),
            prev: CHAIN,
            time_ms: 1_000,
            origin_view: View(0),
            cut: vec![Tip::default(); 4],
        };
        let digest = proposal.digest(&Domain { chain_id: CHAIN, epoch: Epoch(0) });
        let ballot = Ballot {
            epoch: Epoch(0),
            phase: Phase::PrePrepare,
            view: View(0),
            sequence: Sequence(1),
            digest,
            voter: NodeId(0),
        };
        let message = Message::PrePrepare { proposal, vote: attack.signed(ballot) };
        let told = |to| match attack.tamper(&validators, NodeId(to), &message).into_iter().next() {
            Some(Message::PrePrepare { vote, .. }) => vote,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            attack.tamper(&validators, NodeId(1), &message).len(),
            3,
            "with a COMMIT of both"
        );
        let proposals = Evidence::Votes(told(1), told(2));
        assert!(proposals.is_signed(CHAIN, &validators, &MlDsa87), "{:?}", proposals.offence());
        let commit = Message::Vote(attack.signed(Ballot { phase: Phase::Commit, ..ballot }));
        match attack.tamper(&validators, NodeId(1), &commit).as_slice() {
            [Message::Vote(a), Message::Vote(b)] => {
                assert!(Evidence::Votes(a.clone(), b.clone()).is_signed(
                    CHAIN,
                    &validators,
                    &MlDsa87
                ));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_withholds_from_one_peer_and_lies_to_all() {
        let (attack, validators) = setting("withhold");
        let message = Message::Vertex(sealed(&attack));
        let shown = |to| attack.tamper(&validators, NodeId(to), &message).len();
        assert_eq!([shown(1), shown(2), shown(3)], [0, 1, 1]);
        let (liar, _) = setting("lie-catch-up");
        let honest = Message::Fetched(sealed(&liar));
        assert_ne!(liar.lie(&validators, NodeId(2), vec![honest.clone()]), [honest]);
        assert!(
            Attack::of("equivocates", Arc::new(SecretKey::from_seed(&[1; 32]).unwrap()), CHAIN)
                .is_err()
        );
    }
}
