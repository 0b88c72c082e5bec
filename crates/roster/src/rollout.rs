//! Which member is taken away next, so that its pod is made anew from the newest template.

use crate::{
    budget::{Allowance, Budget, Denial},
    planted,
    roll::{Member, Standing},
};
use cretoai_types::NodeId;

/// The next of `outdated` to replace: one that is free first, then a suspected one, the leader
/// last, so that it changes once.
///
/// # Errors
/// Why none may go now.
pub fn next(
    budget: &Budget<'_>,
    outdated: &[NodeId],
) -> Result<Option<(NodeId, Allowance)>, Denial> {
    let term = budget.roll.agreement.term.as_ref();
    let leader = term.and_then(|term| term.leader.as_deref());
    let mut candidates: Vec<&Member> = outdated
        .iter()
        .filter_map(|id| budget.roll.member(*id))
        .filter(|member| stays(member))
        .collect();
    candidates.sort_by_key(|member| {
        let leads = leader == Some(member.name.as_str());
        (rank(member), leads, std::cmp::Reverse(member.id))
    });
    let mut denial = None;
    for member in candidates {
        match budget.allows(member.id) {
            Ok(allowance) => return Ok(Some((member.id, allowance))),
            Err(why) => denial = denial.or(Some(why)),
        }
    }
    denial.map_or(Ok(None), Err)
}

/// Whether its pod is there and nobody ends it yet.
fn stays(member: &Member) -> bool {
    member.pod.as_ref().is_some_and(|pod| !pod.leaving)
}

/// Free ones first, those that may not be touched last.
fn rank(member: &Member) -> u8 {
    match member.standing {
        Standing::Foreign | Standing::Dissenting => 3,
        standing if standing.cannot_vote() => 0,
        _ if member.suspected => {
            if planted!(SuspectLast) {
                4
            } else {
                1
            }
        }
        _ => 2,
    }
}
