//! How each member stands: the roll call of one look, from accounts and pods.
//!
//! A node is believed about itself only as far as its own standing, and only against its interest:
//! that it takes part is confirmed by the members that hear it.

use crate::{
    account::{Account, Answer, PodFacts, Role, Sighting},
    agree::{self, Agreement},
    planted,
    roster::{Roster, Validator},
};
use cretoai_types::{NodeId, Quorum};
use std::collections::BTreeMap;

/// A validator that is further behind than this does not vote now. As many records as a node
/// reports.
pub(crate) const MAX_LAG: u64 = 64;
/// Accounts of one look are up to two seconds apart, and hundreds of decisions fit between them: a
/// node that claims to be caught up is contradicted only beyond this.
const MAX_SKEW: u64 = 4096;
/// A peer that was not heard for so long is not heard, as the nodes count it.
const HEARD_WITHIN_MS: u64 = 1_000;

/// How a validator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It votes on the newest records.
    Participating,
    /// It is a validator that is behind: it may vote again at any moment.
    CatchingUp,
    /// It asks the others what it signed before it was started again, and does not vote yet.
    Checking,
    /// It answers us, but its peers do not hear it or it does not hear them.
    Isolated,
    /// It follows without a vote.
    Learner,
    /// It has no genesis yet.
    Waiting,
    /// Its pod does not run.
    Down,
    /// Its pod runs and refuses connections: the process does not serve.
    NotServing,
    /// Its container runs, but is not ready and does not answer us: it starts, or hangs.
    Silent,
    /// Its pod is ready, but does not answer us.
    Unreachable,
    /// It has another key or chain than the roster says.
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
            Self::CatchingUp | Self::Checking => "CatchingUp",
            Self::Isolated => "Isolated",
            Self::Learner => "Learner",
            Self::Waiting => "Waiting",
            Self::Down => "Down",
            Self::NotServing | Self::Silent => "Silent",
            Self::Unreachable => "Unreachable",
            Self::Foreign => "Foreign",
            Self::Stale => "Stale",
            Self::Dissenting => "Dissenting",
        }
    }

    /// Whether a member of this standing surely casts no vote now.
    #[must_use]
    pub fn cannot_vote(self) -> bool {
        match self {
            Self::Down | Self::Waiting | Self::Learner | Self::Checking | Self::Stale => true,
            Self::NotServing => !planted!(NotServingBlocks),
            Self::CatchingUp => planted!(LaggingIsFree),
            Self::Unreachable => planted!(UnreachableIsFree),
            Self::Dissenting => planted!(DissentingIsFree),
            Self::Participating | Self::Isolated | Self::Silent | Self::Foreign => false,
        }
    }
}

/// A validator, or the pod that is to become one.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its id on the chain; before birth, the id that it will have.
    pub id: NodeId,
    /// The ordinal of its pod.
    pub ordinal: Option<usize>,
    /// Its name, which is that of its pod.
    pub name: String,
    /// Fingerprint of the key that the roster names for it, or that it attested.
    pub fingerprint: Option<String>,
    /// How it stands.
    pub standing: Standing,
    /// What it waits for, or what is wrong.
    pub message: Option<String>,
    /// Its account.
    pub account: Option<Account>,
    /// Its version.
    pub version: Option<String>,
    /// Whether the chain holds proof of violations of it, as `w` nodes said last.
    pub suspected: bool,
    /// Whether as many members hear it as prove that it is connected.
    pub heard: bool,
    /// Its pod.
    pub pod: Option<PodFacts>,
    /// Since when it surely casts no vote, as the look before this one knew, in Unix milliseconds.
    pub absent_since_ms: Option<u64>,
}

impl Member {
    /// Whether it surely votes, on its own word and that of the members that hear it.
    #[must_use]
    pub fn votes(&self) -> bool {
        let says = self.account.as_ref().is_some_and(|account| account.ready);
        self.standing == Standing::Participating
            && (says || planted!(UnreadyCounts))
            && (self.heard || planted!(IsolatedCounts))
    }
}

/// All validators.
#[derive(Clone, Debug, PartialEq)]
pub struct Roll {
    /// In the order of their ids.
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

