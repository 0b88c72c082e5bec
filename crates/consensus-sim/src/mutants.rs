//! The proof that the checks can fail: engines, disks and drivers with one rule broken, each hunted
//! with seeds of a scenario in which that rule matters, until a check notices. The same seed
//! without the breakage keeps every rule.

use crate::{
    byzantine::Strategy,
    disk::DiskFault,
    invariants::Broken,
    machine::BEGINNING_MS,
    network::Weather,
    rng::Rng,
    scenario::{self, Change, Fault, Planned, Scenario},
    seeds::text_of,
    world::World,
};
use cretoai_types::{
    NodeId, Parameters, Payload,
    mutants::{Mutant, set as set_mutant},
};

/// The most seeds for one breakage.
pub const BUDGET: u64 = 400;

/// What a client waits for an answer at the most while one clock is wrong, microseconds. A leader's
/// time may be ten seconds behind, and some payloads are valid only from 0.7 s later on.
const SLOWEST_ANSWER: u64 = 12_000_000;

/// What is broken.
#[derive(Clone, Copy, Debug)]
pub enum Breakage {
    /// A rule of the engine.
    Engine(Mutant),
    /// The driver or the disk around it.
    Driver(scenario::Broken, &'static str),
}

/// What became of a hunt.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// What was broken.
    pub name: String,
    /// The rule that it breaks.
    pub rule: String,
    /// Which check noticed, and in which seed counted from 1; or nothing within the budget.
    pub caught: Option<(String, u64)>,
}

