//! The ConfigMap with `node.toml`.

use super::{Blueprint, Kind};
use crate::names::{API_PORT, CONTROL_PORT, METRICS_PORT, PEER_PORT};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The share of validators that a decision needs, as the node checks it: `ceil(threshold * n)` must
/// be the quorum.
pub(super) const QUORUM_THRESHOLD: f64 = 0.67;

/// `node.toml`. The same for all pods: each knows its own name from its environment.
pub(super) fn node_toml(blueprint: &Blueprint<'_>) -> String {
    let names = &blueprint.cluster.names;
    let (consensus, tuning) = (&blueprint.cluster.spec.consensus, &blueprint.cluster.spec.tuning);
    let mut peers = String::new();
    for pod in blueprint.cluster.pods() {
        // Writing to a String does not fail.
        writeln!(
            peers,
            "    \"/dns4/{pod}.{}.{}.svc/udp/{PEER_PORT}/quic\",",
            names.headless(),
            names.namespace
        )
        .unwrap_or_default();
    }
    format!(
        r#"# Made by creto-operator from the CretoCluster {cluster}. Edits are put back: change the CretoCluster.
[node]
# Each pod takes its own name from POD_NAME.
id = "{cluster}"
data_dir = "/data"
log_level = "{log_level}"

[consensus]
algorithm = "bft"
quorum_threshold = {QUORUM_THRESHOLD}
finality_timeout_ms = {finality_timeout_ms}
max_pending_vertices = {max_pending_vertices}

[network]
listen_addr = "0.0.0.0:{CONTROL_PORT}"
quic_port = {PEER_PORT}
bootstrap_peers = [
{peers}]

[storage]
backend = "rocksdb"
path = "/data/db"
cache_size_mb = {cache_size_mb}
write_buffer_mb = {write_buffer_mb}

[crypto]
signature_algorithm = "ml-dsa-87"
hash_algorithm = "blake3"
key_path = "/data/keys"

[metrics]
enabled = true
port = {METRICS_PORT}
endpoint = "/metrics"
"#,
        cluster = names.cluster,
        log_level = tuning.log_level.as_str(),
        finality_timeout_ms = consensus.finality_timeout_ms,
        max_pending_vertices = consensus.max_pending_vertices,
        cache_size_mb = tuning.cache_size_mb,
        write_buffer_mb = tuning.write_buffer_mb,
    )
}

pub(super) fn config_map(blueprint: &Blueprint<'_>) -> (Kind, Value) {
    debug_assert_eq!(
        API_PORT, 8080,
        "node.toml has no key for the client port: the node always listens there"
    );
    let object = json!({
        "metadata": blueprint.metadata(&blueprint.cluster.names.config()),
        "data": { "node.toml": node_toml(blueprint) },
    });
    (Kind::ConfigMap, object)
}
