//! Who is a member of a chain, what its nodes agree on, who takes part, and who may be disturbed.
//!
//! | module | what it answers |
//! |---|---|
//! | [`roster`] | the members of an epoch, and the pod of each |
//! | [`account`] | what one node says, and what Kubernetes says about its pod |
//! | [`agree`] | what `w` nodes say alike: the only facts about the chain that are believed |
//! | [`roll`] | how each member stands |
//! | [`budget`] | whether a member may be taken away now |
//! | [`rollout`] | which member is taken away next |
//!
//! The rule that it keeps: a member counts towards the quorum that must stay only if it surely
//! votes, and it is free to be taken away only if it surely does not. Everything is a pure function
//! of its input; the crate knows the chain's objects and neither Kubernetes nor HTTP.

pub mod account;
pub mod agree;
pub mod budget;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod roll;
pub mod rollout;
pub mod roster;

/// Whether a test planted this breakage of a rule. Never, in an operator.
macro_rules! planted {
    ($mutant:ident) => {{
        #[cfg(feature = "mutants")]
        {
            $crate::mutants::is_planted($crate::mutants::Mutant::$mutant)
        }
        #[cfg(not(feature = "mutants"))]
        {
            false
        }
    }};
}
pub(crate) use planted;
