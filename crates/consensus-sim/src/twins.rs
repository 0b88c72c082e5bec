//! Twins (Bano et al., arXiv 2004.10617): one of four nodes runs twice with the same key and id, so
//! that it equivocates with honest code, and every scenario of network partitions per round is
//! tried.
//!
//! A scenario is who has a twin and, for each round, how the five machines are split into groups
//! that do not hear each other. The leader of a view is a fixed function of it, so "which leader"
//! is "who has the twin": position and partitions enumerate the rest. A round lasts two timeouts,
//! long enough to change the view where the partition calls for it. After the rounds the network
//! heals, and everything must become final.

use crate::{invariants::Broken, rng::Rng, scenario::Scenario, seeds::text_of, world::World};
use cretoai_consensus::engine::Timing;
use cretoai_types::{NodeId, Parameters};
use std::time::{Duration, Instant};

const NODES: usize = 4;
const MACHINES: usize = NODES + 1;
/// The timeout T0 in these runs: short, since the network is fast.
const TIMEOUT: Duration = Duration::from_millis(40);
/// Microseconds.
const ROUND: u64 = 120_000;
/// More groups than this say nothing new about quorums of three.
const MOST_GROUPS: usize = 3;

/// One split of the machines: the group of each.
type Partition = [usize; MACHINES];

/// What was tried.
#[derive(Debug, Default)]
pub struct Tried {
    /// Scenarios without a broken rule.
    pub passed: u64,
    /// The others, with what replays them.
    pub failed: Vec<(String, Broken)>,
    /// All scenarios up to so many rounds were tried.
    pub whole_rounds: usize,
    /// Scenarios of more rounds that were drawn by chance.
    pub sampled: u64,
}

/// Every way to split five machines into at most three groups.
fn partitions() -> Vec<Partition> {
    let mut all = Vec::new();
    let codes = MOST_GROUPS.pow(MACHINES as u32);
    for code in 0..codes {
        let mut rest = code;
        let partition: Partition = std::array::from_fn(|_| {
            let group = rest % MOST_GROUPS;
            rest /= MOST_GROUPS;
            group
        });
        // One name for each: groups are numbered in the order in which they appear.
        let mut highest = 0;
        let in_order = partition.iter().all(|group| {
            let fits = *group <= highest;
            highest = highest.max(group + 1);
            fits
        });
        if in_order {
            all.push(partition);
        }
    }
    all
}

/// Runs one scenario.
///
/// # Errors
/// The rule that is broken.
pub fn run(twin: NodeId, rounds: &[Partition]) -> Result<(), Broken> {
    let trouble = ROUND * (rounds.len() as u64 + 1);
    let mut scenario = Scenario::lan(NODES, 7, trouble, 8 * (rounds.len() as u64 + 1));
    scenario.twin = Some(twin);
    scenario.fsync = (0, 0);
    scenario.payload_bytes = 60;
    scenario.parameters = Parameters { checkpoint_interval: 4, window: 8, ..Parameters::default() };
    scenario.timing = Timing {
        timeout: TIMEOUT,
        status: Duration::from_millis(20),
        patience: Duration::from_millis(40),
        ..Timing::default()
    };
    let mut world = World::new(scenario);
    world.run_until(ROUND / 4)?;
    for (round, partition) in (0..).zip(rounds) {
        let cut: Vec<(usize, usize)> = (0..MACHINES)
            .flat_map(|a| (0..MACHINES).map(move |b| (a, b)))
            .filter(|(a, b)| partition[*a] != partition[*b])
            .collect();
        cut.iter().for_each(|pair| world.network.cut(*pair));
        world.run_until(ROUND / 4 + ROUND * (round + 1))?;
        cut.iter().for_each(|pair| world.mend(*pair));
    }
    world.run().map(|_| ())
}

fn tried(twin: NodeId, rounds: &[Partition], so_far: &mut Tried) {
    let result = std::panic::catch_unwind(|| run(twin, rounds));
    match result.unwrap_or_else(|panic| Err(format!("panic: {}", text_of(&*panic)))) {
        Ok(()) => so_far.passed += 1,
        Err(broken) => {
            so_far.failed.push((format!("twin of node {twin}, rounds {rounds:?}"), broken))
        }
    }
}

/// Tries all scenarios of one round, then of two, and so on while there is time; what is left of it
/// goes to longer ones drawn by chance from `seed`. Stops after ten failures.
#[must_use]
pub fn explore(seconds: u64, seed: u64, most_rounds: usize) -> Tried {
    let began = Instant::now();
    let over = || began.elapsed().as_secs() >= seconds;
    let all = partitions();
    let mut so_far = Tried::default();
    for count in 1..=most_rounds {
        let scenarios = all.len().pow(count as u32);
        for code in 0..scenarios {
            let mut rest = code;
            let rounds: Vec<Partition> = (0..count)
                .map(|_| {
                    let partition = all[rest % all.len()];
                    rest /= all.len();
                    partition
                })
                .collect();
            for twin in 0..NODES as u32 {
                tried(NodeId(twin), &rounds, &mut so_far);
            }
            if over() || so_far.failed.len() >= 10 {
                return so_far;
            }
        }
        so_far.whole_rounds = count;
    }
    let mut rng = Rng::new(seed);
    while !over() && so_far.failed.len() < 10 {
        let count = rng.range(most_rounds as u64 + 1, most_rounds as u64 + 6);
        let rounds: Vec<Partition> = (0..count).map(|_| all[rng.index(all.len())]).collect();
        let twin = NodeId(rng.below(NODES as u64) as u32);
        tried(twin, &rounds, &mut so_far);
        so_far.sampled += 1;
    }
    so_far
}
