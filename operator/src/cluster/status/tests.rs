#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::{
    cluster::view::{Report, View},
    testing::{World, settings},
};
use serde_json::json;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_100_000 + seconds).unwrap()
}

fn status_of(view: &View, errors: &[String], now: Timestamp) -> CretoClusterStatus {
    let now_ms = u64::try_from(now.as_millisecond()).unwrap();
    derive(&view.cluster, &crate::cluster::plan::plan(view, &settings(), now_ms), errors, now)
}

fn status(world: &World) -> CretoClusterStatus {
    status_of(&world.view(), &[], at(0))
}

fn status_now(world: &World) -> CretoClusterStatus {
    status_of(&world.view(), &[], world.now())
}

fn is<'a>(status: &'a CretoClusterStatus, kind: &str) -> (&'a str, &'a str, &'a str) {
    let condition = find(&status.conditions, kind).unwrap();
    (&condition.status, &condition.reason, &condition.message)
}

#[test]
fn a_healthy_chain_is_told_in_the_columns() {
    let status = status(&World::alive(4));
    let summary = status.summary.clone().unwrap();
    assert_eq!(
        (summary.nodes.as_str(), summary.quorum.as_str(), summary.tolerates.as_str()),
        ("4/4", "4 of 3", "1 faulty")
    );
    assert_eq!(summary.status, "4 of 4 validators take part, 3 are needed");
    assert_eq!(status.version.as_deref(), Some("0.1.0"));
    assert_eq!(status.leader.as_deref(), Some("prod-0"));
    assert!(status.bootstrapped && status.sequence.unwrap() > 0);
    assert_eq!(is(&status, condition::READY).0, "True");
    assert_eq!(is(&status, condition::QUORUM).1, "QuorumParticipates");
    assert_eq!(is(&status, condition::DEGRADED).0, "False");
    assert_eq!(is(&status, condition::KEYS).0, "True");
    assert_eq!(is(&status, condition::PROGRESSING).0, "False");
    assert_eq!(is(&status, condition::PAUSED).0, "False");
    assert_eq!(status.members.len(), 4);
    assert!(status.members.iter().all(|member| member.role == "Validator"
        && member.lag == Some(0)
        && member.last_seen.is_some()));
}

#[test]
fn a_lost_quorum_names_the_missing_and_keeps_the_facts() {
    let mut world = World::alive(4);
    let before = world.resource.status.clone().unwrap();
    for ordinal in [1, 3] {
        world.pods.get_mut(&ordinal).unwrap().up = false;
    }
    let status = status(&world);
    let (truth, reason, message) = is(&status, condition::QUORUM);
    assert_eq!((truth, reason), ("False", "QuorumLost"));
    assert!(
        message.contains("prod-1") && message.contains("prod-3") && !message.contains("prod-0 ("),
        "{message}"
    );
    assert!(message.contains("2 of 4") && message.contains("3 are needed"), "{message}");
    assert_eq!(is(&status, condition::READY).0, "False");
    assert_eq!(status.summary.as_ref().unwrap().quorum, "2 of 3");
    assert_eq!(status.chain_id, before.chain_id);
    assert!(status.sequence >= before.sequence);
}

#[test]
fn nodes_that_we_cannot_reach_make_the_quorum_unknown_and_the_facts_stale() {
    let mut world = World::alive(4);
    let before = status(&world);
    world.resource.status = Some(before.clone());
    for pod in world.pods.values_mut() {
        pod.reachable = false;
    }
    let status = status_of(&world.view(), &[], at(600));
    let (truth, reason, message) = is(&status, condition::QUORUM);
    assert_eq!((truth, reason), ("Unknown", "NodesUnreachable"));
    assert!(message.contains("prod-0") && message.contains("prod-3"), "{message}");
    assert_eq!(is(&status, condition::READY).0, "Unknown");
    assert_eq!(
        (status.sequence, &status.agreed_at, &status.leader),
        (before.sequence, &before.agreed_at, &before.leader)
    );
}

