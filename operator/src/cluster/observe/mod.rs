//! All input of a pass: the API server's objects and the nodes' answers.
//!
//! Read afresh in every pass and never from a cache: what is decided here cannot be undone.

use crate::{
    cluster::{
        validate::{Cluster, control_address},
        view::{AdminKey, Attested, GenesisFound, Pod, Report, View, Volume},
    },
    names::{CLUSTER_UID, GENESIS_KEY, SEED_KEY, token_audience},
    nodes::{Connector, NodeClient, NodeError},
    resources::{self, Key},
};
use cretoai_control::{
    api::Attestation,
    keys::{MlDsa87, SecretKey},
};
use cretoai_types::{PublicKey, SignedGenesis};
use futures::future::{join_all, try_join_all};
use k8s_openapi::{
    api::{
        authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
        core::v1::{ConfigMap, Event as KubeEvent, PersistentVolumeClaim, Pod as KubePod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, ListParams, ObjectMeta, PostParams},
};
use std::{collections::BTreeMap, sync::Arc};
use tracing::debug;

/// What a pass sees, and the secret that only [`crate::cluster::apply`] may use.
pub struct Observation {
    /// What a pass sees.
    pub view: View,
    /// The admin key, if it is there.
    pub admin: Option<SecretKey>,
    /// The nodes, if there is an admin key to speak to them.
    pub nodes: Option<Arc<dyn NodeClient>>,
}

/// Looks at everything.
///
/// # Errors
/// If the API server does not answer. Nodes that do not answer are part of what is seen.
pub async fn observe(
    client: &Client,
    connector: &dyn Connector,
    cluster: Cluster,
) -> Result<Observation, kube::Error> {
    let namespace = &cluster.names.namespace;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let pods: Api<KubePod> = Api::namespaced(client.clone(), namespace);
    let selector = cluster
        .names
        .selector()
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",");
    let of_cluster = ListParams::default().labels(&selector);
    let (secret_name, genesis_name) = (cluster.names.admin_key(), cluster.names.genesis());

    let live =
        try_join_all(resources::keys(&cluster).into_iter().map(|key| get(client, namespace, key)));
    let (live, secret, genesis, claims, pods) = futures::try_join!(
        live,
        secrets.get_opt(&secret_name),
        config_maps.get_opt(&genesis_name),
        claims.list(&of_cluster),
        pods.list(&of_cluster),
    )?;
    let live: BTreeMap<Key, serde_json::Value> = live.into_iter().flatten().collect();
    let (admin_key, admin) = read_admin_key(secret.as_ref(), &cluster.uid);
    let genesis = read_genesis(genesis.as_ref(), &cluster.uid);
    let mut view = View {
        admin_key,
        genesis,
        volumes: BTreeMap::new(),
        live,
        pods: BTreeMap::new(),
        pods_refused: None,
        reports: BTreeMap::new(),
        cluster,
    };
    let stateful_set = view.stateful_set().and_then(|set| set.uid().map(str::to_string));
    view.volumes = claims
        .iter()
        .filter_map(|claim| read_volume(claim, &view.cluster, stateful_set.as_deref()))
        .collect();
    view.pods = pods
        .iter()
        .filter_map(|pod| read_pod(pod, &view.cluster, stateful_set.as_deref()))
        .collect();
    if stateful_set.is_some() && view.pods.len() < view.cluster.replicas {
        view.pods_refused = pods_refused(client, &view).await;
    }

    let nodes = match &admin {
        Some(key) => match connector.connect(key) {
            Ok(nodes) => Some(nodes),
            Err(why) => {
                view.admin_key = AdminKey::Unreadable(why.to_string());
                None
            }
        },
        None => None,
    };
    if let Some(nodes) = &nodes {
        view.reports = ask(client, nodes.as_ref(), &view).await;
    }
    Ok(Observation { view, admin, nodes })
}

async fn get(
    client: &Client,
    namespace: &str,
    key: Key,
) -> Result<Option<(Key, serde_json::Value)>, kube::Error> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &key.kind.resource());
    match api.get_opt(&key.name).await? {
        Some(object) => {
            Ok(Some((key, serde_json::to_value(object).map_err(kube::Error::SerdeError)?)))
        }
        None => Ok(None),
    }
}

