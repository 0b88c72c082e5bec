//! Whether a member may be taken away now. Everything that takes one away asks here.
//!
//! - Before birth there is no chain to disturb, and every pod is free.
//! - A member that surely casts no vote is free.
//! - A member that contradicts the others, or holds another key, is evidence: never. Nor is any
//!   member of a divided chain, because nothing is known about it.
//! - Any other member may vote, even if it is cut off, behind or out of our reach. It may go if the
//!   others that surely vote, are trusted and have done so for a while are a quorum without it. So
//!   absent and suspected members count against what the chain tolerates.
//! - While a template is being rolled out, a member that got it has to take part for a while before
//!   the next one goes. So a bad template costs one member.
//! - A chain that tolerates no absent member pauses while one restarts, so one goes at a time, when
//!   all others take part.
//! - A person may accept the risk: then one goes at a time although too few stay, or although the
//!   newest template has not proven itself.

use crate::{
    planted,
    roll::{Member, Roll, Standing, described},
};
use cretoai_types::NodeId;

/// A member has to be ready for so long before it counts.
pub const LEAST_MS: u64 = 30_000;
/// And for so long if its container was started again since its pod was made.
pub const LEAST_AFTER_RESTART_MS: u64 = 600_000;
/// A member that does not take part for so long after its pod was made is not about to return.
pub const RETURN_LIMIT_MS: u64 = 600_000;
/// A member that did not take part for so long before its pod was made was absent before. Far above
/// the time that a pod takes to end.
const ABSENT_BEFORE_MS: u64 = 120_000;

/// How a member may be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// It casts no vote: nothing is lost.
    Free,
    /// A quorum stays.
    QuorumStays,
    /// The chain tolerates no absent member, and pauses until it is back.
    Pauses,
    /// A person accepts that the chain pauses.
    Accepted,
}

/// Why a member may not be taken away now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Nothing is known about a divided chain.
    #[error(
        "validators contradict each other at sequence {0}: no pod is replaced; stop the clients and compare the nodes' records"
    )]
    Divided(u64),
    /// Too few agree on any record.
    #[error("{0} nodes answer and too few of them report one chain hash; looks again")]
    NotAgreed(usize),
    /// It is evidence.
    #[error("{0} is kept as evidence and never replaced; look at its volume, host and image first")]
    Evidence(String),
    /// The one before is on its way back.
    #[error("waits until {name} has taken part for {} s ({why})", LEAST_MS / 1000)]
    Returning {
        /// Its name.
        name: String,
        /// Where it is now.
        why: String,
    },
    /// The one before does not come back, or not for long.
    #[error(
        "{name} runs the newest template and does not take part ({why}); no other pod is replaced until it does: correct the spec, set it back to what ran before, or, if the template is not at fault, set the annotation {ACCEPT_DISRUPTION} of the CretoCluster to its metadata.generation"
    )]
    Stalled {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Too few would stay.
    #[error(
        "{name} may vote, and without it {stay} trusted validators take part of the {needed} that a decision needs; not counted: {missing}; bring them back, or accept that nothing becomes final until {name} is back, and not at all if it stays away: set the annotation {ACCEPT_DISRUPTION} of the CretoCluster to its metadata.generation"
    )]
    TooFewStay {
        /// Its name.
        name: String,
        /// How many would stay.
        stay: usize,
        /// How many are needed.
        needed: usize,
        /// The others, each with the reason.
        missing: String,
    },
}

/// The annotation by which a person accepts that the chain pauses, for one generation of the spec.
pub const ACCEPT_DISRUPTION: &str = "cretoai.io/accept-disruption";

impl Denial {
    /// Whether only a person, or the return of absent members, lets it go on.
    #[must_use]
    pub const fn blocks(&self) -> bool {
        matches!(self, Self::Divided(_) | Self::Evidence(_) | Self::TooFewStay { .. })
    }

    /// Whether the newest template is at fault, as far as can be seen.
    #[must_use]
    pub const fn stalls(&self) -> bool {
        matches!(self, Self::Stalled { .. })
    }
}

