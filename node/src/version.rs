//! The version that a node reports.

/// The version that this node reports.
#[cfg(not(feature = "byzantine"))]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version of a build that can attack, so that nobody takes it for a node.
#[cfg(feature = "byzantine")]
pub const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), "-BYZANTINE-ATTACKS-ITS-CLUSTER-FOR-TESTS-ONLY");
