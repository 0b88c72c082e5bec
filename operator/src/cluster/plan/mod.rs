//! What to do next: a pure function from what one pass sees.
//!
//! Rules: nothing is done while a person has to decide; the genesis is made only when every
//! validator was attested in this very pass, on a volume of this cluster that holds nothing; at
//! most one step of a plan disturbs a node, and only within the one
//! [`Budget`] that all such steps share.

use crate::{
    cluster::{
        identity::{self, Hold, Identity, Refusal, RefusalReason},
        members::{self, Member, Roll},
        repair,
        validate::{Settings, control_address},
        view::{AdminKey, Attested, Report, View},
    },
    quantity,
    resources::{self, Kind, Owner, Wanted},
};
use cretoai_roster::{
    budget::{Allowance, Budget, Denial},
    rollout,
};
use cretoai_types::{
    FaultModel, Genesis, GenesisMember, NodeId, Parameters, PublicKey, Quorum, SignedGenesis,
};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

/// One thing to do. Each is safe to repeat and safe to die after.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Create the Secret with a fresh admin key. Created, never applied: whoever finds one uses it.
    CreateAdminKey,
    /// Apply an object.
    Apply {
        /// The object.
        wanted: Box<Wanted>,
        /// What somebody edited by hand, if that is why.
        drift: Option<String>,
    },
    /// Let a part of the chain go with the CretoCluster, or outlive it.
    SetRetention {
        /// Which one.
        part: Part,
        /// Whether it goes.
        goes: bool,
    },
    /// Have the StatefulSet controller create pods again that the API server refused.
    RetryPods {
        /// The time.
        now_ms: u64,
    },
    /// Sign this genesis and create its ConfigMap. Created, never applied: whoever finds one adopts
    /// it.
    CreateGenesis(Box<Genesis>),
    /// Give a node the genesis.
    PushGenesis {
        /// Its name.
        pod: String,
        /// Where it listens.
        address: SocketAddr,
        /// The key that it must prove.
        key: PublicKey,
        /// The genesis.
        genesis: Arc<SignedGenesis>,
    },
    /// Ask for a larger volume.
    ExpandVolume {
        /// Name of the claim.
        claim: String,
        /// The size.
        size: String,
    },
    /// Take a pod away, so that the StatefulSet makes it anew from the newest template. The only
    /// step that disturbs a node.
    ReplacePod {
        /// Its ordinal.
        ordinal: usize,
        /// Its name.
        pod: String,
        /// Only if it is still this one.
        uid: String,
        /// By which request.
        how: Removal,
    },
}

/// A part of a chain that may outlive its CretoCluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The Secret with the admin key.
    AdminKey,
    /// The ConfigMap with the genesis.
    Genesis,
    /// A volume claim, by name.
    Volume(String),
}

/// How a pod is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// By eviction, so that the API server compares with the PodDisruptionBudget: drains and another
    /// operator meet the same fence.
    Evict,
    /// By deletion: the pod is not ready, or the chain tolerates no absent node, or a person
    /// accepts that it pauses.
    Delete,
}

impl Step {
    /// Whether a pod that is replaced now would be made from, or guarded by, what this step
    /// changes.
    #[must_use]
    pub const fn precedes_replacement(&self) -> bool {
        match self {
            Self::CreateAdminKey | Self::CreateGenesis(_) => true,
            Self::Apply { wanted, .. } => matches!(
                wanted.key.kind,
                Kind::ServiceAccount
                    | Kind::ConfigMap
                    | Kind::PodDisruptionBudget
                    | Kind::StatefulSet
            ),
            _ => false,
        }
    }

    /// For metrics: one of few words.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CreateAdminKey => "create_admin_key",
            Self::Apply { .. } => "apply",
            Self::SetRetention { .. } => "set_retention",
            Self::RetryPods { .. } => "retry_pods",
            Self::CreateGenesis(_) => "create_genesis",
            Self::PushGenesis { .. } => "push_genesis",
            Self::ExpandVolume { .. } => "expand_volume",
            Self::ReplacePod { .. } => "replace_pod",
        }
    }
}

impl Step {
    /// What it is about: two steps of one subject are one try and the next.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::Apply { wanted, .. } => format!("apply {}", wanted.key),
            Self::RetryPods { .. } | Self::CreateAdminKey | Self::CreateGenesis(_) => {
                self.name().to_string()
            }
            other => other.to_string(),
        }
    }
}

