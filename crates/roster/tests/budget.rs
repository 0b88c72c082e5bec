//! Each rule of the budget on its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cretoai_roster::{
    account::{Account, Answer, Heard, PodFacts, Role, Sighting},
    budget::{Allowance, Budget, Denial, LEAST_AFTER_RESTART_MS, LEAST_MS, RETURN_LIMIT_MS},
    roll::{self, Roll, Standing},
    rollout,
    roster::{Roster, Validator},
};
use cretoai_types::{FaultModel, Hash, NodeId, PublicKey, Quorum};
use std::collections::BTreeMap;

const NOW: u64 = 10_000_000;

/// A chain whose members all take part for long, on pods of an older template.
struct Chain {
    roster: Roster,
    sightings: BTreeMap<NodeId, Sighting>,
    now: u64,
    known_head: u64,
    accepted: bool,
}

fn id(ordinal: usize) -> NodeId {
    NodeId(u32::try_from(ordinal).unwrap() + 20)
}

impl Chain {
    fn of(n: usize) -> Self {
        let validators = (0..n).map(|ordinal| Validator {
            id: id(ordinal),
            name: format!("prod-{ordinal}"),
            key: PublicKey::from_slice(&[7; 2592]).unwrap(),
            ordinal: Some(ordinal),
        });
        let roster = Roster {
            chain: Hash::of_bytes(b"chain"),
            validators: validators.collect(),
            quorum: Quorum::new(n, FaultModel::Byzantine),
        };
        let account = |own: usize| Account {
            role: Role::Validator,
            chain: Some(roster.chain.to_string()),
            epoch: 0,
            view: 0,
            leader: Some("prod-0".into()),
            sequence: 1_000,
            chain_hash: "h-1000".into(),
            recent: vec![(999, "h-999".into()), (1_000, "h-1000".into())],
            suspected: Vec::new(),
            hears: (0..n)
                .filter(|other| *other != own)
                .map(|other| Heard {
                    name: format!("prod-{other}"),
                    connected: true,
                    sequence: 1_000,
                    ago_ms: Some(100),
                })
                .collect(),
            ready: true,
            waits_for: String::new(),
            version: "1".into(),
        };
        let sighting = |own: usize| Sighting {
            pod: Some(PodFacts {
                running: true,
                ready: true,
                made_ms: Some(0),
                ready_since_ms: Some(1_000),
                ..PodFacts::default()
            }),
            answer: Some(Answer::Account(Box::new(account(own)))),
            ..Sighting::default()
        };
        let sightings = (0..n).map(|own| (id(own), sighting(own))).collect();
        Self { sightings, roster, now: NOW, known_head: 1_000, accepted: false }
    }

    fn account(&mut self, ordinal: usize) -> &mut Account {
        match &mut self.sightings.get_mut(&id(ordinal)).unwrap().answer {
            Some(Answer::Account(account)) => account,
            other => panic!("{other:?}"),
        }
    }

    fn pod(&mut self, ordinal: usize) -> &mut PodFacts {
        self.sightings.get_mut(&id(ordinal)).unwrap().pod.as_mut().unwrap()
    }

    fn answers(&mut self, ordinal: usize, answer: Option<Answer>) {
        self.sightings.get_mut(&id(ordinal)).unwrap().answer = answer;
    }

    fn down(&mut self, ordinal: usize) {
        self.answers(ordinal, None);
        let made_ms = self.pod(ordinal).made_ms;
        *self.pod(ordinal) = PodFacts { made_ms, ..PodFacts::default() };
    }

    /// Cuts the member off from its peers, and not from us.
    fn isolate(&mut self, ordinal: usize) {
        let name = format!("prod-{ordinal}");
        for own in 0..self.roster.validators.len() {
            for heard in &mut self.account(own).hears {
                if own == ordinal || heard.name == name {
                    heard.ago_ms = Some(5_000);
                }
            }
        }
    }

    fn suspect(&mut self, ordinal: usize) {
        for own in 0..self.roster.validators.len() {
            self.account(own).suspected.push(format!("prod-{ordinal}"));
        }
    }

    fn roll(&self) -> Roll {
        roll::call(&self.roster, &self.sightings)
    }

    fn standing(&self, ordinal: usize) -> Standing {
        self.roll().at(ordinal).unwrap().standing
    }

    fn allows(&self, ordinal: usize) -> Result<Allowance, Denial> {
        let roll = self.roll();
        self.budget(&roll).allows(id(ordinal))
    }

    fn budget<'a>(&self, roll: &'a Roll) -> Budget<'a> {
        Budget {
            roll,
            born: true,
            now_ms: self.now,
            known_head: self.known_head,
            accepted: self.accepted,
        }
    }

    fn next(&self, outdated: &[usize]) -> Option<NodeId> {
        let roll = self.roll();
        let ids: Vec<NodeId> = outdated.iter().map(|ordinal| id(*ordinal)).collect();
        rollout::next(&self.budget(&roll), &ids).ok().flatten().map(|(id, _)| id)
    }
}

