//! Deliberate breakages of single rules: the random driver has to catch each.

use std::cell::Cell;

/// A broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A member that its peers do not hear counts as taking part.
    IsolatedCounts,
    /// A member that says that it is not ready counts as taking part.
    UnreadyCounts,
    /// A validator that is behind is free.
    LaggingIsFree,
    /// A member that only the operator cannot reach is free.
    UnreachableIsFree,
    /// A suspected member counts towards the quorum that stays.
    SuspectCounts,
    /// A divided chain is rolled.
    DividedIsRolled,
    /// A member whose chain hash contradicts the others is free.
    DissentingIsFree,
    /// The next member goes although the pod of another one is being deleted.
    GoingIgnored,
    /// The next member goes although the one before has only just come back.
    NoMinimumTime,
    /// The next member goes although the one before was restarted since it was made.
    RestartsIgnored,
    /// The next member goes although the newest template has not proven itself.
    UnprovenGoesOn,
    /// One member less than a quorum may stay.
    OneTooFew,
    /// Any absent member blocks all others.
    AbsentBlocks,
    /// A member whose pod refuses connections is not free.
    NotServingBlocks,
    /// The suspected member is replaced last.
    SuspectLast,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::IsolatedCounts,
        Self::UnreadyCounts,
        Self::LaggingIsFree,
        Self::UnreachableIsFree,
        Self::SuspectCounts,
        Self::DividedIsRolled,
        Self::DissentingIsFree,
        Self::GoingIgnored,
        Self::NoMinimumTime,
        Self::RestartsIgnored,
        Self::UnprovenGoesOn,
        Self::OneTooFew,
        Self::AbsentBlocks,
        Self::NotServingBlocks,
        Self::SuspectLast,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Plants a breakage in this thread, or takes it away.
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

pub(crate) fn is_planted(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}