impl std::fmt::Display for Step {
    /// For the log: what, and to which object.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Apply { wanted, drift: None } => write!(f, "apply {}", wanted.key),
            Self::Apply { wanted, drift: Some(drift) } => {
                write!(f, "put {} back ({drift})", wanted.key)
            }
            Self::PushGenesis { pod, .. } => write!(f, "give {pod} the genesis"),
            Self::ExpandVolume { claim, size } => write!(f, "grow {claim} to {size}"),
            Self::ReplacePod { pod, uid, .. } => write!(f, "replace {pod} ({uid})"),
            Self::SetRetention { part, goes } => {
                let fate = if *goes { "goes with" } else { "outlives" };
                match part {
                    Part::AdminKey => write!(f, "the admin key {fate} the CretoCluster"),
                    Part::Genesis => write!(f, "the genesis {fate} the CretoCluster"),
                    Part::Volume(claim) => write!(f, "{claim} {fate} the CretoCluster"),
                }
            }
            Self::CreateAdminKey | Self::RetryPods { .. } | Self::CreateGenesis(_) => {
                f.write_str(self.name())
            }
        }
    }
}

/// Where the cluster stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Something of an earlier CretoCluster still has to go.
    Departing(String),
    /// A person has to decide.
    Refused(Refusal),
    /// No genesis yet; the sentence says what it waits for.
    Unborn(String),
    /// The chain exists.
    Born,
}

/// What to do next, and what it was decided from.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// Where the cluster stands.
    pub stage: Stage,
    /// Which chain its pods belong to.
    pub identity: Option<Identity>,
    /// Who takes part.
    pub roll: Roll,
    /// Pods that were not made from the newest template.
    pub outdated: Vec<String>,
    /// The image of the StatefulSet, if it is as wanted and its controller has seen that.
    pub settled_image: Option<String>,
    /// Why an outdated pod is not replaced now.
    pub rollout_waits: Option<Denial>,
    /// Why the API server did not evict the pod that was to be replaced.
    pub eviction_waits: Option<String>,
    /// Whether the StatefulSet is not as wanted yet, or its controller has not seen its newest
    /// template.
    pub unseen: bool,
    /// Members that are about to take part again.
    pub returning: Vec<String>,
    /// Pods that were made from the newest template.
    pub updated: usize,
    /// Why the API server lets the StatefulSet create no pods.
    pub pods_refused: Option<String>,
    /// Members that share a host, so many that its loss takes the quorum.
    pub shared_hosts: Vec<String>,
}

/// Plans the next steps. `now_ms` is written into a genesis, and members are timed by it.
#[must_use]
pub fn plan(view: &View, settings: &Settings, now_ms: u64) -> Plan {
    let decision = foreign_objects(view).map_or_else(|| identity::decide(view), Err);
    let identity = decision.as_ref().ok().cloned();
    let roll = members::roll_call(view, identity.as_ref());
    let mut plan = Plan {
        steps: Vec::new(),
        stage: Stage::Born,
        identity,
        roll,
        outdated: Vec::new(),
        rollout_waits: None,
        settled_image: None,
        eviction_waits: None,
        unseen: true,
        returning: Vec::new(),
        updated: 0,
        pods_refused: view.pods_refused.clone(),
        shared_hosts: Vec::new(),
    };
    match decision {
        Err(Hold::NoAdminKey) => {
            plan.stage = Stage::Unborn("the admin key is being made".to_string());
            plan.steps.push(Step::CreateAdminKey);
        }
        Err(Hold::Departing(what)) => plan.stage = Stage::Departing(what),
        Err(Hold::Refused(refusal)) => plan.stage = Stage::Refused(refusal),
        Ok(identity) => with_identity(view, settings, &identity, now_ms, &mut plan),
    }
    if view.cluster.spec.paused {
        plan.steps.clear();
    }
    plan
}

/// Objects that stand under our names and are not ours.
fn foreign_objects(view: &View) -> Option<Hold> {
    let of = |owner: Owner| -> Vec<String> {
        view.live
            .iter()
            .filter(|(_, live)| resources::owner_of(live, &view.cluster) == owner)
            .map(|(key, _)| key.to_string())
            .collect()
    };
    let (foreign, departing) = (of(Owner::Foreign), of(Owner::Departing));
    if !foreign.is_empty() {
        let message = format!(
            "{} exists and is not of this CretoCluster; delete it, or choose another metadata.name",
            foreign.join(", ")
        );
        return Some(Hold::Refused(Refusal { reason: RefusalReason::NameTaken, message }));
    }
    // A living chain goes on while an object of it goes: it is made anew afterwards.
    if !departing.is_empty() && !view.cluster.status.bootstrapped {
        return Some(Hold::Departing(format!("waits until {} is deleted", departing.join(", "))));
    }
    None
}

