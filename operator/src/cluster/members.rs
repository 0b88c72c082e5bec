//! Who of the validators takes part: the roll call of one pass, from reports and pods.

use crate::{
    agree::{self, Agreement},
    cluster::{
        identity::Identity,
        view::{Pod, Report, View},
    },
};
use cretoai_control::api::{NodeStatus, Role};
use cretoai_types::{FaultModel, Quorum, SignedGenesis};
use std::collections::BTreeMap;

/// A node that is further behind what the others agree on cannot vote now. As many records as a
/// node reports.
const MAX_LAG: u64 = 64;

/// How a validator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It votes on the newest records.
    Participating,
    /// It is behind, or asks the others what it signed before it was started again.
    CatchingUp,
    /// It follows without a vote.
    Learner,
    /// It has no genesis yet.
    Waiting,
    /// Its pod does not run.
    Down,
    /// Its container runs, but is not ready and does not answer us: it starts, or hangs.
    Silent,
    /// Its pod is ready, but does not answer us.
    Unreachable,
    /// It has another key or chain than the genesis says.
    Foreign,
    /// Its volume was restored from an older copy: it never votes again with its key.
    Stale,
    /// Its chain hash contradicts that of `w` others.
    Dissenting,
}

impl Standing {
    /// As `status.members[].role`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Participating => "Validator",
            Self::CatchingUp => "CatchingUp",
            Self::Learner => "Learner",
            Self::Waiting => "Waiting",
            Self::Down => "Down",
            Self::Silent => "Silent",
            Self::Unreachable => "Unreachable",
            Self::Foreign => "Foreign",
            Self::Stale => "Stale",
            Self::Dissenting => "Dissenting",
        }
    }
}

/// A validator, or the pod that is to become one.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its ordinal, which is its number on the chain.
    pub ordinal: usize,
    /// Name of its pod.
    pub name: String,
    /// Fingerprint of the key that the genesis names for it, or that it attested.
    pub fingerprint: Option<String>,
    /// How it stands.
    pub standing: Standing,
    /// What it waits for, or what is wrong.
    pub message: Option<String>,
    /// Its answer.
    pub status: Option<NodeStatus>,
    /// Its version.
    pub version: Option<String>,
    /// Whether the chain holds proof of violations of it; nothing, if too few nodes say so alike.
    pub suspected: Option<bool>,
}

/// All validators.
#[derive(Clone, Debug, PartialEq)]
pub struct Roll {
    /// By ordinal.
    pub members: Vec<Member>,
    /// What `w` of them agree on.
    pub agreement: Agreement,
    /// How many a decision needs.
    pub quorum: Quorum,
}

impl Roll {
    /// How many take part.
    #[must_use]
    pub fn participating(&self) -> usize {
        self.members.iter().filter(|member| member.standing == Standing::Participating).count()
    }

    /// Whether validator `ordinal` takes part.
    #[must_use]
    pub fn takes_part(&self, ordinal: usize) -> bool {
        self.members
            .iter()
            .any(|member| member.ordinal == ordinal && member.standing == Standing::Participating)
    }

    /// How many say that they are connected to a quorum and caught up.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.members
            .iter()
            .filter(|member| member.status.as_ref().is_some_and(|status| status.ready))
            .count()
    }

    /// Those that do not take part, each with the reason.
    #[must_use]
    pub fn absent(&self) -> Vec<String> {
        let absent =
            self.members.iter().filter(|member| member.standing != Standing::Participating);
        absent
            .map(|member| {
                let why = member.message.as_deref().unwrap_or_default();
                format!(
                    "{} ({}{}{why})",
                    member.name,
                    member.standing.as_str(),
                    if why.is_empty() { "" } else { ": " }
                )
            })
            .collect()
    }
}

/// Calls the roll. Nodes are believed about themselves only as far as their own standing.
#[must_use]
pub fn roll_call(view: &View, identity: Option<&Identity>) -> Roll {
    match identity.and_then(|identity| identity.born.as_deref()) {
        Some(genesis) => of_chain(view, genesis),
        None => unborn(view),
    }
}

fn unborn(view: &View) -> Roll {
    let members = (0..view.cluster.replicas)
        .map(|ordinal| {
            let (standing, message) = match (view.pods.get(&ordinal), view.reports.get(&ordinal)) {
                (_, Some(Report::Attested(_))) => {
                    (Standing::Waiting, Some("attested, waits for the genesis".to_string()))
                }
                (_, Some(Report::Status(_))) => (Standing::Waiting, None),
                (_, Some(Report::Refused(why))) => (Standing::Foreign, Some(why.clone())),
                (pod, report) => down(pod, report),
            };
            let attested = match view.reports.get(&ordinal) {
                Some(Report::Attested(attested)) => Some(attested),
                _ => None,
            };
            Member {
                ordinal,
                name: view.cluster.names.pod(ordinal),
                fingerprint: attested.map(|attested| attested.key.fingerprint().to_string()),
                standing,
                message,
                status: None,
                version: attested.map(|attested| attested.version.clone()),
                suspected: None,
            }
        })
        .collect();
    Roll { members, agreement: Agreement::default(), quorum: view.cluster.quorum() }
}

