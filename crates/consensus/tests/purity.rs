//! The engine is a pure state machine: nothing that it is built from, and nothing that it says,
//! reaches a clock, a thread, a socket, a disk or a source of randomness.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

const MANIFEST_DIR: &str = env!("CARGO_MANIFEST_DIR");

/// All that may be linked into the engine: a hash, an encoding, errors, and what these stand on. A
/// crate that is not here is added only by someone who has seen that it does no I/O.
const LINKED: &[&str] = &[
    "arrayvec",
    "blake3",
    "borsh",
    "cfg-if",
    "constant_time_eq",
    "cpufeatures",
    "cretoai-consensus",
    "cretoai-types",
    "libc",
    "thiserror",
];

/// What the source may not name: clocks, threads, sockets, files, the process, chance, and
/// asynchrony.
const FORBIDDEN: &[&str] = &[
    "std::thread",
    "thread::spawn",
    "Instant",
    "SystemTime",
    "std::net",
    "TcpStream",
    "UdpSocket",
    "std::fs",
    "File::",
    "std::env",
    "std::process",
    "std::sync::mpsc",
    "Mutex",
    "RwLock",
    "Condvar",
    "Atomic",
    "RandomState",
    "async fn",
    "async move",
    ".await",
    "println!",
    "eprintln!",
    "dbg!",
    "extern crate",
    "unsafe",
];

#[test]
fn the_engine_is_linked_with_nothing_that_does_io() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--package",
            "cretoai-consensus",
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
        ])
        .args(["--format", "{p}", "--color", "never"])
        .current_dir(MANIFEST_DIR)
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let linked: BTreeSet<&str> =
        text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for expected in ["blake3", "borsh", "cretoai-consensus", "cretoai-types"] {
        assert!(linked.contains(expected), "cargo tree was not understood:\n{text}");
    }
    let strangers: Vec<&&str> = linked.iter().filter(|name| !LINKED.contains(name)).collect();
    assert!(strangers.is_empty(), "{strangers:?} would be linked into the engine:\n{text}");
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_source_names_no_clock_thread_socket_or_file() {
    let mut files = Vec::new();
    sources(&Path::new(MANIFEST_DIR).join("src"), &mut files);
    sources(&Path::new(MANIFEST_DIR).join("../types/src"), &mut files);
    assert!(files.len() > 20, "only {} source files were found", files.len());
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in (1..).zip(text.lines()) {
            let code = line.split("//").next().unwrap_or_default();
            for word in FORBIDDEN.iter().filter(|word| code.contains(**word)) {
                found.push(format!("{}:{number}: {word}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
