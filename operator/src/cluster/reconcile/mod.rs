//! One pass over one CretoCluster: observe -> validate -> plan -> apply -> status.

mod memory;

use self::memory::{Memories, Memory, without_times};
use crate::{
    cluster::{
        apply::{self, Notice, StepError},
        identity::RefusalReason,
        observe::{Observation, observe},
        plan::{Plan, Stage, Step, plan},
        status::{self, Reason, condition},
        validate::{Cluster, Settings},
    },
    health::{Health, PassEnd},
    metrics::Metrics,
    names::MANAGER,
    nodes::Connector,
    run::PASS_LIMIT,
};
use cretoai_crds::{CretoCluster, CretoClusterStatus};
use k8s_openapi::{api::core::v1::ObjectReference, jiff::Timestamp};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams},
    runtime::{
        controller::Action,
        events::{Event, EventType, Recorder, Reporter},
    },
};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// Until the chain is born nothing else matters, so look often.
const UNBORN_PACE: Duration = Duration::from_secs(2);
/// How often a settled cluster is looked at.
const PACE: Duration = Duration::from_secs(5);
/// How often a cluster is looked at whose spec makes no chain: only a change of it helps.
const REFUSED_PACE: Duration = Duration::from_secs(60);
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
    /// What the probes ask.
    pub health: Health,
    /// What paces writes and retries.
    memories: Memories,
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
        health: Health,
    ) -> Self {
        let recorder = Recorder::new(client.clone(), reporter.clone());
        Self {
            client,
            settings,
            connector,
            reporter,
            recorder,
            metrics,
            health,
            memories: Memories::default(),
        }
    }
}

/// Why a pass failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server did not answer, or said no.
    #[error("the API server said: {0}")]
    Api(#[from] kube::Error),
    /// It did not come to an end.
    #[error("the pass did not end within {} s", PASS_LIMIT.as_secs())]
    Late,
}

/// One pass.
///
/// # Errors
/// If the API server does not answer; the status says so if it can be written.
pub async fn reconcile<K>(cached: Arc<K>, context: Arc<Context>) -> Result<Action, ReconcileError>
where
    K: Resource<DynamicType = ()>,
{
    let timer = context.metrics.seconds.start_timer();
    // Only where to look: the cache may be behind, and may not even be able to read it.
    let place = Place::of(cached.meta());
    let result = tokio::time::timeout(PASS_LIMIT, pass(&place, &context))
        .await
        .unwrap_or(Err(ReconcileError::Late));
    timer.observe_duration();
    context.health.pass_ended(match &result {
        Ok(done) if done.whole => PassEnd::Ok,
        Ok(_) => PassEnd::Incomplete,
        Err(_) => PassEnd::Error,
    });
    result.map(|done| done.action)
}

/// What to do after a pass that failed.
pub fn on_error<K>(cluster: Arc<K>, error: &ReconcileError, _context: Arc<Context>) -> Action
where
    K: Resource<DynamicType = ()>,
{
    let place = Place::of(cluster.meta());
    warn!(cluster = place.name, namespace = place.namespace, %error, "pass failed");
    Action::requeue(PACE)
}

/// Where a CretoCluster is.
#[derive(Clone, Debug)]
struct Place {
    namespace: String,
    name: String,
    uid: String,
}

impl Place {
    fn of(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
        }
    }

    fn api(&self, client: &Client) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<CretoCluster>(&());
        Api::namespaced_with(client.clone(), &self.namespace, &resource)
    }

    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(CretoCluster::api_version(&()).into_owned()),
            kind: Some(CretoCluster::kind(&()).into_owned()),
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

/// A CretoCluster as the API server has it now.
enum Found {
    /// It is gone, or going.
    Gone,
    /// Its fields are not of the form that this operator knows; the sentence says which.
    Unreadable { metadata: Box<ObjectMeta>, status: Box<CretoClusterStatus>, why: String },
    /// It is there.
    Here(Box<CretoCluster>),
}

async fn find(client: &Client, place: &Place) -> Result<Found, kube::Error> {
    let Some(object) = place.api(client).get_opt(&place.name).await? else {
        return Ok(Found::Gone);
    };
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Found::Gone);
    }
    let metadata = Box::new(object.metadata.clone());
    let value = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
    let status = value.get("status").cloned().unwrap_or_default();
    match serde_path_to_error::deserialize::<_, CretoCluster>(value) {
        Ok(resource) => Ok(Found::Here(Box::new(resource))),
        Err(error) => {
            let why = format!(
                "{}: {}; correct this field, or install an operator that knows it; nothing is changed until then",
                error.path(),
                error.inner()
            );
            let status = Box::new(serde_json::from_value(status).unwrap_or_default());
            Ok(Found::Unreadable { metadata, status, why })
        }
    }
}