/// Why the API server lets the StatefulSet create no pods, if it said so after the last one that it
/// let it create. The StatefulSet controller tells that in Events alone.
async fn pods_refused(client: &Client, view: &View) -> Option<String> {
    let names = &view.cluster.names;
    let events: Api<KubeEvent> = Api::namespaced(client.clone(), &names.namespace);
    let of_set = format!(
        "involvedObject.kind=StatefulSet,involvedObject.name={},involvedObject.uid={}",
        names.cluster,
        view.stateful_set()?.uid()?
    );
    match events.list(&ListParams::default().fields(&of_set)).await {
        Ok(events) => newest_refusal(&events.items),
        Err(error) => {
            // It is told to people and decides nothing.
            debug!(cluster = names.cluster, %error, "cannot read the StatefulSet's Events");
            None
        }
    }
}

/// The newest of `events` about the creation of pods, if it is a refusal.
#[must_use]
pub fn newest_refusal(events: &[KubeEvent]) -> Option<String> {
    let time = |event: &KubeEvent| {
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.clone());
        let first = event.event_time.as_ref().map(|time| time.0);
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        series.map(|time| time.0).max(last).max(first)
    };
    // The reason SuccessfulCreate is also that of volume claims, which come before their pod.
    let of_pods = |event: &&KubeEvent| match event.reason.as_deref() {
        Some("FailedCreate") => true,
        Some("SuccessfulCreate") => {
            event.message.as_deref().is_some_and(|text| text.starts_with("create Pod"))
        }
        _ => false,
    };
    let newest = events.iter().filter(of_pods).max_by_key(|event| time(event))?;
    (newest.reason.as_deref() == Some("FailedCreate")).then(|| newest.message.clone()).flatten()
}

/// Whether it goes with the CretoCluster `uid`, or with an earlier one.
fn fate(metadata: &ObjectMeta, uid: &str) -> (bool, bool) {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let owned = owners.iter().any(|owner| owner.uid == uid);
    let of_another = owners.iter().any(|owner| owner.kind == "CretoCluster" && owner.uid != uid);
    (owned, metadata.deletion_timestamp.is_some() || (of_another && !owned))
}

/// Reads the Secret: the seed becomes a key, or a sentence.
#[must_use]
pub fn read_admin_key(secret: Option<&Secret>, uid: &str) -> (AdminKey, Option<SecretKey>) {
    let Some(secret) = secret else { return (AdminKey::Missing, None) };
    let (owned, departing) = fate(&secret.metadata, uid);
    if departing {
        return (AdminKey::Departing, None);
    }
    let seed = secret
        .data
        .as_ref()
        .and_then(|data| data.get(SEED_KEY))
        .map(|bytes| <[u8; 32]>::try_from(bytes.0.as_slice()));
    let key = match seed {
        None => return (AdminKey::Unreadable(format!("its data has no key {SEED_KEY:?}")), None),
        Some(Err(_)) => {
            return (AdminKey::Unreadable(format!("its {SEED_KEY:?} has not 32 bytes")), None);
        }
        Some(Ok(seed)) => match SecretKey::from_seed(&seed) {
            Ok(key) => key,
            Err(why) => return (AdminKey::Unreadable(why.to_string()), None),
        },
    };
    let made_for = secret.annotations().get(CLUSTER_UID).cloned();
    (AdminKey::Present { key: key.public_key().clone(), made_for, owned }, Some(key))
}

/// Reads the ConfigMap: a genesis that its own admin key signed, or a sentence.
#[must_use]
pub fn read_genesis(config_map: Option<&ConfigMap>, uid: &str) -> GenesisFound {
    let Some(config_map) = config_map else { return GenesisFound::Missing };
    let (owned, departing) = fate(&config_map.metadata, uid);
    if departing {
        return GenesisFound::Departing;
    }
    let Some(bytes) = config_map.binary_data.as_ref().and_then(|data| data.get(GENESIS_KEY)) else {
        return GenesisFound::Unreadable(format!("its binaryData has no key {GENESIS_KEY:?}"));
    };
    match SignedGenesis::decode(&bytes.0) {
        Err(why) => GenesisFound::Unreadable(why.to_string()),
        Ok(genesis) => match genesis.verify(&MlDsa87) {
            Err(why) => GenesisFound::Unreadable(why.to_string()),
            Ok(()) => GenesisFound::Present { genesis: Arc::new(genesis), owned },
        },
    }
}

