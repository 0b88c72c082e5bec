//! The steps of honest nodes in one epoch.
//!
//! The rule: a step is possible whenever the protocol permits it, and everything that a hostile
//! member or leader could add is assumed to exist. So timers, wants and messages need no state: a
//! node may enter any higher view at any time.
//!
//! Two steps of the protocol are folded into the next step that needs them:
//! - *Executing* is only seen by other nodes in the node's next PREPARE or VIEW-CHANGE, which makes
//!   it durable, too.
//! - *Accepting a NEW-VIEW* is only seen in the node's first PREPARE of that view. A NEW-VIEW that
//!   could have been accepted earlier can still be accepted then, because signed objects do not go
//!   away.

use crate::mutation::Mutation;
use crate::new_view::choices;
use crate::votes::{Committee, FRESH, LEFT, Prepared, ViewChange, Votes, bits, digest};

/// A step of one honest node. `node` is its index among the honest members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Enters `view`, executes up to `executed`, and signs a VIEW-CHANGE.
    Enter {
        /// The node.
        node: u8,
        /// The view that it enters.
        view: u8,
        /// The sequence that it reports as executed.
        executed: u8,
        /// The prepared certificate that it reports for the next sequence.
        prepared: Prepared,
    },
    /// Executes up to `sequence - 1` and signs PREPARE, or PRE-PREPARE where it leads, in its view.
    Prepare {
        /// The node.
        node: u8,
        /// The sequence voted on.
        sequence: u8,
        /// The digest voted for.
        digest: u8,
    },
    /// Signs COMMIT for what it prepared in its view.
    Commit {
        /// The node.
        node: u8,
        /// The sequence voted on.
        sequence: u8,
        /// The digest voted for.
        digest: u8,
    },
    /// Crashes and is in view 0 again (only without the durable view).
    Restart {
        /// The node.
        node: u8,
    },
}

impl Step {
    /// The index of the honest node that takes the step.
    #[must_use]
    pub const fn node(self) -> usize {
        match self {
            Self::Enter { node, .. }
            | Self::Prepare { node, .. }
            | Self::Commit { node, .. }
            | Self::Restart { node } => node as usize,
        }
    }

    /// The step in words, taken at `votes` by the member with this `name`.
    #[must_use]
    pub fn describe(self, votes: &Votes, name: u8) -> String {
        let current = votes.view[self.node()];
        match self {
            Self::Enter { view, executed, prepared, .. } => {
                format!(
                    "{name} enters view {view} and reports: executed {executed}, prepared {prepared:?}"
                )
            }
            Self::Prepare { sequence, digest, .. } => {
                format!(
                    "{name} sends PREPARE for d{digest} at sequence {sequence} in view {current}"
                )
            }
            Self::Commit { sequence, digest, .. } => format!(
                "{name} sends COMMIT for d{digest} at sequence {sequence} in view {current}"
            ),
            Self::Restart { .. } => format!("{name} restarts and is in view 0 again"),
        }
    }
}

/// The difference between digests of one origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Values {
    /// They differ in nothing that a rule looks at, so they may be renamed.
    Alike,
    /// The second digest of each view carries a valid RECONFIG.
    Reconfig,
}

/// Collects every step that some honest node may take. `last` is the last sequence that this epoch
/// may vote on.
pub fn steps(
    votes: &Votes,
    committee: &Committee,
    values: Values,
    last: u8,
    mutation: Mutation,
    out: &mut Vec<Step>,
) {
    for node in committee.nodes() {
        if votes.view[node] == LEFT {
            continue;
        }
        enter(votes, committee, node, last, mutation, out);
        prepare(votes, committee, node, values, last, mutation, out);
        commit(votes, committee, node, out);
        if mutation == Mutation::ForgetView && votes.view[node] > 0 {
            out.push(Step::Restart { node: node as u8 });
        }
    }
}

/// The votes after `step`.
#[must_use]
pub fn apply(votes: &Votes, step: Step) -> Votes {
    let mut next = *votes;
    let at = step.node();
    let current = votes.view[at];
    match step {
        Step::Enter { view, executed, prepared, .. } => {
            next.view[at] = view;
            execute(&mut next, at, executed);
            let sent = next.view_change_mut(at, view);
            // A VIEW-CHANGE keeps its bytes, even when the view was forgotten and is entered again.
            if *sent == ViewChange::NONE {
                *sent = ViewChange::new(executed, prepared);
            }
        }
        Step::Prepare { sequence, digest, .. } => {
            execute(&mut next, at, sequence - 1);
            *next.prepares_mut(at, current, sequence) |= 1 << digest;
        }
        Step::Commit { sequence, digest, .. } => {
            *next.commits_mut(at, current, sequence) |= 1 << digest;
            if sequence == votes.executed[at] + 1 {
                next.lock[at] = votes.lock[at].max(Prepared::new(current, digest));
            }
        }
        Step::Restart { .. } => next.view[at] = 0,
    }
    next
}

