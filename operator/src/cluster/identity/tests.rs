#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::testing::{World, key};
use serde_json::json;

#[track_caller]
fn refused(view: &View, reason: RefusalReason, words: &[&str]) {
    match decide(view) {
        Err(Hold::Refused(refusal)) => {
            assert_eq!(refusal.reason, reason, "{}", refusal.message);
            for word in words {
                assert!(refusal.message.contains(word), "{word:?} is not in {:?}", refusal.message);
            }
        }
        other => panic!("{other:?}"),
    }
}

fn retained() -> World {
    let mut world = World::alive(4);
    world.recreate();
    world
}

#[test]
fn all_parts_there_are_adopted_under_the_uid_of_the_genesis() {
    let world = retained();
    let identity = decide(&world.view()).unwrap();
    assert_eq!(identity.cluster_uid, "uid-1");
    assert!(identity.born.is_some() && identity.admin_key_lost.is_none());
}

#[test]
fn a_missing_volume_is_named_and_nothing_begins() {
    let mut world = retained();
    world.disks.remove(&2);
    refused(&world.view(), RefusalReason::PartsMissing, &["data-prod-2", "prod-genesis"]);
}

#[test]
fn a_volume_of_another_chain_is_named() {
    let mut world = retained();
    world.disks.get_mut(&1).unwrap().cluster_uid = Some("other".into());
    refused(&world.view(), RefusalReason::PartsMissing, &["data-prod-1"]);
}

#[test]
fn a_missing_genesis_with_volumes_left_over_begins_nothing() {
    let mut world = retained();
    world.genesis = None;
    refused(
        &world.view(),
        RefusalReason::LeftOver,
        &["data-prod-0", "data-prod-3", "Secret prod-admin-key", "prod-genesis"],
    );
}

#[test]
fn a_missing_admin_key_holds_an_adoption_but_not_a_living_cluster() {
    let mut world = World::alive(4);
    world.admin = None;
    let identity = decide(&world.view()).unwrap();
    assert!(identity.admin_key_lost.unwrap().contains("prod-admin-key"), "its pods are kept");
    world.recreate();
    refused(
        &world.view(),
        RefusalReason::AdminKeyMissing,
        &["prod-admin-key", "no new key is made"],
    );
}

#[test]
fn another_admin_key_is_refused() {
    let mut world = World::alive(4);
    world.admin = Some((key(99), Some("uid-1".into()), false));
    refused(&world.view(), RefusalReason::AdminKeyWrong, &["prod-admin-key"]);
}

#[test]
fn a_genesis_that_is_gone_after_birth_is_never_made_again() {
    let mut world = World::alive(4);
    world.genesis = None;
    refused(&world.view(), RefusalReason::GenesisMissing, &["prod-genesis", "backup"]);
    assert!(world.plan().steps.is_empty());
}

#[test]
fn another_number_of_validators_is_refused_with_the_right_one() {
    let mut world = retained();
    world.resource.spec.replicas = 3;
    refused(&world.view(), RefusalReason::ReplicasDiffer, &["set spec.replicas to 4"]);
}

#[test]
fn a_lost_volume_of_a_living_cluster_does_not_stop_its_repair() {
    let mut world = World::alive(4);
    world.disks.remove(&2);
    assert!(decide(&world.view()).is_ok());
}

#[test]
fn before_birth_a_key_that_was_lost_is_made_again() {
    let mut world = World::new(json!({"replicas": 4}));
    assert_eq!(decide(&world.view()), Err(Hold::NoAdminKey));
    world.settle(1);
    world.admin = None;
    assert_eq!(decide(&world.view()), Err(Hold::NoAdminKey));
}

#[test]
fn what_departs_is_waited_for_by_name() {
    let mut world = retained();
    world.genesis = None;
    world.admin = None;
    let mut view = world.view();
    for volume in view.volumes.values_mut() {
        volume.departing = true;
    }
    view.admin_key = AdminKey::Departing;
    let Err(Hold::Departing(what)) = decide(&view) else { panic!() };
    assert!(what.contains("data-prod-0") && what.contains("prod-admin-key"), "{what}");
}

#[test]
fn a_part_that_goes_does_not_stop_a_living_chain() {
    let world = World::alive(4);
    let mut view = world.view();
    view.volumes.get_mut(&2).unwrap().departing = true;
    assert!(decide(&view).unwrap().born.is_some(), "its pod runs on");
    view.admin_key = AdminKey::Departing;
    assert!(decide(&view).unwrap().admin_key_lost.unwrap().contains("being deleted"));
    // Before birth it does, but not for a claim that belongs to no validator.
    let mut world = World::new(json!({"replicas": 4}));
    world.settle(2);
    let mut view = world.view();
    let stray = crate::cluster::view::Volume {
        name: "data-prod-17".into(),
        cluster_uid: None,
        size: "1Gi".into(),
        owned: false,
        departing: true,
    };
    view.volumes.insert(17, stray);
    assert!(decide(&view).is_ok());
    view.volumes.get_mut(&0).unwrap().departing = true;
    assert!(matches!(decide(&view), Err(Hold::Departing(what)) if what.contains("data-prod-0")));
}
