//! `CretoCluster.status`, derived purely from what a pass saw and planned.
//!
//! Facts about the chain come from [`cretoai_roster::agree`] alone; with too few reports the last agreed
//! ones stay, and `agreedAt` shows their age. Every condition has a reason from [`Reason`] and a
//! message that names the pods and the next step. The sentence that people read first is derived
//! from the conditions alone.

use crate::cluster::{
    identity::RefusalReason,
    members::{Member, Roll, Standing},
    plan::{Plan, Stage},
    validate::Cluster,
};
use cretoai_crds::{CretoClusterStatus, MemberStatus, QuorumStatus, Summary};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::{SignedDuration, Timestamp},
};

/// No message is longer: `kubectl describe` should stay readable.
const MAX_MESSAGE: usize = 2000;
/// `lastSeen` is brought up to date this often, so that an idle cluster is not written all the
/// time.
const LAST_SEEN_STEP: SignedDuration = SignedDuration::from_secs(30);

/// Facts that are younger count although the newest look failed.
const FACTS_STAY: SignedDuration = SignedDuration::from_secs(30);
/// A quorum that took part so short a while ago is not called unknown because nodes did not answer
/// one look.
const QUORUM_STAYS: SignedDuration = SignedDuration::from_secs(15);

/// Types of conditions.
pub mod condition {
    /// The chain takes payloads.
    pub const READY: &str = "Ready";
    /// Enough validators take part for decisions.
    pub const QUORUM: &str = "QuorumAvailable";
    /// Something is being changed.
    pub const PROGRESSING: &str = "Progressing";
    /// Something is not as it should be.
    pub const DEGRADED: &str = "Degraded";
    /// Genesis, admin key and the nodes' keys fit together.
    pub const KEYS: &str = "KeysValid";
    /// The chain holds proof that a validator broke the protocol.
    pub const BYZANTINE: &str = "ByzantineSuspected";
    /// The operator is at work: kstatus (`kubectl wait`, Argo CD, Flux) waits while it is True.
    pub const RECONCILING: &str = "Reconciling";
    /// The operator cannot go on by itself: kstatus calls it failed.
    pub const STALLED: &str = "Stalled";
    /// The members run on so many hosts that the loss of one host leaves a quorum.
    pub const FAILURE_DOMAINS: &str = "FailureDomains";
    /// `spec.paused`.
    pub const PAUSED: &str = "Paused";
}

/// Why a condition is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A quorum takes part.
    QuorumParticipates,
    /// Too few validators take part: pods do not run.
    QuorumLost,
    /// Enough answer, but they are not yet connected to each other.
    NotConnected,
    /// Too few answer us, but Kubernetes says that they are well.
    NodesUnreachable,
    /// There is no genesis yet.
    NotBorn,
    /// The nodes are being attested.
    Attesting,
    /// An earlier CretoCluster of this name is still being deleted.
    WaitingForDeletion,
    /// Pods are being replaced, or the last one has not taken part for long enough.
    RollingOut,
    /// A pod of the newest template does not take part, or does not for long.
    RolloutStalled,
    /// The quorum does not allow the next pod to be replaced.
    RolloutBlocked,
    /// The API server lets the StatefulSet create no pods.
    PodsRefused,
    /// The loss of one host leaves a quorum.
    HostsSpread,
    /// The loss of one host takes the quorum.
    HostsShared,
    /// Nothing to do.
    Settled,
    /// All is well.
    AsExpected,
    /// Some validators take no part.
    MembersAbsent,
    /// A validator contradicts the others.
    MemberDissents,
    /// More validators contradict each other than the chain tolerates.
    ChainDivided,
    /// The chain holds proof that a validator broke the protocol.
    MemberSuspected,
    /// A validator has another key or chain than the genesis says.
    MemberForeign,
    /// The keys fit together.
    Valid,
    /// The API server or a node refused a step.
    ReconcileFailed,
    /// `spec.paused` is true.
    PausedBySpec,
    /// `spec.paused` is false.
    Running,
    /// A person has to decide.
    Refused(RefusalReason),
}

