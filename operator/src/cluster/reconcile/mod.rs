//! One pass over one CretoCluster: observe -> validate -> plan -> apply -> status.

use crate::{
    cluster::{
        apply::{self, Notice},
        identity::RefusalReason,
        observe::{Observation, observe},
        plan::{Plan, Stage, Step, plan},
        status::{self, Reason, condition},
        validate::{Cluster, Settings},
    },
    metrics::Metrics,
    names::MANAGER,
    nodes::Connector,
};
use cretoai_crds::{CretoCluster, CretoClusterStatus};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{
        controller::Action,
        events::{Event, EventType, Recorder, Reporter},
    },
};
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// Until the chain is born nothing else matters, so look often.
const UNBORN_PACE: Duration = Duration::from_secs(2);
/// How often a settled cluster is looked at.
const PACE: Duration = Duration::from_secs(5);
/// How long nothing but sequences may change before the status is written again.
const STATUS_PACE: Duration = Duration::from_millis(4500);
/// A pass repeats at once while steps open the way to further steps, at most this often.
const MAX_ROUNDS: usize = 6;
/// What the API server takes as the note of an Event.
const MAX_NOTE: usize = 1000;

/// What every pass needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What the operator was told.
    pub settings: Settings,
    /// The way to the nodes.
    pub connector: Arc<dyn Connector>,
    /// Who we are in Events.
    pub reporter: Reporter,
    /// Events about objects, counted.
    recorder: Recorder,
    /// Metrics.
    pub metrics: Metrics,
    /// When each cluster's status was written last, by UID. Only paces writes; nothing is decided
    /// from it.
    written: Mutex<HashMap<String, Instant>>,
}

impl Context {
    /// A context for `client`.
    #[must_use]
    pub fn new(
        client: Client,
        settings: Settings,
        connector: Arc<dyn Connector>,
        reporter: Reporter,
        metrics: Metrics,
    ) -> Self {
        let recorder = Recorder::new(client.clone(), reporter.clone());
        Self {
            client,
            settings,
            connector,
            reporter,
            recorder,
            metrics,
            written: Mutex::new(HashMap::new()),
        }
    }
}

/// Why a pass failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server did not answer, or said no.
    #[error("the API server said: {0}")]
    Api(#[from] kube::Error),
}

/// One pass.
///
/// # Errors
/// If the API server does not answer; the status says so if it can be written.
pub async fn reconcile(
    cached: Arc<CretoCluster>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let timer = context.metrics.seconds.start_timer();
    let result = pass(&cached, &context).await;
    timer.observe_duration();
    context.metrics.passes.with_label_values(&[if result.is_ok() { "ok" } else { "error" }]).inc();
    result
}

/// What to do after a pass that failed.
pub fn on_error(
    cluster: Arc<CretoCluster>,
    error: &ReconcileError,
    _context: Arc<Context>,
) -> Action {
    warn!(cluster = %cluster.name_any(), namespace = cluster.namespace(), %error, "pass failed");
    Action::requeue(PACE)
}

