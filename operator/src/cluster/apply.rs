//! All output of a pass. Every irreversible step has a precondition: `create` fails if the object
//! is there, a pod is taken away only by its UID, and evicted where the quorum depends on it. So a
//! second operator, or this one after a crash, does no harm.

use crate::{
    cluster::{
        observe::Observation,
        plan::{Part, Removal, Step},
        validate::Cluster,
        view::View,
    },
    drift,
    names::{ADMITTED, CLUSTER_UID, GENESIS_KEY, MANAGER, RETRY, SEED_KEY, retained_annotations},
    nodes::NodeError,
    resources::{self, Wanted},
};
use cretoai_control::keys::{KeyError, MlDsa87, SecretKey};
use cretoai_types::{Genesis, SignedGenesis};
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, ObjectReference, PersistentVolumeClaim, Pod, Secret},
        policy::v1::Eviction,
    },
    apimachinery::pkg::apis::meta::v1::{
        DeleteOptions, OwnerReference, Preconditions as UidPreconditions,
    },
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// HTTP's word for an eviction that a PodDisruptionBudget forbids.
const TOO_MANY_REQUESTS: u16 = 429;

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The API server says no.
    #[error("{what}: {}", api_message(source))]
    Api {
        /// What we asked for.
        what: String,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A node says no.
    #[error("{what}: {source}")]
    Node {
        /// What we asked for.
        what: String,
        /// What it said.
        source: NodeError,
    },
    /// The PodDisruptionBudget keeps the pod: somebody else took one away. Not a failure.
    #[error("the API server does not evict {pod} now: {why}")]
    Fenced {
        /// The pod.
        pod: String,
        /// What it said.
        why: String,
    },
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The plan needs the admin key, and it is not the one that the plan was made with.
    #[error("the admin key changed while the genesis was being made; the next pass looks again")]
    AdminKeyChanged,
    /// The nodes' answers make no genesis.
    #[error(
        "no genesis is made, because it would not be valid: {0}; two pods with one key share a copied volume: delete the volume of one of them, and its pod"
    )]
    Genesis(String),
    /// An object has no JSON form.
    #[error("an object has no JSON form: {0}")]
    Json(#[from] serde_json::Error),
}

/// The API server's own sentence, without our wrapping.
fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Something that people should read about in `kubectl describe`.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// For programs.
    pub reason: &'static str,
    /// What was done.
    pub action: &'static str,
    /// For people.
    pub note: String,
    /// Whether someone should look.
    pub warning: bool,
    /// The object that it is about, besides the CretoCluster.
    pub related: Option<ObjectReference>,
}

fn api_error(what: impl Into<String>) -> impl FnOnce(kube::Error) -> StepError {
    let what = what.into();
    move |source| StepError::Api { what, source: Box::new(source) }
}

