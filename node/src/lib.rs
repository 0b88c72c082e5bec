//! A CretoAI node: the consensus engine between a RocksDB store, a QUIC network and four ports.

#[cfg(feature = "byzantine")]
mod byzantine;
pub mod cli;
pub mod config;
pub mod dev;
pub mod evidence;
pub mod handle;
pub mod http;
pub mod identity;
pub mod init;
pub mod logging;
pub mod metrics;
pub mod peer_address;
pub mod run;
pub mod runtime;
pub mod storage;
mod sync;
pub mod transport;
pub mod version;
