//! The contents of a NEW-VIEW: every choice that receivers who recompute it would accept.
//!
//! The rule: a NEW-VIEW carries q valid VIEW-CHANGEs of distinct members, and an honest leader's
//! own is among them. c* is the highest executed sequence that they report. The choice for c* + 1
//! is the digest of the prepared certificate of the highest view, or "free". A hostile member's
//! VIEW-CHANGE may leave out its certificate or report an older sequence. It cannot carry a
//! certificate that does not exist. The model does not demand that a certificate is of a lower view
//! than its VIEW-CHANGE: what is checked here holds without that rule, too.

use crate::mutation::Mutation;
use crate::votes::{Committee, Prepared, SEQUENCES, ViewChange, Votes, bits};

/// Every choice that some valid NEW-VIEW makes, by c*.
#[derive(Clone, Copy, Default, Debug)]
pub struct Choices {
    free: [bool; SEQUENCES],
    digests: [u8; SEQUENCES],
}

impl Choices {
    /// Whether some NEW-VIEW lets the leader propose anything fresh for `sequence`, because it
    /// leaves it free or its c* + 1 is below.
    #[must_use]
    pub fn allow_fresh(&self, sequence: u8) -> bool {
        let last = usize::from(sequence) - 1;
        self.free[..=last].contains(&true)
            || self.digests[..last].iter().any(|digests| *digests != 0)
    }

    /// The digests that some NEW-VIEW chooses for `sequence`.
    #[must_use]
    pub fn chosen(&self, sequence: u8) -> u8 {
        self.digests[usize::from(sequence) - 1]
    }

    fn add(&mut self, (executed, prepared): (u8, Prepared), mutation: Mutation) {
        let executed = usize::from(executed);
        // A VIEW-CHANGE that reports the last explored sequence as executed leaves nothing to vote
        // on.
        if executed >= SEQUENCES {
            return;
        }
        match prepared.get() {
            Some((_, digest)) => self.digests[executed] |= 1 << digest,
            None => self.free[executed] = true,
        }
        if mutation == Mutation::LeaderChooses {
            self.free[executed] = true;
        }
    }
}

/// Every choice that a NEW-VIEW of `view` can make with the VIEW-CHANGEs that exist.
#[must_use]
pub fn choices(votes: &Votes, committee: &Committee, view: u8, mutation: Mutation) -> Choices {
    let sent = committee.nodes().fold(0u8, |all, node| {
        all | u8::from(votes.view_change(node, view) != ViewChange::NONE) << node
    });
    let own = committee.honest_leader(view).map_or(0, |leader| 1u8 << leader);
    let mut choices = Choices::default();
    if sent & own != own || sent == 0 {
        return choices;
    }
    let hostile =
        if committee.hostile > 0 { hostile_heads(votes, committee, view) } else { Vec::new() };
    for members in 1..1u8 << committee.honest.len() {
        if members & !sent != 0 || members & own != own {
            continue;
        }
        let heads =
            bits(members).filter_map(|node| votes.view_change(usize::from(node), view).get());
        let Some(head) = heads.reduce(|one, other| merge(one, other, mutation)) else { continue };
        match committee.quorum.checked_sub(members.count_ones() as u8) {
            Some(0) => choices.add(head, mutation),
            Some(missing) if missing <= committee.hostile => {
                hostile.iter().for_each(|lie| choices.add(merge(head, *lie, mutation), mutation));
            }
            _ => {}
        }
    }
    choices
}

/// The choice that VIEW-CHANGEs with these heads make together.
fn merge(one: (u8, Prepared), other: (u8, Prepared), mutation: Mutation) -> (u8, Prepared) {
    match one.0.cmp(&other.0) {
        std::cmp::Ordering::Greater => one,
        std::cmp::Ordering::Less => other,
        std::cmp::Ordering::Equal
            if mutation == Mutation::LowestView
                && one.1 != Prepared::NONE
                && other.1 != Prepared::NONE =>
        {
            (one.0, one.1.min(other.1))
        }
        std::cmp::Ordering::Equal => (one.0, one.1.max(other.1)),
    }
}

/// The heads that a hostile member can sign with certificates that exist.
fn hostile_heads(votes: &Votes, committee: &Committee, view: u8) -> Vec<(u8, Prepared)> {
    let mut heads = Vec::new();
    for executed in 0..=votes.executable(committee).min(committee.sequences - 1) {
        heads.push((executed, Prepared::NONE));
        for certified_in in 0..committee.certificates_below(view) {
            let certified = votes.prepared(committee, certified_in, executed + 1);
            heads.extend(
                bits(certified).map(|digest| (executed, Prepared::new(certified_in, digest))),
            );
        }
    }
    heads
}