fn with_identity(
    view: &View,
    settings: &Settings,
    identity: &Identity,
    now_ms: u64,
    plan: &mut Plan,
) {
    let retention = repair::retention(view, identity.born.is_some());
    // No node takes payloads before its volume outlives the CretoCluster, if it is to.
    let released =
        !retention.iter().any(|step| matches!(step, Step::SetRetention { goes: false, .. }));
    plan.steps.extend(retention);
    let applied = repair::objects(view, settings, identity);
    let settled = !applied.iter().any(
        |step| matches!(step, Step::Apply { wanted, .. } if wanted.key.kind == Kind::StatefulSet),
    );
    plan.steps.extend(applied);
    plan.steps.extend(repair::retry_pods(view, now_ms));
    plan.steps.extend(expansions(view));
    let revision = view.revision().filter(|_| settled);
    let outdated: Vec<usize> = match revision {
        Some(revision) => {
            let current =
                |pod: &crate::cluster::view::Pod| pod.revision.as_deref() == Some(revision);
            view.pods.iter().filter(|(_, pod)| !current(pod)).map(|(ordinal, _)| *ordinal).collect()
        }
        None => Vec::new(),
    };
    plan.settled_image = revision
        .and_then(|_| view.stateful_set())
        .and_then(crate::cluster::view::StatefulSet::image)
        .map(str::to_string);
    plan.outdated = outdated.iter().map(|ordinal| view.cluster.names.pod(*ordinal)).collect();
    let known = view.cluster.status.sequence.unwrap_or_default();
    let budget = Budget {
        roll: &plan.roll,
        born: identity.born.is_some(),
        now_ms,
        known_head: u64::try_from(known).unwrap_or_default(),
        accepted: view.cluster.accepts_disruption,
    };
    plan.unseen = revision.is_none();
    plan.updated = if plan.unseen { 0 } else { view.pods.len() - outdated.len() };
    plan.returning = returning(view, &budget);
    plan.shared_hosts = shared_hosts(view, plan.roll.quorum);
    let (replaced, waits) = next_replacement(view, &outdated, &budget)
        .map_or_else(|waits| (None, Some(waits)), |step| (step, None));
    plan.rollout_waits = waits;
    if let Some(genesis) = &identity.born {
        if released {
            plan.steps.extend(pushes(view, genesis, replaced.as_ref()));
        }
    } else {
        plan.stage = match birth(
            view,
            identity,
            &plan.roll,
            revision.is_some() && outdated.is_empty(),
            now_ms,
        ) {
            Ok(genesis) => {
                plan.steps.push(Step::CreateGenesis(Box::new(genesis)));
                Stage::Unborn("all nodes are attested, the genesis is being created".to_string())
            }
            Err(waits) => Stage::Unborn(waits),
        };
    }
    plan.steps.extend(replaced);
}

/// Volumes that are smaller than the spec asks. Growing never waits for the chain's health.
fn expansions(view: &View) -> Vec<Step> {
    let size = &view.cluster.spec.storage.size;
    let small = view.volumes.iter().filter(|(ordinal, volume)| {
        let (has, asks) = (quantity::thousandths(&volume.size), quantity::thousandths(size));
        **ordinal < view.cluster.replicas && has.zip(asks).is_some_and(|(has, asks)| has < asks)
    });
    small
        .map(|(_, volume)| Step::ExpandVolume { claim: volume.name.clone(), size: size.clone() })
        .collect()
}

