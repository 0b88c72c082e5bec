//! The roll call of one pass: from what it saw to what [`cretoai_roster`] judges.

use crate::cluster::{
    identity::Identity,
    view::{Pod, Report, View},
};
use cretoai_control::api::{NodeStatus, Role};
pub use cretoai_roster::roll::{Member, Roll, Standing};
use cretoai_roster::{
    account::{self, Account, Answer, Heard, PodFacts, Sighting},
    agree::Agreement,
    roll,
    roster::Roster,
};
use cretoai_types::{NodeId, SignedGenesis};

/// Calls the roll. Before birth nobody takes part.
#[must_use]
pub fn roll_call(view: &View, identity: Option<&Identity>) -> Roll {
    let mut roll = match identity.and_then(|identity| identity.born.as_deref()) {
        Some(genesis) => of_chain(view, genesis),
        None => unborn(view),
    };
    for member in &mut roll.members {
        let claim = member.ordinal.and_then(|ordinal| view.volumes.get(&ordinal));
        let mut told: Vec<String> = member.message.take().into_iter().collect();
        if let (None, Some(why)) = (&member.pod, &view.pods_refused) {
            told.push(why.clone());
        }
        if let Some(claim) = claim.filter(|claim| claim.departing) {
            told.push(format!(
                "its volume claim {} is being deleted and goes when its pod ends; copy the volume before",
                claim.name
            ));
        }
        member.message = Some(told.join("; ")).filter(|message| !message.is_empty());
    }
    roll
}

fn of_chain(view: &View, genesis: &SignedGenesis) -> Roll {
    let roster = Roster::of_genesis(&genesis.genesis);
    let sightings = roster.validators.iter().filter_map(|validator| {
        Some((validator.id, sighting(view, validator.ordinal?, &validator.name)))
    });
    roll::call(&roster, &sightings.collect())
}

fn sighting(view: &View, ordinal: usize, name: &str) -> Sighting {
    let answer = match view.reports.get(&ordinal) {
        Some(Report::Status(status)) => Some(Answer::Account(Box::new(account(status)))),
        Some(Report::Silent(why)) => Some(Answer::Silent(why.clone())),
        Some(Report::NotServing(why)) => Some(Answer::NotServing(why.clone())),
        Some(Report::Refused(why)) => Some(Answer::Refused(why.clone())),
        Some(Report::Attested(_)) | None => None,
    };
    let status = &view.cluster.status;
    let before = status.members.iter().find(|member| member.name == name);
    let absent_since = before.and_then(|member| member.absent_since.as_ref());
    Sighting {
        pod: view.pods.get(&ordinal).map(|pod| facts(view, pod)),
        answer,
        absent_since_ms: absent_since.and_then(|time| u64::try_from(time.0.as_millisecond()).ok()),
        was_suspected: status.suspected.iter().any(|suspect| suspect == name),
    }
}

fn facts(view: &View, pod: &Pod) -> PodFacts {
    PodFacts {
        running: pod.running,
        ready: pod.ready,
        leaving: pod.leaving,
        leaving_ms: pod.leaving_ms,
        trouble: pod.trouble.clone(),
        newest: view.revision().is_some_and(|newest| pod.revision.as_deref() == Some(newest)),
        made_ms: pod.made_ms,
        ready_since_ms: pod.ready_since_ms,
        restarts: pod.restarts,
    }
}

fn account(status: &NodeStatus) -> Account {
    let heard = status.peers.iter().map(|peer| Heard {
        name: peer.name.clone(),
        connected: peer.connected,
        sequence: peer.sequence,
        ago_ms: peer.last_seen_ms,
    });
    let recent = status.recent.iter().map(|record| (record.sequence, record.chain_hash.clone()));
    Account {
        role: match status.role {
            Role::Waiting => account::Role::Waiting,
            Role::Learner => account::Role::Learner,
            Role::Checking => account::Role::Checking,
            Role::Validator => account::Role::Validator,
            Role::Stale => account::Role::Stale,
        },
        chain: status.chain_id.clone(),
        epoch: status.epoch,
        view: status.view,
        leader: status.leader.clone(),
        sequence: status.sequence,
        chain_hash: status.chain_hash.clone(),
        recent: recent.collect(),
        suspected: status.suspected.clone(),
        hears: heard.collect(),
        ready: status.ready,
        waits_for: status.waiting_for.clone(),
        version: status.version.clone(),
    }
}

fn unborn(view: &View) -> Roll {
    let members = (0..).map(NodeId).zip(0..view.cluster.replicas).map(|(id, ordinal)| {
        let name = view.cluster.names.pod(ordinal);
        let seen = sighting(view, ordinal, &name);
        let (standing, message) = match view.reports.get(&ordinal) {
            Some(Report::Attested(_)) => {
                (Standing::Waiting, Some("attested, waits for the genesis".to_string()))
            }
            Some(Report::Status(_)) => (Standing::Waiting, None),
            Some(Report::Refused(why)) => (Standing::Foreign, Some(why.clone())),
            _ => roll::without_account(seen.pod.as_ref(), seen.answer.as_ref()),
        };
        let attested = match view.reports.get(&ordinal) {
            Some(Report::Attested(attested)) => Some(attested),
            _ => None,
        };
        Member {
            id,
            ordinal: Some(ordinal),
            name,
            fingerprint: attested.map(|attested| attested.key.fingerprint().to_string()),
            standing,
            message,
            account: None,
            version: attested.map(|attested| attested.version.clone()),
            suspected: false,
            heard: false,
            pod: seen.pod,
            absent_since_ms: seen.absent_since_ms,
        }
    });
    Roll {
        members: members.collect(),
        agreement: Agreement::default(),
        quorum: view.cluster.quorum(),
    }
}
