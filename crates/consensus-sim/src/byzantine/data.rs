//! Lies about vertices, evidence and records.

use super::{Attacker, Situation, Strategy};
use crate::{
    crypto::{member_name, nonsense},
    rng::Rng,
};
use cretoai_consensus::Message;
use cretoai_types::{
    Change, CheckedVertex, Epoch, Evidence, Height, Item, MAX_ITEMS, NodeId, Payload, Proof,
    Reconfig, Record, Sequence, Signature, SignedHeader, SignedReconfig, Signer, Tip, Vertex, View,
    Vote,
};
use std::sync::Arc;

impl Attacker {
    /// A header that could become half of a false proof.
    pub(super) fn hear_header(&mut self, signed: SignedHeader) {
        let slot = (signed.header.author, signed.header.height);
        if let Some(first) =
            self.headers.get(&slot).filter(|first| first.header.epoch != signed.header.epoch)
        {
            // Both are true: an author seals undecided payloads anew in the next epoch. It proves
            // nothing.
            if self.frames.len() < 8 {
                self.frames
                    .push_back(Evidence::Fork(Box::new(first.clone()), Box::new(signed.clone())));
            }
        }
        if self.headers.len() < 512 {
            self.headers.insert(slot, signed);
        }
    }

    pub(super) fn vertex(
        &mut self,
        rng: &mut Rng,
        situation: &Situation<'_>,
        to: NodeId,
        vertex: &Arc<Vertex>,
    ) -> Vec<Message> {
        if self.does(Strategy::Withhold) && to.0 != 0 && rng.chance(600) {
            return Vec::new();
        }
        let frames = self.does(Strategy::Frame);
        let forks = self.does(Strategy::ForkLane) && self.other_face.contains(&to);
        let Some(key) = self
            .key(situation)
            .filter(|_| (frames || forks) && vertex.header.epoch == situation.validators.epoch)
        else {
            return vec![Message::Vertex(Arc::clone(vertex))];
        };
        let (epoch, height) = (vertex.header.epoch, vertex.header.height);
        if let Some(stand_in) = self.stand_ins.get(&(epoch, height)).filter(|_| !rng.chance(20)) {
            return vec![Message::Vertex(Arc::clone(stand_in))];
        }
        let previous = self.fork.filter(|tip| tip.height.next() == height && !rng.chance(100));
        let previous =
            previous.unwrap_or(Tip { height: Height(height.0 - 1), id: vertex.header.parent });
        let mut payloads = vertex.payloads.clone();
        payloads.truncate(8);
        if !frames {
            payloads = vec![Payload {
                key: [9; 16],
                valid_until_ms: situation.wall_ms + 20_000,
                topic: None,
                data: vec![height.0 as u8, 1],
            }];
        }
        let items = if frames { self.false_items(rng, situation) } else { Vec::new() };
        let domain = self.domain(epoch);
        let other = CheckedVertex::seal(
            &domain,
            key,
            self.own,
            previous,
            Vec::new(),
            vertex.header.timestamp_ms,
            payloads,
            items,
        );
        self.fork = Some(other.tip());
        let stand_in = Arc::new(other.vertex().clone());
        self.stand_ins.insert((epoch, height), Arc::clone(&stand_in));
        vec![Message::Vertex(stand_in)]
    }