impl Breakage {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let engines = Mutant::ALL.iter().copied().map(Self::Engine);
        let disks = DiskFault::ALL
            .into_iter()
            .map(|fault| Self::Driver(scenario::Broken::Disk(fault), rule_of(fault)));
        let drivers = [
            (
                scenario::Broken::SendsBeforeWriting,
                "nothing leaves before the writes that it rests on",
            ),
            (scenario::Broken::AnswersNothing, "laggards are given what they ask for"),
        ];
        engines
            .chain(disks)
            .chain(drivers.into_iter().map(|(broken, rule)| Self::Driver(broken, rule)))
            .collect()
    }

    fn name(self) -> String {
        match self {
            Self::Engine(mutant) => format!("{mutant:?}"),
            Self::Driver(scenario::Broken::Disk(fault), _) => format!("disk {fault:?}"),
            Self::Driver(broken, _) => format!("driver {broken:?}"),
        }
    }

    fn rule(self) -> &'static str {
        match self {
            Self::Engine(mutant) => mutant.rule(),
            Self::Driver(_, rule) => rule,
        }
    }

    /// Hunts it.
    #[must_use]
    pub fn hunt(self) -> Hunt {
        let mut caught = None;
        for seed in 0..BUDGET {
            let Err(broken) = self.run(seed, true) else { continue };
            if let Err(without) = self.run(seed, false) {
                // Not the breakage is to blame: a rule is broken without it.
                caught = Some((format!("NOT BY THE BREAKAGE: {without}"), seed + 1));
                break;
            }
            let rule = broken.split(':').next().unwrap_or_default().to_owned();
            caught = Some((rule, seed + 1));
            break;
        }
        Hunt { name: self.name(), rule: self.rule().to_owned(), caught }
    }

    fn run(self, seed: u64, broken: bool) -> Result<(), Broken> {
        let mut driver = None;
        match self {
            Self::Engine(Mutant::VoteBeforeDurable) => {
                driver = Some(scenario::Broken::SendsBeforeWriting)
            }
            Self::Engine(mutant) => set_mutant(Some(mutant).filter(|_| broken)),
            Self::Driver(kind, _) => driver = Some(kind),
        }
        let result = std::panic::catch_unwind(|| self.scene(seed, driver.filter(|_| broken)));
        set_mutant(None);
        result.unwrap_or_else(|panic| Err(format!("panic: {}", text_of(&*panic))))
    }

    /// The scenario in which the rule matters.
    fn scene(self, seed: u64, driver: Option<scenario::Broken>) -> Result<(), Broken> {
        use Strategy as S;
        let add = [Change::Add];
        let scenario = match self {
            Self::Engine(Mutant::WantForever) => return wants_end(seed),
            Self::Engine(Mutant::LeaderGoneIgnored) => return leader_leaves_alone(seed),
            Self::Engine(Mutant::TimeoutConstant) => return slow_network(seed),
            Self::Engine(Mutant::RoundTripIgnored) => return far_apart(seed),
            Self::Engine(Mutant::TimeStandsStill) => return slow_clock(seed),
            Self::Engine(Mutant::CutUnbounded) => {
                let strategy = [S::TinyPayloads, S::FeedTopDown][seed as usize % 2];
                Scenario::led_by_an_attacker(seed, 1_500_000, 80, [strategy])
            }
            Self::Engine(Mutant::FetchedByHeight) => {
                Scenario::led_by_an_attacker(seed, 1_500_000, 80, [S::HeavyForks])
            }
            Self::Engine(Mutant::HolderNeverFails) => {
                Scenario::led_by_an_attacker(seed, 1_500_000, 80, [S::Withhold, S::Trickle])
            }
            Self::Engine(Mutant::WeakQuorumTooSmall) => {
                busy(seed, 3, &[], &[Fault::Pause, Fault::Isolate, Fault::SlowDisk], &[])
            }
            Self::Engine(Mutant::RepairOff) => return lost_vertex(seed),
            Self::Engine(Mutant::LinksRequired) => return link_to_what_others_lack(),
            Self::Engine(Mutant::NewViewNotRecomputed) => busy(
                seed,
                4,
                &[S::LieNewView, S::Equivocate, S::Silence],
                &[Fault::OnePrepares, Fault::OneDecides, Fault::KillLeader],
                &[],
            ),
            Self::Engine(
                Mutant::PreparedDropped | Mutant::ChoiceIgnored | Mutant::StaleViewAccepted,
            ) => busy(
                seed,
                4,
                &[],
                &[Fault::OneDecides, Fault::OnePrepares, Fault::CutLeader, Fault::PauseLeader],
                &[],
            ),
            Self::Engine(Mutant::LockLostOnRestart | Mutant::VotesLostOnRestart)
            | Self::Driver(scenario::Broken::Disk(_), _) => restless(busy(
                seed,
                4,
                &[],
                &[
                    Fault::OneDecides,
                    Fault::OnePrepares,
                    Fault::KillLeader,
                    Fault::Blackout,
                    Fault::RollingRestart,
                ],
                &[],
            )),
            Self::Engine(
                Mutant::TipNotDescending | Mutant::DataNotHeld | Mutant::CommitUnprepared,
            ) => busy(
                seed,
                4,
                &[S::BadProposals, S::Equivocate, S::Withhold],
                &[Fault::PauseLeader, Fault::PartialCut],
                &[],
            ),
            Self::Engine(Mutant::ForkAcknowledged) => busy(seed, 4, &[S::ForkLane], &[], &[]),
            Self::Engine(Mutant::LearnerVotes) => Scenario {
                lax_senders: true,
                ..busy(seed, 5, &[], &[], &[Change::Remove(NodeId(seed as u32 % 5))])
            },
            Self::Engine(Mutant::OldEpochVotes) => {
                busy(seed, 4, &[S::OtherDomain], &[Fault::Pause], &add)
            }
            Self::Engine(Mutant::PreparedPastReconfig | Mutant::PayloadIdWithEpoch) => {
                busy(seed, 4, &[], &[Fault::PartialCut], &add)
            }
            Self::Engine(Mutant::StaleVolumeSigns) => return older_copy(seed),
            Self::Engine(Mutant::ItemsJudgedOnArrival) => busy(
                seed,
                4,
                &[S::Equivocate, S::ConflictingVotes, S::ForkLane],
                &[Fault::PartialCut, Fault::KillLeader],
                &[],
            ),
            Self::Engine(Mutant::VotesErasedEarly) => {
                busy(seed, 4, &[], &[Fault::Pause, Fault::SlowLink, Fault::Isolate], &[])
            }
            Self::Engine(Mutant::EvidenceAcrossEpochs | Mutant::EvidenceUnsigned) => busy(
                seed,
                4,
                &[S::Frame],
                &[],
                &[Change::RotateAdmin, Change::SetParameters, Change::RotateAdmin],
            ),
            Self::Engine(Mutant::ShareIgnored) => {
                let mut scenario = busy(seed, 4, &[], &[Fault::Pause], &[]);
                scenario.parameters.recent_payloads = 100;
                scenario
            }
            Self::Engine(Mutant::UnverifiedVote) => {
                busy(seed, 4, &[S::ForgeVotes, S::OtherDomain], &[], &[])
            }
            Self::Engine(Mutant::LeaderFromLocalBans) => busy(
                seed,
                4,
                &[S::Equivocate, S::ConflictingVotes, S::ForkLane],
                &[Fault::PartialCut],
                &[],
            ),
            Self::Driver(scenario::Broken::AnswersNothing, _) => {
                busy(seed, 4, &[], &[Fault::Isolate, Fault::Pause, Fault::Isolate], &[])
            }
            Self::Engine(_) | Self::Driver(..) => {
                busy(seed, 4, &[], &[Fault::CutLeader, Fault::KillLeader, Fault::Isolate], &[])
            }
        };
        World::new(Scenario { broken: driver, ..scenario }).run().map(|_| ())
    }
}