fn of_chain(view: &View, genesis: &SignedGenesis) -> Roll {
    let content = &genesis.genesis;
    let chain = content.chain_id().to_string();
    let quorum = Quorum::new(content.members.len(), FaultModel::Byzantine);
    let of_this_chain = |status: &NodeStatus| status.chain_id.as_deref() == Some(chain.as_str());
    let reports: BTreeMap<String, &NodeStatus> = view
        .reports
        .iter()
        .filter_map(|(ordinal, report)| match report {
            Report::Status(status) if of_this_chain(status) && status.role == Role::Validator => {
                Some((view.cluster.names.pod(*ordinal), status.as_ref()))
            }
            _ => None,
        })
        .collect();
    let agreement = agree::agree(&reports, quorum.w);
    let head = agreement.head.as_ref().map_or(0, |head| head.sequence);
    let judge = |name: &str, status: &NodeStatus| -> (Standing, Option<String>) {
        let says = || Some(status.waiting_for.clone()).filter(|text| !text.is_empty());
        match status.role {
            _ if agreement.dissenters.contains(name) => (
                Standing::Dissenting,
                Some(format!(
                    "its chain hash at sequence {} or before is not the one that {} others report; keep its volume as evidence",
                    status.sequence, quorum.w
                )),
            ),
            _ if status.chain_id.is_some() && !of_this_chain(status) => (
                Standing::Foreign,
                Some(format!(
                    "its volume holds chain {}, not {chain}",
                    status.chain_id.as_deref().unwrap_or_default()
                )),
            ),
            Role::Waiting => (Standing::Waiting, says()),
            Role::Learner => (Standing::Learner, says()),
            Role::Checking => (Standing::CatchingUp, says()),
            Role::Stale => (Standing::Stale, says()),
            Role::Validator if status.sequence.saturating_add(MAX_LAG) < head => {
                (Standing::CatchingUp, says())
            }
            Role::Validator => (Standing::Participating, says().filter(|_| !status.ready)),
        }
    };
    let members = content
        .members
        .iter()
        .enumerate()
        .map(|(ordinal, member)| {
            let report = view.reports.get(&ordinal);
            let status = match report {
                Some(Report::Status(status)) => Some(status.as_ref().clone()),
                _ => None,
            };
            let leaving = view.pods.get(&ordinal).is_some_and(|pod| pod.leaving);
            let (standing, message) = match (&status, report) {
                // It may answer until its process ends, but nobody may count on it any more.
                (Some(_), _) if leaving => down(view.pods.get(&ordinal), None),
                (Some(status), _) => judge(&member.name, status),
                (None, Some(Report::Refused(why))) => (Standing::Foreign, Some(why.clone())),
                (None, report) => down(view.pods.get(&ordinal), report),
            };
            Member {
                ordinal,
                name: member.name.clone(),
                fingerprint: Some(member.key.fingerprint().to_string()),
                standing,
                message,
                version: status.as_ref().map(|status| status.version.clone()),
                suspected: agree::suspects(&reports, quorum.w, &member.name)
                    .filter(|_| agreement.divided_at.is_none()),
                status,
            }
        })
        .collect();
    Roll { members, agreement, quorum }
}

/// A pod without an answer: does it run, and we do not reach it, or does it not?
fn down(pod: Option<&Pod>, report: Option<&Report>) -> (Standing, Option<String>) {
    let silence = match report {
        Some(Report::Silent(why)) => Some(why.clone()),
        _ => None,
    };
    match pod {
        None => (Standing::Down, Some("its pod does not exist yet".to_string())),
        Some(pod) if pod.leaving => (Standing::Down, Some("its pod is being deleted".to_string())),
        Some(Pod { trouble: Some(trouble), .. }) => (Standing::Down, Some(trouble.clone())),
        Some(pod) if pod.ready => {
            (Standing::Unreachable, silence.or_else(|| Some("it has no address yet".to_string())))
        }
        Some(pod) if pod.running => {
            (Standing::Silent, silence.or_else(|| Some("it has no address yet".to_string())))
        }
        Some(_) => (Standing::Down, Some("its container does not run yet".to_string())),
    }
}
