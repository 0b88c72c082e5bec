//! What a seed stands for: how many nodes, which of them attack and how, what the network, disks,
//! clocks and processes do and when, and which reconfigurations the admin orders meanwhile.

use crate::{
    byzantine::{STRATEGIES, Strategy},
    disk::DiskFault,
    network::Weather,
    rng::Rng,
};
use cretoai_consensus::engine::Timing;
use cretoai_types::{FaultModel, MAX_MEMBERS, NodeId, Parameters, Quorum};
use std::collections::{BTreeMap, BTreeSet};

/// A deliberate mistake of the driver around an engine: the checks must notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Messages leave before the writes that they rest on.
    SendsBeforeWriting,
    /// The store is broken.
    Disk(DiskFault),
    /// The driver drops the records that a laggard asks for.
    AnswersNothing,
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Something that goes wrong once, for a while.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        /// All of them.
        pub const FAULTS: &[Fault] = &[$(Fault::$name,)*];
    };
}

faults! {
    /// Two halves that do not hear each other.
    Split,
    /// One half that does not hear the other.
    OneWaySplit,
    /// Some links are cut, in some directions.
    PartialCut,
    /// One node hears and is heard by nobody.
    Isolate,
    /// One node is heard by nobody.
    Mute,
    /// One node hears nobody.
    Deafen,
    /// The leader hears and is heard by nobody.
    CutLeader,
    /// The channels of one node break and are made again, over and over.
    Flap,
    /// The links of one node are slow.
    SlowLink,
    /// COMMITs reach one node only, which is then alone for a while.
    OneDecides,
    /// PREPAREs reach one node only, which is then alone for a while.
    OnePrepares,
    /// One node gets no processor time.
    Pause,
    /// The leader gets no processor time.
    PauseLeader,
    /// The leader's process is killed.
    KillLeader,
    /// One node after the other is restarted.
    RollingRestart,
    /// All nodes lose power at once.
    Blackout,
    /// A clock is set forward.
    ClockForward,
    /// A clock is set back.
    ClockBack,
    /// The fsyncs of one node take long.
    SlowDisk,
    /// A write fails: the node stops, and is started later.
    WriteError,
    /// A volume is full: the node stops at its next write, until there is room.
    FullDisk,
    /// A volume is lost, and the key on it.
    LostVolume,
    /// A volume is restored from an older copy.
    RestoredVolume,
    /// Clients submit nothing for a while.
    Idle,
}

/// What the admin orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The next machine joins.
    Add,
    /// A member goes.
    Remove(NodeId),
    /// The leader of the newest view goes.
    RemoveLeader,
    /// A member changes its key.
    Rotate(NodeId),
    /// The admin changes its key.
    RotateAdmin,
    /// Other shared intervals.
    SetParameters,
    /// A member whose volume is lost gets a new key. Ordered when it happens.
    Replace(NodeId),
}

/// A fault and when.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// What.
    pub fault: Fault,
    /// From when, microseconds.
    pub from: u64,
    /// Until when.
    pub until: u64,
}

/// All that a run is made of, beside chance.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What all chance follows from.
    pub seed: u64,
    /// Validators at the beginning.
    pub n: usize,
    /// Machines that can join.
    pub spare: usize,
    /// What is assumed of the faulty.
    pub model: FaultModel,
    /// Intervals that all share.
    pub parameters: Parameters,
    /// Local intervals.
    pub timing: Timing,
    /// Who lies, and how.
    pub attackers: BTreeMap<NodeId, BTreeSet<Strategy>>,
    /// What the network does to every message.
    pub weather: Weather,
    /// Drivers measure round trips, when a connection is made.
    pub measured: bool,
    /// What an fsync takes, microseconds.
    pub fsync: (u64, u64),
    /// How far clocks differ, milliseconds.
    pub skew_ms: u64,
    /// How long faults go on, microseconds.
    pub trouble: u64,
    /// Chance of a crash at a turn, in ten thousand.
    pub crashes: u64,
    /// What goes wrong, and when.
    pub faults: Vec<Planned>,
    /// What the admin orders, one after the other.
    pub changes: Vec<Change>,
    /// Payloads that clients submit.
    pub payloads: u64,
    /// Bytes of most of them at the most.
    pub payload_bytes: u64,
    /// A mistake of the driver.
    pub broken: Option<Broken>,
    /// Drivers send to machines that are no members (any more), too.
    pub lax_senders: bool,
    /// Two machines run with the key and id of this node.
    pub twin: Option<NodeId>,
}