const fn rule_of(fault: DiskFault) -> &'static str {
    match fault {
        DiskFault::IgnoresFsync => "what an fsync covered is durable",
        DiskFault::ForgetsPrepared => "a restart gives back the prepared certificate",
        DiskFault::ForgetsView => "a restart gives back the view",
        DiskFault::ForgetsRecentPayloads => "a restart gives back the executed payloads",
        DiskFault::ForgetsVertices => "a restart gives back the undecided vertices",
    }
}

/// Clients, some of the faults each at some time, one attacker if there are strategies, and
/// changes.
fn busy(
    seed: u64,
    n: usize,
    strategies: &[Strategy],
    faults: &[Fault],
    changes: &[Change],
) -> Scenario {
    let mut rng = Rng::new(seed ^ 0xB05E);
    let trouble = 1_600_000;
    let mut scenario = Scenario::lan(n, seed, trouble, 80);
    scenario.weather = Weather {
        delay: (100, 3_000),
        loss: rng.pick(&[0, 10, 50]),
        duplicates: 20,
        stragglers: 10,
    };
    scenario.fsync = (200, 1_500);
    scenario.parameters =
        Parameters { checkpoint_interval: 8, window: 16, ..Parameters::default() };
    if !strategies.is_empty() {
        scenario
            .attackers
            .insert(NodeId(rng.below(n as u64) as u32), strategies.iter().copied().collect());
    }
    for fault in faults.iter().chain(faults) {
        let from = rng.range(50_000, trouble - 100_000);
        scenario.faults.push(Planned {
            fault: *fault,
            from,
            until: from + rng.range(30_000, 700_000),
        });
    }
    scenario.spare = changes.iter().filter(|change| **change == Change::Add).count();
    scenario.changes = changes.to_vec();
    scenario
}

/// Nodes that crash all the time.
fn restless(scenario: Scenario) -> Scenario {
    Scenario { crashes: 60, ..scenario }
}

/// A node seals a vertex while nobody hears it, and nothing more. When all hear it again, they get
/// it.
fn lost_vertex(seed: u64) -> Result<(), Broken> {
    let mut world = World::new(Scenario::lan(4, seed, 0, 0));
    world.run_until(200_000)?;
    world.isolate(3);
    world.submit_now(3, payload(1))?;
    world.run_until(260_000)?;
    world.rejoin(3);
    world.run_until(2_000_000)?;
    if world.length().0 > 0 {
        Ok(())
    } else {
        Err("repair: a vertex that was lost on its way never came".into())
    }
}

/// A vertex links to another lane's that only its author holds: it is final as soon as any other.
fn link_to_what_others_lack() -> Result<(), Broken> {
    const DELAY: u64 = 10_000;
    let mut world = World::new(Scenario::calm(4, DELAY));
    world.run_until(120_000)?;
    let cut = [(3, 1), (3, 2)];
    cut.iter().for_each(|pair| world.network.cut(*pair));
    world.submit_now(3, payload(1))?;
    world.run_until(120_000 + DELAY + 1_000)?;
    let submitted = world.now;
    world.submit_now(0, payload(2))?;
    world.run_until(submitted + 6 * DELAY)?;
    if world.length().0 > 0 {
        Ok(())
    } else {
        Err("links: a vertex had to wait for another lane".into())
    }
}

/// Nothing is wrong but the distance: the leader stays.
fn far_apart(seed: u64) -> Result<(), Broken> {
    let mut world = World::new(Scenario {
        weather: Weather::exactly(100_000),
        ..Scenario::lan(4, seed, 10_000_000, 60)
    });
    world.run_until(10_000_000)?;
    let view = world.view();
    if view.0 == 0 {
        Ok(())
    } else {
        Err(format!("distance: view {view} was entered though the leader never failed"))
    }
}