    /// System items that must have no effect.
    fn false_items(&mut self, rng: &mut Rng, situation: &Situation<'_>) -> Vec<Item> {
        let mut items: Vec<Item> =
            self.frames.drain(..).map(|evidence| Item::Evidence(Box::new(evidence))).collect();
        if let Some(vote) = (!self.votes_seen.is_empty())
            .then(|| self.votes_seen[rng.index(self.votes_seen.len())].clone())
        {
            let mut other = vote.clone();
            match rng.below(4) {
                0 => other.ballot.digest = nonsense(rng.next()),
                1 => {
                    other.ballot.digest = nonsense(rng.next());
                    other.signature = Signature(Box::new([3; Signature::SIZE]));
                }
                2 => other.ballot.view = View(other.ballot.view.0 + 1),
                _ => {}
            }
            items.push(Item::Evidence(Box::new(Evidence::Votes(vote.clone(), other))));
            let change = self.view_changes.get(&vote.ballot.voter);
            items.extend(
                change
                    .map(|change| conceals(rng, vote, change))
                    .map(|evidence| Item::Evidence(Box::new(evidence))),
            );
        }
        if rng.chance(200)
            && let Some(key) = self.key(situation)
        {
            let victim = situation
                .validators
                .id_at(rng.index(situation.validators.members.len()))
                .unwrap_or_default();
            let change = if rng.chance(500) {
                Change::Remove { id: victim }
            } else {
                Change::Add { name: member_name(99), key: key.public_key().clone() }
            };
            let reconfig = Reconfig {
                epoch: situation.validators.epoch,
                valid_until_ms: u64::MAX,
                change,
                ready: None,
            };
            let admin = key.sign(&reconfig.signing_message(self.chain_id));
            let new_key = Some(key.sign(&reconfig.possession_message(self.chain_id)));
            items.push(Item::Reconfig(Box::new(SignedReconfig {
                reconfig,
                admin,
                new_key,
                old_key: None,
            })));
        }
        items.truncate(MAX_ITEMS);
        items
    }

    /// Not the vertex that was asked for.
    pub(super) fn wrong_chunk(
        &self,
        rng: &mut Rng,
        situation: &Situation<'_>,
        vertex: &Arc<Vertex>,
    ) -> Vec<Message> {
        let mut wrong = (**vertex).clone();
        match rng.below(6) {
            0 => wrong.header.height.0 += 1,
            1 => wrong.header.parent = nonsense(rng.next()),
            2 => {
                wrong.payloads.pop();
            }
            3 => wrong.signature = Signature(Box::new([1; Signature::SIZE])),
            4 => {
                // Signed with its own key, in the name of another.
                if let Some(key) = self.key(situation) {
                    wrong.header.timestamp_ms += 1;
                    wrong.signature =
                        key.sign(&wrong.header.signing_message(&self.domain(wrong.header.epoch)));
                }
            }
            _ => return vec![Message::Fetched(Arc::clone(vertex))],
        }
        vec![Message::Fetched(Arc::new(wrong))]
    }
}

/// A COMMIT and a VIEW-CHANGE of one node. Both are true and do not contradict each other, unless
/// one is changed, which breaks its signature.
fn conceals(rng: &mut Rng, mut vote: Vote, change: &cretoai_types::ViewChange) -> Evidence {
    let mut head = change.head.clone();
    if rng.chance(500) {
        (head.prepared, head.executed) = (None, Sequence(0));
        vote.ballot.phase = cretoai_types::Phase::Commit;
    }
    Evidence::Concealed(vote, head, change.signature.clone())
}

pub(super) fn forged_records(
    rng: &mut Rng,
    epoch: Epoch,
    mut records: Vec<Record>,
    mut proof: Proof,
) -> Vec<Message> {
    match rng.below(8) {
        0 => {
            records.last_mut().into_iter().for_each(|last| last.vertices.push(nonsense(rng.next())))
        }
        1 => records.truncate(records.len() / 2),
        2 => records
            .first_mut()
            .into_iter()
            .for_each(|first| first.proposal.sequence = Sequence(u64::MAX)),
        3 => match &mut proof {
            Proof::Commit(certificate) => certificate.votes.truncate(1),
            Proof::Checkpoint(certificate) => certificate.signatures.truncate(1),
        },
        4 => match &mut proof {
            Proof::Commit(certificate) => certificate.digest = nonsense(rng.next()),
            Proof::Checkpoint(certificate) => certificate.state.chain_hash = nonsense(rng.next()),
        },
        5 => records.first_mut().into_iter().for_each(|first| first.vertices.reverse()),
        6 => records
            .first_mut()
            .into_iter()
            .for_each(|first| first.proposal.prev = nonsense(rng.next())),
        _ => {}
    }
    let epoch = if rng.chance(100) { Epoch(epoch.0 + 1) } else { epoch };
    let mut messages = vec![Message::Records { epoch, records, proof }];
    if rng.chance(200) {
        let from = NodeId(rng.below(9) as u32);
        messages.push(Message::FetchLane {
            author: from,
            above: Height(0),
            up_to: Height(u64::MAX),
        });
    }
    messages
}
