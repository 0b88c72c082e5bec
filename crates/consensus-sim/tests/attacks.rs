//! Attacks on liveness by name. Each run ends with the attackers silent and every honest node
//! restarted: what they did while they could must not outlive them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use cretoai_consensus_sim::{
    byzantine::Strategy,
    scenario::Scenario,
    world::{Report, World},
};
use cretoai_types::NodeId;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;

fn finish(scenario: Scenario) -> Report {
    let seed = scenario.seed;
    World::new(scenario).run().unwrap_or_else(|broken| panic!("seed {seed}: {broken}"))
}

fn bear(seeds: u64, strategies: &[Strategy]) {
    for seed in 0..seeds {
        let strategies = strategies.iter().copied();
        finish(Scenario::led_by_an_attacker(seed, 1_500 * MS, 80, strategies));
    }
}

#[test]
fn c1_a_lane_fed_from_the_top_down_stops_nobody() {
    bear(8, &[Strategy::FeedTopDown]);
}

#[test]
fn c2_two_heavy_branches_stop_nobody() {
    bear(8, &[Strategy::HeavyForks]);
}

#[test]
fn h1_a_trickling_lane_keeps_nobody_behind() {
    bear(8, &[Strategy::Trickle]);
    bear(8, &[Strategy::Trickle, Strategy::Withhold]);
}

#[test]
fn h1_two_of_seven_that_trickle_to_different_members_depose_nobody_for_ever() {
    for seed in 0..4 {
        let mut scenario = Scenario::lan(7, seed, 1_500 * MS, 80);
        for attacker in [2, 5] {
            scenario.attackers.insert(NodeId(attacker), [Strategy::Trickle].into());
        }
        finish(scenario);
    }
}

#[test]
fn h2_crowds_of_tiny_payloads_stop_nobody() {
    bear(8, &[Strategy::TinyPayloads]);
}

#[test]
fn h3_a_leader_that_holds_time_still_is_replaced() {
    let scenario = Scenario::led_by_an_attacker(1, 45 * SECOND, 90, [Strategy::FreezeTime]);
    let waited = finish(scenario).slowest_answer;
    assert!(waited < 14 * SECOND, "a client waited {} ms", waited / MS);
}

#[test]
fn h3_a_clock_that_is_a_minute_off_delays_nothing_for_a_minute_and_a_half() {
    for off_ms in [-60_000, 60_000] {
        let mut world = World::new(Scenario::lan(4, 2, 90 * SECOND, 180));
        world.machines[0].skew_ms = off_ms;
        let report = world.run().unwrap();
        let waited = report.slowest_answer;
        assert!(waited < 12 * SECOND, "{off_ms} ms off: a client waited {} ms", waited / MS);
    }
}

#[test]
fn h4_a_flood_of_invalid_votes_stops_nobody() {
    bear(6, &[Strategy::FloodInvalid]);
}

#[test]
fn m1_pushed_records_keep_nobody_behind() {
    bear(6, &[Strategy::PushRecords, Strategy::Selective]);
}

#[test]
fn m2_a_slow_leader_stops_nobody() {
    bear(6, &[Strategy::SlowLeader]);
}

#[test]
fn m3_members_that_a_leader_sends_away_come_back() {
    bear(6, &[Strategy::Exile]);
}