    /// How many say that they hear a quorum and have caught up.
    #[must_use]
    pub fn ready(&self) -> usize {
        let ready = |member: &&Member| member.account.as_ref().is_some_and(|account| account.ready);
        self.members.iter().filter(ready).count()
    }

    /// The member of this id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// The member whose pod has this ordinal.
    #[must_use]
    pub fn at(&self, ordinal: usize) -> Option<&Member> {
        self.members.iter().find(|member| member.ordinal == Some(ordinal))
    }

    /// The names of the members whose chain hash contradicts `w` others.
    #[must_use]
    pub fn dissenters(&self) -> Vec<&str> {
        let dissents = |member: &&Member| self.agreement.dissenters.contains(&member.id);
        self.members.iter().filter(dissents).map(|member| member.name.as_str()).collect()
    }

    /// The members that do not take part, each with the reason.
    #[must_use]
    pub fn absent(&self) -> Vec<String> {
        let absent =
            self.members.iter().filter(|member| member.standing != Standing::Participating);
        absent.map(described).collect()
    }
}

/// A member, its standing and the reason in one phrase.
pub(crate) fn described(member: &Member) -> String {
    let why = member.message.as_deref().unwrap_or_default();
    let colon = if why.is_empty() { "" } else { ": " };
    format!("{} ({}{colon}{why})", member.name, member.standing.as_str())
}

/// Calls the roll of a chain.
#[must_use]
pub fn call(roster: &Roster, sightings: &BTreeMap<NodeId, Sighting>) -> Roll {
    let none = Sighting::default();
    let seen = |id: NodeId| sightings.get(&id).unwrap_or(&none);
    let chain = roster.chain.to_string();
    let quorum = roster.quorum;
    let accounts: BTreeMap<NodeId, &Account> = roster
        .validators
        .iter()
        .filter_map(|validator| match &seen(validator.id).answer {
            Some(Answer::Account(account))
                if account.role == Role::Validator
                    && account.chain.as_deref() == Some(chain.as_str()) =>
            {
                Some((validator.id, account.as_ref()))
            }
            _ => None,
        })
        .collect();
    let agreement = agree::agree(&accounts, quorum.w);
    let judge = Judge { roster, chain: &chain, accounts: &accounts, agreement: &agreement };
    let members = roster.validators.iter().map(|validator| {
        let sighting = seen(validator.id);
        let account = match &sighting.answer {
            Some(Answer::Account(account)) => Some(account.as_ref().clone()),
            _ => None,
        };
        let leaving = sighting.pod.as_ref().is_some_and(|pod| pod.leaving);
        let (standing, message) = match (&account, &sighting.answer) {
            // It may answer until its process ends, but nobody may count on it any more.
            (Some(_), _) if leaving => without_account(sighting.pod.as_ref(), None),
            (Some(account), _) => judge.standing(validator, account),
            (None, Some(Answer::Refused(why))) => (Standing::Foreign, Some(why.clone())),
            (None, answer) => without_account(sighting.pod.as_ref(), answer.as_ref()),
        };
        let told = agree::suspects(&accounts, quorum.w, &validator.name)
            .filter(|_| agreement.divided_at.is_none());
        Member {
            id: validator.id,
            ordinal: validator.ordinal,
            name: validator.name.clone(),
            fingerprint: Some(validator.key.fingerprint().to_string()),
            standing,
            message,
            version: account.as_ref().map(|account| account.version.clone()),
            suspected: told.unwrap_or(sighting.was_suspected),
            heard: judge.hearing(validator).0 >= judge.needed(),
            account,
            pod: sighting.pod.clone(),
            absent_since_ms: sighting.absent_since_ms,
        }
    });
    Roll { members: members.collect(), agreement: agreement.clone(), quorum }
}

/// What the accounts of one look say about each other.
struct Judge<'a> {
    roster: &'a Roster,
    chain: &'a str,
    accounts: &'a BTreeMap<NodeId, &'a Account>,
    agreement: &'a Agreement,
}

