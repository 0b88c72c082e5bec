//! A deterministic simulator of whole clusters, driven from one seed: engines, virtual time, a
//! network, disks, clocks and processes that misbehave, up to f attackers, reconfigurations, and
//! checks after every step.
//!
//! | part | what it is |
//! |---|---|
//! | [`scenario`] | what a seed stands for |
//! | [`world`] | the machines, and the one queue of what happens next |
//! | [`machine`], [`disk`], [`network`] | what a process runs on |
//! | [`byzantine`] | attackers |
//! | [`admin`] | who orders reconfigurations |
//! | [`invariants`] | what must hold after every step |
//! | [`trace`], [`svg`] | what happened, for people |
//! | [`seeds`] | runs of many seeds, and the replay of one |
//! | [`twins`] | every scenario of partitions with one node that runs twice |
//! | [`outage`] | how long nothing is decided when the leader is killed |
//! | `mutants` | the proof that the checks can fail (feature `mutants`) |
//!
//! Equal seeds give equal runs. A failing seed prints one command that replays it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a simulator that is wrong must stop, loudly"
)]

pub mod admin;
pub mod byzantine;
pub mod crypto;
pub mod disk;
pub mod invariants;
pub mod machine;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod network;
pub mod outage;
pub mod rng;
pub mod scenario;
pub mod seeds;
pub mod svg;
pub mod trace;
pub mod twins;
pub mod world;
