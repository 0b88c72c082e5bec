//! The control interface of a CretoAI node, as both sides see it: ML-DSA-87 keys, TLS with raw
//! public keys, the JSON of port 9000, and a client for it.
//!
//! The rule: an identity is a key and nothing else. No name, address, certificate authority or
//! password is believed. Each side proves possession of an ML-DSA-87 key in the TLS handshake, and
//! the other side decides by that key.

#![forbid(unsafe_code)]

pub mod api;
pub mod client;
pub mod keys;
pub mod tls;