/// Does one step.
///
/// # Errors
/// Why it was not done; the next pass tries again.
pub async fn apply(
    client: &Client,
    seen: &Observation,
    step: &Step,
) -> Result<Option<Notice>, StepError> {
    let namespace = seen.view.cluster.names.namespace.as_str();
    match step {
        Step::CreateAdminKey => create_admin_key(client, &seen.view).await,
        Step::Apply { wanted, .. } => {
            put(client, namespace, wanted, seen.view.live.get(&wanted.key)).await
        }
        Step::SetRetention { part, goes } => {
            set_retention(client, &seen.view.cluster, part, *goes).await?;
            Ok(None)
        }
        Step::RetryPods { now_ms } => {
            let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
            let patch = json!({ "metadata": { "annotations": { RETRY: now_ms.to_string() } } });
            let name = &seen.view.cluster.names.cluster;
            sets.patch_metadata(name, &merging(), &Patch::Merge(&patch))
                .await
                .map_err(api_error("having the pods created again"))?;
            Ok(None)
        }
        Step::CreateGenesis(genesis) => create_genesis(client, seen, genesis).await,
        Step::PushGenesis { pod, address, key, genesis } => {
            let nodes = seen.nodes.as_ref().ok_or(StepError::AdminKeyChanged)?;
            let what = || format!("giving {pod} the genesis");
            nodes
                .put_genesis(*address, key.clone(), genesis.clone())
                .await
                .map_err(|source| StepError::Node { what: what(), source })?;
            Ok(None)
        }
        Step::ExpandVolume { claim, size } => {
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
            let patch = json!({ "spec": { "resources": { "requests": { "storage": size } } } });
            let what = format!("growing PersistentVolumeClaim {claim} to {size}");
            claims
                .patch(claim, &merging(), &Patch::Merge(&patch))
                .await
                .map_err(api_error(what))?;
            Ok(Some(Notice {
                reason: "VolumeGrows",
                action: "Expand",
                note: format!("{claim} grows to {size}"),
                warning: false,
                related: None,
            }))
        }
        Step::ReplacePod { pod, uid, how, .. } => {
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let result = match how {
                Removal::Evict => evict(&pods, pod, uid).await,
                Removal::Delete => delete(&pods, pod, uid).await,
            };
            match result {
                Ok(()) => {}
                // Another one by now, or gone: what we wanted.
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                    return Ok(None);
                }
                Err(kube::Error::Api(status)) if status.code == TOO_MANY_REQUESTS => {
                    return Err(StepError::Fenced {
                        pod: pod.clone(),
                        why: status.message.clone(),
                    });
                }
                Err(error) => return Err(api_error(format!("replacing pod {pod}"))(error)),
            }
            let note = format!("{pod} is replaced, so that it runs the newest template");
            Ok(Some(Notice {
                reason: "PodReplaced",
                action: "Replace",
                note,
                warning: false,
                related: None,
            }))
        }
    }
}

/// Evicts a pod if it is still this one. Not by the library's own call: that writes
/// `delete_options` instead of `deleteOptions`, and the API server would ignore the precondition.
async fn evict(pods: &Api<Pod>, pod: &str, uid: &str) -> Result<(), kube::Error> {
    let eviction = Eviction {
        metadata: ObjectMeta { name: Some(pod.to_string()), ..ObjectMeta::default() },
        delete_options: Some(DeleteOptions {
            preconditions: Some(UidPreconditions {
                uid: Some(uid.to_string()),
                resource_version: None,
            }),
            ..DeleteOptions::default()
        }),
    };
    let answer = pods.create_subresource("eviction", pod, &created_by(), &eviction).await;
    answer.map(|_: serde_json::Value| ())
}

async fn delete(pods: &Api<Pod>, pod: &str, uid: &str) -> Result<(), kube::Error> {
    let preconditions = Preconditions { uid: Some(uid.to_string()), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    pods.delete(pod, &parameters).await.map(|_| ())
}

fn reference(namespace: &str, wanted: &Wanted) -> ObjectReference {
    let resource = wanted.key.kind.resource();
    ObjectReference {
        api_version: Some(resource.api_version),
        kind: Some(resource.kind),
        name: Some(wanted.key.name.clone()),
        namespace: Some(namespace.to_string()),
        ..ObjectReference::default()
    }
}

/// How often a write is tried again because somebody else wrote in between.
const CONFLICTS: usize = 3;

fn merging() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() }
}