#[test]
fn one_of_four_may_go_and_none_of_three_while_one_is_absent() {
    assert_eq!(Chain::of(4).allows(2), Ok(Allowance::QuorumStays));
    let mut chain = Chain::of(4);
    chain.down(0);
    assert!(matches!(chain.allows(2), Err(Denial::TooFewStay { stay: 2, needed: 3, .. })));
    assert_eq!(Chain::of(3).allows(2), Ok(Allowance::Pauses));
    let mut chain = Chain::of(3);
    chain.down(0);
    assert!(chain.allows(2).is_err());
    assert_eq!(Chain::of(1).allows(0), Ok(Allowance::Pauses));
}

/// 2.2: the operator reaches it, and its peers do not.
#[test]
fn an_isolated_member_is_neither_counted_nor_free() {
    let mut chain = Chain::of(4);
    chain.isolate(1);
    assert_eq!(chain.standing(1), Standing::Isolated);
    assert!(matches!(chain.allows(3), Err(Denial::TooFewStay { stay: 2, .. })));
    assert_eq!(chain.allows(1), Ok(Allowance::QuorumStays));

    let mut chain = Chain::of(4);
    chain.account(1).ready = false;
    assert_eq!(chain.standing(1), Standing::Isolated, "the others are ready");
    assert!(chain.allows(3).is_err());
    chain.down(0);
    assert!(chain.allows(1).is_err(), "it may vote: it is not free");
}

/// 2.3: two answers of one look are up to two seconds apart.
#[test]
fn a_validator_is_never_free_because_of_lag() {
    let mut chain = Chain::of(4);
    for ordinal in 0..3 {
        let account = chain.account(ordinal);
        (account.sequence, account.chain_hash) = (1_300, "h-1300".into());
    }
    assert_eq!(chain.standing(3), Standing::Participating, "it is caught up in its own words");
    for heard in &mut chain.account(3).hears {
        heard.sequence = 1_300;
    }
    assert_eq!(chain.standing(3), Standing::CatchingUp);
    chain.down(0);
    assert!(matches!(chain.allows(3), Err(Denial::TooFewStay { .. })));

    let mut liar = Chain::of(4);
    for ordinal in 0..3 {
        let account = liar.account(ordinal);
        (account.sequence, account.chain_hash) = (9_000, "h-9000".into());
    }
    assert_eq!(liar.standing(3), Standing::CatchingUp, "its own words count only so far");
}

/// 2.4 and trial 15: seven, and one is dead for good.
#[test]
fn absent_members_count_against_what_the_chain_tolerates_and_no_more() {
    let mut chain = Chain::of(7);
    chain.down(5);
    assert_eq!(chain.allows(2), Ok(Allowance::QuorumStays));
    // The dead one got the newest template first, and proves nothing about it.
    chain.pod(5).newest = true;
    chain.pod(5).made_ms = Some(NOW - 10_000);
    assert!(chain.allows(2).is_err(), "as far as can be seen it was well before");
    chain.sightings.get_mut(&id(5)).unwrap().absent_since_ms = Some(NOW - 3_600_000);
    assert_eq!(chain.allows(2), Ok(Allowance::QuorumStays));
    chain.down(4);
    assert!(matches!(chain.allows(2), Err(Denial::TooFewStay { stay: 4, needed: 5, .. })));
}

/// 2.4: a person may say "do it anyway".
#[test]
fn an_accepted_disruption_takes_one_at_a_time() {
    let mut chain = Chain::of(4);
    chain.down(0);
    let Err(denial) = chain.allows(2) else { panic!() };
    let sentence = denial.to_string();
    assert!(sentence.contains("cretoai.io/accept-disruption"), "{sentence}");
    assert!(sentence.contains("prod-0 (Down") && sentence.contains("nothing becomes final"));
    chain.accepted = true;
    assert_eq!(chain.allows(2), Ok(Allowance::Accepted));
    chain.down(1);
    chain.pod(1).newest = true;
    chain.pod(1).made_ms = Some(NOW - 5_000);
    assert!(matches!(chain.allows(2), Err(Denial::Returning { .. })));
}

