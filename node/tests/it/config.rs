//! `node.toml`: honoured or refused by name.

use cretoai_node::config::{Config, ConfigError};
use cretoai_types::{FaultModel, Quorum};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Some("prod-0"))
}

fn refused(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn the_documented_file_is_valid_and_shows_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/node.toml");
    let documented = Config::load(&path, None).unwrap();
    assert_eq!(documented.node.id, "node-1");
    assert_eq!(documented.network.bootstrap_peers.len(), 2);
    let mut expected = parse("").unwrap();
    expected.node.id = documented.node.id.clone();
    expected.network.bootstrap_peers = documented.network.bootstrap_peers.clone();
    assert_eq!(documented, expected);
}

#[test]
fn folders_follow_data_dir_unless_they_say_otherwise() {
    let config = parse("[node]\ndata_dir = '/x'\n[storage]\npath = '/fast/db'").unwrap();
    assert_eq!(config.crypto.key_path, PathBuf::from("/x/keys"));
    assert_eq!(config.storage.path, PathBuf::from("/fast/db"));
}

#[test]
fn the_pods_name_comes_before_the_files_and_one_of_them_is_needed() {
    assert_eq!(Config::parse("[node]\nid = 'a'", Some("b")).unwrap().node.id, "b");
    assert_eq!(Config::parse("[node]\nid = 'a'", Some("")).unwrap().node.id, "a");
    let missing = Config::parse("", None).unwrap_err().to_string();
    assert!(missing.contains("node.id") && missing.contains("POD_NAME"), "{missing}");
    for name in ["", "A", "a b", "a/b", &"a".repeat(254)] {
        assert!(Config::parse(&format!("[node]\nid = '{name}'"), None).is_err(), "{name}");
    }
}

#[test]
fn what_this_node_does_not_offer_is_refused_with_the_reason() {
    for (text, words) in [
        ("[consensus]\nalgorithm = 'raft'", ["consensus.algorithm", "\"raft\"", "\"bft\""]),
        ("[storage]\nbackend = 'sled'", ["storage.backend", "\"sled\"", "\"rocksdb\""]),
        (
            "[crypto]\nsignature_algorithm = 'ed25519'",
            ["crypto.signature_algorithm", "\"ed25519\"", "\"ml-dsa-87\""],
        ),
        (
            "[crypto]\nhash_algorithm = 'sha256'",
            ["crypto.hash_algorithm", "\"sha256\"", "\"blake3\""],
        ),
        ("[node]\nlog_level = 'loud'", ["node.log_level", "\"loud\"", "\"info\""]),
        ("[node]\ndata_dir = 7", ["node.data_dir", "7", "double quotes"]),
        ("[node]\ndata_dir = ''", ["node.data_dir", "\"\"", "folder"]),
        ("[consensus]\nquorum_threshold = 0.5", ["consensus.quorum_threshold", "0.5", "above 0.5"]),
        ("[consensus]\nquorum_threshold = nan", ["consensus.quorum_threshold", "nan", "above 0.5"]),
        (
            "[consensus]\nfinality_timeout_ms = 1",
            ["consensus.finality_timeout_ms", "1", "50 to 60000"],
        ),
        (
            "[consensus]\nmax_pending_vertices = -1",
            ["consensus.max_pending_vertices", "-1", "32 to 1000000"],
        ),
        (
            "[network]\nlisten_addr = 'localhost'",
            ["network.listen_addr", "\"localhost\"", "0.0.0.0:9000"],
        ),
        ("[network]\nquic_port = 0", ["network.quic_port", "0", "1 to 65535"]),
        ("[network]\nquic_port = 65536", ["network.quic_port", "65536", "1 to 65535"]),
        ("[network]\nbootstrap_peers = 'x'", ["network.bootstrap_peers", "\"x\"", "list"]),
        ("[network]\nbootstrap_peers = [1]", ["network.bootstrap_peers", "1", "double quotes"]),
        (
            "[network]\nbootstrap_peers = ['/ip4/1/udp/1/quic']",
            ["network.bootstrap_peers", "/ip4/1/udp/1/quic", "IPv4"],
        ),
        ("[storage]\ncache_size_mb = 1", ["storage.cache_size_mb", "1", "8 to"]),
        ("[metrics]\nenabled = 'yes'", ["metrics.enabled", "\"yes\"", "true or false"]),
        ("[metrics]\nendpoint = '/ready'", ["metrics.endpoint", "\"/ready\"", "taken"]),
        ("[metrics]\nendpoint = '/{x}'", ["metrics.endpoint", "/{x}", "path"]),
        ("[metrics]\nport = 9000", ["metrics.port", "9000", "9090"]),
        ("[crypto]\nkey_path = '/data/db/keys'", ["crypto.key_path", "/data/db/keys", "own"]),
        ("[storage]\npath = '/data/keys'", ["crypto.key_path", "/data/keys", "own"]),
    ] {
        let error = refused(text);
        for word in words {
            assert!(error.contains(word), "{text}: {error}: no {word}");
        }
    }
}