async fn pass(cached: &CretoCluster, context: &Context) -> Result<Action, ReconcileError> {
    let namespace = cached.namespace().unwrap_or_default();
    let api: Api<CretoCluster> = Api::namespaced(context.client.clone(), &namespace);
    // The cache may be behind: what cannot be undone is decided from the newest.
    let Some(resource) = api.get_opt(&cached.name_any()).await? else {
        context
            .written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&cached.uid().unwrap_or_default());
        return Ok(Action::await_change());
    };
    if resource.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let mut cluster = match Cluster::new(&resource) {
        Ok(cluster) => cluster,
        Err(invalid) => {
            let previous = resource.status.clone().unwrap_or_default();
            let reason = Reason::Refused(RefusalReason::InvalidSpec);
            let generation = resource.metadata.generation.unwrap_or_default();
            let status = status::without_view(
                &previous,
                generation,
                reason,
                &invalid.to_string(),
                Timestamp::now(),
            );
            write_status(context, &api, &resource, &previous, &status).await?;
            return Ok(Action::await_change());
        }
    };
    let outcome = rounds(context, &mut cluster).await;
    let previous = resource.status.clone().unwrap_or_default();
    let (status, notices, action) = match &outcome {
        Ok(round) => (
            status::derive(&cluster, &round.plan, &round.errors, Timestamp::now()),
            round.notices.clone(),
            round.next(),
        ),
        Err(error) => {
            let message =
                format!("the API server did not let the operator look: {error}; tries again");
            let status = status::without_view(
                &previous,
                cluster.generation,
                Reason::ReconcileFailed,
                &message,
                Timestamp::now(),
            );
            (status, Vec::new(), Action::requeue(PACE))
        }
    };
    for notice in notices.iter().cloned().chain(transitions(
        &cluster.uid,
        &previous,
        &status,
        outcome.as_ref().ok().map(|round| &round.plan),
    )) {
        publish(context, &resource, notice).await;
    }
    write_status(context, &api, &resource, &previous, &status).await?;
    outcome.map(|_| action).map_err(ReconcileError::from)
}

/// What the last round of a pass left.
struct Round {
    plan: Plan,
    errors: Vec<String>,
    notices: Vec<Notice>,
}

impl Round {
    /// When to look again.
    fn next(&self) -> Action {
        let restless = !self.errors.is_empty()
            || !self.plan.steps.is_empty()
            || self.plan.stage != Stage::Born;
        match &self.plan.stage {
            Stage::Refused(_) => Action::requeue(PACE),
            _ if restless || self.plan.roll.participating() < self.plan.roll.quorum.n => {
                Action::requeue(UNBORN_PACE)
            }
            _ => Action::requeue(PACE),
        }
    }
}

/// Observes, plans and applies, again while steps open the way to further steps.
async fn rounds(context: &Context, cluster: &mut Cluster) -> Result<Round, kube::Error> {
    let mut notices = Vec::new();
    let mut round = 0;
    loop {
        round += 1;
        let seen = observe(&context.client, context.connector.as_ref(), cluster.clone()).await?;
        let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
        let plan = plan(&seen.view, &context.settings, now_ms);
        let (errors, new) = take_steps(context, &seen, &plan).await;
        notices.extend(new);
        let opens_the_way = plan
            .steps
            .iter()
            .any(|step| !matches!(step, Step::ReplacePod { .. } | Step::ExpandVolume { .. }));
        if !opens_the_way || !errors.is_empty() || round >= MAX_ROUNDS {
            return Ok(Round { plan, errors, notices });
        }
    }
}

async fn take_steps(
    context: &Context,
    seen: &Observation,
    plan: &Plan,
) -> (Vec<String>, Vec<Notice>) {
    let cluster = seen.view.cluster.names.cluster.as_str();
    let (mut errors, mut notices) = (Vec::new(), Vec::new());
    for step in &plan.steps {
        // Nobody is disturbed while something else fails.
        if matches!(step, Step::ReplacePod { .. }) && !errors.is_empty() {
            continue;
        }
        let result = apply::apply(&context.client, seen, step).await;
        let word = if result.is_ok() { "ok" } else { "error" };
        context.metrics.steps.with_label_values(&[step.name(), word]).inc();
        match result {
            Ok(notice) => {
                info!(cluster, %step, "done");
                notices.extend(notice);
            }
            Err(error) => {
                warn!(cluster, %step, %error, "not done");
                errors.push(error.to_string());
            }
        }
    }
    (errors, notices)
}