fn read_volume(
    claim: &PersistentVolumeClaim,
    cluster: &Cluster,
    stateful_set: Option<&str>,
) -> Option<(usize, Volume)> {
    let name = claim.metadata.name.clone()?;
    let ordinal = cluster.names.volume_ordinal(&name)?;
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let (owned, departing) = fate(&claim.metadata, &cluster.uid);
    // An earlier version let volumes belong to their StatefulSet.
    let of_an_earlier_set = owners
        .iter()
        .any(|owner| owner.kind == "StatefulSet" && Some(owner.uid.as_str()) != stateful_set);
    let requests = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.resources.as_ref())
        .and_then(|resources| resources.requests.as_ref());
    let volume = Volume {
        cluster_uid: claim.labels().get(CLUSTER_UID).cloned(),
        size: requests
            .and_then(|requests| requests.get("storage"))
            .map(|size| size.0.clone())
            .unwrap_or_default(),
        owned,
        departing: departing || of_an_earlier_set,
        name,
    };
    Some((ordinal, volume))
}

fn read_pod(pod: &KubePod, cluster: &Cluster, stateful_set: Option<&str>) -> Option<(usize, Pod)> {
    let name = pod.metadata.name.clone()?;
    let ordinal = cluster.names.ordinal(&name)?;
    let owner = pod
        .metadata
        .owner_references
        .as_deref()
        .unwrap_or_default()
        .iter()
        .find(|owner| owner.controller == Some(true))?;
    if Some(owner.uid.as_str()) != stateful_set {
        return None;
    }
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let containers =
        status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "True");
    let scheduled = status.and_then(|status| status.phase.as_deref()) == Some("Running");
    let read = Pod {
        uid: pod.metadata.uid.clone()?,
        ip: status
            .and_then(|status| status.pod_ip.as_deref())
            .and_then(|ip| ip.parse().ok())
            .filter(|_| scheduled),
        revision: pod.labels().get("controller-revision-hash").cloned(),
        running: containers
            .iter()
            .any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some())),
        ready: ready.is_some(),
        leaving: pod.metadata.deletion_timestamp.is_some(),
        leaving_ms: pod.metadata.deletion_timestamp.as_ref().and_then(milliseconds),
        trouble: trouble(pod),
        made_ms: pod.metadata.creation_timestamp.as_ref().and_then(milliseconds),
        ready_since_ms: ready.and_then(|ready| milliseconds(ready.last_transition_time.as_ref()?)),
        restarts: containers
            .iter()
            .map(|container| u32::try_from(container.restart_count).unwrap_or_default())
            .sum(),
        host: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        name,
    };
    Some((ordinal, read))
}

fn milliseconds(time: &Time) -> Option<u64> {
    u64::try_from(time.0.as_millisecond()).ok()
}

/// What Kubernetes says is wrong with a pod: its container waits or ended, or no host takes it.
fn trouble(pod: &KubePod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let of_container = containers.iter().find_map(|container| {
        let state = container.state.as_ref()?;
        if let Some(waiting) = &state.waiting {
            let reason = waiting
                .reason
                .as_deref()
                .filter(|reason| *reason != "ContainerCreating" && *reason != "PodInitializing")?;
            let before = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
            let exit =
                before.map(|ended| format!(", exit code {}", ended.exit_code)).unwrap_or_default();
            let message = waiting
                .message
                .as_deref()
                .map(|message| format!(": {message}"))
                .unwrap_or_default();
            return Some(format!(
                "its container waits: {reason}{message}{exit}; see `kubectl logs {} --previous`",
                pod.name_any()
            ));
        }
        state.terminated.as_ref().map(|ended| {
            format!(
                "its container ended ({}, exit code {})",
                ended.reason.as_deref().unwrap_or("no reason given"),
                ended.exit_code
            )
        })
    });
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let unscheduled = || {
        let condition = conditions
            .iter()
            .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
        Some(format!(
            "no host takes its pod: {}",
            condition.message.as_deref().unwrap_or("no reason given")
        ))
    };
    // The kubelet ended the whole pod: evicted, for example.
    let ended = || {
        let reason = status.reason.as_deref().filter(|_| status.phase.as_deref() == Some("Failed"));
        let message = status.message.as_deref().unwrap_or("no message given");
        reason.map(|reason| format!("its pod was ended: {reason}: {message}"))
    };
    ended().or(of_container).or_else(unscheduled)
}

