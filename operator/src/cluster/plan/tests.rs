#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::testing::{World, settings};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

fn replaced(plan: &Plan) -> Vec<usize> {
    plan.steps
        .iter()
        .filter_map(
            |step| if let Step::ReplacePod { ordinal, .. } = step { Some(*ordinal) } else { None },
        )
        .collect()
}

fn change_template(world: &mut World, label: &str) {
    world.resource.spec.pod_template.labels.insert("change".into(), label.into());
    *world.resource.metadata.generation.as_mut().unwrap() += 1;
}

#[test]
fn a_cluster_is_born_step_by_step() {
    let mut world = World::new(json!({"replicas": 4}));
    assert_eq!(world.plan().steps, vec![Step::CreateAdminKey]);
    world.take(&Step::CreateAdminKey);
    let plan = world.plan();
    assert_eq!(plan.steps.len(), 10, "all objects, and nothing else: {:?}", plan.steps);
    assert!(plan.steps.iter().all(|step| matches!(step, Step::Apply { drift: None, .. })));
    world.settle(60);
    assert_eq!((world.births, world.participating()), (1, 4));
    assert_eq!(world.plan().steps, vec![], "settled");
    assert_eq!(world.plan().stage, Stage::Born);
}

#[test]
fn no_genesis_without_every_attestation_in_this_pass() {
    let mut world = World::new(json!({"replicas": 4}));
    for _ in 0..30 {
        world.tick();
        for step in world.plan().steps {
            if !matches!(step, Step::CreateGenesis(_)) {
                world.take(&step);
            }
        }
    }
    assert!(world.plan().steps.iter().any(|step| matches!(step, Step::CreateGenesis(_))));
    let creates = |view: &View| {
        plan(view, &settings(), 1).steps.iter().any(|step| matches!(step, Step::CreateGenesis(_)))
    };
    let full = world.view();
    let mut view = full.clone();
    view.reports.remove(&2);
    assert!(!creates(&view), "one is missing");
    let Stage::Unborn(waits) = plan(&view, &settings(), 1).stage else { panic!() };
    assert!(waits.contains("3 of 4") && waits.contains("prod-2"), "{waits}");
    let mut view = full.clone();
    view.reports.insert(2, Report::Refused("its token is of another pod".into()));
    assert!(!creates(&view), "one is refused");
    let mut view = full.clone();
    view.pods.get_mut(&2).unwrap().leaving = true;
    assert!(!creates(&view), "one is leaving");
    let mut view = full.clone();
    view.pods.get_mut(&2).unwrap().revision = Some("older".into());
    assert!(!creates(&view), "one is of an older template");
    let mut view = full.clone();
    view.volumes.remove(&2);
    assert!(!creates(&view), "one has no volume");
    let mut view = full.clone();
    if let Some(Report::Attested(attested)) = view.reports.get_mut(&2) {
        attested.chain_id = Some("ab".into());
    }
    let refused = plan(&view, &settings(), 1);
    assert!(refused.steps.is_empty());
    assert!(matches!(
        refused.stage,
        Stage::Refused(Refusal { reason: RefusalReason::VolumesHoldChain, .. })
    ));
    let mut view = full;
    view.cluster.spec.paused = true;
    assert!(plan(&view, &settings(), 1).steps.is_empty(), "paused");
}

#[test]
fn replicas_may_change_before_birth() {
    let mut world = World::new(json!({"replicas": 7}));
    for _ in 0..3 {
        for step in world.plan().steps {
            world.take(&step);
        }
        world.tick();
    }
    world.resource.spec.replicas = 4;
    world.settle(60);
    assert_eq!(world.genesis.as_ref().unwrap().0.genesis.members.len(), 4);
    assert_eq!(world.participating(), 4);
}

