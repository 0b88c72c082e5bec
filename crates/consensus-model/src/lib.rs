//! An explicit-state model of the CretoAI consensus protocol, independent of the engine.
//!
//! It is written from the protocol's rules alone and shares no code with `cretoai-consensus`, so a
//! mistake stays unseen only if both make the same one. [stateright](https://www.stateright.rs)
//! explores it exhaustively.
//!
//! | model | questions |
//! |---|---|
//! | [`view_change`] | With any choice of liars and every hostile leader, do two commit certificates of one sequence ever differ? |
//! | [`sync`] | Can liars alone move a node to another view? Do honest nodes always come to a common view? |
//! | [`epochs`] | Does the new set of validators continue exactly what the old one decided, even past a laggard? |
//!
//! A check that cannot fail proves nothing. So each model is also run with one rule taken away
//! ([`mutation`]), and must then find a counterexample.
//!
//! ```text
//! cargo run --release -p cretoai-consensus-model                       # the full form: minutes, about 3 GB
//! cargo run --release -p cretoai-consensus-model -- --short --steps    # the form of the tests, counterexamples told
//! ```
//!
//! # What is abstracted, and why no attack is lost
//! - *The network is the set of all signed objects* ([`votes`]). Each may reach any node at any
//!   later time or never. That covers loss, duplication, delay and reordering.
//! - *Liars are a closure.* Their votes for everything exist at any time, so a certificate exists
//!   once honest nodes cast as many of its votes as the liars cannot. Their VIEW-CHANGEs are all
//!   that verify: any executed sequence, and any prepared certificate that exists or none
//!   ([`new_view`]). A hostile leader proposes two fresh digests at each sequence of its view, and
//!   every NEW-VIEW that q VIEW-CHANGEs permit, a different one to each node if it likes. A third
//!   digest would add nothing: at most one can be certified, and a vote for another is no better
//!   than no vote.
//! - *There is no time.* A node may enter any higher view at any time, which is more than wants
//!   permit.
//! - *A crash is no step.* All state here is durable before it is sent. A crash loses only what the
//!   node might as well never have had: the accepted NEW-VIEW, received votes, a record not yet
//!   written.
//! - *A proposal is its origin view and a choice.* Its `prev` needs no field: a node that votes at
//!   s + 1 executed s, and there is one chain as long as no two commit certificates of s differ.
//!   The first two that differ end the search.
//! - *Executing and accepting a NEW-VIEW* are part of the next step that shows them to other nodes
//!   ([`steps`]).
//! - *The highest sequence explored is never reported as executed.* A node that reports it votes on
//!   nothing below, so it might as well be down.
//! - *Honest leaders propose one fresh digest at a sequence.* It is durable, so there is only one.
//!
//! Where the protocol leaves a choice, the model makes each. A node may report a certificate that
//! it only saw with others, may send COMMIT for a sequence that it executed meanwhile, and may take
//! a NEW-VIEW without its leader's own VIEW-CHANGE if that leader lies. The model even lets
//! VIEW-CHANGEs carry certificates of views not below their own, except where nothing is reduced:
//! there that would take twice the memory.
//!
//! # What is reduced
//! States that no later step can tell apart are one ([`reduce`]): settled votes, VIEW-CHANGEs that
//! no node reads any more, and the names of fresh digests. The full form also runs three views of
//! two sequences without any of this, and a test compares the sets of certificates that come about
//! with and without.
//!
//! States are told apart by fingerprints of 64 bits. The chance that any two of 10^8 states share
//! one is about 3 in 10,000.
//!
//! # What it does not show
//! It does not explore more validators, views or sequences than its tables name. It does not cover
//! the data layer, the encoding of messages, or whether the engine follows the rules. Progress is
//! shown for views only: that a common view is reached, not that its leader is honest.

pub mod convergence;
pub mod epochs;
pub mod mutation;
pub mod new_view;
pub mod reduce;
pub mod report;
pub mod runs;
pub mod steps;
pub mod sync;
pub mod view_change;
pub mod votes;
pub mod wants;