impl Reason {
    /// As the API shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QuorumParticipates => "QuorumParticipates",
            Self::QuorumLost => "QuorumLost",
            Self::NotConnected => "NotConnected",
            Self::NodesUnreachable => "NodesUnreachable",
            Self::NotBorn => "NotBorn",
            Self::Attesting => "Attesting",
            Self::WaitingForDeletion => "WaitingForDeletion",
            Self::RollingOut => "RollingOut",
            Self::RolloutStalled => "RolloutStalled",
            Self::RolloutBlocked => "RolloutBlocked",
            Self::PodsRefused => "PodsRefused",
            Self::HostsSpread => "HostsSpread",
            Self::HostsShared => "HostsShared",
            Self::Settled => "Settled",
            Self::AsExpected => "AsExpected",
            Self::MembersAbsent => "MembersAbsent",
            Self::MemberDissents => "MemberDissents",
            Self::ChainDivided => "ChainDivided",
            Self::MemberSuspected => "MemberSuspected",
            Self::MemberForeign => "MemberForeign",
            Self::Valid => "Valid",
            Self::ReconcileFailed => "ReconcileFailed",
            Self::PausedBySpec => "PausedBySpec",
            Self::Running => "Running",
            Self::Refused(reason) => reason.as_str(),
        }
    }
}

/// A condition before it has a time.
struct Finding {
    kind: &'static str,
    status: &'static str,
    reason: Reason,
    message: String,
}

const fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// The status after a pass. `errors` are the steps that failed.
#[must_use]
pub fn derive(
    cluster: &Cluster,
    plan: &Plan,
    errors: &[String],
    now: Timestamp,
) -> CretoClusterStatus {
    let previous = &cluster.status;
    let roll = &plan.roll;
    let born = plan.identity.as_ref().and_then(|identity| identity.born.as_deref());
    let mut status = previous.clone();
    status.observed_generation = Some(cluster.generation);
    if let Some(genesis) = born {
        status.bootstrapped = true;
        status.chain_id = Some(genesis.genesis.chain_id().to_string());
    }
    take_facts(&mut status, roll, now);
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    status.quorum = Some(QuorumStatus {
        size: count(roll.quorum.n),
        required: count(roll.quorum.q),
        participating: count(roll.participating()),
        fault_tolerance: count(roll.quorum.f),
    });
    status.members = roll
        .members
        .iter()
        .map(|member| member_status(member, previous, status.sequence, now))
        .collect();
    // What all nodes run, once they do: a cluster that names no image keeps it.
    let all_take_part = roll.participating() == roll.quorum.n;
    if plan.stage == Stage::Born
        && all_take_part
        && plan.outdated.is_empty()
        && plan.returning.is_empty()
        && errors.is_empty()
        && let Some(image) = &plan.settled_image
    {
        status.image = Some(image.clone());
    }
    status.updated_replicas = Some(count(plan.updated));
    let findings = findings(cluster, plan, errors, &status.suspected, now);
    status.conditions = conditions(&previous.conditions, findings, cluster.generation, now);
    status.summary = Some(Summary {
        nodes: format!("{}/{}", roll.participating(), roll.quorum.n),
        quorum: format!("{} of {}", roll.participating(), roll.quorum.q),
        tolerates: format!("{} faulty", roll.quorum.f),
        suspected: if status.suspected.is_empty() {
            "none".to_string()
        } else {
            status.suspected.join(", ")
        },
        status: sentence(&status.conditions),
    });
    status
}

/// The status when the spec makes no chain, or the API server did not let us look: the facts stay.
#[must_use]
pub fn without_view(
    previous: &CretoClusterStatus,
    generation: i64,
    reason: Reason,
    message: &str,
    now: Timestamp,
) -> CretoClusterStatus {
    let mut status = previous.clone();
    status.observed_generation = Some(generation);
    let finding = |kind, status| Finding { kind, status, reason, message: message.to_string() };
    let findings = vec![
        finding(condition::READY, "Unknown"),
        finding(condition::QUORUM, "Unknown"),
        finding(condition::PROGRESSING, "False"),
        finding(condition::DEGRADED, "True"),
    ];
    status.conditions = conditions(&previous.conditions, findings, generation, now);
    let mut summary = previous.summary.clone().unwrap_or_default();
    summary.status = sentence(&status.conditions);
    status.summary = Some(summary);
    status
}

