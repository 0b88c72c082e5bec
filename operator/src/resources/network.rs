//! Services and NetworkPolicies.

use super::{Blueprint, Kind};
use crate::names::{API_PORT, CONTROL_PORT, MANAGER, METRICS_PORT, PEER_PORT};
use serde_json::{Value, json};

/// Suffixes of the NetworkPolicies' names.
pub(super) const POLICIES: [&str; 4] = ["api", "control", "metrics", "peers"];

/// Gives each pod a name in DNS, also before it is ready: the nodes become ready only together.
pub(super) fn headless_service(blueprint: &Blueprint<'_>) -> (Kind, Value) {
    let names = &blueprint.cluster.names;
    let object = json!({
        "metadata": blueprint.metadata(&names.headless()),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": names.selector(),
            "ports": [
                port("control", CONTROL_PORT, "TCP"),
                port("peers", PEER_PORT, "UDP"),
                port("metrics", METRICS_PORT, "TCP"),
            ],
        },
    });
    (Kind::Service, object)
}

/// The door for clients: only nodes that are ready.
pub(super) fn api_service(blueprint: &Blueprint<'_>) -> (Kind, Value) {
    let names = &blueprint.cluster.names;
    let object = json!({
        "metadata": blueprint.metadata(&names.api()),
        "spec": { "type": "ClusterIP", "selector": names.selector(), "ports": [port("api", API_PORT, "TCP")] },
    });
    (Kind::Service, object)
}

fn port(name: &str, port: u16, protocol: &str) -> Value {
    json!({ "name": name, "port": port, "targetPort": port, "protocol": protocol })
}

/// One policy a port. Together they close every other way in; ways out stay open (DNS, peers).
pub(super) fn policies(blueprint: &Blueprint<'_>) -> Vec<(Kind, Value)> {
    let names = &blueprint.cluster.names;
    let same_cluster = json!([{ "podSelector": { "matchLabels": names.selector() } }]);
    let same_namespace = json!([{ "podSelector": {} }]);
    let whole_cluster = json!([{ "namespaceSelector": {} }]);
    let operator = json!([{
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": blueprint.settings.operator_namespace } },
        "podSelector": { "matchLabels": { "app.kubernetes.io/name": MANAGER } },
    }]);
    [
        ("api", API_PORT, "TCP", same_namespace),
        ("control", CONTROL_PORT, "TCP", operator),
        ("metrics", METRICS_PORT, "TCP", whole_cluster),
        ("peers", PEER_PORT, "UDP", same_cluster),
    ]
    .into_iter()
    .map(|(suffix, port, protocol, from)| {
        let object = json!({
            "metadata": blueprint.metadata(&names.network_policy(suffix)),
            "spec": {
                "podSelector": { "matchLabels": names.selector() },
                "policyTypes": ["Ingress"],
                "ingress": [{ "from": from, "ports": [{ "port": port, "protocol": protocol }] }],
            },
        });
        (Kind::NetworkPolicy, object)
    })
    .collect()
}
