//! An explicit-state model of the CretoAI consensus protocol.

pub mod convergence;
pub mod epochs;
pub mod mutation;
pub mod new_view;
pub mod reduce;
pub mod steps;
pub mod sync;
pub mod view_change;
pub mod votes;
pub mod wants;