/// What may be disturbed now.
#[derive(Clone, Copy, Debug)]
pub struct Budget<'a> {
    /// How each member stands.
    pub roll: &'a Roll,
    /// Whether there is a chain to disturb.
    pub born: bool,
    /// The time, in Unix milliseconds.
    pub now_ms: u64,
    /// The newest sequence that was agreed on before this look.
    pub known_head: u64,
    /// Whether a person accepts that the chain pauses.
    pub accepted: bool,
}

impl Budget<'_> {
    /// Whether the member may be taken away now.
    ///
    /// # Errors
    /// Why not.
    pub fn allows(&self, id: NodeId) -> Result<Allowance, Denial> {
        let Some(target) = self.roll.member(id) else { return Ok(Allowance::Free) };
        if !self.born {
            return Ok(Allowance::Free);
        }
        if let Some(sequence) =
            self.roll.agreement.divided_at.filter(|_| !planted!(DividedIsRolled))
        {
            return Err(Denial::Divided(sequence));
        }
        if target.standing.cannot_vote() {
            return Ok(Allowance::Free);
        }
        let answers = self.roll.members.iter().filter(|member| member.account.is_some()).count();
        let agreed = self.roll.agreement.head.is_some() || planted!(DividedIsRolled);
        if !agreed && answers >= self.roll.quorum.w {
            return Err(Denial::NotAgreed(answers));
        }
        if matches!(target.standing, Standing::Foreign | Standing::Dissenting) {
            return Err(Denial::Evidence(described(target)));
        }
        let others = || self.roll.members.iter().filter(|member| member.id != id);
        if let Some(member) =
            others().find(|member| self.is_going(member)).filter(|_| !planted!(GoingIgnored))
        {
            return Err(returning(member));
        }
        self.newest_template_holds(others())?;
        if planted!(AbsentBlocks) && others().any(|member| !self.counts(member)) {
            return Err(self.too_few(target, 0));
        }
        let stay = others().filter(|member| self.counts(member)).count();
        let quorum = self.roll.quorum;
        if stay + usize::from(planted!(OneTooFew)) >= quorum.q {
            return Ok(Allowance::QuorumStays);
        }
        let answers = matches!(target.standing, Standing::Participating | Standing::CatchingUp);
        if quorum.f == 0 && answers && stay == quorum.n.saturating_sub(1) {
            return Ok(Allowance::Pauses);
        }
        // One that votes and does not count yet is about to.
        if let Some(member) =
            others().find(|member| member.votes() && !member.suspected && !self.is_settled(member))
        {
            return Err(returning(member));
        }
        if self.accepted {
            return match others().find(|member| self.is_returning(member)) {
                None => Ok(Allowance::Accepted),
                Some(member) => Err(returning(member)),
            };
        }
        Err(self.too_few(target, stay))
    }

    /// Whether the members that run the newest template take part, so that the next one may get it.
    fn newest_template_holds<'a>(
        &self,
        others: impl Iterator<Item = &'a Member> + Clone,
    ) -> Result<(), Denial> {
        let newest = || others.clone().filter(|member| is_newest(member));
        let proven = newest().any(|member| self.is_settled(member)) || planted!(UnprovenGoesOn);
        for member in newest().filter(|member| !self.is_settled(member)) {
            let answers_otherwise = matches!(
                member.standing,
                Standing::Stale | Standing::Foreign | Standing::Dissenting
            );
            // What is wrong with these is not the template.
            if answers_otherwise || self.was_absent_before(member) {
                continue;
            }
            let young = self.is_returning(member);
            let restarted = member.pod.as_ref().is_some_and(|pod| pod.restarts > 0);
            if restarted && !planted!(RestartsIgnored) {
                if !proven || young {
                    return Err(stalled(member));
                }
            } else if young && !planted!(UnprovenGoesOn) {
                if planted!(NoMinimumTime) && member.votes() {
                    continue;
                }
                return Err(returning(member));
            } else if !proven && !self.accepted {
                return Err(stalled(member));
            }
        }
        Ok(())
    }

    /// Whether a member counts towards the quorum that stays.
    fn counts(&self, member: &Member) -> bool {
        (!member.suspected || planted!(SuspectCounts)) && self.is_settled(member)
    }

    /// Whether a member has taken part for long enough.
    #[must_use]
    pub fn is_settled(&self, member: &Member) -> bool {
        let Some(pod) = &member.pod else { return false };
        let least = if pod.restarts > 0 && !planted!(RestartsIgnored) {
            LEAST_AFTER_RESTART_MS
        } else if planted!(NoMinimumTime) {
            0
        } else {
            LEAST_MS
        };
        let long_enough = pod.ready
            && pod.ready_since_ms.is_some_and(|since| self.now_ms.saturating_sub(since) >= least);
        let executed = member.account.as_ref().is_some_and(|account| {
            account.sequence.saturating_add(crate::roll::MAX_LAG) >= self.known_head
        });
        member.votes() && (long_enough || planted!(UnreadyCounts)) && executed
    }

    /// Whether a member is about to take part again: its pod goes or was made a short while ago, and
    /// it has not taken part for long enough.
    #[must_use]
    pub fn is_returning(&self, member: &Member) -> bool {
        match &member.pod {
            Some(pod) if !pod.leaving => self.is_recent(pod.made_ms) && !self.is_settled(member),
            _ => self.is_going(member),
        }
    }

    /// Whether a member's pod is being deleted, or not there yet, and was so for no longer than a
    /// pod takes. On a dead host a pod never goes.
    fn is_going(&self, member: &Member) -> bool {
        match &member.pod {
            Some(pod) => {
                pod.leaving && pod.leaving_ms.is_none_or(|time| self.is_recent(Some(time)))
            }
            None => member.absent_since_ms.is_none_or(|time| self.is_recent(Some(time))),
        }
    }

    fn is_recent(&self, time: Option<u64>) -> bool {
        time.is_some_and(|time| self.now_ms.saturating_sub(time) < RETURN_LIMIT_MS)
    }

    /// Whether a member that does not answer took no part for a while before its pod was made, so
    /// that the template is not why it is absent.
    fn was_absent_before(&self, member: &Member) -> bool {
        let made = member.pod.as_ref().and_then(|pod| pod.made_ms);
        let times = member.absent_since_ms.zip(made);
        let absent =
            times.is_some_and(|(since, made)| since.saturating_add(ABSENT_BEFORE_MS) < made);
        member.account.is_none() && absent
    }

    fn too_few(&self, target: &Member, stay: usize) -> Denial {
        let missing: Vec<String> = self
            .roll
            .members
            .iter()
            .filter(|member| member.id != target.id && !self.counts(member))
            .map(|member| match member.standing {
                Standing::Participating if member.suspected => {
                    format!("{} (suspected)", member.name)
                }
                Standing::Participating => format!("{} (only just returned)", member.name),
                _ => described(member),
            })
            .collect();
        Denial::TooFewStay {
            name: target.name.clone(),
            stay,
            needed: self.roll.quorum.q,
            missing: if missing.is_empty() { "none".to_string() } else { missing.join(", ") },
        }
    }
}

/// Whether a member's pod was made from the newest template.
pub(crate) fn is_newest(member: &Member) -> bool {
    member.pod.as_ref().is_some_and(|pod| pod.newest)
}

fn returning(member: &Member) -> Denial {
    Denial::Returning { name: member.name.clone(), why: state(member) }
}

fn stalled(member: &Member) -> Denial {
    Denial::Stalled { name: member.name.clone(), why: state(member) }
}

fn state(member: &Member) -> String {
    let restarts = member.pod.as_ref().map_or(0, |pod| pod.restarts);
    let times = match restarts {
        0 => String::new(),
        1 => "; its container was started again once".to_string(),
        more => format!("; its container was started again {more} times"),
    };
    let message = member.message.as_deref().unwrap_or(match member.standing {
        Standing::Participating => "it takes part",
        _ => "no reason given",
    });
    format!("{}: {message}{times}", member.standing.as_str())
}
