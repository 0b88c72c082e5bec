//! The node's three HTTP ports: clients (8080), the control port (9000, TLS with raw public keys)
//! and metrics with probes (9090).
//!
//! The rule: everything that a caller can make grow is bounded: connections and the share of each
//! address, requests at work, header and body sizes, what is held for readers, and the time that
//! each may take. A refusal says what is wrong and what to do.

mod caching;
pub mod client_api;
pub mod control;
mod error;
pub mod front;
pub mod openapi;
mod payloads;
pub mod probes;
mod records;
mod serve;

pub use error::ApiError;
pub use front::Front;
pub use serve::{Listening, ServeError};
