//! One representative for states that no later step and no property can tell apart.
//!
//! The rule: only parts that are never read again are changed. There are three:
//! - *Settled votes.* A node that left a view signs nothing more in it, so its votes there count
//!   only towards certificates. Where the certificate exists, the votes are set to it. Where it can
//!   no longer come about, they are erased. (A node's own lock is kept apart, in [`Votes::lock`].)
//! - *Dead VIEW-CHANGEs.* Only a node that may still accept a NEW-VIEW of their view reads them: an
//!   honest leader that has not proposed in it, or, under a hostile leader, a node that has neither
//!   left the view nor voted in it.
//! - *Names.* The fresh digests of a hostile leader differ in nothing but their names. The lowest
//!   node that voted for one voted for the first.

use crate::steps::Values;
use crate::votes::{Committee, FRESH, LEFT, Prepared, ViewChange, Votes, bits, digest};

/// The representative of `votes`.
#[must_use]
pub fn representative(votes: &Votes, committee: &Committee, values: Values) -> Votes {
    let mut next = *votes;
    for view in 0..committee.views {
        for sequence in 1..=committee.sequences {
            settle(&mut next, committee, view, sequence, Kind::Prepare);
            settle(&mut next, committee, view, sequence, Kind::Commit);
        }
        if view > 0 && dead(&next, committee, view) {
            committee.nodes().for_each(|node| *next.view_change_mut(node, view) = ViewChange::NONE);
        }
    }
    // A node that left the epoch reports nothing more.
    for node in committee.nodes().filter(|node| votes.view[*node] == LEFT) {
        next.lock[node] = Prepared::NONE;
    }
    if values == Values::Alike {
        for view in (0..committee.views).filter(|view| committee.honest_leader(*view).is_none()) {
            (1..=committee.sequences)
                .for_each(|sequence| rename(&mut next, committee, view, sequence));
        }
    }
    next
}

#[derive(Clone, Copy)]
enum Kind {
    Prepare,
    Commit,
}

fn settle(votes: &mut Votes, committee: &Committee, view: u8, sequence: u8, kind: Kind) {
    let slot = |votes: &Votes, node| match kind {
        Kind::Prepare => votes.prepares(node, view, sequence),
        Kind::Commit => votes.commits(node, view, sequence),
    };
    let left = |node: usize| votes.view[node] > view;
    let pending =
        committee.nodes().filter(|node| !left(*node) && slot(votes, *node) == 0).count() as u32;
    let named = committee.nodes().fold(0, |all, node| all | slot(votes, node));
    if named == 0 {
        return;
    }
    let count = |digest: u8| {
        committee.nodes().filter(|node| slot(votes, *node) & (1 << digest) != 0).count() as u32
    };
    let certified = bits(named)
        .filter(|digest| count(*digest) >= committee.need())
        .fold(0, |all, digest| all | 1u8 << digest);
    let open = bits(named)
        .filter(|digest| count(*digest) + pending >= committee.need())
        .fold(0, |all, digest| all | 1u8 << digest);
    let gone: Vec<usize> = committee.nodes().filter(|node| left(*node)).collect();
    for node in gone {
        let kept = if certified != 0 { certified } else { slot(votes, node) & open };
        match kind {
            Kind::Prepare => *votes.prepares_mut(node, view, sequence) = kept,
            Kind::Commit => *votes.commits_mut(node, view, sequence) = kept,
        }
    }
}

fn dead(votes: &Votes, committee: &Committee, view: u8) -> bool {
    let may_accept = |node: usize| {
        votes.view[node] <= view
            && (1..=committee.sequences).all(|sequence| votes.prepares(node, view, sequence) == 0)
    };
    match committee.honest_leader(view) {
        Some(leader) => !may_accept(leader),
        None => !committee.nodes().any(may_accept),
    }
}

fn rename(votes: &mut Votes, committee: &Committee, origin: u8, sequence: u8) {
    let first = 1u8 << digest(origin, 0);
    let fresh = first | first << 1;
    let lowest = committee
        .nodes()
        .map(|node| votes.prepares(node, origin, sequence) & fresh)
        .find(|set| *set != 0);
    if lowest.is_none_or(|set| set & first != 0) {
        return;
    }
    let swap = |set: u8| set & !fresh | (set & first) << 1 | (set >> 1) & first;
    let swap_certificate = |prepared: Prepared| match prepared.get() {
        Some((view, named)) if named / FRESH == origin => Prepared::new(view, named ^ 1),
        _ => prepared,
    };
    for node in committee.nodes() {
        for view in origin..committee.views {
            let prepares = votes.prepares_mut(node, view, sequence);
            *prepares = swap(*prepares);
            let commits = votes.commits_mut(node, view, sequence);
            *commits = swap(*commits);
        }
        if votes.executed[node] + 1 == sequence {
            votes.lock[node] = swap_certificate(votes.lock[node]);
        }
        for view in 1..committee.views {
            let sent = votes.view_change_mut(node, view);
            match sent.get() {
                Some((executed, prepared)) if executed + 1 == sequence => {
                    *sent = ViewChange::new(executed, swap_certificate(prepared))
                }
                _ => {}
            }
        }
    }
}