#[test]
fn a_conflicting_minority_never_wins_and_is_named() {
    let world = World::alive(4);
    let mut view = world.view();
    let Some(Report::Status(liar)) = view.reports.get_mut(&2) else { panic!() };
    let head = liar.sequence;
    let mut lie = crate::testing::report("prod-2", head + 40, "lie");
    (lie.chain_id, lie.view, lie.leader) = (liar.chain_id.clone(), 99, Some("prod-2".into()));
    **liar = lie;
    let status = status_of(&view, &[], at(0));
    assert_eq!(status.sequence, Some(i64::try_from(head).unwrap()));
    assert_eq!((status.view, status.leader.as_deref()), (Some(0), Some("prod-0")));
    let (truth, reason, message) = is(&status, condition::DEGRADED);
    assert_eq!((truth, reason), ("True", "MemberDissents"));
    assert!(message.contains("prod-2"), "{message}");
    assert_eq!(is(&status, condition::READY).0, "True", "three agree");
    assert_eq!(status.members[2].role, "Dissenting");
}

/// Lets nodes accuse `suspect`.
fn accuse(view: &mut View, accusers: &[usize], suspect: &str) {
    for accuser in accusers {
        let Some(Report::Status(status)) = view.reports.get_mut(accuser) else { panic!() };
        status.suspected.push(suspect.into());
    }
}

#[test]
fn a_member_that_w_nodes_suspect_is_named() {
    let world = World::alive(4);
    let well = status(&world);
    assert!(well.suspected.is_empty());
    assert_eq!(well.summary.as_ref().unwrap().suspected, "none");
    assert_eq!(is(&well, condition::BYZANTINE).0, "False");
    let mut view = world.view();
    accuse(&mut view, &[0, 1, 2], "prod-3");
    accuse(&mut view, &[0, 1], "a stranger");
    let status = status_of(&view, &[], at(0));
    assert_eq!(status.suspected, ["prod-3"]);
    assert_eq!(status.summary.as_ref().unwrap().suspected, "prod-3");
    let (truth, reason, message) = is(&status, condition::BYZANTINE);
    assert_eq!((truth, reason), ("True", "MemberSuspected"));
    assert!(
        message.contains("prod-3")
            && message.contains("/v1/evidence")
            && !message.contains("stop the clients"),
        "{message}"
    );
    assert_eq!(is(&status, condition::DEGRADED).1, "MemberSuspected");
    assert_eq!(is(&status, condition::READY).0, "True", "three honest ones decide");
    assert!(status.summary.unwrap().status.contains("prod-3"));
}

#[test]
fn one_node_alone_can_neither_accuse_nor_acquit() {
    let world = World::alive(4);
    let mut view = world.view();
    accuse(&mut view, &[3], "prod-0");
    let status = status_of(&view, &[], at(0));
    assert!(status.suspected.is_empty(), "{:?}", status.suspected);
    assert_eq!(is(&status, condition::DEGRADED).0, "False");

    // What was agreed on stays while too few nodes answer, and goes when w say so.
    let mut view = world.view();
    view.cluster.status.suspected = vec!["prod-3".into()];
    for ordinal in [0, 1, 2] {
        view.reports.insert(ordinal, Report::Silent("connection refused".into()));
    }
    assert_eq!(status_of(&view, &[], at(0)).suspected, ["prod-3"]);
    let mut view = world.view();
    view.cluster.status.suspected = vec!["prod-3".into()];
    assert!(status_of(&view, &[], at(0)).suspected.is_empty());
}

#[test]
fn more_suspects_than_the_chain_tolerates_stop_the_clients() {
    let world = World::alive(4);
    let mut view = world.view();
    accuse(&mut view, &[0, 1], "prod-2");
    accuse(&mut view, &[0, 1], "prod-3");
    let status = status_of(&view, &[], at(0));
    assert_eq!(status.summary.as_ref().unwrap().suspected, "prod-2, prod-3");
    assert!(is(&status, condition::BYZANTINE).2.contains("stop the clients"));
}