/// The genesis, if every validator was attested in this very pass.
///
/// # Errors
/// What it waits for.
fn birth(
    view: &View,
    identity: &Identity,
    roll: &Roll,
    current: bool,
    now_ms: u64,
) -> Result<Genesis, String> {
    let AdminKey::Present { key: admin_key, .. } = &view.admin_key else {
        return Err("waits for the admin key".to_string());
    };
    let mut members = Vec::new();
    let mut waits = Vec::new();
    for ordinal in 0..view.cluster.replicas {
        let name = view.cluster.names.pod(ordinal);
        let volume_is_ours = view.volumes.get(&ordinal).is_some_and(|volume| {
            volume.cluster_uid.as_deref() == Some(identity.cluster_uid.as_str())
        });
        let pod_is_current = view.pods.get(&ordinal).is_some_and(|pod| !pod.leaving);
        match view.reports.get(&ordinal) {
            Some(Report::Attested(Attested { key, possession, chain_id: None, .. }))
                if volume_is_ours && pod_is_current =>
            {
                members.push(GenesisMember { name, key: key.clone(), proof: possession.clone() });
            }
            _ => {
                let why = roll
                    .at(ordinal)
                    .and_then(|member| member.message.as_ref())
                    .map(|why| format!(" ({why})"))
                    .unwrap_or_default();
                waits.push(format!("{name}{why}"));
            }
        }
    }
    if !waits.is_empty() {
        return Err(format!(
            "{} of {} nodes are attested; waits for {}",
            members.len(),
            view.cluster.replicas,
            waits.join(", ")
        ));
    }
    if !current {
        return Err(
            "all nodes are attested; waits until their pods are of the newest template".to_string()
        );
    }
    Ok(Genesis {
        cluster_uid: identity.cluster_uid.clone(),
        admin_key: admin_key.clone(),
        members,
        fault_model: FaultModel::Byzantine,
        parameters: Parameters::default(),
        created_ms: now_ms,
    })
}

/// Members that proved their key and have no chain yet. Not the one that this very plan replaces:
/// with the genesis it would be a voter, and free to be taken away no more.
fn pushes(view: &View, genesis: &Arc<SignedGenesis>, replaced: Option<&Step>) -> Vec<Step> {
    let goes =
        |at: usize| matches!(replaced, Some(Step::ReplacePod { ordinal, .. }) if *ordinal == at);
    let members = genesis.genesis.members.iter().enumerate();
    members
        .filter(|(ordinal, _)| !goes(*ordinal))
        .filter_map(|(ordinal, member)| {
            let Some(Report::Status(status)) = view.reports.get(&ordinal) else { return None };
            let ip = view.pods.get(&ordinal)?.ip?;
            status.chain_id.is_none().then(|| Step::PushGenesis {
                pod: member.name.clone(),
                address: control_address(ip),
                key: member.key.clone(),
                genesis: Arc::clone(genesis),
            })
        })
        .collect()
}

/// The next outdated pod to replace.
fn next_replacement(
    view: &View,
    outdated: &[usize],
    budget: &Budget<'_>,
) -> Result<Option<Step>, Denial> {
    let ids: Vec<NodeId> = outdated.iter().filter_map(|at| Some(budget.roll.at(*at)?.id)).collect();
    let Some((id, allowance)) = rollout::next(budget, &ids)? else { return Ok(None) };
    let ordinal = budget.roll.member(id).and_then(|member| member.ordinal);
    let Some((ordinal, pod)) = ordinal.and_then(|at| Some((at, view.pods.get(&at)?))) else {
        return Ok(None);
    };
    Ok(Some(Step::ReplacePod {
        ordinal,
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        how: match allowance {
            // The PodDisruptionBudget allows neither.
            Allowance::Pauses | Allowance::Accepted => Removal::Delete,
            Allowance::Free | Allowance::QuorumStays if pod.ready => Removal::Evict,
            Allowance::Free | Allowance::QuorumStays => Removal::Delete,
        },
    }))
}

/// Members whose pod is not there, or was made a short while ago and has not taken part for long
/// enough.
fn returning(view: &View, budget: &Budget<'_>) -> Vec<String> {
    let members = budget.roll.members.iter();
    let returns = |member: &&Member| {
        let pod = member.ordinal.and_then(|ordinal| view.pods.get(&ordinal));
        pod.is_none() || budget.is_returning(member)
    };
    members.filter(returns).map(|member| member.name.clone()).collect()
}

/// Hosts on which several members run, so many that the loss of one host takes the quorum.
fn shared_hosts(view: &View, quorum: Quorum) -> Vec<String> {
    let mut hosts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pod in view.pods.values() {
        if let Some(host) = &pod.host {
            hosts.entry(host).or_default().push(&pod.name);
        }
    }
    let many = hosts.into_iter().filter(|(_, pods)| pods.len() > quorum.f.max(1));
    many.map(|(host, pods)| format!("{} on host {host}", pods.join(", "))).collect()
}

#[cfg(test)]
mod tests;
