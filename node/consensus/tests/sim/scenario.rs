//! What a seed stands for: how many nodes, which of them attack and how, what the network does, how often nodes crash.

use crate::{
    byzantine::{STRATEGIES, Strategy},
    disk::DiskFault,
    network::Weather,
    rng::Rng,
};
use cretoai_consensus::{FaultModel, NodeId, Quorum};
use std::collections::BTreeMap;

/// A deliberate mistake of the driver around an engine: the checks must notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Messages leave before the writes that they rest on.
    SendsBeforeWriting,
    /// The store is broken.
    Disk(DiskFault),
    /// The engines take one voter less for a quorum.
    SmallQuorum,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub n: usize,
    pub model: FaultModel,
    pub attackers: BTreeMap<NodeId, Vec<Strategy>>,
    pub weather: Weather,
    /// How long faults go on, microseconds.
    pub trouble: u64,
    /// Chance of a crash at a turn, in ten thousand.
    pub crashes: u64,
    pub partitions: bool,
    /// All nodes lose power at once, at this time.
    pub blackout: Option<u64>,
    /// Payloads that clients submit.
    pub payloads: u64,
    pub mutant: Option<Mutant>,
}

impl Scenario {
    /// All faults at once.
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let n = rng.pick(&[1, 3, 4, 4, 4, 7]);
        let model = if n <= 3 && rng.chance(300) { FaultModel::Crash } else { FaultModel::Byzantine };
        let mut attackers = BTreeMap::new();
        let most = if model == FaultModel::Byzantine { Quorum::new(n, model).f as u64 } else { 0 };
        for _ in 0..rng.range(0, most) {
            // The leader is one of them in every fourth: then only safety is asked for.
            let node = if rng.chance(250) { 0 } else { rng.range(1, n as u64 - 1) };
            let strategies = STRATEGIES.into_iter().filter(|_| rng.chance(350)).collect();
            attackers.insert(NodeId(node as u32), strategies);
        }
        let low = rng.range(50, 2_000);
        let weather = Weather {
            delay: (low, low + rng.range(0, 8_000)),
            loss: rng.pick(&[0, 10, 50, 150]),
            duplicates: rng.pick(&[0, 20, 100]),
            stragglers: rng.pick(&[0, 10, 50]),
        };
        let trouble = rng.range(1_000_000, 3_000_000);
        Self {
            seed,
            n,
            model,
            attackers,
            weather,
            trouble,
            crashes: rng.pick(&[0, 5, 20, 60]),
            partitions: rng.chance(600),
            blackout: rng.chance(250).then(|| rng.range(100_000, trouble)),
            payloads: rng.range(20, 120),
            mutant: None,
        }
    }

    /// Nothing goes wrong, and every message takes exactly `micros`.
    pub fn calm(n: usize, micros: u64) -> Self {
        Self {
            seed: 1,
            n,
            model: FaultModel::Byzantine,
            attackers: BTreeMap::new(),
            weather: Weather::exactly(micros),
            trouble: 0,
            crashes: 0,
            partitions: false,
            blackout: None,
            payloads: 0,
            mutant: None,
        }
    }

    /// The leader is honest, so everything accepted must become final.
    pub fn must_progress(&self) -> bool {
        !self.attackers.contains_key(&NodeId(0))
    }
}
