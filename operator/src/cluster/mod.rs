//! One pass over one `CretoCluster`: what it is, what should change, and what it says.
//!
//! | module | what it does |
//! |---|---|
//! | [`observe`], [`view`] | all input of a pass, and the form that it takes |
//! | [`validate`] | the specification, checked and with its defaults |
//! | [`identity`], [`members`] | whose chain this is, and the state of each member |
//! | [`plan`] | the steps of the pass: pure, at most one of them disruptive |
//! | [`repair`] | what has to be made or put back: pure, part of the plan |
//! | [`apply`] | all output of a pass but the status |
//! | [`status`] | what the resource says afterwards: pure |
//! | [`reconcile`] | the pass itself |

pub mod apply;
pub mod identity;
pub mod members;
pub mod observe;
pub mod plan;
pub mod reconcile;
pub mod repair;
pub mod status;
pub mod validate;
pub mod view;
