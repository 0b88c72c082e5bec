//! The CretoAI operator: turns a `CretoCluster` into a live chain and keeps it so.
//!
//! One pass is [`cluster::reconcile`]: [`cluster::observe`] (all input) -> [`cluster::validate`] -> [`cluster::plan`] (pure, at most
//! one disruptive step) -> [`cluster::apply`] (all output) -> [`cluster::status`] (pure). What a pass decides depends
//! on what it sees in that pass alone, never on memory, so that the operator may be killed at any
//! moment. Builders in [`resources`] are pure functions from the validated cluster to Kubernetes
//! objects.
//!
//! The rules that it keeps: a genesis is created once and never again; nobody becomes a validator
//! without attestation; no single node is believed about the chain; our own actions never take the
//! quorum away from a chain that tolerates a fault; data is never replaced by an empty chain.

pub mod cluster;
pub mod drift;
pub mod health;
pub mod lead;
pub mod metrics;
pub mod names;
pub mod nodes;
pub mod quantity;
pub mod resources;
pub mod run;
pub mod server;

#[cfg(test)]
mod testing;