#[test]
fn unknown_keys_and_sections_are_refused_with_the_known_ones() {
    let error = refused("[consensus]\nquorum_treshold = 0.67");
    assert!(
        error.contains("consensus.quorum_treshold") && error.contains("quorum_threshold"),
        "{error}"
    );
    let error = refused("[backup]\nx = 1");
    assert!(error.contains("`backup`") && error.contains("[storage]"), "{error}");
    assert!(refused("id = 'x'").contains("`id`"));
    assert!(refused("node = 'x'").contains("section"));
    assert!(refused("[node").contains("TOML"));
}

#[test]
fn the_threshold_must_give_the_quorum_of_the_genesis() {
    let config = parse("").unwrap();
    for n in (1..=31).filter(|n| *n != 2) {
        config
            .check_quorum(Quorum::new(n, FaultModel::Byzantine), FaultModel::Byzantine)
            .unwrap_or_else(|e| panic!("{n}: {e}"));
    }
    let majority = parse("[consensus]\nquorum_threshold = 0.51").unwrap();
    let error = majority
        .check_quorum(Quorum::new(7, FaultModel::Byzantine), FaultModel::Byzantine)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("consensus.quorum_threshold = 0.51") && error.contains("quorum is 5"),
        "{error}"
    );
    majority.check_quorum(Quorum::new(3, FaultModel::Crash), FaultModel::Crash).unwrap();
    // What the message tells to write is right.
    for n in (1..=31).filter(|n| *n != 2) {
        let quorum = Quorum::new(n, FaultModel::Byzantine);
        for wrong in ["0.501", "1.0"] {
            let config = parse(&format!("[consensus]\nquorum_threshold = {wrong}")).unwrap();
            if let Err(error) = config.check_quorum(quorum, FaultModel::Byzantine) {
                let told = error.to_string();
                let told = told.rsplit("write ").next().unwrap();
                let config = parse(&format!(
                    "[consensus]\nquorum_threshold = {}",
                    if told == "1" { "1.0" } else { told }
                ))
                .unwrap();
                config
                    .check_quorum(quorum, FaultModel::Byzantine)
                    .unwrap_or_else(|e| panic!("{n}: told {told}: {e}"));
            }
        }
    }
}

const KEYS: &[(&str, &str)] = &[
    ("node", "id"),
    ("node", "data_dir"),
    ("node", "log_level"),
    ("consensus", "algorithm"),
    ("consensus", "quorum_threshold"),
    ("consensus", "finality_timeout_ms"),
    ("consensus", "max_pending_vertices"),
    ("network", "listen_addr"),
    ("network", "quic_port"),
    ("network", "bootstrap_peers"),
    ("storage", "backend"),
    ("storage", "path"),
    ("storage", "cache_size_mb"),
    ("storage", "write_buffer_mb"),
    ("crypto", "signature_algorithm"),
    ("crypto", "hash_algorithm"),
    ("crypto", "key_path"),
    ("metrics", "enabled"),
    ("metrics", "port"),
    ("metrics", "endpoint"),
];

fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        (-2.0..2.0_f64).prop_map(|n| format!("{n:?}")),
        any::<bool>().prop_map(|b| b.to_string()),
        "[ -~]{0,40}".prop_map(|t| format!("{:?}", t.replace('\\', "/"))),
        Just("[]".to_owned()),
        Just("{ a = 1 }".to_owned()),
        Just("2026-01-01".to_owned()),
    ]
}

proptest! {
    #[test]
    fn any_value_of_any_key_is_taken_or_refused_by_that_keys_name(index in 0..KEYS.len(), value in values()) {
        let (section, key) = KEYS[index];
        if let Err(error) = Config::parse(&format!("[{section}]\n{key} = {value}"), None)
            && !matches!(&error, ConfigError::Missing { .. } | ConfigError::Syntax(_))
        {
            let known = ["crypto.key_path", "metrics.port"];
            let told = error.to_string();
            prop_assert!(told.contains(&format!("{section}.{key}")) || known.iter().any(|k| told.contains(k)), "{}", told);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "(\\[[a-z]{0,9}\\]\n|[a-z_]{0,9} = [ -~]{0,20}\n|\\PC{0,20}){0,8}") {
        if let Ok(config) = parse(&text) {
            prop_assert_eq!(config.node.id, "prod-0");
        }
    }

    #[test]
    fn numbers_in_range_arrive_unchanged(
        finality in 50_u64..=60_000, pending in 32_u64..=1_000_000, quic in 1_u16.., cache in 8_u64..=1_048_576, threshold in 0.51..=1.0_f64,
    ) {
        let text = format!(
            "[consensus]\nfinality_timeout_ms = {finality}\nmax_pending_vertices = {pending}\nquorum_threshold = {threshold:?}\n\
             [network]\nquic_port = {quic}\n[storage]\ncache_size_mb = {cache}"
        );
        let config = parse(&text).unwrap();
        prop_assert_eq!(config.consensus.finality_timeout_ms, finality);
        prop_assert_eq!(config.consensus.max_pending_vertices, pending);
        prop_assert_eq!(config.consensus.quorum_threshold, threshold);
        prop_assert_eq!(config.network.quic_port, quic);
        prop_assert_eq!(config.storage.cache_size_mb, cache);
    }
}
