//! Scenarios that matter by name. Random seeds meet them too, but not each in every run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use cretoai_consensus::engine::Role;
use cretoai_consensus_sim::{
    outage::{BAR, Outages},
    scenario::{Change, Fault, Planned, Scenario},
    world::World,
};
use cretoai_types::{Epoch, NodeId, Sequence};

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;

fn finish(mut world: World) -> World {
    if let Err(broken) = world.run() {
        panic!("seed {}: {broken}", world.scenario.seed);
    }
    world
}

fn with(mut scenario: Scenario, spare: usize, changes: &[Change]) -> Scenario {
    (scenario.spare, scenario.changes) = (spare, changes.to_vec());
    scenario
}

fn planned(fault: Fault, from: u64, until: u64) -> Planned {
    Planned { fault, from: from * MS, until: until * MS }
}

#[test]
fn a_killed_leader_costs_less_than_the_bar() {
    let outages = Outages::measure(0, 40).unwrap();
    assert!(outages.per_mille(990) < BAR, "p99 {} us", outages.per_mille(990));
    assert!(
        outages.longest().0 > 200 * MS,
        "a leader was killed, and nobody noticed: {:?}",
        outages.longest()
    );
}

#[test]
fn a_leader_that_nobody_hears_is_replaced() {
    for seed in 0..6 {
        let mut world = World::new(Scenario::lan(4, seed, 2 * SECOND, 120));
        world.run_until(300 * MS).unwrap();
        let leader = world.leader();
        world.isolate(leader.0 as usize);
        world.run_until(1_500 * MS).unwrap();
        assert_ne!(world.leader(), leader, "seed {seed}");
        world.rejoin(leader.0 as usize);
        finish(world);
    }
}

#[test]
fn from_four_to_seven_to_ten_and_back_to_four() {
    let grow = std::iter::repeat_n(Change::Add, 6);
    let shrink = (0..6).map(|id| Change::Remove(NodeId(id)));
    let changes: Vec<Change> = grow.chain(shrink).collect();
    let mut scenario = with(Scenario::lan(4, 1, 2 * SECOND, 200), 6, &changes);
    scenario.weather.loss = 10;
    let world = finish(World::new(scenario));
    assert_eq!(world.epoch(), Epoch(12));
    assert_eq!(
        world.members(),
        (6..10).map(NodeId).collect::<Vec<_>>(),
        "none of the first four is left"
    );
}

#[test]
fn every_key_rotates_and_the_leader_goes() {
    let rotate = (0..4).map(|id| Change::Rotate(NodeId(id)));
    let changes: Vec<Change> = rotate
        .chain([Change::RotateAdmin, Change::Add, Change::RemoveLeader, Change::SetParameters])
        .collect();
    for seed in 0..3 {
        let world = finish(World::new(with(Scenario::lan(4, seed, 2 * SECOND, 150), 1, &changes)));
        assert_eq!((world.epoch(), world.members().len()), (Epoch(8), 4), "seed {seed}");
    }
}

#[test]
fn a_node_that_slept_through_several_epochs_catches_up() {
    let changes = [
        Change::RotateAdmin,
        Change::SetParameters,
        Change::Add,
        Change::RotateAdmin,
        Change::SetParameters,
    ];
    for seed in 0..4 {
        let mut world = World::new(with(Scenario::lan(5, seed, 3 * SECOND, 150), 1, &changes));
        world.run_until(20 * MS).unwrap();
        world.stop(2, seed % 2 == 0);
        world.run_until(3 * SECOND - 1).unwrap();
        assert!(world.epoch() >= Epoch(3), "seed {seed}: epoch {}", world.epoch());
        // It starts when the trouble is over.
        let world = finish(world);
        assert_eq!(world.role(2), Some(Role::Validator));
    }
}

#[test]
fn a_lost_volume_is_replaced() {
    for seed in 0..6 {
        let mut world = World::new(Scenario::lan(4, seed, SECOND, 100));
        world.run_until(300 * MS).unwrap();
        let victim = seed as usize % 4;
        world.lose_volume(victim).unwrap();
        assert_eq!(world.role(victim), Some(Role::Learner), "seed {seed}");
        let world = finish(world);
        assert_eq!(
            (world.role(victim), world.epoch()),
            (Some(Role::Validator), Epoch(1)),
            "seed {seed}"
        );
    }
}

#[test]
fn a_volume_from_an_older_copy_is_found_out_and_replaced() {
    for seed in 0..6 {
        let mut world = World::new(Scenario::lan(4, seed, 1_500 * MS, 150));
        let victim = 1 + seed as usize % 3;
        world.run_until(300 * MS).unwrap();
        world.copy_volume(victim);
        world.run_until(900 * MS).unwrap();
        world.restore_volume().unwrap();
        let world = finish(world);
        // Found out, it became a learner with a new key, which a reconfiguration entered.
        assert_eq!(
            (world.role(victim), world.epoch()),
            (Some(Role::Validator), Epoch(1)),
            "seed {seed}"
        );
    }
}

#[test]
fn nothing_is_lost_when_all_lose_power_at_once() {
    for seed in 0..12 {
        let mut scenario = Scenario::lan(4, seed, 1_500 * MS, 150);
        scenario.faults = vec![
            planned(Fault::Blackout, 300 + seed, 301 + seed),
            planned(Fault::Blackout, 900 + seed, 901 + seed),
        ];
        finish(World::new(scenario));
    }
}

#[test]
fn an_idle_cluster_checkpoints_and_works_again() {
    let mut scenario = Scenario::lan(4, 3, 4 * SECOND, 40);
    scenario.faults = vec![planned(Fault::Idle, 0, 3_900)];
    let world = finish(World::new(scenario));
    assert!(world.length() > Sequence(0));
}

#[test]
fn a_rolling_restart_loses_nothing_and_changes_no_view_in_vain() {
    for seed in 0..6 {
        let mut scenario = Scenario::lan(4, seed, 2 * SECOND, 150);
        scenario.faults = vec![planned(Fault::RollingRestart, 300, 301)];
        let world = finish(World::new(scenario));
        assert!(world.view().0 <= 6, "seed {seed}: {} views for four restarts", world.view());
    }
}