/// What became different in a way that people want to read about.
fn transitions(
    uid: &str,
    before: &CretoClusterStatus,
    after: &CretoClusterStatus,
    plan: Option<&Plan>,
) -> Vec<Notice> {
    let of = |status: &CretoClusterStatus, kind: &str| {
        status::find(&status.conditions, kind).map(|condition| {
            (condition.status.clone(), condition.reason.clone(), condition.message.clone())
        })
    };
    let mut notices = Vec::new();
    let (old, new) = (of(before, condition::QUORUM), of(after, condition::QUORUM));
    let held = |state: &Option<(String, String, String)>| {
        state.as_ref().is_some_and(|(status, ..)| status == "True")
    };
    if let Some((_, _, message)) = &new {
        let note = message.clone();
        match (held(&old), held(&new)) {
            (true, false) => notices.push(Notice {
                reason: "QuorumLost",
                action: "Observe",
                note,
                warning: true,
                related: None,
            }),
            (false, true) => notices.push(Notice {
                reason: "QuorumAvailable",
                action: "Observe",
                note,
                warning: false,
                related: None,
            }),
            _ => {}
        }
    }
    let new_suspect = after.suspected.iter().any(|name| !before.suspected.contains(name));
    if let Some((_, _, note)) = of(after, condition::BYZANTINE).filter(|_| new_suspect) {
        notices.push(Notice {
            reason: Reason::MemberSuspected.as_str(),
            action: "Observe",
            note,
            warning: true,
            related: None,
        });
    }
    if let Some(Plan { stage: Stage::Refused(refusal), .. }) = plan {
        let known = of(before, condition::DEGRADED)
            .is_some_and(|(_, reason, _)| reason == refusal.reason.as_str());
        if !known {
            notices.push(Notice {
                reason: refusal.reason.as_str(),
                action: "Refuse",
                note: refusal.message.clone(),
                warning: true,
                related: None,
            });
        }
    }
    let adopted = plan
        .and_then(|plan| plan.identity.as_ref()?.born.as_ref())
        .filter(|_| !before.bootstrapped && after.bootstrapped);
    if let Some(genesis) = adopted.filter(|genesis| genesis.genesis.cluster_uid != uid) {
        let note = format!(
            "the cluster runs chain {}, born under CretoCluster {}",
            genesis.genesis.chain_id(),
            genesis.genesis.cluster_uid
        );
        notices.push(Notice {
            reason: "ChainAdopted",
            action: "Adopt",
            note,
            warning: false,
            related: None,
        });
    }
    notices
}

async fn publish(context: &Context, cluster: &CretoCluster, notice: Notice) {
    let event = Event {
        type_: if notice.warning { EventType::Warning } else { EventType::Normal },
        reason: notice.reason.into(),
        action: notice.action.into(),
        note: Some(notice.note.chars().take(MAX_NOTE).collect()),
        secondary: notice.related.clone(),
    };
    // The recorder counts events that differ only in their note as one and keeps the first note.
    // That suits an edit of one object that is made again and again; everything else happens
    // seldom, and its newest note counts.
    let recorder = if event.secondary.is_some() {
        context.recorder.clone()
    } else {
        Recorder::new(context.client.clone(), context.reporter.clone())
    };
    if let Err(error) = recorder.publish(&event, &cluster.object_ref(&())).await {
        warn!(reason = notice.reason, %error, "the Event was not written");
    }
}

/// Writes the status if there is news, or if the sequences that it shows have aged.
async fn write_status(
    context: &Context,
    api: &Api<CretoCluster>,
    cluster: &CretoCluster,
    before: &CretoClusterStatus,
    after: &CretoClusterStatus,
) -> Result<(), kube::Error> {
    let uid = cluster.uid().unwrap_or_default();
    if before == after {
        return Ok(());
    }
    let aged = {
        let written = context.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(&uid).is_none_or(|time| time.elapsed() >= STATUS_PACE)
    };
    if !aged && status::without_noise(before) == status::without_noise(after) {
        return Ok(());
    }
    let name = cluster.name_any();
    // With the UID the write fails if the resource was deleted and made again meanwhile.
    let body = json!({
        "apiVersion": CretoCluster::api_version(&()),
        "kind": CretoCluster::kind(&()),
        "metadata": { "name": name, "uid": uid },
        "status": after,
    });
    api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)).await?;
    context.written.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, Instant::now());
    Ok(())
}

#[cfg(test)]
mod tests;