/// Asks all nodes at once.
async fn ask(client: &Client, nodes: &dyn NodeClient, view: &View) -> BTreeMap<usize, Report> {
    let genesis = match &view.genesis {
        GenesisFound::Present { genesis, .. } => Some(genesis),
        _ => None,
    };
    let questions = view.pods.iter().filter_map(|(ordinal, pod)| {
        let address = control_address(pod.ip?);
        let member = genesis
            .map(|genesis| genesis.genesis.members.get(*ordinal).map(|member| member.key.clone()));
        Some(async move {
            let answer = match member {
                // Surplus pods of a larger, unborn past are nobody.
                Some(None) => return None,
                Some(Some(key)) => {
                    nodes.status(address, key).await.map(|status| Report::Status(Box::new(status)))
                }
                None => attest(client, nodes, view, pod, address).await.map(Report::Attested),
            };
            let report = answer.unwrap_or_else(|error| match error {
                NodeError::Silent(why) => Report::Silent(why),
                NodeError::NotServing(why) => Report::NotServing(why),
                NodeError::Refused(why) => Report::Refused(why),
            });
            Some((*ordinal, report))
        })
    });
    join_all(questions).await.into_iter().flatten().collect()
}

async fn attest(
    client: &Client,
    nodes: &dyn NodeClient,
    view: &View,
    pod: &Pod,
    address: std::net::SocketAddr,
) -> Result<Attested, NodeError> {
    let nonce: [u8; 32] = rand::random();
    let (key, attestation) = nodes.attest(address, nonce).await?;
    check_claims(&attestation, &view.cluster, pod).map_err(NodeError::Refused)?;
    let audience = token_audience(&view.cluster.uid);
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: Some(attestation.token.clone()),
            audiences: Some(vec![audience.clone()]),
        },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let review = reviews.create(&PostParams::default(), &review).await.map_err(|error| {
        NodeError::Silent(format!("the API server did not review its token: {error}"))
    })?;
    check_token(&review.status.unwrap_or_default(), &audience, &view.cluster, pod)
        .map_err(NodeError::Refused)?;
    attested(key, &attestation)
}

fn attested(key: PublicKey, attestation: &Attestation) -> Result<Attested, NodeError> {
    let possession = attestation
        .possession_signature()
        .map_err(|error| NodeError::Refused(error.to_string()))?;
    Ok(Attested {
        key,
        possession,
        chain_id: attestation.chain_id.clone(),
        version: attestation.version.chars().take(64).collect(),
    })
}

/// Whether a node says that it is the pod that the API server has at this address.
///
/// # Errors
/// What it says instead.
pub fn check_claims(attestation: &Attestation, cluster: &Cluster, pod: &Pod) -> Result<(), String> {
    for (what, said, expected) in [
        ("pod name", &attestation.pod_name, &pod.name),
        ("pod UID", &attestation.pod_uid, &pod.uid),
        ("cluster UID", &attestation.cluster_uid, &cluster.uid),
    ] {
        if said != expected {
            let said: String = said.chars().take(64).collect();
            return Err(format!(
                "it says that its {what} is {said:?}, but the API server says {expected:?}"
            ));
        }
    }
    Ok(())
}

/// Whether the API server vouches that the token is of this very pod, and meant for this cluster's
/// operator.
///
/// # Errors
/// What is wrong.
pub fn check_token(
    review: &TokenReviewStatus,
    audience: &str,
    cluster: &Cluster,
    pod: &Pod,
) -> Result<(), String> {
    if review.authenticated != Some(true) {
        return Err(format!(
            "the API server refuses its token: {}",
            review.error.as_deref().unwrap_or("not authenticated")
        ));
    }
    if !review.audiences.as_deref().unwrap_or_default().iter().any(|one| one == audience) {
        return Err(format!("its token is not for the audience {audience}"));
    }
    let user = review.user.clone().unwrap_or_default();
    let expected = cluster.names.service_account_user();
    if user.username.as_deref() != Some(expected.as_str()) {
        return Err(format!(
            "its token is of {}, not of {expected}",
            user.username.as_deref().unwrap_or("nobody")
        ));
    }
    let extra = user.extra.unwrap_or_default();
    for (key, expected) in [("pod-name", &pod.name), ("pod-uid", &pod.uid)] {
        let said = extra
            .get(&format!("authentication.kubernetes.io/{key}"))
            .map(Vec::as_slice)
            .unwrap_or_default();
        if said != std::slice::from_ref(expected) {
            return Err(format!("its token names the {key} {said:?}, not {expected:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