/// A message takes so long that a view of T0 cannot decide anything, and nobody measured it.
fn slow_network(seed: u64) -> Result<(), Broken> {
    let mut world = World::new(Scenario {
        weather: Weather::exactly(300_000),
        measured: false,
        ..Scenario::lan(4, seed, 0, 0)
    });
    world.submit_at(1_000_000, payload(1));
    world.run().map(|_| ())
}

/// The first leader's clock is a minute slow, for most of its term: what clients submit is final
/// all the same.
fn slow_clock(seed: u64) -> Result<(), Broken> {
    let mut world = World::new(Scenario::lan(4, seed, 45_000_000, 90));
    world.machines[0].skew_ms = -60_000;
    let waited = world.run()?.slowest_answer;
    if waited < SLOWEST_ANSWER {
        Ok(())
    } else {
        Err(format!("answers: a client waited {} ms", waited / 1000))
    }
}

/// One node after the other is alone for a while and wants another leader; when all are back,
/// nobody does any more, and the leader stays.
fn wants_end(seed: u64) -> Result<(), Broken> {
    let mut world = World::new(Scenario::lan(4, seed, 6_000_000, 300));
    world.run_until(200_000)?;
    for node in [1, 2, 3] {
        world.isolate(node);
        world.run_until(world.now + 900_000)?;
        world.rejoin(node);
        world.run_until(world.now + 500_000)?;
    }
    let view = world.view();
    if view.0 == 0 {
        Ok(())
    } else {
        Err(format!("wants: view {view} was entered though the leader never failed"))
    }
}

/// The leader resigns while the others do not hear each other: it alone sees that a quorum is
/// ready, and goes. One node is down, so that everyone is needed.
fn leader_leaves_alone(seed: u64) -> Result<(), Broken> {
    let mut world = World::new(Scenario::lan(4, seed, 0, 0));
    world.run_until(200_000)?;
    world.stop(3, false);
    let between = [(1, 2), (2, 1)];
    between.iter().for_each(|pair| world.network.cut(*pair));
    world.resign(0)?;
    world.run_until(260_000)?;
    between.iter().for_each(|pair| world.mend(*pair));
    world.run_until(460_000)?;
    let behind = world
        .machines
        .iter()
        .filter_map(|m| m.engine.as_ref())
        .filter(|engine| engine.view() != world.view())
        .count();
    if behind == 0 {
        Ok(())
    } else {
        Err(format!("alone: the leader left for view {}, and {behind} nodes stayed", world.view()))
    }
}

/// A volume is restored from a copy that lacks what its node signed since.
fn older_copy(seed: u64) -> Result<(), Broken> {
    let mut world = World::new(Scenario::lan(4, seed, 1_500_000, 120));
    let node = 1 + (seed % 3) as usize;
    world.run_until(300_000)?;
    world.copy_volume(node);
    world.run_until(900_000)?;
    world.restore_volume()?;
    world.run().map(|_| ())
}

fn payload(number: u8) -> Payload {
    Payload {
        key: [number; 16],
        valid_until_ms: BEGINNING_MS + 30_000,
        topic: None,
        data: vec![number; 50],
    }
}

/// Hunts all breakages, on so many threads, and prints each line of the table as it is known.
#[must_use]
pub fn hunt_all(threads: usize) -> Vec<Hunt> {
    let all = Breakage::all();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let hunts = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(breakage) = all.get(index) else { return };
                    let hunt = breakage.hunt();
                    println!("{}", hunt.line());
                    hunts.lock().unwrap().push((index, hunt));
                }
            });
        }
    });
    let mut hunts = hunts.into_inner().unwrap();
    hunts.sort_by_key(|(index, _)| *index);
    hunts.into_iter().map(|(_, hunt)| hunt).collect()
}

impl Hunt {
    /// Whether a check noticed, and the breakage was why.
    #[must_use]
    pub fn is_caught(&self) -> bool {
        self.caught.as_ref().is_some_and(|(by, _)| !by.starts_with("NOT"))
    }

    /// A line of the table.
    #[must_use]
    pub fn line(&self) -> String {
        let (by, seeds) = self.caught.as_ref().map_or_else(
            || ("nothing".to_owned(), format!("> {BUDGET}")),
            |(by, s)| (by.clone(), s.to_string()),
        );
        format!("| {} | {} | {by} | {seeds} |", self.name, self.rule)
    }
}
