//! A deterministic simulator of whole clusters, driven from one seed: n engines, virtual time, a network and disks that
//! misbehave, up to f attackers, and checks after every step.
//!
//! | variable | meaning |
//! |---|---|
//! | `CRETO_SIM_SEEDS` | how many seeds the full-fault test runs (default 320) |
//! | `CRETO_SIM_SEED_BASE` | the first of them (default 0) |
//! | `CRETO_SIM_SEED` | the seed that `replay` runs |
//! | `CRETO_SIM_TRACE` | set: print what happens |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod byzantine;
mod crypto;
mod disk;
mod invariants;
mod network;
mod node;
mod rng;
mod scenario;
mod world;

use byzantine::{STRATEGIES, Strategy};
use cretoai_consensus::{NodeId, Payload, Sequence};
use disk::DiskFault;
use node::EPOCH_MS;
use scenario::{Mutant, Scenario};
use std::{collections::BTreeMap, time::Instant};
use world::World;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

fn replay_command(seed: u64) -> String {
    format!(
        "CRETO_SIM_SEED={seed} CRETO_SIM_TRACE=1 cargo test --release -p cretoai-consensus --test sim -- --ignored --exact replay --nocapture"
    )
}

fn payload(number: u8) -> Payload {
    Payload { key: [number; 16], valid_until_ms: EPOCH_MS + 30_000, data: vec![number; 100] }
}

#[test]
fn every_seed_keeps_every_rule_under_all_faults() {
    let (seeds, base) = (number("CRETO_SIM_SEEDS", 320), number("CRETO_SIM_SEED_BASE", 0));
    let began = Instant::now();
    let (mut events, mut crashes, mut sequences, mut slowest) = (0, 0, 0, (0, 0));
    let mut attacks: BTreeMap<String, u64> = BTreeMap::new();
    for seed in base..base + seeds {
        let mut world = World::new(Scenario::of_seed(seed));
        for strategy in STRATEGIES.into_iter().filter(|strategy| world.attacks(*strategy)) {
            *attacks.entry(format!("{strategy:?}")).or_default() += 1;
        }
        match world.run() {
            Ok(report) => {
                events += report.events;
                crashes += report.crashes;
                sequences += report.sequences;
                slowest = slowest.max((report.recovery / 1000, seed));
            }
            Err(broken) => {
                panic!("seed {seed} breaks a rule at {} us: {broken}\n{:?}\nreplay: {}", world.now, world.scenario, replay_command(seed))
            }
        }
    }
    println!(
        "{seeds} seeds from {base} in {:.1} s: {events} events, {crashes} crashes, {sequences} sequences; slowest recovery {} ms (seed {}); attacks {attacks:?}",
        began.elapsed().as_secs_f64(),
        slowest.0,
        slowest.1
    );
}

#[test]
#[ignore = "replays CRETO_SIM_SEED"]
fn replay() {
    let mut world = World::new(Scenario::of_seed(number("CRETO_SIM_SEED", 0)));
    println!("{:?}", world.scenario);
    let result = world.run();
    println!("{result:?} at {} us", world.now);
    assert!(result.is_ok());
}

#[test]
fn a_seed_always_gives_the_same_run() {
    for seed in 0..10 {
        let run = || {
            let mut world = World::new(Scenario::of_seed(seed));
            (format!("{:?}", world.run()), world.now)
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn without_faults_final_three_delays_after_proposing_and_five_after_sealing() {
    const DELAY: u64 = 10_000;
    for n in [3, 4, 7] {
        for author in 0..n as u32 {
            let mut world = World::new(Scenario::calm(n, DELAY));
            world.run_until(120_000).unwrap();
            let submitted = world.now;
            world.submit_now(NodeId(author), payload(1)).unwrap();
            world.run_until(submitted + 6 * DELAY).unwrap();
            assert_eq!(world.timeline.proposed.get(&Sequence(1)), Some(&(submitted + 2 * DELAY)), "n = {n}, author {author}");
            for node in 0..n as u32 {
                let executed = world.timeline.executed.get(&(Sequence(1), NodeId(node)));
                assert_eq!(executed, Some(&(submitted + 5 * DELAY)), "n = {n}, author {author}, node {node}");
            }
        }
    }
}

#[test]
fn one_validator_decides_in_the_turn_of_the_submission() {
    let mut world = World::new(Scenario::calm(1, 0));
    world.run_until(120_000).unwrap();
    world.submit_now(NodeId(0), payload(1)).unwrap();
    assert_eq!(world.timeline.executed.get(&(Sequence(1), NodeId(0))), Some(&120_000));
}

/// Runs seeds of a mutant until the checks notice, and asserts by which rule.
fn caught(mutant: Mutant, rules: &[&str], scenario: impl Fn(u64) -> Scenario) {
    for seed in 0..300 {
        let mut scenario = scenario(seed);
        scenario.mutant = Some(mutant);
        if let Err(broken) = World::new(scenario).run() {
            assert!(rules.iter().any(|rule| broken.starts_with(rule)), "{mutant:?} was caught by another rule: {broken}");
            println!("{mutant:?} is caught with {} seeds: {broken}", seed + 1);
            return;
        }
    }
    panic!("{mutant:?} is not caught");
}

#[test]
fn the_checks_notice_messages_that_leave_before_their_writes() {
    caught(Mutant::SendsBeforeWriting, &["durability", "status"], Scenario::of_seed);
}

#[test]
fn the_checks_notice_a_disk_that_ignores_fsync() {
    caught(Mutant::Disk(DiskFault::IgnoresFsync), &["durability"], Scenario::of_seed);
}

#[test]
fn the_checks_notice_a_store_that_forgets_votes() {
    caught(Mutant::Disk(DiskFault::ForgetsVotes), &["votes", "accusation"], Scenario::of_seed);
}

#[test]
fn the_checks_notice_a_store_that_forgets_what_was_executed() {
    caught(Mutant::Disk(DiskFault::ForgetsRecentPayloads), &["outcomes"], Scenario::of_seed);
}

#[test]
fn the_checks_notice_a_quorum_that_is_too_small() {
    // Of 7, two attack together, one of them leading: 4 are taken for a quorum, and 5 are one.
    caught(Mutant::SmallQuorum, &["agreement", "quorum", "chain", "certificate", "divergence"], |seed| {
        let mut scenario = Scenario::of_seed(seed);
        scenario.n = 7;
        scenario.attackers = [0, 1].into_iter().map(|node| (NodeId(node), vec![Strategy::Equivocate])).collect();
        scenario
    });
}

#[test]
fn a_fork_that_most_saw_otherwise_stops_nobody() {
    // Every payload is still final, though an attacker shows two chains of its lane.
    for seed in 0..40 {
        let mut scenario = Scenario::of_seed(seed);
        scenario.n = if seed % 2 == 0 { 4 } else { 7 };
        scenario.model = cretoai_consensus::FaultModel::Byzantine;
        scenario.attackers = [(NodeId(2), vec![Strategy::ForkLane])].into();
        let mut world = World::new(scenario);
        if let Err(broken) = world.run() {
            panic!("seed {seed}: {broken}");
        }
    }
}