#[test]
fn drift_is_put_back_and_told_from_our_own_change() {
    let mut world = World::alive(4);
    let key = crate::resources::Key { kind: Kind::Service, name: "prod-api".into() };
    world.live.get_mut(&key).unwrap()["spec"]["ports"][0]["port"] = json!(81);
    let plan = world.plan();
    let [Step::Apply { wanted, drift: Some(drift) }] = plan.steps.as_slice() else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!(wanted.key, key);
    assert!(drift.contains("spec.ports[0].port is 81 instead of 8080"), "{drift}");
    world.take(&plan.steps[0]);
    assert!(world.plan().steps.is_empty());
    change_template(&mut world, "ours");
    assert!(world.plan().steps.iter().all(|step| matches!(step, Step::Apply { drift: None, .. })));
}

#[test]
fn an_object_of_somebody_else_is_never_touched() {
    let mut world = World::new(json!({"replicas": 4}));
    let key = crate::resources::Key { kind: Kind::Service, name: "prod-api".into() };
    world.live.insert(key, json!({"metadata": {"name": "prod-api"}, "spec": {}}));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    let Stage::Refused(refusal) = plan.stage else { panic!() };
    assert_eq!(refusal.reason, RefusalReason::NameTaken);
    assert!(refusal.message.contains("Service prod-api"), "{}", refusal.message);
}

#[test]
fn objects_of_an_earlier_cluster_are_waited_for() {
    let mut world = World::alive(4);
    let objects = world.live.clone();
    world.recreate();
    world.live = objects;
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert!(matches!(plan.stage, Stage::Departing(_)), "{:?}", plan.stage);
}

#[test]
fn an_upgrade_of_the_operator_alone_restarts_nothing() {
    let world = World::alive(4);
    let newer = Settings { node_image: "localhost/cretoai-node:2".into(), ..settings() };
    assert_eq!(plan(&world.view(), &newer, 1).steps, vec![]);
}

#[test]
fn a_change_rolls_one_pod_at_a_time_the_leader_last() {
    let mut world = World::alive(4);
    change_template(&mut world, "1");
    let mut order = Vec::new();
    for _ in 0..100 {
        let plan = world.plan();
        assert!(replaced(&plan).len() <= 1);
        order.extend(replaced(&plan));
        for step in &plan.steps {
            world.take(step);
        }
        assert!(world.staying() >= 3);
        world.tick();
    }
    assert_eq!(order, vec![3, 2, 1, 0]);
    assert!(world.plan().outdated.is_empty());
}

#[test]
fn a_pod_that_is_down_is_free_and_goes_first() {
    let mut world = World::alive(4);
    world.pods.get_mut(&1).unwrap().up = false;
    change_template(&mut world, "1");
    for step in world.plan().steps {
        world.take(&step);
    }
    assert_eq!(replaced(&world.plan()), vec![1]);
}

#[test]
fn a_node_without_the_genesis_is_replaced_or_given_it_never_both_at_once() {
    let mut world = World::new(json!({"replicas": 4}));
    while world.genesis.is_none() {
        for step in world.plan().steps {
            world.take(&step);
        }
        world.tick();
    }
    // What is retained is released before any node gets the genesis.
    for step in world.plan().steps {
        assert!(!matches!(step, Step::PushGenesis { .. }), "{step}");
        world.take(&step);
    }
    // Two have the genesis and the third is about to get it, which makes a quorum: the fourth is
    // down.
    world.pods.get_mut(&0).unwrap().up = false;
    change_template(&mut world, "1");
    for step in world.plan().steps {
        match &step {
            Step::PushGenesis { pod, .. } if pod == "prod-3" => {}
            step => world.take(step),
        }
    }
    assert_eq!(world.voters(), vec![1, 2]);
    let plan = world.plan();
    assert_eq!(replaced(&plan), vec![3], "it takes no part yet");
    assert!(
        !plan.steps.iter().any(|step| matches!(step, Step::PushGenesis { .. })),
        "{:?}",
        plan.steps
    );
}

#[test]
fn a_node_that_we_only_cannot_reach_is_never_taken_away() {
    let mut world = World::alive(4);
    for pod in world.pods.values_mut() {
        pod.reachable = false;
    }
    change_template(&mut world, "1");
    for step in world.plan().steps {
        world.take(&step);
    }
    let plan = world.plan();
    assert_eq!(replaced(&plan), Vec::<usize>::new());
    assert!(plan.rollout_waits.unwrap().to_string().contains("Unreachable"));
}

