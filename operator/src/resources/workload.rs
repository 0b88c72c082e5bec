//! The pods: ServiceAccount, StatefulSet, PodDisruptionBudget.

use super::{Blueprint, Kind, config};
use crate::names::{
    API_PORT, CLUSTER_UID, CONFIG_HASH, CONTROL_PORT, METRICS_PORT, NODE_USER, PEER_PORT,
    retained_annotations, token_audience,
};
use cretoai_types::Hash;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, Value, json};

/// The pods' identity towards the API server. They call it never, so there is no Role, and the only
/// token that they hold is the one that proves to the operator which pod they are: its audience is
/// useless for anything else.
pub(super) fn service_account(blueprint: &Blueprint<'_>) -> (Kind, Value) {
    let object = json!({
        "metadata": blueprint.metadata(&blueprint.cluster.names.service_account()),
        "automountServiceAccountToken": false,
    });
    (Kind::ServiceAccount, object)
}

/// A drain may take a pod away only if a quorum stays. Counted as the quorum that must stay and not
/// as the `f` that may go, so that a node which is down already (and whose own eviction is always
/// allowed) uses up the budget. With 1 or 3 nodes no pod can be drained: there the chain stops with
/// any one of them.
pub(super) fn disruption_budget(blueprint: &Blueprint<'_>) -> (Kind, Value) {
    let object = json!({
        "metadata": blueprint.metadata(&blueprint.cluster.names.cluster),
        "spec": {
            "minAvailable": blueprint.cluster.quorum().q,
            "selector": { "matchLabels": blueprint.cluster.names.selector() },
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    });
    (Kind::PodDisruptionBudget, object)
}

/// The pods start together and are replaced by us alone, one at a time.
pub(super) fn stateful_set(blueprint: &Blueprint<'_>) -> (Kind, Value) {
    let cluster = blueprint.cluster;
    let names = &cluster.names;
    let storage = &cluster.spec.storage;
    let mut claim_labels = names.retained_labels();
    claim_labels.insert(CLUSTER_UID.into(), blueprint.identity.cluster_uid.clone());
    let mut claim = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": blueprint.claim_size.unwrap_or(&storage.size) } },
    });
    set(
        &mut claim,
        "storageClassName",
        storage.storage_class_name.as_ref().map(|class| json!(class)),
    );
    let object = json!({
        "metadata": blueprint.metadata(&names.cluster),
        "spec": {
            "replicas": cluster.replicas,
            "serviceName": names.headless(),
            "podManagementPolicy": "Parallel",
            "updateStrategy": { "type": "OnDelete" },
            "revisionHistoryLimit": 3,
            // Volumes go with the CretoCluster, which owns them then, never with the StatefulSet.
            "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Retain", "whenScaled": "Retain" },
            "selector": { "matchLabels": names.selector() },
            "template": { "metadata": pod_metadata(blueprint), "spec": pod_spec(blueprint) },
            "volumeClaimTemplates": [{
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {
                    "name": "data",
                    "labels": claim_labels,
                    "annotations": retained_annotations(),
                },
                "spec": claim,
            }],
        },
    });
    (Kind::StatefulSet, object)
}

fn set(object: &mut Value, key: &str, value: Option<Value>) {
    if let (Some(map), Some(value)) = (object.as_object_mut(), value) {
        map.insert(key.into(), value);
    }
}

fn pod_metadata(blueprint: &Blueprint<'_>) -> Value {
    let template = &blueprint.cluster.spec.pod_template;
    let mut labels = template.labels.clone();
    labels.extend(blueprint.cluster.names.labels());
    let mut annotations = template.annotations.clone();
    annotations.insert(
        CONFIG_HASH.into(),
        Hash::of_bytes(config::node_toml(blueprint).as_bytes()).to_string(),
    );
    json!({ "labels": labels, "annotations": annotations })
}