/// 2.6 and trial 5: an image that dies after 15 seconds.
#[test]
fn the_next_one_waits_until_the_last_one_took_part_for_long_enough() {
    let mut chain = Chain::of(7);
    let pod = chain.pod(6);
    (pod.newest, pod.made_ms, pod.ready_since_ms) = (true, Some(NOW - 20_000), Some(NOW - 10_000));
    assert!(matches!(chain.allows(5), Err(Denial::Returning { .. })));
    chain.now = NOW - 10_000 + LEAST_MS;
    assert_eq!(chain.allows(5), Ok(Allowance::QuorumStays));
    chain.pod(6).restarts = 1;
    let Err(denial) = chain.allows(5) else { panic!() };
    assert!(denial.stalls(), "{denial}");
    assert!(denial.to_string().contains("prod-6"), "{denial}");
    chain.now = NOW + LEAST_AFTER_RESTART_MS;
    assert_eq!(chain.allows(5), Ok(Allowance::QuorumStays));
    assert!(chain.allows(6).is_ok(), "the correction of the bad one is never blocked by itself");
}

/// 2.6: the newest sequence that was known before is behind the member.
#[test]
fn a_member_that_does_not_move_on_does_not_count() {
    let mut chain = Chain::of(4);
    chain.known_head = 1_064;
    assert_eq!(chain.allows(3), Ok(Allowance::QuorumStays));
    chain.known_head = 1_065;
    assert!(chain.allows(3).is_err());
}

#[test]
fn a_template_that_never_comes_up_stalls_the_rollout() {
    let mut chain = Chain::of(7);
    chain.down(6);
    let pod = chain.pod(6);
    (pod.newest, pod.made_ms, pod.trouble) =
        (true, Some(NOW - 20_000), Some("ImagePullBackOff".into()));
    assert!(matches!(chain.allows(5), Err(Denial::Returning { .. })));
    chain.now = NOW + RETURN_LIMIT_MS;
    let Err(denial) = chain.allows(5) else { panic!() };
    assert!(denial.stalls() && denial.to_string().contains("ImagePullBackOff"), "{denial}");
    assert_eq!(chain.allows(6), Ok(Allowance::Free));
}

/// 2.7: the attacker must not decide whether the chain goes on.
#[test]
fn a_suspected_member_goes_first_and_does_not_count() {
    let mut chain = Chain::of(4);
    chain.suspect(2);
    assert_eq!(chain.next(&[0, 1, 2, 3]), Some(id(2)));
    let Err(Denial::TooFewStay { stay: 2, missing, .. }) = chain.allows(3) else { panic!() };
    assert_eq!(missing, "prod-2 (suspected)");
    let mut seven = Chain::of(7);
    seven.suspect(2);
    assert_eq!(seven.allows(3), Ok(Allowance::QuorumStays));
}

/// 2.8: nothing is known about a chain that is divided.
#[test]
fn nobody_of_a_divided_chain_goes_and_no_evidence_either() {
    let mut chain = Chain::of(4);
    for ordinal in [0, 2] {
        let account = chain.account(ordinal);
        (account.chain_hash, account.recent) = ("x-1000".into(), Vec::new());
    }
    assert!(matches!(chain.allows(3), Err(Denial::Divided(1_000))));
    chain.accepted = true;
    assert!(chain.allows(3).is_err());

    let mut chain = Chain::of(4);
    let account = chain.account(1);
    (account.chain_hash, account.recent) = ("x-1000".into(), Vec::new());
    chain.accepted = true;
    assert!(matches!(chain.allows(1), Err(Denial::Evidence(_))));
    let mut chain = Chain::of(4);
    chain.answers(1, Some(Answer::Refused("another key".into())));
    assert!(matches!(chain.allows(1), Err(Denial::Evidence(_))));
}

/// 2.9 and trial 16: one node, and an image that serves nothing.
#[test]
fn a_pod_that_refuses_connections_is_free_unless_the_kubelet_calls_it_ready() {
    let mut chain = Chain::of(1);
    chain.answers(0, Some(Answer::NotServing("connection refused".into())));
    chain.pod(0).ready = false;
    assert_eq!(chain.allows(0), Ok(Allowance::Free));
    chain.pod(0).ready = true;
    assert_eq!(chain.standing(0), Standing::Unreachable, "a policy may refuse our connection");
    assert!(chain.allows(0).is_err());
    chain.answers(0, Some(Answer::Silent("no answer within 2 s".into())));
    chain.pod(0).ready = false;
    assert!(chain.allows(0).is_err(), "it may vote");
}

#[test]
fn the_leader_goes_last_and_an_absent_one_first() {
    let mut chain = Chain::of(4);
    assert_eq!(chain.next(&[0, 1]), Some(id(1)));
    chain.down(0);
    assert_eq!(chain.next(&[0, 1]), Some(id(0)));
    chain.pod(0).leaving = true;
    assert_eq!(chain.next(&[0]), None);
}

#[test]
fn before_birth_every_pod_is_free() {
    let chain = Chain::of(4);
    let roll = chain.roll();
    let budget = Budget { born: false, ..chain.budget(&roll) };
    assert_eq!(budget.allows(id(0)), Ok(Allowance::Free));
}