#[test]
fn a_bad_template_costs_one_pod_and_its_correction_is_free() {
    let mut world = World::alive(4);
    change_template(&mut world, "bad");
    for _ in 0..20 {
        for step in world.plan().steps {
            world.take(&step);
        }
        world.tick();
        let newest = world.plan().outdated;
        for (ordinal, pod) in &mut world.pods {
            if !newest.contains(&format!("prod-{ordinal}")) {
                pod.up = false;
                pod.starting = 0;
            }
        }
    }
    assert_eq!(world.participating(), 3);
    change_template(&mut world, "good");
    world.settle(100);
    assert_eq!(world.participating(), 4);
    assert!(world.plan().outdated.is_empty());
}

#[test]
fn without_tolerance_a_rollout_waits_until_all_take_part() {
    let mut world = World::alive(3);
    change_template(&mut world, "1");
    for _ in 0..90 {
        let before = world.participating();
        let plan = world.plan();
        for step in &plan.steps {
            world.take(step);
        }
        if !replaced(&plan).is_empty() {
            assert_eq!(before, 3);
        }
        world.tick();
    }
    assert!(world.plan().outdated.is_empty());
    assert_eq!(world.participating(), 3);
}

#[test]
fn storage_grows_whatever_the_health() {
    let mut world = World::alive(4);
    for pod in world.pods.values_mut() {
        pod.up = false;
    }
    world.resource.spec.storage.size = "20Gi".into();
    let steps = world.plan().steps;
    let grown: Vec<_> = steps
        .iter()
        .filter(|step| matches!(step, Step::ExpandVolume { size, .. } if size == "20Gi"))
        .collect();
    assert_eq!((grown.len(), steps.len()), (4, 4), "the claim template stays as it is: {steps:?}");
}

#[test]
fn retention_follows_the_policy() {
    let mut world = World::alive(4);
    world.resource.spec.storage.retention_policy = cretoai_crds::RetentionPolicy::Delete;
    let steps = world.plan().steps;
    assert!(
        steps.contains(&Step::SetRetention { part: Part::Genesis, goes: true })
            && steps.contains(&Step::SetRetention { part: Part::AdminKey, goes: true })
    );
    for step in steps {
        world.take(&step);
    }
    assert_eq!(world.plan().steps, vec![]);
}

#[test]
fn a_recreated_cluster_goes_on_with_the_same_chain() {
    let mut world = World::alive(4);
    let chain = world.genesis.as_ref().unwrap().0.genesis.chain_id();
    let sequence = world.disks[&0].sequence;
    world.recreate();
    world.settle(60);
    assert_eq!((world.births, world.participating()), (1, 4));
    assert_eq!(world.genesis.as_ref().unwrap().0.genesis.chain_id(), chain);
    assert!(world.disks[&0].sequence > sequence);
}

#[test]
fn a_member_that_its_peers_do_not_hear_stops_the_rollout() {
    let mut world = World::alive(4);
    world.pods.get_mut(&1).unwrap().isolated = true;
    change_template(&mut world, "1");
    for step in world.plan().steps {
        world.take(&step);
    }
    assert_eq!(replaced(&world.plan()), vec![1], "a quorum stays without it");
    let newest = world.view().revision().unwrap().to_string();
    let pod = world.pods.get_mut(&1).unwrap();
    (pod.revision, pod.made_ms) = (newest, 0);
    assert_eq!(replaced(&world.plan()), Vec::<usize>::new(), "three hear each other, no more");
    let pod = world.pods.get_mut(&1).unwrap();
    pod.isolated = false;
    for _ in 0..7 {
        world.tick();
    }
    assert_eq!(replaced(&world.plan()), vec![3]);
}