fn pod_spec(blueprint: &Blueprint<'_>) -> Value {
    let names = &blueprint.cluster.names;
    let (spec, template) = (&blueprint.cluster.spec, &blueprint.cluster.spec.pod_template);
    let mut pod = json!({
        "serviceAccountName": names.service_account(),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": NODE_USER,
            "runAsGroup": NODE_USER,
            "fsGroup": NODE_USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container(blueprint)],
        "volumes": [
            { "name": "config", "configMap": { "name": names.config(), "defaultMode": 0o444 } },
            { "name": "token", "projected": { "defaultMode": 0o440, "sources": [{ "serviceAccountToken": {
                "audience": token_audience(&blueprint.identity.cluster_uid), "expirationSeconds": 3600, "path": "token",
            } }] } },
        ],
        "topologySpreadConstraints": spread(blueprint),
    });
    let some = |list: Value, empty: bool| (!empty).then_some(list);
    set(&mut pod, "affinity", spec.affinity.as_ref().map(|affinity| json!(affinity)));
    set(
        &mut pod,
        "nodeSelector",
        some(json!(template.node_selector), template.node_selector.is_empty()),
    );
    set(
        &mut pod,
        "tolerations",
        some(json!(template.tolerations), template.tolerations.is_empty()),
    );
    set(
        &mut pod,
        "priorityClassName",
        template.priority_class_name.as_ref().map(|class| json!(class)),
    );
    let secrets: Vec<Value> =
        template.image_pull_secrets.iter().map(|name| json!({ "name": name })).collect();
    set(&mut pod, "imagePullSecrets", some(json!(secrets), secrets.is_empty()));
    pod
}

/// The user's constraints, else hosts and zones where there are several.
fn spread(blueprint: &Blueprint<'_>) -> Value {
    let constraints = &blueprint.cluster.spec.topology_spread_constraints;
    if !constraints.is_empty() {
        let mut constraints = constraints.clone();
        for constraint in &mut constraints {
            // Without a selector a constraint would count no pod and spread nothing.
            constraint.label_selector.get_or_insert_with(|| LabelSelector {
                match_labels: Some(blueprint.cluster.names.selector()),
                ..LabelSelector::default()
            });
        }
        return json!(constraints);
    }
    let over = |key: &str| {
        json!({
            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": blueprint.cluster.names.selector() },
        })
    };
    json!([over("kubernetes.io/hostname"), over("topology.kubernetes.io/zone")])
}

fn container(blueprint: &Blueprint<'_>) -> Value {
    let resources = &blueprint.cluster.spec.resources;
    let mut limits = Map::new();
    for (name, list) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        if !list.is_empty() {
            limits.insert(name.into(), json!(list));
        }
    }
    json!({
        "name": "node",
        "image": blueprint.image(),
        "imagePullPolicy": blueprint.cluster.spec.image_pull_policy.as_str(),
        "args": ["run", "--config", "/etc/cretoai/node.toml"],
        "env": [
            from_field("POD_NAME", "metadata.name"),
            from_field("POD_NAMESPACE", "metadata.namespace"),
            from_field("POD_UID", "metadata.uid"),
            { "name": "CRETO_CLUSTER_UID", "value": blueprint.identity.cluster_uid },
            { "name": "CRETO_ADMIN_KEY", "value": blueprint.identity.admin_fingerprint.to_string() },
            { "name": "CRETO_TOKEN_PATH", "value": "/var/run/secrets/creto/token" },
        ],
        "ports": [
            container_port("api", API_PORT, "TCP"),
            container_port("control", CONTROL_PORT, "TCP"),
            container_port("peers", PEER_PORT, "UDP"),
            container_port("metrics", METRICS_PORT, "TCP"),
        ],
        "resources": limits,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "capabilities": { "drop": ["ALL"] },
        },
        // The process alone is asked whether it lives: restarting it cannot repair a lost quorum.
        // Opening a large store after a crash may take minutes, hence the startup probe.
        "startupProbe": probe("/health", 2, 2, 150),
        "livenessProbe": probe("/health", 10, 5, 6),
        "readinessProbe": probe("/ready", 2, 2, 2),
        "volumeMounts": [
            { "name": "data", "mountPath": "/data" },
            { "name": "config", "mountPath": "/etc/cretoai", "readOnly": true },
            { "name": "token", "mountPath": "/var/run/secrets/creto", "readOnly": true },
        ],
    })
}

fn from_field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } })
}

fn container_port(name: &str, port: u16, protocol: &str) -> Value {
    json!({ "name": name, "containerPort": port, "protocol": protocol })
}

fn probe(path: &str, period: u32, timeout: u32, failures: u32) -> Value {
    json!({
        "httpGet": { "path": path, "port": METRICS_PORT, "scheme": "HTTP" },
        "periodSeconds": period, "timeoutSeconds": timeout, "failureThreshold": failures, "successThreshold": 1,
    })
}