/// Makes an object as it is wanted, exactly: creates it, or replaces all of it that is ours. Then
/// notes on it what the API server made of that, so that any later change is seen.
async fn put(
    client: &Client,
    namespace: &str,
    wanted: &Wanted,
    seen: Option<&Value>,
) -> Result<Option<Notice>, StepError> {
    let (kind, name) = (wanted.key.kind, &wanted.key.name);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
    let what = || api_error(format!("applying {}", wanted.key));
    let mut before = seen.cloned();
    let mut tries = 0;
    let after = loop {
        let result = match &before {
            None => {
                let object = serde_json::from_value(wanted.object.clone())?;
                api.create(&created_by(), &object).await
            }
            Some(live) => {
                let object = serde_json::from_value(resources::replacement(wanted, live))?;
                api.replace(name, &created_by(), &object).await
            }
        };
        match result {
            Ok(after) => break serde_json::to_value(after)?,
            Err(kube::Error::Api(status)) if status.is_conflict() && before.is_some() => {
                tries += 1;
                if tries > CONFLICTS {
                    return Err(what()(kube::Error::Api(status)));
                }
                let Some(live) = api.get_opt(name).await.map_err(what())? else {
                    // Gone: the next look makes it.
                    return Ok(None);
                };
                let live = serde_json::to_value(live)?;
                let uid = |object: &Value| object.pointer("/metadata/uid").cloned();
                if before.as_ref().and_then(uid) != uid(&live) {
                    return Ok(None);
                }
                before = Some(live);
            }
            // Somebody was faster: the next look tells whose it is.
            Err(kube::Error::Api(status)) if status.is_already_exists() => return Ok(None),
            Err(error) => return Err(what()(error)),
        }
    };
    let hash = resources::admitted_hash(kind, &after);
    if after.pointer("/metadata/annotations").and_then(|all| all.get(ADMITTED))
        != Some(&json!(hash))
    {
        let patch = json!({ "metadata": { "annotations": { ADMITTED: hash } } });
        api.patch_metadata(name, &merging(), &Patch::Merge(&patch)).await.map_err(what())?;
    }
    Ok(edit_notice(namespace, wanted, before.as_ref(), &after)
        .or_else(|| admission_notice(namespace, wanted, &after)))
}

/// What was edited by hand, if that is why the object was put back.
fn edit_notice(
    namespace: &str,
    wanted: &Wanted,
    before: Option<&Value>,
    after: &Value,
) -> Option<Notice> {
    let before = before.filter(|before| resources::edited(wanted, before))?;
    let kind = wanted.key.kind;
    let metadata = |object: &Value| json!({ "metadata": object.get("metadata") });
    let edit = drift::change(&resources::closed(kind, before), &resources::closed(kind, after))
        .or_else(|| drift::difference(&metadata(&wanted.object), &metadata(before)))?;
    Some(Notice {
        reason: "DriftRepaired",
        action: "Apply",
        note: format!(
            "{} was edited by hand ({edit}); put back. Change the CretoCluster instead",
            wanted.key
        ),
        warning: true,
        related: Some(reference(namespace, wanted)),
    })
}

/// What admission made of our wish, if that is another than ours.
fn admission_notice(namespace: &str, wanted: &Wanted, after: &Value) -> Option<Notice> {
    let closed = |object: &Value| resources::closed(wanted.key.kind, object);
    let change = drift::difference(&closed(&wanted.object), &closed(after))?;
    Some(Notice {
        reason: "ChangedOnAdmission",
        action: "Apply",
        note: format!(
            "an admission webhook of this Kubernetes cluster changed {} ({change}); it stays so",
            wanted.key
        ),
        warning: false,
        related: Some(reference(namespace, wanted)),
    })
}

fn references(owners: Vec<Value>) -> Result<Vec<OwnerReference>, serde_json::Error> {
    owners.into_iter().map(serde_json::from_value).collect()
}

/// Metadata of what is created once. It goes with the CretoCluster until the chain is born.
fn metadata(view: &View, name: String) -> Result<ObjectMeta, serde_json::Error> {
    let mut annotations = retained_annotations();
    annotations.insert(CLUSTER_UID.to_string(), view.cluster.uid.clone());
    Ok(ObjectMeta {
        name: Some(name),
        namespace: Some(view.cluster.names.namespace.clone()),
        labels: Some(view.cluster.names.retained_labels()),
        annotations: Some(annotations),
        owner_references: Some(references(vec![resources::owner(&view.cluster)])?),
        ..ObjectMeta::default()
    })
}