#[test]
fn a_ready_pod_is_evicted_and_any_other_deleted() {
    let how = |world: &World| {
        world.plan().steps.iter().find_map(|step| match step {
            Step::ReplacePod { ordinal, how, .. } => Some((*ordinal, *how)),
            _ => None,
        })
    };
    let mut world = World::alive(4);
    change_template(&mut world, "1");
    for step in world.plan().steps {
        world.take(&step);
    }
    assert_eq!(how(&world), Some((3, Removal::Evict)));
    world.pods.get_mut(&1).unwrap().up = false;
    assert_eq!(how(&world), Some((1, Removal::Delete)));
    // The PodDisruptionBudget of three nodes would never let one go.
    let mut world = World::alive(3);
    change_template(&mut world, "1");
    for step in world.plan().steps {
        world.take(&step);
    }
    assert_eq!(how(&world), Some((2, Removal::Delete)));
}

#[test]
fn a_person_may_accept_for_one_generation_that_the_chain_pauses() {
    let mut world = World::alive(4);
    world.pods.get_mut(&0).unwrap().up = false;
    change_template(&mut world, "1");
    for step in world.plan().steps {
        world.take(&step);
    }
    world.pods.get_mut(&0).unwrap().revision = world.view().revision().unwrap().to_string();
    world.pods.get_mut(&0).unwrap().made_ms = 0;
    assert_eq!(replaced(&world.plan()), Vec::<usize>::new());
    let denial = world.plan().rollout_waits.unwrap().to_string();
    assert!(denial.contains("cretoai.io/accept-disruption"), "{denial}");
    let accept = |world: &mut World, generation: &str| {
        let annotations = world.resource.metadata.annotations.get_or_insert_default();
        annotations.insert("cretoai.io/accept-disruption".into(), generation.into());
    };
    accept(&mut world, "1");
    assert_eq!(replaced(&world.plan()), Vec::<usize>::new(), "of an older generation");
    accept(&mut world, "2");
    assert_eq!(replaced(&world.plan()), vec![3]);
}

/// A life with crashes after every step, faults, template changes and recreations.
fn live_through(seed: u64, replicas: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new(json!({ "replicas": replicas }));
    let quorum = world.view().cluster.quorum();
    for round in 0..120 {
        // Faults, at most f at a time, as the chain tolerates.
        if random.random_bool(0.15) {
            let down = world.pods.values().filter(|pod| !pod.up).count();
            let ordinal = random.random_range(0..replicas);
            match world.pods.get_mut(&ordinal) {
                Some(pod) if pod.up && down < quorum.f => pod.up = false,
                Some(pod) if !pod.up => (pod.up, pod.starting) = (true, 0),
                _ => {}
            }
        }
        if random.random_bool(0.05) {
            let ordinal = random.random_range(0..replicas);
            if let Some(pod) = world.pods.get_mut(&ordinal) {
                pod.reachable = !pod.reachable;
            }
        }
        if random.random_bool(0.05) {
            let cut_off = world.pods.values().filter(|pod| pod.isolated || !pod.up).count();
            let ordinal = random.random_range(0..replicas);
            match world.pods.get_mut(&ordinal) {
                Some(pod) if pod.isolated => pod.isolated = false,
                Some(pod) if cut_off < quorum.f => pod.isolated = true,
                _ => {}
            }
        }
        // A drain at the same time.
        if random.random_bool(0.05) {
            let ordinal = random.random_range(0..replicas);
            let granted = world.genesis.is_some() && world.evictable(ordinal);
            if let Some(pod) = world.pods.get_mut(&ordinal).filter(|_| granted) {
                pod.leaving.get_or_insert(2);
            }
        }
        if random.random_bool(0.04) {
            change_template(&mut world, &round.to_string());
        }
        if random.random_bool(0.3) && world.genesis.is_some() {
            world.remember();
        }
        if random.random_bool(0.01) && world.genesis.is_some() {
            world.recreate();
        }
        let plan = world.plan();
        assert!(replaced(&plan).len() <= 1, "seed {seed}: more than one disruptive step");
        let survives = if random.random_bool(0.5) {
            random.random_range(0..=plan.steps.len())
        } else {
            plan.steps.len()
        };
        for step in plan.steps.iter().take(survives) {
            let before = world.staying();
            world.take(step);
            let after = world.staying();
            if world.genesis.is_some() && quorum.f > 0 && after < before {
                assert!(
                    after >= quorum.q,
                    "seed {seed}, round {round}: our own step left {after} of {} voters",
                    quorum.q
                );
            }
        }
        world.tick();
        assert!(world.births <= 1, "seed {seed}: a second genesis");
    }
    for pod in world.pods.values_mut() {
        (pod.up, pod.reachable, pod.isolated, pod.starting) = (true, true, false, 0);
    }
    world.settle(300);
    assert_eq!((world.births, world.participating()), (1, replicas), "seed {seed}");
    assert!(
        world.plan().steps.is_empty() && world.plan().outdated.is_empty(),
        "seed {seed}: {:?}",
        world.plan()
    );
}