impl Scenario {
    /// All faults at once.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let n = rng.pick(&[1, 3, 4, 4, 4, 4, 4, 5, 6, 7, 7, 10]);
        let model =
            if n <= 3 && rng.chance(300) { FaultModel::Crash } else { FaultModel::Byzantine };
        let low = rng.range(50, 1_500);
        let weather = Weather {
            delay: (low, low + rng.range(0, 6_000)),
            loss: rng.pick(&[0, 0, 10, 50, 150]),
            duplicates: rng.pick(&[0, 20, 100]),
            stragglers: rng.pick(&[0, 10, 50]),
        };
        let trouble = rng.range(900_000, 2_500_000);
        let payloads = rng.range(20, 120);
        let mut scenario = Self {
            n,
            model,
            parameters: parameters(&mut rng, payloads),
            weather,
            fsync: if rng.chance(400) { (0, 0) } else { (200, rng.range(400, 3_000)) },
            skew_ms: 400,
            trouble,
            crashes: rng.pick(&[0, 2, 8, 25]),
            payloads,
            lax_senders: rng.chance(300),
            ..Self::calm(n, 0)
        };
        scenario.seed = seed;
        scenario.choose_attackers(&mut rng);
        scenario.choose_faults(&mut rng);
        scenario.choose_changes(&mut rng);
        scenario
    }

    /// Nothing goes wrong, and every message takes exactly `micros`.
    #[must_use]
    pub fn calm(n: usize, micros: u64) -> Self {
        Self {
            seed: 1,
            n,
            spare: 0,
            model: FaultModel::Byzantine,
            parameters: Parameters::default(),
            timing: Timing::default(),
            measured: true,
            attackers: BTreeMap::new(),
            weather: Weather::exactly(micros),
            fsync: (0, 0),
            skew_ms: 1,
            trouble: 0,
            crashes: 0,
            faults: Vec::new(),
            changes: Vec::new(),
            payloads: 0,
            payload_bytes: 300,
            broken: None,
            lax_senders: false,
            twin: None,
        }
    }

    /// A LAN with good disks and small checkpoints, and clients for this long.
    #[must_use]
    pub fn lan(n: usize, seed: u64, trouble: u64, payloads: u64) -> Self {
        let parameters = Parameters { checkpoint_interval: 8, window: 32, ..Parameters::default() };
        Self {
            seed,
            parameters,
            weather: Weather::lan(),
            fsync: (1_000, 2_000),
            skew_ms: 100,
            trouble,
            payloads,
            ..Self::calm(n, 0)
        }
    }

    /// A LAN of four whose first leader follows these strategies.
    #[must_use]
    pub fn led_by_an_attacker(
        seed: u64,
        trouble: u64,
        payloads: u64,
        strategies: impl IntoIterator<Item = Strategy>,
    ) -> Self {
        let attackers = BTreeMap::from([(NodeId(0), strategies.into_iter().collect())]);
        Self { attackers, ..Self::lan(4, seed, trouble, payloads) }
    }

    /// How many may be faulty.
    #[must_use]
    pub const fn f(&self) -> usize {
        Quorum::new(self.n, self.model).f
    }

    fn choose_attackers(&mut self, rng: &mut Rng) {
        let most = if self.model == FaultModel::Byzantine { self.f() as u64 } else { 0 };
        for _ in 0..rng.range(0, most) {
            let node = NodeId(rng.below(self.n as u64) as u32);
            let share = rng.pick(&[80, 200, 400]);
            let follows = |strategy: &Strategy| !strategy.is_of_scenes() && rng.chance(share);
            let strategies: BTreeSet<Strategy> =
                STRATEGIES.iter().copied().filter(follows).collect();
            self.attackers.insert(node, strategies);
        }
    }

    fn choose_faults(&mut self, rng: &mut Rng) {
        let mut bad = self.attackers.len();
        let count = rng.pick(&[0, 3, 6, 12]);
        for _ in 0..count {
            let fault = rng.pick(FAULTS);
            let costs = usize::from(matches!(fault, Fault::LostVolume | Fault::RestoredVolume));
            let needs_f = costs > 0 && (self.model == FaultModel::Crash || bad + costs > self.f());
            if needs_f {
                continue;
            }
            bad += costs;
            let from = rng.below(self.trouble);
            let until = from + rng.range(30_000, 900_000);
            self.faults.push(Planned { fault, from, until });
        }
    }

    /// Changes that leave as many faulty nodes tolerable as there are.
    fn choose_changes(&mut self, rng: &mut Rng) {
        let volumes = self
            .faults
            .iter()
            .filter(|p| matches!(p.fault, Fault::LostVolume | Fault::RestoredVolume))
            .count();
        let bad = self.attackers.len() + volumes;
        let mut n = self.n;
        let count = if rng.chance(450) { rng.range(1, 3) } else { 0 };
        for _ in 0..count {
            let any = NodeId(rng.below(self.n as u64) as u32);
            let change = match rng.below(7) {
                0 | 1 => Change::Add,
                2 => Change::Remove(any),
                3 => Change::RemoveLeader,
                4 => Change::Rotate(any),
                5 => Change::RotateAdmin,
                _ => Change::SetParameters,
            };
            let after = match change {
                Change::Add => n + 1,
                Change::Remove(_) | Change::RemoveLeader => n - 1,
                _ => n,
            };
            let model_fits = self.model == FaultModel::Byzantine || after <= 3;
            if after == 0
                || !model_fits
                || after == n - 1 && n <= 3
                || (bad > 0 && Quorum::new(after, self.model).f < bad)
            {
                continue;
            }
            self.spare += usize::from(change == Change::Add);
            n = after;
            self.changes.push(change);
        }
    }

    /// Every kind of thing that goes wrong in it, for the count.
    #[must_use]
    pub fn strategies(&self) -> BTreeSet<Strategy> {
        self.attackers.values().flatten().copied().collect()
    }
}

fn parameters(rng: &mut Rng, payloads: u64) -> Parameters {
    let checkpoint_interval = rng.pick(&[4, 8, 8, 16, 64]);
    Parameters {
        checkpoint_interval,
        window: checkpoint_interval * rng.pick(&[2, 4]),
        term_sequences: rng.pick(&[10, 40, 10_000]),
        term_ms: rng.pick(&[500, 60_000]),
        // As few as the lanes of a quorum need to take what all clients submit, or plenty.
        recent_payloads: rng.pick(&[(payloads * 3 / 2 + 10).max(MAX_MEMBERS as u64), 3 << 20]),
    }
}