impl Judge<'_> {
    /// How many others have to hear a member: `w`, of which one is honest.
    fn needed(&self) -> usize {
        self.roster.quorum.w.min(self.roster.quorum.n.saturating_sub(1))
    }

    /// How many others hear the member, and how many say that they do not.
    fn hearing(&self, of: &Validator) -> (usize, usize) {
        let others = self.accounts.iter().filter(|(id, _)| **id != of.id);
        let hears = |account: &Account| {
            account.hears.iter().any(|heard| {
                heard.name == of.name
                    && heard.connected
                    && heard.ago_ms.is_some_and(|ago| ago <= HEARD_WITHIN_MS)
            })
        };
        others.fold(
            (0, 0),
            |(yes, no), (_, account)| {
                if hears(account) { (yes + 1, no) } else { (yes, no + 1) }
            },
        )
    }

    /// How far a validator is behind what it hears itself, at one moment.
    fn lag(&self, account: &Account) -> u64 {
        let mut heard: Vec<u64> = account.hears.iter().map(|heard| heard.sequence).collect();
        heard.sort_unstable_by(|left, right| right.cmp(left));
        let own = heard.get(self.needed().saturating_sub(1)).copied().unwrap_or_default();
        own.saturating_sub(account.sequence)
    }

    fn standing(&self, of: &Validator, account: &Account) -> (Standing, Option<String>) {
        let says = || Some(account.waits_for.clone()).filter(|text| !text.is_empty());
        let chain = account.chain.as_deref();
        if self.agreement.dissenters.contains(&of.id) {
            let message = format!(
                "its chain hash at sequence {} or before is not the one that {} others report; keep its volume as evidence",
                account.sequence, self.roster.quorum.w
            );
            return (Standing::Dissenting, Some(message));
        }
        if let Some(held) = chain.filter(|held| *held != self.chain) {
            let message = format!("its volume holds chain {held}, not {}", self.chain);
            return (Standing::Foreign, Some(message));
        }
        match account.role {
            Role::Waiting => return (Standing::Waiting, says()),
            Role::Learner => return (Standing::Learner, says()),
            Role::Checking => return (Standing::Checking, says()),
            Role::Stale => return (Standing::Stale, says()),
            Role::Validator => {}
        }
        let head = self.agreement.head.as_ref().map_or(0, |head| head.sequence);
        if self.lag(account) > MAX_LAG || account.sequence.saturating_add(MAX_SKEW) < head {
            return (Standing::CatchingUp, says());
        }
        let (heard, deaf) = self.hearing(of);
        let others = self.roster.quorum.n.saturating_sub(1);
        // Members that do not answer us may hear it: only what the answers prove counts.
        if others.saturating_sub(deaf) < self.needed() && !planted!(IsolatedCounts) {
            let message = format!(
                "{heard} of {others} other validators hear it, {} are needed; is its network cut off from its peers?",
                self.needed()
            );
            return (Standing::Isolated, Some(message));
        }
        let quorum_elsewhere =
            self.accounts.iter().filter(|(id, account)| **id != of.id && account.ready).count()
                >= self.roster.quorum.w;
        if !account.ready && quorum_elsewhere && !planted!(UnreadyCounts) {
            return (Standing::Isolated, says());
        }
        (Standing::Participating, says().filter(|_| !account.ready))
    }
}

/// A pod without an account: does it run, and we do not reach it, or does it not?
#[must_use]
pub fn without_account(
    pod: Option<&PodFacts>,
    answer: Option<&Answer>,
) -> (Standing, Option<String>) {
    let no_address = || Some("it has no address yet".to_string());
    let silence = match answer {
        Some(Answer::Silent(why) | Answer::NotServing(why)) => Some(why.clone()),
        _ => None,
    };
    match (pod, answer) {
        (None, _) => (Standing::Down, Some("its pod does not exist yet".to_string())),
        (Some(pod), _) if pod.leaving => {
            (Standing::Down, Some("its pod is being deleted".to_string()))
        }
        (Some(PodFacts { trouble: Some(trouble), .. }), _) => {
            (Standing::Down, Some(trouble.clone()))
        }
        // Some networks refuse connections that a policy forbids, so the kubelet has to agree.
        (Some(pod), Some(Answer::NotServing(_))) if pod.running && !pod.ready => {
            (Standing::NotServing, silence)
        }
        (Some(pod), _) if pod.ready => (Standing::Unreachable, silence.or_else(no_address)),
        (Some(pod), _) if pod.running => (Standing::Silent, silence.or_else(no_address)),
        (Some(_), _) => (Standing::Down, Some("its container does not run yet".to_string())),
    }
}
