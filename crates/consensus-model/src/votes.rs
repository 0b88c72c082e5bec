//! The votes of one epoch: the objects that honest nodes signed, and what follows from them.
//!
//! The rule: nothing is ever taken back. The network is the set of all signed objects. Each may
//! reach any node at any later time or never, so loss, duplicates, delay and reordering need no
//! actions of their own. A certificate is a predicate over that set. Hostile members sign
//! everything at any time, so their votes are never stored: a certificate needs [`Committee::need`]
//! honest votes.

/// The most honest members of a committee.
pub const HONEST: usize = 5;
/// The most views.
pub const VIEWS: usize = 4;
/// The most sequences of an epoch.
pub const SEQUENCES: usize = 3;
/// The view of a node for which the epoch is over: above every view, so it signs nothing more.
pub const LEFT: u8 = VIEWS as u8;

/// The number of fresh digests that a hostile leader may propose for one sequence of its view.
pub const FRESH: u8 = 2;

/// The digest that `origin` proposed afresh as its `choice`-th. Its number is its bit in a set of
/// digests.
#[must_use]
pub const fn digest(origin: u8, choice: u8) -> u8 {
    origin * FRESH + choice
}

/// The view that first proposed a digest.
#[must_use]
pub const fn origin(digest: u8) -> u8 {
    digest / FRESH
}

/// A prepared certificate, by its content: view and digest. Zero is none; a higher view compares as
/// greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Prepared(u8);

impl Prepared {
    /// No certificate.
    pub const NONE: Self = Self(0);

    /// The certificate of `digest` in `view`.
    #[must_use]
    pub const fn new(view: u8, digest: u8) -> Self {
        Self(1 + view * 8 + digest)
    }

    /// View and digest, if there is a certificate.
    #[must_use]
    pub const fn get(self) -> Option<(u8, u8)> {
        if self.0 == 0 { None } else { Some(((self.0 - 1) / 8, (self.0 - 1) % 8)) }
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.get() {
            None => write!(f, "none"),
            Some((view, digest)) => write!(f, "d{digest} of view {view}"),
        }
    }
}

/// The head of a VIEW-CHANGE: the executed sequence and the prepared certificate of the next one.
/// Zero is "not sent".
///
/// The chain hash needs no field: agreement, checked in every state, leaves one chain for each
/// executed sequence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ViewChange(u8);

impl ViewChange {
    /// Not sent.
    pub const NONE: Self = Self(0);

    /// The head that reports `executed` and `prepared`.
    #[must_use]
    pub const fn new(executed: u8, prepared: Prepared) -> Self {
        Self(1 + executed * 64 + prepared.0)
    }

    /// Executed sequence and prepared certificate, if it was sent.
    #[must_use]
    pub const fn get(self) -> Option<(u8, Prepared)> {
        if self.0 == 0 { None } else { Some(((self.0 - 1) / 64, Prepared((self.0 - 1) % 64))) }
    }
}

impl std::fmt::Debug for ViewChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.get() {
            None => write!(f, "-"),
            Some((executed, prepared)) => write!(f, "(executed {executed}, {prepared:?})"),
        }
    }
}

/// The voters of an epoch, and the liars among them.
#[derive(Clone, Debug)]
pub struct Committee {
    /// Validators.
    pub members: u8,
    /// Votes that make a certificate.
    pub quorum: u8,
    /// Position of the leader of view 0.
    pub first: u8,
    /// Positions of the honest members, ascending. A node is named by its index in this list.
    pub honest: Vec<u8>,
    /// Hostile signatures that every certificate and NEW-VIEW may count.
    pub hostile: u8,
    /// Views that are explored.
    pub views: u8,
    /// Sequences that are explored, from 1.
    pub sequences: u8,
    /// A VIEW-CHANGE may carry a certificate of any view, not only of a lower one.
    pub any_certificate: bool,
}

impl Committee {
    /// `members` validators, those at `hostile` lying; view 0 is led by the one at `first`.
    #[must_use]
    pub fn new(members: u8, hostile: &[u8], first: u8, views: u8, sequences: u8) -> Self {
        let quorum = members - (members - 1) / 3;
        let honest: Vec<u8> = (0..members).filter(|position| !hostile.contains(position)).collect();
        Self {
            members,
            quorum,
            first,
            hostile: members - honest.len() as u8,
            honest,
            views,
            sequences,
            any_certificate: true,
        }
    }

    /// The number of honest votes without which no certificate exists.
    #[must_use]
    pub const fn need(&self) -> u32 {
        self.quorum.saturating_sub(self.hostile) as u32
    }

    /// The honest node that leads `view`; none if the leader lies.
    #[must_use]
    pub fn honest_leader(&self, view: u8) -> Option<usize> {
        let position = (self.first + view) % self.members;
        self.honest.iter().position(|honest| *honest == position)
    }

