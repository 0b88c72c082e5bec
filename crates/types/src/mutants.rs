//! Deliberate breakages of single rules. The simulator must notice each one, because a check that
//! no mutant fails checks nothing.
//!
//! Mutants exist only with the feature `mutants`. Without it [`mutant!`] is `false` and the
//! compiler drops the branch.

/// Whether this thread runs the engine with that rule broken.
#[macro_export]
#[doc(hidden)]
macro_rules! mutant {
    ($name:ident) => {{
        #[cfg(feature = "mutants")]
        let broken = $crate::mutants::is($crate::mutants::Mutant::$name);
        #[cfg(not(feature = "mutants"))]
        let broken = $crate::mutants::never(stringify!($name));
        broken
    }};
}
pub use crate::mutant;

/// Whether a rule holds: its condition, unless this thread runs the engine with that rule broken.
#[macro_export]
#[doc(hidden)]
macro_rules! rule {
    ($name:ident, $condition:expr) => {
        ($condition || $crate::mutants::mutant!($name))
    };
}
pub use crate::rule;

/// No rule is broken in a build without the feature.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[doc(hidden)]
pub const fn never(_: &str) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use switch::{Mutant, is, set};

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    macro_rules! mutants {
        ($($name:ident: $rule:literal,)*) => {
            /// A rule that is broken on purpose.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
            pub enum Mutant {
                $(#[doc = $rule] $name,)*
            }

            impl Mutant {
                /// Every mutant.
                pub const ALL: &[Self] = &[$(Self::$name,)*];

                /// The rule that the mutant breaks.
                #[must_use]
                pub const fn rule(self) -> &'static str {
                    match self {
                        $(Self::$name => $rule,)*
                    }
                }
            }
        };
    }

    mutants! {
        QuorumOffByOne: "a quorum is q members",
        VoteBeforeDurable: "nothing is sent before what it rests on is durable",
        ViewNotDurable: "entering a view is durable before anything is signed in it",
        PreparedDropped: "a VIEW-CHANGE carries the prepared certificate",
        NewViewNotRecomputed: "everyone recomputes what a NEW-VIEW chooses",
        ChoiceIgnored: "what NEW-VIEW chose is what is proposed and prepared",
        StaleViewAccepted: "nothing is signed in a view below the entered one",
        LockLostOnRestart: "a restart gives back the prepared certificate",
        VotesLostOnRestart: "a restart gives back the votes",
        CommitUnprepared: "COMMIT only for a digest that this node prepared itself in this view",
        ViewInRecord: "the deciding view is never hashed into a record",
        TipNotDescending: "a tip descends from the decided one",
        CheckpointOffByOne: "a checkpoint certificate has q signatures",
        RoundTripIgnored: "intervals follow the round trip to a quorum",
        RepairOff: "who sees that a peer lacks something sends it",
        ForkAcknowledged: "only the first vertex of a slot is acknowledged",
        LinksRequired: "links to other lanes are never waited for",
        WeakQuorumTooSmall: "what is believed without a certificate needs w",
        LeaderFromLocalBans: "the leader is a function of epoch and view, never of local state",
        TimeGoesBack: "the time of decisions never goes back",
        PayloadTwice: "a payload executes once",
        ShareIgnored: "no lane has more than its share of the payloads that are remembered",
        LearnerVotes: "only members of the epoch vote",
        OldEpochVotes: "a vote counts in its own epoch only",
        PreparedPastReconfig: "nothing is voted for above the end of an epoch",
        StaleVolumeSigns: "a stale volume never signs",
        ItemsJudgedOnArrival: "system items are judged when they are executed",
        PayloadIdWithEpoch: "the payload id is not bound to the epoch",
        VotesErasedEarly: "votes are erased only when their sequence is executed",
        EvidenceAcrossEpochs: "both objects of evidence are of one epoch",
        UnverifiedVote: "nothing is believed unverified",
        EvidenceUnsigned: "evidence is signed by the accused",
        WantForever: "SUSPECT holds exactly while a reason does",
        LeaderGoneIgnored: "who has left a view leads it no more",
        TimeoutConstant: "the timeout doubles with each view that fails",
        DataNotHeld: "PREPARE only with all data durable",
        NewViewNotStored: "NEW-VIEW is durable before it is acted on",
        CutUnbounded: "what one lane adds to a cut is bounded",
        FetchedByHeight: "a named tip is asked for by its hash",
        HolderNeverFails: "a holder that did not bring what it was asked for is not asked next",
        TimeStandsStill: "the time of the chain does not stand still",
    }

    thread_local! {
        static BROKEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Breaks one rule for every engine of this thread, or none.
    pub fn set(mutant: Option<Mutant>) {
        BROKEN.set(mutant);
    }

    /// Whether this rule is broken on this thread.
    #[must_use]
    pub fn is(mutant: Mutant) -> bool {
        BROKEN.get() == Some(mutant)
    }
}