#[test]
fn a_sequence_never_goes_back() {
    let world = World::alive(4);
    let mut view = world.view();
    view.cluster.status.sequence = Some(1_000_000);
    assert_eq!(status_of(&view, &[], at(0)).sequence, Some(1_000_000));
}

#[test]
fn one_absent_member_degrades_and_stays_named() {
    let mut world = World::alive(4);
    world.pods.get_mut(&2).unwrap().up = false;
    let status = status(&world);
    assert_eq!(is(&status, condition::READY).0, "True");
    let (truth, reason, message) = is(&status, condition::DEGRADED);
    assert_eq!((truth, reason), ("True", "MembersAbsent"));
    assert!(message.contains("prod-2"), "{message}");
    assert!(status.summary.unwrap().status.contains("prod-2"));
    assert!(status.members[2].last_seen.is_none() || status.members[2].role == "Down");
}

#[test]
fn a_member_with_another_key_makes_the_keys_invalid() {
    let mut world = World::alive(4);
    world.disks.get_mut(&1).unwrap().key = crate::testing::key(77);
    let status = status(&world);
    let (truth, reason, message) = is(&status, condition::KEYS);
    assert_eq!((truth, reason), ("False", "MemberForeign"));
    assert!(message.contains("prod-1"), "{message}");
}

#[test]
fn nodes_that_answer_but_are_not_connected_are_no_quorum() {
    let world = World::alive(4);
    let mut view = world.view();
    for report in view.reports.values_mut() {
        let Report::Status(status) = report else { panic!() };
        status.ready = false;
        status.waiting_for = "waits for connections to 2 more validators".into();
    }
    let status = status_of(&view, &[], at(0));
    let (truth, reason, message) = is(&status, condition::QUORUM);
    assert_eq!((truth, reason), ("False", "NotConnected"));
    assert!(message.contains("waits for connections"), "{message}");
}

#[test]
fn before_birth_the_status_says_whom_it_waits_for() {
    let mut world = World::new(json!({"replicas": 4}));
    let steps = world.plan().steps;
    world.take(&steps[0]);
    for step in world.plan().steps {
        world.take(&step);
    }
    world.tick();
    world.tick();
    world.pods.get_mut(&2).unwrap().up = false;
    let status = status(&world);
    assert!(!status.bootstrapped);
    assert_eq!(status.sequence, None);
    let (truth, reason, message) = is(&status, condition::PROGRESSING);
    assert_eq!((truth, reason), ("True", "Attesting"));
    assert!(
        message.contains("3 of 4") && message.contains("prod-2") && !message.contains("prod-1"),
        "{message}"
    );
    assert_eq!(is(&status, condition::QUORUM).1, "NotBorn");
    assert_eq!(status.summary.unwrap().nodes, "0/4");
}

#[test]
fn errors_and_refusals_reach_the_status() {
    let world = World::alive(4);
    let status =
        status_of(&world.view(), &["applying Service prod-api: denied by webhook".into()], at(0));
    let (truth, reason, message) = is(&status, condition::PROGRESSING);
    assert_eq!((truth, reason), ("False", "ReconcileFailed"));
    assert!(message.contains("denied by webhook"), "{message}");
    assert_eq!(is(&status, condition::READY).0, "True", "the chain itself is well");

    let mut world = World::alive(4);
    world.recreate();
    world.disks.remove(&0);
    let status = self::status(&world);
    let (truth, reason, message) = is(&status, condition::DEGRADED);
    assert_eq!((truth, reason), ("True", "PartsMissing"));
    assert!(message.contains("data-prod-0"), "{message}");
    assert!(status.summary.as_ref().unwrap().status.contains("data-prod-0"));
    assert!(!status.bootstrapped);
}

