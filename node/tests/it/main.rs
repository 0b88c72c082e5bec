//! The node on its real parts, in one binary: RocksDB and AWS-LC are linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod config;
mod http;
mod http_limits;
mod http_outcomes;
mod init;
mod process;
mod records;
mod store;
mod transport;
mod writes;
