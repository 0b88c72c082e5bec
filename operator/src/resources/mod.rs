//! Kubernetes objects of a cluster: pure functions from what is validated to JSON.
//!
//! Secret and genesis are not among them: they are created once and never applied (see
//! [`crate::cluster::apply`]).

mod config;
mod network;
mod workload;

use crate::{
    cluster::{
        identity::Identity,
        validate::{Cluster, Settings},
    },
    drift,
    names::{ADMITTED, CLUSTER, MANAGER, WANTED},
};
use cretoai_types::Hash;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::api::ApiResource;
use serde_json::{Value, json};

/// The kinds that we apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Who the pods are.
    ServiceAccount,
    /// `node.toml`.
    ConfigMap,
    /// Names of the pods, and the door for clients.
    Service,
    /// Which pod may speak to which.
    NetworkPolicy,
    /// How many pods a drain may take away.
    PodDisruptionBudget,
    /// The pods and their volumes.
    StatefulSet,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::Service,
        Self::NetworkPolicy,
        Self::PodDisruptionBudget,
        Self::StatefulSet,
    ];

    /// How the API server calls it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        match self {
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
        }
    }
}

/// Kind and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// An object as we want it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What it is.
    pub key: Key,
    /// All fields that are ours, with the annotation [`WANTED`].
    pub object: Value,
}

/// All that the builders look at.
#[derive(Clone, Copy, Debug)]
pub struct Blueprint<'a> {
    /// The validated cluster.
    pub cluster: &'a Cluster,
    /// Which chain its pods belong to.
    pub identity: &'a Identity,
    /// What the operator was told.
    pub settings: &'a Settings,
    /// The image that the pods run now, if there is a StatefulSet.
    pub running_image: Option<&'a str>,
    /// The size in the StatefulSet's claim template, which Kubernetes does not let anybody change.
    pub claim_size: Option<&'a str>,
}

impl Blueprint<'_> {
    /// The image: the user's, else the one that runs already (so that an upgrade of the operator
    /// alone restarts nothing), else the operator's default.
    #[must_use]
    pub fn image(&self) -> &str {
        self.cluster
            .spec
            .image
            .as_deref()
            .or(self.running_image)
            .unwrap_or(&self.settings.node_image)
    }

    /// Metadata with labels and owner.
    fn metadata(&self, name: &str) -> Value {
        json!({
            "name": name,
            "namespace": self.cluster.names.namespace,
            "labels": self.cluster.names.labels(),
            "ownerReferences": [owner(self.cluster)],
        })
    }
}

/// The owner reference to the CretoCluster.
#[must_use]
pub fn owner(cluster: &Cluster) -> Value {
    json!({
        "apiVersion": "cretoai.io/v1alpha1",
        "kind": "CretoCluster",
        "name": cluster.names.cluster,
        "uid": cluster.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// Keys of all objects, which depend on the names alone.
#[must_use]
pub fn keys(cluster: &Cluster) -> Vec<Key> {
    let names = &cluster.names;
    let mut keys = vec![
        Key { kind: Kind::ServiceAccount, name: names.service_account() },
        Key { kind: Kind::ConfigMap, name: names.config() },
        Key { kind: Kind::Service, name: names.headless() },
        Key { kind: Kind::Service, name: names.api() },
        Key { kind: Kind::PodDisruptionBudget, name: names.cluster.clone() },
        Key { kind: Kind::StatefulSet, name: names.cluster.clone() },
    ];
    keys.extend(
        network::POLICIES
            .map(|port| Key { kind: Kind::NetworkPolicy, name: names.network_policy(port) }),
    );
    keys.sort();
    keys
}

/// All objects as we want them, in the order in which they are applied: the pods last.
#[must_use]
pub fn all(blueprint: &Blueprint<'_>) -> Vec<Wanted> {
    let mut objects = vec![
        workload::service_account(blueprint),
        config::config_map(blueprint),
        network::headless_service(blueprint),
        network::api_service(blueprint),
        workload::disruption_budget(blueprint),
        workload::stateful_set(blueprint),
    ];
    objects.extend(network::policies(blueprint));
    let mut wanted: Vec<Wanted> =
        objects.into_iter().map(|(kind, object)| seal(kind, object)).collect();
    wanted.sort_by(|left, right| left.key.cmp(&right.key));
    wanted
}

fn seal(kind: Kind, mut object: Value) -> Wanted {
    let resource = kind.resource();
    let name =
        object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_string();
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), Value::String(resource.api_version));
        map.insert("kind".into(), Value::String(resource.kind));
    }
    let hash: String =
        Hash::of_bytes(object.to_string().as_bytes()).to_string().chars().take(16).collect();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("annotations".into(), json!({ WANTED: hash }));
    }
    Wanted { key: Key { kind, name }, object }
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// The hash of what an operator wanted when it applied `live` last.
#[must_use]
pub fn wanted_hash(object: &Value) -> Option<&str> {
    annotation(object, WANTED)
}

