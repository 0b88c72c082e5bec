//! The arithmetic of wants: when reports of others are a reason, and which view they let a node
//! enter.
//!
//! The rule: a liar's report is never stored. It may be anything, and different for each node, so
//! every rule is evaluated for the lowest and the highest lie. The k-th largest of a list grows by
//! steps of its members, so every view between the two results is possible, too.

use crate::mutation::Mutation;

/// A want above every other: what a liar reports to push a node.
const HIGHEST: u8 = u8::MAX;

/// The counts of a committee, and which rule is left out.
#[derive(Clone, Copy, Debug)]
pub struct Wants {
    /// Liars.
    pub liars: usize,
    /// Wants that must reach a view before it is entered.
    enter: usize,
    /// Reports that are a reason; none if others never are.
    follow: Option<usize>,
}

impl Wants {
    /// For `members` validators.
    #[must_use]
    pub fn new(members: usize, mutation: Mutation) -> Self {
        let liars = (members - 1) / 3;
        let quorum = members - liars;
        let weak = 2 * quorum - members;
        let enter = if mutation == Mutation::EnterAtWeakQuorum { weak } else { quorum };
        let follow = match mutation {
            Mutation::FollowOne => Some(1),
            Mutation::NeverFollow => None,
            _ => Some(weak.max(2)),
        };
        Self { liars, enter, follow }
    }

    /// The lowest and the highest view that a node can find wanted by enough, itself included.
    /// `wants` are those of the honest nodes, as far as the node heard.
    #[must_use]
    pub fn enterable(&self, wants: &[u8]) -> (u8, u8) {
        (self.largest(wants, self.enter, 0), self.largest(wants, self.enter, HIGHEST))
    }

    /// Whether the reports of honest peers are a reason to leave `view`, whatever liars report.
    #[must_use]
    pub fn must_follow(&self, peers: &[u8], view: u8) -> bool {
        self.follow.is_some_and(|count| self.largest(peers, count, 0) > view)
    }

    /// Whether the reports of honest peers are a reason to leave `view` if liars help.
    #[must_use]
    pub fn may_follow(&self, peers: &[u8], view: u8) -> bool {
        self.follow.is_some_and(|count| self.largest(peers, count, HIGHEST) > view)
    }

    /// The `count`-th largest want, every liar reporting `lie`.
    fn largest(&self, wants: &[u8], count: usize, lie: u8) -> u8 {
        let mut all = wants.to_vec();
        all.extend(std::iter::repeat_n(lie, self.liars));
        all.sort_unstable_by(|one, other| other.cmp(one));
        all.get(count - 1).copied().unwrap_or(0)
    }
}