/// The status when the API server did not let us look. What was known stays, and is called unknown
/// only when it is old: that we cannot look is no news about the chain.
#[must_use]
pub fn without_look(
    previous: &CretoClusterStatus,
    message: &str,
    now: Timestamp,
) -> CretoClusterStatus {
    let mut status = previous.clone();
    let finding = |kind, status| Finding {
        kind,
        status,
        reason: Reason::ReconcileFailed,
        message: message.to_string(),
    };
    let mut findings = vec![finding(condition::PROGRESSING, "False")];
    let fresh = |Time(time): &Time| now.duration_since(*time) < FACTS_STAY;
    if !previous.agreed_at.as_ref().is_some_and(fresh) {
        findings.push(finding(condition::READY, "Unknown"));
        findings.push(finding(condition::QUORUM, "Unknown"));
    }
    // Nothing was done for a newer generation.
    let generation = previous.observed_generation.unwrap_or_default();
    status.conditions = conditions(&previous.conditions, findings, generation, now);
    let mut summary = previous.summary.clone().unwrap_or_default();
    summary.status = sentence(&status.conditions);
    status.summary = Some(summary);
    status
}

/// What `w` nodes agree on replaces what they agreed on before. A sequence never goes back: fewer
/// nodes may be behind.
fn take_facts(status: &mut CretoClusterStatus, roll: &Roll, now: Timestamp) {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    if let Some(head) = &roll.agreement.head {
        status.sequence = Some(number(head.sequence).max(status.sequence.unwrap_or_default()));
        status.agreed_at = Some(Time(now));
    }
    if let Some(term) = &roll.agreement.term {
        status.epoch = Some(number(term.epoch));
        status.view = Some(number(term.view));
        status.leader.clone_from(&term.leader);
    }
    let suspected = roll.members.iter().filter(|member| member.suspected);
    status.suspected = suspected.map(|member| member.name.clone()).collect();
    let mut versions: Vec<&str> =
        roll.members.iter().filter_map(|member| member.version.as_deref()).collect();
    versions.sort_unstable();
    versions.dedup();
    if !versions.is_empty() {
        status.version = Some(cut(&versions.join(", "), 256));
    }
}

fn member_status(
    member: &Member,
    previous: &CretoClusterStatus,
    head: Option<i64>,
    now: Timestamp,
) -> MemberStatus {
    let before = previous.members.iter().find(|before| before.name == member.name);
    let answered = member.account.is_some() || member.standing == Standing::Waiting;
    let seen_before = before.and_then(|before| before.last_seen.clone());
    let last_seen = match seen_before {
        Some(Time(time)) if !answered || now.duration_since(time) < LAST_SEEN_STEP => {
            Some(Time(time))
        }
        _ if answered => Some(Time(now)),
        _ => None,
    };
    let sequence = match &member.account {
        Some(account) => Some(i64::try_from(account.sequence).unwrap_or(i64::MAX)),
        None => before.and_then(|before| before.sequence),
    };
    MemberStatus {
        name: member.name.clone(),
        node_id: i32::try_from(member.id.0).ok(),
        key_fingerprint: member.fingerprint.clone(),
        role: member.standing.as_str().to_string(),
        sequence,
        lag: head.zip(sequence).map(|(head, sequence)| head.saturating_sub(sequence).max(0)),
        version: member
            .version
            .clone()
            .or_else(|| before.and_then(|before| before.version.clone()))
            .map(|version| cut(&version, 64)),
        last_seen,
        absent_since: member
            .standing
            .cannot_vote()
            .then(|| before.and_then(|before| before.absent_since.clone()).unwrap_or(Time(now))),
        message: member.message.as_deref().map(|message| cut(message, 500)),
    }
}

