//! A CretoAI node: the consensus engine between a RocksDB store, a QUIC network and four ports.

pub mod config;
pub mod handle;
pub mod identity;
pub mod metrics;
pub mod peer_address;
pub mod runtime;
pub mod storage;
pub mod transport;
