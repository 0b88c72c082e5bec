//! Attacks on a served port, from addresses of their own on loopback, with an honest caller beside
//! them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks;
mod refusals;
mod support;
