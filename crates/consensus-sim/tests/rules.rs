//! What the simulator shows about whole clusters, in a few seconds each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use cretoai_consensus_sim::{machine::BEGINNING_MS, scenario::Scenario, seeds, world::World};
use cretoai_types::{NodeId, Payload, Sequence};

fn payload(number: u8) -> Payload {
    Payload {
        key: [number; 16],
        valid_until_ms: BEGINNING_MS + 30_000,
        topic: None,
        data: vec![number; 100],
    }
}

#[test]
fn every_seed_keeps_every_rule_under_all_faults() {
    let summary = seeds::run(0, 120, 1);
    summary.print();
    assert!(summary.failed.is_empty(), "{:?}", summary.failed);
    assert_eq!(summary.passed, 120);
}

#[test]
fn a_seed_always_gives_the_same_run() {
    for seed in 0..12 {
        let run = || {
            let mut world = World::new(Scenario::of_seed(seed));
            (world.run(), world.now)
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}

#[test]
fn without_faults_final_three_delays_after_proposing_and_five_after_sealing() {
    const DELAY: u64 = 10_000;
    for n in [3, 4, 7] {
        for author in 0..n {
            let mut world = World::new(Scenario::calm(n, DELAY));
            world.run_until(120_000).unwrap();
            let submitted = world.now;
            world.submit_now(author, payload(1)).unwrap();
            world.run_until(submitted + 6 * DELAY).unwrap();
            assert_eq!(
                world.timeline.proposed.get(&Sequence(1)),
                Some(&(submitted + 2 * DELAY)),
                "n = {n}, author {author}"
            );
            for node in 0..n {
                let executed = world.timeline.executed.get(&(Sequence(1), node));
                assert_eq!(
                    executed,
                    Some(&(submitted + 5 * DELAY)),
                    "n = {n}, author {author}, node {node}"
                );
            }
        }
    }
}

#[test]
fn one_validator_decides_in_the_turn_of_the_submission() {
    let mut world = World::new(Scenario::calm(1, 0));
    world.run_until(120_000).unwrap();
    world.submit_now(0, payload(1)).unwrap();
    assert_eq!(world.timeline.executed.get(&(Sequence(1), 0)), Some(&120_000));
    assert_eq!(world.members(), [NodeId(0)]);
}
