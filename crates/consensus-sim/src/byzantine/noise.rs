//! Replays, garbage, floods, and what belongs to another chain or epoch.

use super::{Attacker, Situation, Strategy};
use crate::{crypto::nonsense, rng::Rng};
use cretoai_consensus::Message;
use cretoai_types::{
    Ballot, Epoch, Phase, Sequence, Signature, Signer, View, Vote, decode, encode,
};

/// The most messages in one burst.
const BURST: u64 = 40;

impl Attacker {
    /// What else leaves together with a message.
    pub(super) fn add_noise(
        &mut self,
        rng: &mut Rng,
        situation: &Situation<'_>,
        messages: &mut Vec<Message>,
    ) {
        if self.does(Strategy::Garbage)
            && rng.chance(50)
            && let Some(broken) = messages.first().and_then(|message| broken_bytes(rng, message))
        {
            messages.push(broken);
        }
        if self.does(Strategy::Replay) && rng.chance(50) && !self.memory.is_empty() {
            messages.push(self.memory[rng.index(self.memory.len())].clone());
        }
        if self.does(Strategy::OtherDomain) && rng.chance(100) {
            // Before the true one, or in its place.
            if let Some(other) = self.other_domain(rng, situation, messages.first()) {
                if rng.chance(500) {
                    messages.clear();
                }
                messages.insert(0, other);
            }
        }
        if self.does(Strategy::Flood) && rng.chance(4) {
            messages.extend(self.flood(rng, situation));
        }
        if self.does(Strategy::FloodInvalid) && rng.chance(200) {
            messages.extend(self.invalid_votes(rng, situation));
        }
    }

    /// The same vote in another epoch, or on another chain.
    fn other_domain(
        &self,
        rng: &mut Rng,
        situation: &Situation<'_>,
        message: Option<&Message>,
    ) -> Option<Message> {
        let Some(Message::Vote(vote)) = message else { return None };
        let key = self.key(situation)?;
        let mut ballot = vote.ballot;
        let chain_id = match rng.below(3) {
            0 => nonsense(1),
            1 => {
                ballot.epoch = ballot.epoch.next();
                self.chain_id
            }
            _ => {
                ballot.epoch = Epoch(ballot.epoch.0.saturating_sub(1));
                self.chain_id
            }
        };
        Some(Message::Vote(Vote { ballot, signature: key.sign(&ballot.signing_message(chain_id)) }))
    }

    /// Votes for the running decision that do not verify.
    fn invalid_votes(&self, rng: &mut Rng, situation: &Situation<'_>) -> Vec<Message> {
        let votes = (0..rng.range(1, BURST)).map(|number| {
            let phase = if number % 2 == 0 { Phase::Prepare } else { Phase::Commit };
            let ballot = Ballot {
                epoch: situation.validators.epoch,
                phase,
                view: situation.view,
                sequence: situation.executed.next(),
                digest: nonsense(rng.next()),
                voter: self.own,
            };
            Vote { ballot, signature: Signature(Box::new([9; Signature::SIZE])) }
        });
        votes.map(Message::Vote).collect()
    }

    /// Votes for places that do not exist yet.
    fn flood(&self, rng: &mut Rng, situation: &Situation<'_>) -> Vec<Message> {
        let epoch = situation.validators.epoch;
        let votes = (0..rng.range(1, BURST)).filter_map(|_| {
            let sequence = Sequence(situation.executed.0 + rng.below(4));
            let phase = rng.pick(&[Phase::Prepare, Phase::Commit]);
            let like = Ballot {
                epoch,
                phase,
                view: View(rng.below(6)),
                sequence,
                digest: nonsense(0),
                voter: self.own,
            };
            self.vote(situation, phase, like, nonsense(rng.next()))
        });
        votes.map(Message::Vote).collect()
    }
}

/// The message with some bytes changed, if that still is one.
fn broken_bytes(rng: &mut Rng, message: &Message) -> Option<Message> {
    let mut bytes = encode(message);
    for _ in 0..rng.range(1, 4) {
        // Near the beginning there is more than signatures.
        let reach = bytes.len().min(400);
        let at = rng.index(reach);
        bytes[at] ^= 1 << rng.below(8);
    }
    decode(&bytes).ok()
}