    /// The views of which a VIEW-CHANGE into `view` may carry certificates lie below this one.
    #[must_use]
    pub const fn certificates_below(&self, view: u8) -> u8 {
        if self.any_certificate { self.views } else { view }
    }

    /// The honest nodes.
    pub fn nodes(&self) -> std::ops::Range<usize> {
        0..self.honest.len()
    }
}

/// The objects that honest nodes signed in one epoch and hold durably. Certificates and activity
/// follow from them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Votes {
    /// The view that each node entered; [`LEFT`] when the epoch is over for it.
    pub view: [u8; HONEST],
    /// The executed sequence that each node made durable.
    pub executed: [u8; HONEST],
    /// The prepared certificate of `executed + 1` of the highest view in which the node sent
    /// COMMIT.
    pub lock: [Prepared; HONEST],
    prepares: [u8; HONEST * VIEWS * SEQUENCES],
    commits: [u8; HONEST * VIEWS * SEQUENCES],
    view_changes: [ViewChange; HONEST * VIEWS],
}

const fn slot(node: usize, view: u8, sequence: u8) -> usize {
    (node * VIEWS + view as usize) * SEQUENCES + sequence as usize - 1
}

impl Default for Votes {
    fn default() -> Self {
        Self {
            view: [0; HONEST],
            executed: [0; HONEST],
            lock: [Prepared::NONE; HONEST],
            prepares: [0; HONEST * VIEWS * SEQUENCES],
            commits: [0; HONEST * VIEWS * SEQUENCES],
            view_changes: [ViewChange::NONE; HONEST * VIEWS],
        }
    }
}

impl Votes {
    /// The digests that `node` prepared: a set of bits, with more than one only if it forgot a
    /// vote.
    #[must_use]
    pub const fn prepares(&self, node: usize, view: u8, sequence: u8) -> u8 {
        self.prepares[slot(node, view, sequence)]
    }

    /// The digests for which `node` sent COMMIT.
    #[must_use]
    pub const fn commits(&self, node: usize, view: u8, sequence: u8) -> u8 {
        self.commits[slot(node, view, sequence)]
    }

    /// Where the PREPAREs of `node` are kept.
    pub const fn prepares_mut(&mut self, node: usize, view: u8, sequence: u8) -> &mut u8 {
        &mut self.prepares[slot(node, view, sequence)]
    }

    /// Where the COMMITs of `node` are kept.
    pub const fn commits_mut(&mut self, node: usize, view: u8, sequence: u8) -> &mut u8 {
        &mut self.commits[slot(node, view, sequence)]
    }

    /// The VIEW-CHANGE of `node` into `view`.
    #[must_use]
    pub const fn view_change(&self, node: usize, view: u8) -> ViewChange {
        self.view_changes[node * VIEWS + view as usize]
    }

    /// Where the VIEW-CHANGE of `node` into `view` is kept.
    pub const fn view_change_mut(&mut self, node: usize, view: u8) -> &mut ViewChange {
        &mut self.view_changes[node * VIEWS + view as usize]
    }

    /// The digests with a prepared certificate in `view`.
    #[must_use]
    pub fn prepared(&self, committee: &Committee, view: u8, sequence: u8) -> u8 {
        reached(committee, |node| self.prepares(node, view, sequence))
    }

    /// The digests with a commit certificate in `view`.
    #[must_use]
    pub fn committed_in(&self, committee: &Committee, view: u8, sequence: u8) -> u8 {
        reached(committee, |node| self.commits(node, view, sequence))
    }

    /// The digests with a commit certificate in any view.
    #[must_use]
    pub fn committed(&self, committee: &Committee, sequence: u8) -> u8 {
        (0..committee.views).fold(0, |all, view| all | self.committed_in(committee, view, sequence))
    }

    /// The sequence up to which certificates let anyone execute.
    #[must_use]
    pub fn executable(&self, committee: &Committee) -> u8 {
        (1..=committee.sequences)
            .take_while(|sequence| self.committed(committee, *sequence) != 0)
            .count() as u8
    }

    /// Whether no sequence has commit certificates of two digests.
    #[must_use]
    pub fn agree(&self, committee: &Committee) -> bool {
        (1..=committee.sequences)
            .all(|sequence| self.committed(committee, sequence).count_ones() <= 1)
    }
}

/// The digests for which enough honest nodes voted.
fn reached(committee: &Committee, vote: impl Fn(usize) -> u8) -> u8 {
    let named = committee.nodes().fold(0, |all, node| all | vote(node));
    bits(named)
        .filter(|digest| {
            committee.nodes().filter(|node| vote(*node) & (1 << digest) != 0).count() as u32
                >= committee.need()
        })
        .fold(0, |all, digest| all | 1 << digest)
}

/// The members of a set of bits.
pub fn bits(set: u8) -> impl Iterator<Item = u8> {
    (0..8).filter(move |bit| set & (1 << bit) != 0)
}
