//! Rules taken away on purpose. A check that cannot fail proves nothing, so each of these must give
//! a counterexample.

/// The rule that an exploration leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mutation {
    /// The protocol as it is.
    #[default]
    None,
    /// The entered view is not durable: a restarted node is in view 0 again.
    ForgetView,
    /// PRE-PREPARE and PREPARE are not durable: a restarted node votes again, for something else.
    ForgetPrepare,
    /// VIEW-CHANGEs of honest nodes leave out the prepared certificate.
    OmitLock,
    /// Receivers do not recompute the choice: the new leader may propose anything fresh.
    LeaderChooses,
    /// The prepared certificate of the lowest view wins.
    LowestView,
    /// Votes of the old epoch's members count in the new epoch: the epoch is not signed.
    OldVotesCount,
    /// The sequence after an executed RECONFIG is still voted on in the old epoch.
    VotePastReconfig,
    /// A RECONFIG opens the new epoch when it is prepared: there is no epoch certificate.
    OpenWhenPrepared,
    /// A view is entered at the w-th largest want.
    EnterAtWeakQuorum,
    /// One reported want is reason enough to want the next view.
    FollowOne,
    /// The wants of other nodes are never a reason.
    NeverFollow,
}

impl Mutation {
    /// Whether nodes may take a vote or a view back. Then the checker must not forget any vote as
    /// settled.
    #[must_use]
    pub const fn forgets(self) -> bool {
        matches!(self, Self::ForgetView | Self::ForgetPrepare)
    }
}