fn findings(
    cluster: &Cluster,
    plan: &Plan,
    errors: &[String],
    suspected: &[String],
    now: Timestamp,
) -> Vec<Finding> {
    let quorum = steady(quorum(plan), &cluster.status, now);
    let ready = Finding { kind: condition::READY, message: quorum.message.clone(), ..quorum };
    let paused = Finding {
        kind: condition::PAUSED,
        status: truth(cluster.spec.paused),
        reason: if cluster.spec.paused { Reason::PausedBySpec } else { Reason::Running },
        message: if cluster.spec.paused {
            "spec.paused is true: the operator reports and changes nothing; the nodes run on"
                .to_string()
        } else {
            "the operator acts".to_string()
        },
    };
    let suspicion = suspicion(plan, suspected);
    let degraded = degraded(plan, errors, &suspicion);
    let progressing = progressing(cluster, plan, errors);
    let [reconciling, stalled] = for_tools(&progressing);
    vec![
        ready,
        quorum,
        progressing,
        degraded,
        keys(plan),
        suspicion,
        paused,
        reconciling,
        stalled,
        failure_domains(plan),
    ]
}

/// A quorum that took part a moment ago stays, although too few nodes answered this one look.
fn steady(quorum: Finding, before: &CretoClusterStatus, now: Timestamp) -> Finding {
    let held = find(&before.conditions, condition::QUORUM);
    let took_part = held.is_some_and(|held| held.status == "True");
    let fresh = |Time(time): &Time| now.duration_since(*time) < QUORUM_STAYS;
    let recent = before.agreed_at.as_ref().is_some_and(fresh);
    if quorum.reason != Reason::NodesUnreachable || !took_part || !recent {
        return quorum;
    }
    Finding {
        status: "True",
        reason: Reason::QuorumParticipates,
        message: format!(
            "took part a moment ago, and not all answered this look: {}",
            quorum.message
        ),
        ..quorum
    }
}

/// What Progressing means, in the words of kstatus.
fn for_tools(progressing: &Finding) -> [Finding; 2] {
    let at_work = progressing.status == "True";
    let fine = matches!(progressing.reason, Reason::Settled | Reason::PausedBySpec);
    [(condition::RECONCILING, at_work), (condition::STALLED, !at_work && !fine)].map(
        |(kind, holds)| Finding {
            kind,
            status: truth(holds),
            reason: progressing.reason,
            message: progressing.message.clone(),
        },
    )
}

/// Whether one host carries more members than the chain can lose.
fn failure_domains(plan: &Plan) -> Finding {
    let finding = |status, reason, message| Finding {
        kind: condition::FAILURE_DOMAINS,
        status,
        reason,
        message,
    };
    if plan.stage != Stage::Born {
        let message = "the chain is not born yet".to_string();
        return finding("Unknown", Reason::NotBorn, message);
    }
    if plan.shared_hosts.is_empty() {
        let message = match plan.roll.quorum.f {
            0 => "no two members run on one host; the chain tolerates no absent one all the same",
            _ => "the loss of any one host leaves a quorum",
        };
        return finding("True", Reason::HostsSpread, message.to_string());
    }
    let message = format!(
        "{}: the loss of one host takes the quorum; add hosts, or set spec.topologySpreadConstraints with whenUnsatisfiable: DoNotSchedule",
        plan.shared_hosts.join("; ")
    );
    finding("False", Reason::HostsShared, message)
}