#[test]
fn whatever_happens_one_genesis_and_never_below_the_quorum_by_our_own_steps() {
    for seed in 0..24 {
        live_through(seed, [4, 7, 3, 1, 5, 6][usize::try_from(seed).unwrap() % 6]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_random_life(seed in any::<u64>(), replicas in prop::sample::select(vec![1_usize, 3, 4, 5, 7])) {
        live_through(seed, replicas);
    }
}

#[test]
fn a_cluster_that_names_no_image_keeps_the_one_that_its_nodes_ran() {
    let image = |plan: &Plan| {
        plan.steps.iter().find_map(|step| match step {
            Step::Apply { wanted, .. } if wanted.key.kind == Kind::StatefulSet => wanted
                .object
                .pointer("/spec/template/spec/containers/0/image")
                .and_then(serde_json::Value::as_str)
                .map(str::to_string),
            _ => None,
        })
    };
    let mut world = World::alive(4);
    let ran = settings().node_image;
    assert_eq!(world.resource.status.as_ref().unwrap().image.as_ref(), Some(&ran));
    // Somebody sets another image by hand: it does not become the cluster's.
    let key = crate::resources::Key { kind: Kind::StatefulSet, name: "prod".into() };
    let image_of = "/spec/template/spec/containers/0/image";
    *world.live.get_mut(&key).unwrap().pointer_mut(image_of).unwrap() = json!("busybox");
    let plan = world.plan();
    assert_eq!(image(&plan).as_ref(), Some(&ran));
    assert!(replaced(&plan).is_empty(), "and it is not rolled out");
    // A bad image of the spec that is taken back.
    let mut world = World::alive(4);
    world.resource.spec.image = Some("bad".into());
    assert_eq!(image(&world.plan()).as_deref(), Some("bad"));
    for step in world.plan().steps {
        world.take(&step);
    }
    world.remember();
    world.resource.spec.image = None;
    assert_eq!(image(&world.plan()).as_ref(), Some(&ran));
    // The StatefulSet is gone, and the operator's default is another by now.
    let mut world = World::alive(4);
    world.live.remove(&key);
    let newer = Settings { node_image: "newer".into(), ..settings() };
    let plan = super::plan(&world.view(), &newer, 1);
    assert_eq!(image(&plan).as_ref(), Some(&ran));
}

#[test]
fn pods_that_the_api_server_refused_are_asked_for_again_at_a_pace() {
    let world = World::alive(4);
    let retries = |view: &View, now_ms: u64| {
        let plan = super::plan(view, &settings(), now_ms);
        plan.steps.into_iter().filter(|step| matches!(step, Step::RetryPods { .. })).count()
    };
    let mut view = world.view();
    assert_eq!(retries(&view, 100_000), 0, "nothing was refused");
    view.pods_refused = Some("exceeded quota: pods=3".into());
    assert_eq!(retries(&view, 100_000), 1);
    let key = crate::resources::Key { kind: Kind::StatefulSet, name: "prod".into() };
    let mut at = |time: &str| {
        view.live.get_mut(&key).unwrap()["metadata"]["annotations"][crate::names::RETRY] =
            json!(time);
        retries(&view, 100_000)
    };
    assert_eq!((at("99000"), at("85000")), (0, 1));
    assert_eq!((at("900000000"), at("soon")), (1, 1), "a wrong clock, or no time at all");
}