#[test]
fn a_lost_admin_key_is_told() {
    let mut world = World::alive(4);
    world.admin = None;
    let status = status(&world);
    let (truth, reason, message) = is(&status, condition::KEYS);
    assert_eq!((truth, reason), ("False", "AdminKeyMissing"));
    assert!(message.contains("prod-admin-key"), "{message}");
    assert_eq!(is(&status, condition::QUORUM).0, "Unknown");
}

#[test]
fn a_rollout_and_a_pause_are_told() {
    let mut world = World::alive(4);
    world.resource.spec.pod_template.labels.insert("a".into(), "b".into());
    for step in world.plan().steps {
        world.take(&step);
    }
    let told = status(&world);
    assert_eq!(is(&told, condition::PROGRESSING).1, "RollingOut");
    world.resource.spec.paused = true;
    let told = status(&world);
    assert_eq!(is(&told, condition::PAUSED).0, "True");
    assert!(told.summary.unwrap().status.contains("paused"));
}

#[test]
fn conditions_keep_their_time_until_they_turn() {
    let mut world = World::alive(4);
    let first = status_of(&world.view(), &[], at(0));
    world.resource.status = Some(first.clone());
    let second = status_of(&world.view(), &[], at(100));
    let time = |status: &CretoClusterStatus, kind| {
        find(&status.conditions, kind).unwrap().last_transition_time.clone()
    };
    assert_eq!(time(&first, condition::PROGRESSING), time(&second, condition::PROGRESSING));
    world.resource.status = Some(second);
    world.pods.get_mut(&0).unwrap().up = false;
    let third = status_of(&world.view(), &[], at(200));
    assert_eq!(time(&third, condition::DEGRADED), Time(at(200)));
}

#[test]
fn sequences_alone_are_noise() {
    let mut world = World::alive(4);
    let first = status_of(&world.view(), &[], at(0));
    world.resource.status = Some(first.clone());
    world.tick();
    let second = status_of(&world.view(), &[], at(40));
    assert_ne!(first, second);
    assert_eq!(without_noise(&first), without_noise(&second));
    world.pods.get_mut(&0).unwrap().up = false;
    assert_ne!(without_noise(&second), without_noise(&status_of(&world.view(), &[], at(41))));
}

#[test]
fn a_status_without_a_look_keeps_the_facts() {
    let world = World::alive(4);
    let before = world.resource.status.clone().unwrap();
    let status = without_view(&before, 7, Reason::ReconcileFailed, "the API server is away", at(1));
    assert_eq!(
        (status.sequence, &status.members, status.observed_generation),
        (before.sequence, &before.members, Some(7))
    );
    assert_eq!(is(&status, condition::READY).0, "Unknown");
    assert_eq!(
        is(&status, condition::KEYS),
        is(&before, condition::KEYS),
        "what was not looked at stays"
    );
}

#[test]
fn sizes_that_buy_less_than_people_think_say_so() {
    for (replicas, words) in [
        (1, "1 tolerate no faulty"),
        (3, "4 would tolerate one"),
        (5, "no more than 4 do"),
        (6, "no more than 4 do"),
    ] {
        let message = is(&status(&World::alive(replicas)), condition::QUORUM).2.to_string();
        assert!(message.contains(words), "{replicas}: {message}");
    }
    assert!(!is(&status(&World::alive(7)), condition::QUORUM).2.contains("tolerate"));
}