/// How a pass ended that came to its end.
struct Done {
    action: Action,
    /// Whether all that was to do was done.
    whole: bool,
}

async fn pass(place: &Place, context: &Context) -> Result<Done, ReconcileError> {
    let resource = match find(&context.client, place).await? {
        Found::Gone => {
            context.memories.forget(&place.uid);
            return Ok(Done { action: Action::await_change(), whole: true });
        }
        Found::Unreadable { metadata, status, why } => {
            return refuse(context, &Place::of(&metadata), metadata.generation, &status, &why)
                .await;
        }
        Found::Here(resource) => resource,
    };
    let place = &Place::of(&resource.metadata);
    let previous = resource.status.clone().unwrap_or_default();
    let cluster = match Cluster::new(&resource) {
        Ok(cluster) => cluster,
        Err(invalid) => {
            let (generation, why) = (resource.metadata.generation, invalid.to_string());
            return refuse(context, place, generation, &previous, &why).await;
        }
    };
    context.memories.of(&place.uid, |memory| memory.generation(cluster.generation));
    let outcome = rounds(context, place, cluster).await;
    let now = Timestamp::now();
    let (status, notices, done) = match &outcome {
        Ok(round) => (
            status::derive(&round.cluster, &round.plan, &round.errors, now),
            round.notices.clone(),
            Done { action: round.next(), whole: round.errors.is_empty() },
        ),
        Err(error) => {
            let message =
                format!("the API server did not let the operator look: {error}; tries again");
            let mut known = previous.clone();
            context.memories.of(&place.uid, |memory| memory.recall(&mut known));
            let status = status::without_look(&known, &message, now);
            (status, Vec::new(), Done { action: Action::requeue(PACE), whole: false })
        }
    };
    let plan = outcome.as_ref().ok().map(|round| &round.plan);
    for notice in notices.iter().cloned().chain(transitions(&place.uid, &previous, &status, plan)) {
        publish(context, place, notice).await;
    }
    write_status(context, place, &previous, &status).await?;
    outcome.map(|_| done).map_err(ReconcileError::from)
}

/// Says in the status of a CretoCluster that its spec makes no chain, and does nothing else.
async fn refuse(
    context: &Context,
    place: &Place,
    generation: Option<i64>,
    previous: &CretoClusterStatus,
    why: &str,
) -> Result<Done, ReconcileError> {
    let reason = Reason::Refused(RefusalReason::InvalidSpec);
    let generation = generation.unwrap_or_default();
    let status = status::without_view(previous, generation, reason, why, Timestamp::now());
    let known = status::find(&previous.conditions, condition::DEGRADED)
        .is_some_and(|old| old.reason == reason.as_str() && old.message == why);
    if !known {
        warn!(cluster = place.name, namespace = place.namespace, why, "cannot act on the spec");
        let notice = Notice {
            reason: RefusalReason::InvalidSpec.as_str(),
            action: "Refuse",
            note: why.to_string(),
            warning: true,
            related: None,
        };
        publish(context, place, notice).await;
    }
    write_status(context, place, previous, &status).await?;
    Ok(Done { action: Action::requeue(REFUSED_PACE), whole: true })
}