fn created_by() -> PostParams {
    PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() }
}

async fn create_admin_key(client: &Client, view: &View) -> Result<Option<Notice>, StepError> {
    let key = SecretKey::generate()?;
    let name = view.cluster.names.admin_key();
    let secret = Secret {
        metadata: metadata(view, name.clone())?,
        immutable: Some(true),
        type_: Some("Opaque".into()),
        data: Some(BTreeMap::from([(SEED_KEY.to_string(), ByteString(key.seed().to_vec()))])),
        ..Secret::default()
    };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &view.cluster.names.namespace);
    match secrets.create(&created_by(), &secret).await {
        Ok(_) => {
            let note = format!(
                "admin key {} made; keep a copy of Secret {name}: nothing else can change this chain's members",
                key.public_key().fingerprint()
            );
            Ok(Some(Notice {
                reason: "AdminKeyCreated",
                action: "Create",
                note,
                warning: false,
                related: None,
            }))
        }
        // Somebody was faster: the next look uses theirs.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
        Err(error) => Err(api_error(format!("creating Secret {name}"))(error)),
    }
}

async fn create_genesis(
    client: &Client,
    seen: &Observation,
    genesis: &Genesis,
) -> Result<Option<Notice>, StepError> {
    let admin = seen
        .admin
        .as_ref()
        .filter(|admin| *admin.public_key() == genesis.admin_key)
        .ok_or(StepError::AdminKeyChanged)?;
    let signed = SignedGenesis {
        genesis: genesis.clone(),
        signature: admin.sign(&genesis.signing_message()),
    };
    // It can never be changed once it is there: two pods with one key, for example.
    signed.verify(&MlDsa87).map_err(|error| StepError::Genesis(error.to_string()))?;
    let name = seen.view.cluster.names.genesis();
    let config_map = ConfigMap {
        metadata: metadata(&seen.view, name.clone())?,
        immutable: Some(true),
        binary_data: Some(BTreeMap::from([(GENESIS_KEY.to_string(), ByteString(signed.encode()))])),
        ..ConfigMap::default()
    };
    let config_maps: Api<ConfigMap> =
        Api::namespaced(client.clone(), &seen.view.cluster.names.namespace);
    match config_maps.create(&created_by(), &config_map).await {
        Ok(_) => {
            let note = format!(
                "chain {} is born with {} validators, kept in ConfigMap {name}",
                genesis.chain_id(),
                genesis.members.len()
            );
            Ok(Some(Notice {
                reason: "GenesisCreated",
                action: "Create",
                note,
                warning: false,
                related: None,
            }))
        }
        // Somebody was faster: the next look adopts theirs.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
        Err(error) => Err(api_error(format!("creating ConfigMap {name}"))(error)),
    }
}

async fn set_retention(
    client: &Client,
    cluster: &Cluster,
    part: &Part,
    goes: bool,
) -> Result<(), StepError> {
    let names = &cluster.names;
    let owners = if goes { vec![resources::owner(cluster)] } else { Vec::new() };
    let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": owners } }));
    match part {
        Part::Genesis => {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), &names.namespace);
            api.patch_metadata(&names.genesis(), &merging(), &patch)
                .await
                .map_err(api_error("setting the retention of the genesis"))?;
        }
        Part::AdminKey => {
            let api: Api<Secret> = Api::namespaced(client.clone(), &names.namespace);
            api.patch_metadata(&names.admin_key(), &merging(), &patch)
                .await
                .map_err(api_error("setting the retention of the admin key"))?;
        }
        Part::Volume(claim) => {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &names.namespace);
            api.patch_metadata(claim, &merging(), &patch)
                .await
                .map_err(api_error(format!("setting the retention of {claim}")))?;
        }
    }
    Ok(())
}