/// Trial 11: nothing is settled before the rollout is over.
#[test]
fn settled_comes_after_the_rollout_and_never_before() {
    let mut world = World::alive(4);
    assert_eq!(is(&status_now(&world), condition::PROGRESSING).1, "Settled");
    world.resource.spec.pod_template.labels.insert("a".into(), "b".into());
    *world.resource.metadata.generation.as_mut().unwrap() += 1;
    let mut settled_with = None;
    for _ in 0..120 {
        for step in world.plan().steps {
            world.take(&step);
        }
        // The StatefulSet controller has not seen the newest template yet.
        let mut view = world.view();
        let set = crate::resources::Key {
            kind: crate::resources::Kind::StatefulSet,
            name: "prod".into(),
        };
        view.live.get_mut(&set).unwrap()["metadata"]["generation"] = json!(2);
        let blind = status_of(&view, &[], world.now());
        assert_eq!(is(&blind, condition::PROGRESSING).1, "RollingOut");
        let told = status_now(&world);
        if is(&told, condition::PROGRESSING).0 == "False" {
            settled_with = told.updated_replicas;
            assert_eq!(is(&told, condition::RECONCILING).0, "False");
            assert_eq!(is(&told, condition::STALLED).0, "False");
            break;
        }
        assert_eq!(is(&told, condition::PROGRESSING).1, "RollingOut");
        assert_eq!(is(&told, condition::RECONCILING).0, "True");
        world.tick();
    }
    assert_eq!(settled_with, Some(4));
    assert_eq!(world.participating(), 4);
}

/// Trial 5: an image that does not stay up.
#[test]
fn a_rollout_that_stalls_is_told_with_the_pod_and_the_way_out() {
    let mut world = World::alive(7);
    world.resource.spec.pod_template.labels.insert("a".into(), "b".into());
    for _ in 0..30 {
        for step in world.plan().steps {
            world.take(&step);
        }
        world.tick();
        let outdated = world.plan().outdated;
        for (ordinal, pod) in &mut world.pods {
            if !outdated.contains(&format!("prod-{ordinal}")) {
                pod.restarts = 1;
            }
        }
    }
    let told = status_now(&world);
    let (truth, reason, message) = is(&told, condition::PROGRESSING);
    assert_eq!((truth, reason), ("False", "RolloutStalled"));
    assert!(message.contains("prod-6 runs the newest template"), "{message}");
    assert!(message.contains("set it back to what ran before"), "{message}");
    assert_eq!(is(&told, condition::DEGRADED).1, "RolloutStalled");
    assert_eq!(is(&told, condition::STALLED).0, "True");
    assert_eq!(told.updated_replicas, Some(1), "it costs one node");
}

#[test]
fn a_rollout_that_the_quorum_forbids_is_told_as_blocked() {
    let mut world = World::alive(4);
    world.pods.get_mut(&0).unwrap().reachable = false;
    world.resource.spec.pod_template.labels.insert("a".into(), "b".into());
    for step in world.plan().steps {
        world.take(&step);
    }
    world.pods.get_mut(&1).unwrap().reachable = false;
    let told = status_now(&world);
    assert_eq!(is(&told, condition::PROGRESSING).1, "RolloutBlocked");
    assert_eq!(is(&told, condition::STALLED).0, "True");
}

#[test]
fn nodes_that_miss_one_look_do_not_make_the_quorum_unknown() {
    let mut world = World::alive(4);
    let before = status_of(&world.view(), &[], at(0));
    world.resource.status = Some(before);
    for pod in world.pods.values_mut() {
        pod.reachable = false;
    }
    let told = status_of(&world.view(), &[], at(10));
    assert_eq!(is(&told, condition::QUORUM).0, "True", "it took part a moment ago");
    let told = status_of(&world.view(), &[], at(16));
    assert_eq!(is(&told, condition::QUORUM).1, "NodesUnreachable");
}

#[test]
fn a_host_whose_loss_takes_the_quorum_is_named() {
    let world = World::alive(4);
    assert_eq!(is(&status_now(&world), condition::FAILURE_DOMAINS).0, "True");
    let mut view = world.view();
    view.pods.get_mut(&1).unwrap().host = Some("host-0".into());
    let told = status_of(&view, &[], at(0));
    let (truth, reason, message) = is(&told, condition::FAILURE_DOMAINS);
    assert_eq!((truth, reason), ("False", "HostsShared"));
    assert!(message.contains("prod-0, prod-1 on host host-0"), "{message}");
}