/// What the last round of a pass left.
struct Round {
    cluster: Cluster,
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

/// Observes, plans and applies, again while steps open the way to further steps. Each round reads
/// the CretoCluster anew: it may have been changed or paused meanwhile.
async fn rounds(
    context: &Context,
    place: &Place,
    mut cluster: Cluster,
) -> Result<Round, kube::Error> {
    let mut notices = Vec::new();
    let mut round = 0;
    loop {
        round += 1;
        context.memories.of(&place.uid, |memory| memory.recall(&mut cluster.status));
        let seen = observe(&context.client, context.connector.as_ref(), cluster).await?;
        let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
        let mut plan = plan(&seen.view, &context.settings, now_ms);
        let (errors, new, fenced) = take_steps(context, place, &seen, &plan).await?;
        plan.eviction_waits = fenced;
        notices.extend(new);
        let opens_the_way = plan
            .steps
            .iter()
            .any(|step| !matches!(step, Step::ReplacePod { .. } | Step::ExpandVolume { .. }));
        cluster = seen.view.cluster;
        if opens_the_way
            && errors.is_empty()
            && round < MAX_ROUNDS
            && let Some(newest) = newest(context, place).await?
        {
            cluster = newest;
            continue;
        }
        return Ok(Round { cluster, plan, errors, notices });
    }
}

/// The CretoCluster as it is now, if it is still this one and still makes a chain.
async fn newest(context: &Context, place: &Place) -> Result<Option<Cluster>, kube::Error> {
    let Found::Here(resource) = find(&context.client, place).await? else { return Ok(None) };
    Ok(Cluster::new(&resource).ok().filter(|cluster| cluster.uid == place.uid))
}

/// Whether a step cannot be taken back, so that it needs the newest spec.
const fn is_final(step: &Step) -> bool {
    matches!(step, Step::CreateGenesis(_) | Step::ReplacePod { .. })
}

/// Errors, notices, and why a pod was not evicted.
type Taken = (Vec<String>, Vec<Notice>, Option<String>);

async fn take_steps(
    context: &Context,
    place: &Place,
    seen: &Observation,
    plan: &Plan,
) -> Result<Taken, kube::Error> {
    let (cluster, namespace) = (place.name.as_str(), place.namespace.as_str());
    let (mut errors, mut notices) = (Vec::new(), Vec::new());
    let (mut unprepared, mut fenced) = (false, None);
    for step in &plan.steps {
        // No pod is replaced while what it is made from or guarded by fails. Nothing else blocks.
        if matches!(step, Step::ReplacePod { .. }) && unprepared {
            continue;
        }
        let subject = step.subject();
        let waits =
            context.memories.of(&place.uid, |memory| memory.waits(&subject, Instant::now()));
        if let Some(error) = waits {
            unprepared |= step.precedes_replacement();
            errors.push(error);
            continue;
        }
        if is_final(step) {
            let newest = newest(context, place).await?;
            if newest.is_none_or(|newest| newest.generation != seen.view.cluster.generation) {
                info!(cluster, namespace, %step, "the CretoCluster changed; looks again first");
                break;
            }
        }
        let result = apply::apply(&context.client, seen, step).await;
        let word = if result.is_ok() { "ok" } else { "error" };
        context.metrics.steps.with_label_values(&[step.name(), word]).inc();
        match result {
            Ok(notice) => {
                info!(cluster, namespace, %step, "done");
                notices.extend(notice);
                context.memories.of(&place.uid, |memory| memory.succeeded(&subject));
            }
            Err(error @ StepError::Fenced { .. }) => {
                info!(cluster, namespace, %step, %error, "waits");
                fenced = Some(error.to_string());
            }
            Err(error) => {
                unprepared |= step.precedes_replacement();
                let message = error.to_string();
                let news = context
                    .memories
                    .of(&place.uid, |memory| memory.failed(&subject, &message, Instant::now()));
                if news {
                    warn!(cluster, namespace, %step, error = message, "not done; tries again");
                }
                errors.push(message);
            }
        }
    }
    Ok((errors, notices, fenced))
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
    let before_status = old.as_ref().map_or("", |(status, ..)| status.as_str());
    if let Some((after_status, reason, message)) = &new {
        let note = message.clone();
        // That the operator does not know is no loss, and neither is a chain that is not born.
        let lost = after_status == "False" && reason == Reason::QuorumLost.as_str();
        match (before_status, after_status.as_str()) {
            ("True" | "Unknown", _) if lost => notices.push(Notice {
                reason: "QuorumLost",
                action: "Observe",
                note,
                warning: true,
                related: None,
            }),
            ("False" | "", "True") => notices.push(Notice {
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

async fn publish(context: &Context, place: &Place, notice: Notice) {
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
    if let Err(error) = recorder.publish(&event, &place.reference()).await {
        warn!(reason = notice.reason, %error, "the Event was not written");
    }
}

/// Writes the status if there is news, or if the sequences that it shows have aged. Times alone are
/// no news: they are remembered, and written with what is.
async fn write_status(
    context: &Context,
    place: &Place,
    before: &CretoClusterStatus,
    after: &CretoClusterStatus,
) -> Result<(), kube::Error> {
    let aged = context.memories.of(&place.uid, |memory| {
        memory.derived(after);
        memory.aged(STATUS_PACE)
    });
    if without_times(before) == without_times(after) {
        return Ok(());
    }
    if !aged && status::without_noise(before) == status::without_noise(after) {
        return Ok(());
    }
    // With the UID the write fails if the resource was deleted and made again meanwhile.
    let body = json!({
        "apiVersion": CretoCluster::api_version(&()),
        "kind": CretoCluster::kind(&()),
        "metadata": { "name": place.name, "uid": place.uid },
        "status": after,
    });
    let parameters = PatchParams::apply(MANAGER).force();
    place.api(&context.client).patch_status(&place.name, &parameters, &Patch::Apply(&body)).await?;
    context.memories.of(&place.uid, Memory::wrote);
    Ok(())
}

#[cfg(test)]
mod tests;