fn quorum(plan: &Plan) -> Finding {
    let finding =
        |status, reason, message| Finding { kind: condition::QUORUM, status, reason, message };
    let roll = &plan.roll;
    match &plan.stage {
        Stage::Refused(refusal) => {
            return finding("Unknown", Reason::Refused(refusal.reason), refusal.message.clone());
        }
        Stage::Departing(what) => {
            return finding("False", Reason::WaitingForDeletion, what.clone());
        }
        Stage::Unborn(waits) => {
            return finding(
                "False",
                Reason::NotBorn,
                format!("the chain is not born yet: {waits}"),
            );
        }
        Stage::Born => {}
    }
    if let Some(lost) = plan.identity.as_ref().and_then(|identity| identity.admin_key_lost.as_ref())
    {
        return finding("Unknown", Reason::Refused(RefusalReason::AdminKeyMissing), lost.clone());
    }
    if let Some(sequence) = roll.agreement.divided_at {
        let message = format!(
            "validators contradict each other at sequence {sequence}: more than {} are faulty; stop the clients and compare the nodes' records",
            roll.quorum.f
        );
        return finding("Unknown", Reason::ChainDivided, message);
    }
    let (participating, needed) = (roll.participating(), roll.quorum.q);
    let absent = roll.absent();
    if participating >= needed {
        if roll.ready() < roll.quorum.w {
            let waits: Vec<String> = roll
                .members
                .iter()
                .filter_map(|member| {
                    Some(format!("{} ({})", member.name, member.message.as_deref()?))
                })
                .collect();
            let message = format!(
                "{participating} validators answer, but they do not form a quorum yet: {}",
                waits.join(", ")
            );
            return finding("False", Reason::NotConnected, message);
        }
        return finding(
            "True",
            Reason::QuorumParticipates,
            format!("{}{}", takes_part(roll, &absent), tolerance(roll)),
        );
    }
    // A container that runs and does not answer us may vote.
    let unknown = |standing| matches!(standing, Standing::Unreachable | Standing::Silent);
    let unreachable = roll.members.iter().filter(|member| unknown(member.standing)).count();
    let message = format!(
        "{participating} of {} validators take part, {needed} are needed; missing: {}; nothing becomes final until they are back",
        roll.quorum.n,
        absent.join(", ")
    );
    if participating + unreachable >= needed {
        return finding("Unknown", Reason::NodesUnreachable, message);
    }
    finding("False", Reason::QuorumLost, message)
}

fn takes_part(roll: &Roll, absent: &[String]) -> String {
    let all = format!(
        "{} of {} validators take part, {} are needed",
        roll.participating(),
        roll.quorum.n,
        roll.quorum.q
    );
    if absent.is_empty() { all } else { format!("{all}; missing: {}", absent.join(", ")) }
}

/// What the number of validators buys, where it is less than people think.
fn tolerance(roll: &Roll) -> String {
    let (n, f) = (roll.quorum.n, roll.quorum.f);
    let least = 3 * f + 1;
    if f == 0 {
        format!("; {n} tolerate no faulty or absent one, 4 would tolerate one")
    } else if n == least {
        String::new()
    } else {
        format!("; {n} tolerate {f} faulty, no more than {least} do")
    }
}

fn progressing(cluster: &Cluster, plan: &Plan, errors: &[String]) -> Finding {
    let finding =
        |status, reason, message| Finding { kind: condition::PROGRESSING, status, reason, message };
    if cluster.spec.paused {
        return finding(
            "False",
            Reason::PausedBySpec,
            "spec.paused is true; set it to false to go on".to_string(),
        );
    }
    if !errors.is_empty() {
        return finding(
            "False",
            Reason::ReconcileFailed,
            format!("tries again: {}", errors.join("; ")),
        );
    }
    match &plan.stage {
        Stage::Refused(refusal) => {
            finding("False", Reason::Refused(refusal.reason), refusal.message.clone())
        }
        Stage::Departing(what) => finding("True", Reason::WaitingForDeletion, what.clone()),
        Stage::Unborn(waits) => finding("True", Reason::Attesting, waits.clone()),
        Stage::Born => {
            let (status, reason, message) = rollout(plan);
            finding(status, reason, message)
        }
    }
}

