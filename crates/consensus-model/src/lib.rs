//! An explicit-state model of the CretoAI consensus protocol, independent of the engine.
//!
//! It is written from the protocol's rules alone and shares no code with `cretoai-consensus`: what
//! both got wrong, both would have to have got wrong alike. [stateright](https://www.stateright.rs)
//! explores it exhaustively.
//!
//! | model | what it asks |
//! |---|---|
//! | [`view_change`] | With any choice of liars and every hostile leader, do two commit certificates of one sequence ever differ? |
//! | [`sync`] | Can liars alone move a node to another view? Do honest nodes always come to a common view? |
//! | [`epochs`] | Does the new set of validators continue exactly what the old one decided, also past a laggard? |
//!
//! A check that cannot fail proves nothing. So each model is also run with one rule taken away
//! ([`mutation`]), and must find a counterexample.
//!
//! ```text
//! cargo run --release -p cretoai-consensus-model                       # the full form: minutes, about 3 GB
//! cargo run --release -p cretoai-consensus-model -- --short --steps    # the form of the tests, counterexamples told
//! ```
//!
//! # What is abstracted, and why no attack is lost
//! - *The network is the set of all signed objects* ([`votes`]). Any may reach anyone at any later
//!   time or never, which
//!   is loss, duplication, delay and reordering.
//! - *Liars are a closure.* Their votes for everything are there at any time, so a certificate
//!   exists once q less the
//!   liars' votes are honest. Their VIEW-CHANGEs are all that verify: any executed sequence and any
//!   prepared
//!   certificate that exists, or none ([`new_view`]). A hostile leader proposes two fresh digests
//!   at each sequence of
//!   its view, each to whom it likes, and every NEW-VIEW that q VIEW-CHANGEs permit, to each node
//!   another. A third
//!   digest would add nothing: at most one can be certified, and to vote for another is no better
//!   than not to vote.
//! - *Time is gone.* A node may enter any higher view at any time, which is more than wants permit.
//! - *A crash is no step.* All state here is durable before it is sent. What a crash loses (the
//!   NEW-VIEW accepted, the
//!   votes received, a record not yet written) a node is free never to have had.
//! - *A proposal is its origin view and a choice.* Its `prev` needs no field: who votes at s + 1
//!   executed s, and while
//!   no two commit certificates of s differ there is one chain. The first that differ end the
//!   search.
//! - *Executing and accepting a NEW-VIEW* are part of the next step that shows them to others
//!   ([`steps`]).
//! - *The highest sequence explored is never reported as executed.* Whoever reports it votes on
//!   nothing below, so it
//!   might as well be down.
//! - *Honest leaders propose one fresh digest at a sequence.* It is durable, so it is one.
//!
//! Where the protocol leaves a choice, the model makes each: a node may report a certificate that
//! it only saw with others, may send COMMIT for what it executed meanwhile, and may take a NEW-VIEW
//! without its leader's own VIEW-CHANGE if that leader lies. It even lets VIEW-CHANGEs carry
//! certificates of views not below their own, except where nothing is reduced: there that would
//! take twice the memory.
//!
//! # What is reduced
//! States that no later step can tell apart are one ([`reduce`]): settled votes, VIEW-CHANGEs that
//! nobody reads any more, and the names of fresh digests. The full form also runs three views of
//! two sequences without any of this, and a test compares the sets of certificates that come about
//! with and without.
//!
//! States are told apart by fingerprints of 64 bits. That any two of 10^8 share one has a chance of
//! about 3 in 10,000.
//!
//! # What it does not show
//! More validators, views or sequences than were explored; the data layer; the encoding of
//! messages; that the engine follows the rules. Progress is shown for views only: that a common
//! view is reached, not that its leader is honest.

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
