//! The objects stand alone: they are linked with no engine, runtime, transport, store, Kubernetes
//! client or cryptographic library, so that anything may verify them offline.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{collections::BTreeSet, process::Command};

/// All that may be linked into the objects: a hash, an encoding, errors, and what these stand on.
const LINKED: &[&str] = &[
    "arrayvec",
    "blake3",
    "borsh",
    "cfg-if",
    "constant_time_eq",
    "cpufeatures",
    "cretoai-types",
    "libc",
    "thiserror",
];

#[test]
fn the_objects_are_linked_with_a_hash_and_an_encoding_alone() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "cretoai-types", "--prefix", "none"])
        .args(["--edges", "normal,no-proc-macro", "--format", "{p}", "--color", "never"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let linked: BTreeSet<&str> =
        text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for expected in ["blake3", "borsh", "cretoai-types"] {
        assert!(linked.contains(expected), "cargo tree was not understood:\n{text}");
    }
    let strangers: Vec<_> = linked.iter().filter(|name| !LINKED.contains(name)).collect();
    assert!(strangers.is_empty(), "{strangers:?} would be linked into the objects:\n{text}");
}