/// How far the pods of a living chain are.
fn rollout(plan: &Plan) -> (&'static str, Reason, String) {
    if plan.unseen {
        let message = "waits until the StatefulSet controller has seen the newest template";
        return ("True", Reason::RollingOut, message.to_string());
    }
    let older = || format!("{} still run an older template", plan.outdated.join(", "));
    let waits = plan.rollout_waits.as_ref();
    match waits {
        Some(denial) if denial.stalls() => {
            return ("False", Reason::RolloutStalled, format!("{}; {denial}", older()));
        }
        Some(denial) if denial.blocks() => {
            return ("False", Reason::RolloutBlocked, format!("{}; {denial}", older()));
        }
        _ => {}
    }
    if !plan.outdated.is_empty() {
        let denial = waits.map(ToString::to_string).or_else(|| plan.eviction_waits.clone());
        let waits = denial.map(|denial| format!("; {denial}")).unwrap_or_default();
        return ("True", Reason::RollingOut, format!("{}{waits}", older()));
    }
    if !plan.returning.is_empty() {
        let names = plan.returning.join(", ");
        let message = format!("waits until {names} has taken part for a while");
        return ("True", Reason::RollingOut, message);
    }
    let absent = plan.roll.absent();
    let message = if absent.is_empty() {
        "all pods run the newest template and take part".to_string()
    } else {
        format!("all pods run the newest template; missing: {}", absent.join(", "))
    };
    ("False", Reason::Settled, message)
}

fn suspicion(plan: &Plan, suspected: &[String]) -> Finding {
    let finding =
        |status, reason, message| Finding { kind: condition::BYZANTINE, status, reason, message };
    let quorum = plan.roll.quorum;
    if suspected.is_empty() {
        return finding(
            "False",
            Reason::AsExpected,
            "the chain holds no proof of a violation".to_string(),
        );
    }
    let beyond = if suspected.len() > quorum.f {
        format!("; these are more than the {} that the chain tolerates: stop the clients", quorum.f)
    } else {
        String::new()
    };
    let message = format!(
        "{} broke the protocol, and the chain holds the proof, as {} nodes report{beyond}; keep GET /v1/evidence of another node, and look at image, host and volume of the pod",
        suspected.join(", "),
        quorum.w
    );
    finding("True", Reason::MemberSuspected, message)
}

fn degraded(plan: &Plan, errors: &[String], suspicion: &Finding) -> Finding {
    let finding =
        |status, reason, message| Finding { kind: condition::DEGRADED, status, reason, message };
    let roll = &plan.roll;
    if let Stage::Refused(refusal) = &plan.stage {
        return finding("True", Reason::Refused(refusal.reason), refusal.message.clone());
    }
    if let Some(sequence) = roll.agreement.divided_at {
        return finding(
            "True",
            Reason::ChainDivided,
            format!("validators contradict each other at sequence {sequence}"),
        );
    }
    if !roll.agreement.dissenters.is_empty() {
        let message = format!(
            "{} reports another chain hash than {} others; keep its volume as evidence",
            roll.dissenters().join(", "),
            roll.quorum.w
        );
        return finding("True", Reason::MemberDissents, message);
    }
    if let Some(lost) = plan.identity.as_ref().and_then(|identity| identity.admin_key_lost.as_ref())
    {
        return finding("True", Reason::Refused(RefusalReason::AdminKeyMissing), lost.clone());
    }
    if plan.rollout_waits.as_ref().is_some_and(|denial| denial.stalls() || denial.blocks()) {
        let (_, reason, message) = rollout(plan);
        return finding("True", reason, message);
    }
    if let Some(why) = &plan.pods_refused {
        return finding("True", Reason::PodsRefused, format!("the API server refuses pods: {why}"));
    }
    let absent = roll.absent();
    if plan.stage == Stage::Born && !absent.is_empty() {
        return finding("True", Reason::MembersAbsent, takes_part(roll, &absent));
    }
    if suspicion.status == "True" {
        return finding("True", suspicion.reason, suspicion.message.clone());
    }
    if !errors.is_empty() {
        return finding("True", Reason::ReconcileFailed, errors.join("; "));
    }
    let message = match &plan.stage {
        Stage::Born => "all members take part, and every step was done",
        _ => "no step failed; the chain is not born yet",
    };
    finding("False", Reason::AsExpected, message.to_string())
}