fn execute(votes: &mut Votes, node: usize, sequence: u8) {
    if sequence > votes.executed[node] {
        votes.executed[node] = sequence;
        votes.lock[node] = Prepared::NONE;
    }
}

/// A VIEW-CHANGE reports the node's own lock or, as others may have shown it one, any certificate
/// of a higher view.
fn enter(
    votes: &Votes,
    committee: &Committee,
    node: usize,
    last: u8,
    mutation: Mutation,
    out: &mut Vec<Step>,
) {
    let executable = votes.executable(committee).min(last - 1);
    for view in votes.view[node] + 1..committee.views {
        for executed in votes.executed[node]..=executable {
            let mut report =
                |prepared| out.push(Step::Enter { node: node as u8, view, executed, prepared });
            if mutation == Mutation::OmitLock {
                report(Prepared::NONE);
                continue;
            }
            let lock =
                if executed == votes.executed[node] { votes.lock[node] } else { Prepared::NONE };
            report(lock);
            for certified_in in
                lock.get().map_or(0, |(view, _)| view + 1)..committee.certificates_below(view)
            {
                bits(votes.prepared(committee, certified_in, executed + 1))
                    .for_each(|digest| report(Prepared::new(certified_in, digest)));
            }
        }
    }
}

fn prepare(
    votes: &Votes,
    committee: &Committee,
    node: usize,
    values: Values,
    last: u8,
    mutation: Mutation,
    out: &mut Vec<Step>,
) {
    let view = votes.view[node];
    let leader = committee.honest_leader(view);
    let executable = votes.executable(committee);
    for sequence in votes.executed[node] + 1..=last.min(executable + 1) {
        let voted = votes.prepares(node, view, sequence);
        if voted != 0 && mutation != Mutation::ForgetPrepare {
            continue;
        }
        let permitted = match leader {
            // The leader's NEW-VIEW makes followers active, so they may vote for its proposal.
            Some(leader) if leader != node => votes.prepares(leader, view, sequence),
            _ => proposable(votes, committee, node, view, sequence, values, mutation),
        };
        bits(permitted & !voted)
            .for_each(|digest| out.push(Step::Prepare { node: node as u8, sequence, digest }));
    }
}

/// The digests that the leader of `view` can propose for `sequence` such that `node` votes for
/// them.
fn proposable(
    votes: &Votes,
    committee: &Committee,
    node: usize,
    view: u8,
    sequence: u8,
    values: Values,
    mutation: Mutation,
) -> u8 {
    let second = match values {
        Values::Reconfig => true,
        // An honest leader proposes once. The proposal of a hostile leader that gets a vote first
        // is named the first.
        Values::Alike => {
            let first = 1u8 << digest(view, 0);
            committee.honest_leader(view).is_none()
                && committee.nodes().any(|other| votes.prepares(other, view, sequence) & first != 0)
                || mutation == Mutation::ForgetPrepare
        }
    };
    let fresh = (0..if second { FRESH } else { 1 })
        .fold(0u8, |all, choice| all | 1 << digest(view, choice));
    // View 0 needs no NEW-VIEW. In other views a node that voted on a lower sequence has a NEW-VIEW
    // that is about a lower one.
    if view == 0 || (1..sequence).any(|lower| votes.prepares(node, view, lower) != 0) {
        return fresh;
    }
    // A commit certificate of the view makes the node active, too, and leaves the sequences above
    // it free.
    let active = (1..sequence).any(|lower| votes.committed_in(committee, view, lower) != 0);
    let choices = choices(votes, committee, view, mutation);
    choices.chosen(sequence) | if active || choices.allow_fresh(sequence) { fresh } else { 0 }
}

fn commit(votes: &Votes, committee: &Committee, node: usize, out: &mut Vec<Step>) {
    let view = votes.view[node];
    for sequence in 1..=committee.sequences.min(votes.executed[node] + 1) {
        let ready = votes.prepares(node, view, sequence)
            & votes.prepared(committee, view, sequence)
            & !votes.commits(node, view, sequence);
        bits(ready)
            .for_each(|digest| out.push(Step::Commit { node: node as u8, sequence, digest }));
    }
}

/// Whether the digest carries a RECONFIG.
#[must_use]
pub const fn is_reconfig(digest: u8) -> bool {
    digest % FRESH == 1
}
