//! All output of a pass. Every irreversible step has a precondition: `create` fails if the object
//! is there, a pod is deleted only by its UID. So a second operator, or this one after a crash,
//! does no harm.

use crate::{
    cluster::{observe::Observation, plan::Step, view::View},
    drift,
    names::{CLUSTER_UID, GENESIS_KEY, MANAGER, SEED_KEY},
    nodes::NodeError,
    resources::{self, Wanted},
};
use cretoai_control::keys::{KeyError, SecretKey};
use cretoai_types::{Genesis, SignedGenesis};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, ObjectReference, PersistentVolumeClaim, Pod, Secret},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use std::collections::BTreeMap;

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
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The plan needs the admin key, and it is not the one that the plan was made with.
    #[error("the admin key changed while the genesis was being made; the next pass looks again")]
    AdminKeyChanged,
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
        Step::Apply { wanted, drift } => {
            put(client, namespace, wanted).await?;
            Ok(drift.as_ref().map(|drift| Notice {
                reason: "DriftRepaired",
                action: "Apply",
                note: format!(
                    "{} was edited by hand ({drift}); put back. Change the CretoCluster instead",
                    wanted.key
                ),
                warning: true,
                related: Some(reference(namespace, wanted)),
            }))
        }
        Step::SetRetention { genesis } => set_retention(client, &seen.view, *genesis).await,
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
                .patch(
                    claim,
                    &PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() },
                    &Patch::Merge(&patch),
                )
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
        Step::ReplacePod { pod, uid, .. } => {
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let parameters =
                DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match pods.delete(pod, &parameters).await {
                Ok(_) => {}
                // Another one by now, or gone: what we wanted.
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                    return Ok(None);
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

/// Applies an object; if a list still holds what somebody else put there, which server-side apply
/// leaves alone, replaces the lists.
async fn put(client: &Client, namespace: &str, wanted: &Wanted) -> Result<(), StepError> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &wanted.key.kind.resource());
    let what = || format!("applying {}", wanted.key);
    let result = api
        .patch(
            &wanted.key.name,
            &PatchParams::apply(MANAGER).force(),
            &Patch::Apply(&wanted.object),
        )
        .await
        .map_err(api_error(what()))?;
    if drift::difference(&wanted.object, &serde_json::to_value(result)?).is_some() {
        let parameters =
            PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        api.patch(&wanted.key.name, &parameters, &Patch::Merge(&wanted.object))
            .await
            .map_err(api_error(what()))?;
    }
    Ok(())
}

fn owners(view: &View) -> Result<Option<Vec<OwnerReference>>, serde_json::Error> {
    let owners = resources::retained_owners(&view.cluster);
    if owners.is_empty() {
        Ok(None)
    } else {
        owners.into_iter().map(serde_json::from_value).collect::<Result<_, _>>().map(Some)
    }
}

/// Metadata of what is created once.
fn metadata(view: &View, name: String) -> Result<ObjectMeta, serde_json::Error> {
    Ok(ObjectMeta {
        name: Some(name),
        namespace: Some(view.cluster.names.namespace.clone()),
        labels: Some(view.cluster.names.labels()),
        annotations: Some(BTreeMap::from([(CLUSTER_UID.to_string(), view.cluster.uid.clone())])),
        owner_references: owners(view)?,
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
    view: &View,
    genesis: bool,
) -> Result<Option<Notice>, StepError> {
    let names = &view.cluster.names;
    let patch = Patch::Merge(
        json!({ "metadata": { "ownerReferences": resources::retained_owners(&view.cluster) } }),
    );
    let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    if genesis {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &names.namespace);
        api.patch_metadata(&names.genesis(), &parameters, &patch)
            .await
            .map_err(api_error("setting the retention of the genesis"))?;
    } else {
        let api: Api<Secret> = Api::namespaced(client.clone(), &names.namespace);
        api.patch_metadata(&names.admin_key(), &parameters, &patch)
            .await
            .map_err(api_error("setting the retention of the admin key"))?;
    }
    Ok(None)
}
