//! Twins, for a few seconds. `cretoai-sim twins` takes longer.

#![allow(missing_docs)]

use cretoai_consensus_sim::twins;

#[test]
fn no_partition_lets_a_twin_split_four_nodes() {
    let tried = twins::explore(8, 0, 2);
    assert!(tried.failed.is_empty(), "{:?}", tried.failed);
    assert!(tried.passed > 0);
}