/// Whether `live` is what the API server made of `wanted`, and nothing else.
#[must_use]
pub fn as_wanted(wanted: &Wanted, live: &Value) -> bool {
    let metadata = |object: &Value| object.get("metadata").cloned().unwrap_or_default();
    annotation(live, ADMITTED) == Some(admitted_hash(wanted.key.kind, live).as_str())
        && drift::difference(&metadata(&wanted.object), &metadata(live)).is_none()
}

/// Whether `live`, which is not as wanted, was changed by somebody else: our wish is the same as
/// when we applied it last.
#[must_use]
pub fn edited(wanted: &Wanted, live: &Value) -> bool {
    let same_wish = match wanted_hash(live) {
        Some(hash) => wanted_hash(&wanted.object) == Some(hash),
        // Only an edit removes it.
        None => true,
    };
    same_wish && annotation(live, ADMITTED).is_some()
}

/// Fields of a live object that others fill in, by design of Kubernetes.
fn of_others(kind: Kind) -> &'static [&'static str] {
    match kind {
        // Token controllers and OpenShift name Secrets there.
        Kind::ServiceAccount => &["secrets", "imagePullSecrets"],
        _ => &[],
    }
}

/// The part of an object that is ours alone: all of it but metadata, status and what others fill
/// in.
#[must_use]
pub fn closed(kind: Kind, object: &Value) -> Value {
    let mut closed = object.clone();
    if let Some(map) = closed.as_object_mut() {
        for key in ["apiVersion", "kind", "metadata", "status"] {
            map.remove(key);
        }
        for key in of_others(kind) {
            map.remove(*key);
        }
    }
    closed
}

/// Hash of [`closed`].
#[must_use]
pub fn admitted_hash(kind: Kind, object: &Value) -> String {
    let text = closed(kind, object).to_string();
    Hash::of_bytes(text.as_bytes()).to_string().chars().take(16).collect()
}

/// What the API server gave a Service, and what nobody may change in a StatefulSet.
fn carried(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Service => &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"],
        Kind::StatefulSet => &["volumeClaimTemplates"],
        _ => &[],
    }
}

/// `wanted` as it replaces `live`: labels and annotations of others stay, and so does what cannot
/// change; everything else is as wanted.
#[must_use]
pub fn replacement(wanted: &Wanted, live: &Value) -> Value {
    let mut object = wanted.object.clone();
    for key in of_others(wanted.key.kind) {
        if let Some(value) = live.get(key) {
            object[*key] = value.clone();
        }
    }
    for key in carried(wanted.key.kind) {
        if let Some(value) = live.get("spec").and_then(|spec| spec.get(key)) {
            object["spec"][*key] = value.clone();
        }
    }
    let mut metadata = live.get("metadata").cloned().unwrap_or_default();
    if let Some(map) = metadata.as_object_mut() {
        map.remove("managedFields");
    }
    for (key, value) in wanted.object["metadata"].as_object().into_iter().flatten() {
        match value.as_object() {
            // Labels and annotations: others have theirs.
            Some(ours) => {
                for (name, value) in ours {
                    metadata[key.as_str()][name.as_str()] = value.clone();
                }
            }
            None => metadata[key.as_str()] = value.clone(),
        }
    }
    object["metadata"] = metadata;
    object
}

/// Whose a live object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This CretoCluster's, or nobody's with its labels on it.
    Ours,
    /// An earlier CretoCluster's of this name: it is about to go.
    Departing,
    /// Somebody else's.
    Foreign,
}

/// Whose `live` is, seen by `cluster`.
#[must_use]
pub fn owner_of(live: &Value, cluster: &Cluster) -> Owner {
    let uid = cluster.uid.as_str();
    let metadata = live.get("metadata").unwrap_or(&Value::Null);
    if metadata.get("deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return Owner::Departing;
    }
    let owners = metadata
        .get("ownerReferences")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    match owners.iter().find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
    {
        Some(owner) if owner.get("uid").and_then(Value::as_str) == Some(uid) => Owner::Ours,
        Some(owner) if owner.get("kind").and_then(Value::as_str) == Some("CretoCluster") => {
            Owner::Departing
        }
        Some(_) => Owner::Foreign,
        None => {
            let label = |key: &str| metadata.get("labels")?.get(key)?.as_str();
            let ours = label("app.kubernetes.io/managed-by") == Some(MANAGER)
                && label(CLUSTER) == Some(cluster.names.cluster.as_str());
            if ours { Owner::Ours } else { Owner::Foreign }
        }
    }
}

#[cfg(test)]
mod tests;