fn keys(plan: &Plan) -> Finding {
    let finding =
        |status, reason, message| Finding { kind: condition::KEYS, status, reason, message };
    match &plan.stage {
        Stage::Refused(refusal) if refusal.reason.concerns_keys() => {
            return finding("False", Reason::Refused(refusal.reason), refusal.message.clone());
        }
        Stage::Refused(refusal) => {
            return finding("Unknown", Reason::Refused(refusal.reason), refusal.message.clone());
        }
        Stage::Departing(what) => {
            return finding("Unknown", Reason::WaitingForDeletion, what.clone());
        }
        Stage::Unborn(waits) => {
            return finding(
                "Unknown",
                Reason::NotBorn,
                format!("keys are being made and attested: {waits}"),
            );
        }
        Stage::Born => {}
    }
    if let Some(lost) = plan.identity.as_ref().and_then(|identity| identity.admin_key_lost.as_ref())
    {
        return finding("False", Reason::Refused(RefusalReason::AdminKeyMissing), lost.clone());
    }
    let foreign: Vec<String> = plan
        .roll
        .members
        .iter()
        .filter(|member| member.standing == Standing::Foreign)
        .map(|member| {
            format!("{} ({})", member.name, member.message.as_deref().unwrap_or_default())
        })
        .collect();
    if !foreign.is_empty() {
        let message = format!(
            "not the validators that the genesis names: {}; if a volume was lost or exchanged, put the original back",
            foreign.join(", ")
        );
        return finding("False", Reason::MemberForeign, message);
    }
    finding("True", Reason::Valid, "the admin key signed the genesis, and every node that answers proved the key that it names".to_string())
}

fn conditions(
    before: &[Condition],
    findings: Vec<Finding>,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = findings
        .into_iter()
        .map(|finding| {
            let since =
                before.iter().find(|old| old.type_ == finding.kind && old.status == finding.status);
            Condition {
                type_: finding.kind.to_string(),
                status: finding.status.to_string(),
                reason: finding.reason.as_str().to_string(),
                message: cut(&finding.message, MAX_MESSAGE),
                observed_generation: Some(generation),
                last_transition_time: since
                    .map_or(Time(now), |old| old.last_transition_time.clone()),
            }
        })
        .collect();
    let kept: Vec<Condition> = before
        .iter()
        .filter(|old| conditions.iter().all(|new| new.type_ != old.type_))
        .cloned()
        .collect();
    conditions.extend(kept);
    conditions
}

/// The condition `kind`.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// The sentence that people read first: what is wrong, else what goes on, else that all is well.
fn sentence(conditions: &[Condition]) -> String {
    let is = |kind: &str, status: &str| {
        find(conditions, kind).filter(|condition| condition.status == status)
    };
    let told = is(condition::PAUSED, "True")
        .or_else(|| is(condition::READY, "False"))
        .or_else(|| is(condition::READY, "Unknown"))
        .or_else(|| is(condition::KEYS, "False"))
        .or_else(|| is(condition::DEGRADED, "True"))
        .or_else(|| is(condition::PROGRESSING, "True"))
        .or_else(|| find(conditions, condition::READY));
    told.map(|condition| cut(&condition.message, 300)).unwrap_or_default()
}

fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        text.to_string()
    } else {
        text.chars().take(limit.saturating_sub(3)).chain("...".chars()).collect()
    }
}

/// The status without what changes with every record, to tell news from noise.
#[must_use]
pub fn without_noise(status: &CretoClusterStatus) -> CretoClusterStatus {
    let mut status = status.clone();
    (status.sequence, status.agreed_at) = (None, None);
    for member in &mut status.members {
        (member.sequence, member.lag, member.last_seen, member.message) = (None, None, None, None);
    }
    for condition in &mut status.conditions {
        condition.message.clear();
    }
    if let Some(summary) = &mut status.summary {
        summary.status.clear();
    }
    status
}

#[cfg(test)]
mod tests;
