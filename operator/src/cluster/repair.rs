//! What has to be made or put back: the objects of a cluster, and what their deletion would take
//! along. Pure.
//!
//! The rule that it keeps: an object is as it should be only if it is what the API server made of
//! our wish, no less and no more. What somebody added is put back like what somebody changed; what
//! the server's own defaults and admission made of our wish is no change.

use crate::{
    cluster::{
        identity::Identity,
        plan::{Part, Step},
        validate::Settings,
        view::{AdminKey, GenesisFound, StatefulSet, View},
    },
    drift,
    names::RETRY,
    resources::{self, Blueprint, Owner},
};
use cretoai_crds::RetentionPolicy;

/// While pods cannot be created, the StatefulSet controller is asked again this often: by itself it
/// waits up to a quarter of an hour.
const RETRY_PODS_MS: u64 = 15_000;

/// Every object that is missing or not as we want it.
#[must_use]
pub fn objects(view: &View, settings: &Settings, identity: &Identity) -> Vec<Step> {
    let stateful_set = view.stateful_set();
    let blueprint = Blueprint {
        cluster: &view.cluster,
        identity,
        settings,
        // What all nodes ran last counts, not what somebody wrote into the template.
        running_image: view
            .cluster
            .status
            .image
            .as_deref()
            .or(stateful_set.and_then(StatefulSet::image)),
        claim_size: stateful_set.and_then(StatefulSet::claim_size),
    };
    resources::all(&blueprint)
        .into_iter()
        .filter_map(|wanted| {
            let drift = match view.live.get(&wanted.key) {
                None => None,
                // It is made anew once it is gone.
                Some(live) if resources::owner_of(live, &view.cluster) == Owner::Departing => {
                    return None;
                }
                Some(live) if resources::as_wanted(&wanted, live) => return None,
                Some(live) => resources::edited(&wanted, live).then(|| {
                    drift::difference(&wanted.object, live)
                        .unwrap_or_else(|| "something was added".to_string())
                }),
            };
            Some(Step::Apply { wanted: Box::new(wanted), drift })
        })
        .collect()
}

/// Admin key, genesis and volumes carry an owner reference exactly if they are to go with the
/// CretoCluster: all of them until the chain is born, so that a chain that never was leaves nothing
/// behind, and from then on as the retention policy says.
#[must_use]
pub fn retention(view: &View, born: bool) -> Vec<Step> {
    let goes = !born || view.cluster.spec.storage.retention_policy == RetentionPolicy::Delete;
    let mut parts = Vec::new();
    if matches!(view.admin_key, AdminKey::Present { owned, .. } if owned != goes) {
        parts.push(Part::AdminKey);
    }
    if matches!(view.genesis, GenesisFound::Present { owned, .. } if owned != goes) {
        parts.push(Part::Genesis);
    }
    let volumes = view.volumes.iter().filter(|(ordinal, volume)| {
        **ordinal < view.cluster.replicas && !volume.departing && volume.owned != goes
    });
    parts.extend(volumes.map(|(_, volume)| Part::Volume(volume.name.clone())));
    parts.into_iter().map(|part| Step::SetRetention { part, goes }).collect()
}

/// Has the StatefulSet controller create pods again that the API server refused.
#[must_use]
pub fn retry_pods(view: &View, now_ms: u64) -> Option<Step> {
    view.pods_refused.as_ref()?;
    let set = view.stateful_set()?;
    let last = set.annotation(RETRY).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    // A time that lies ahead was written by a wrong clock.
    let waited = now_ms.checked_sub(last).is_none_or(|waited| waited >= RETRY_PODS_MS);
    waited.then_some(Step::RetryPods { now_ms })
}
