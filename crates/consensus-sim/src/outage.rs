//! How long nothing is decided under load, on a LAN with good disks and default timing: when the
//! leader is killed, and when one node after the other is killed or cut off and comes back.

use crate::{invariants::Broken, network::Weather, rng::Rng, scenario::Scenario, world::World};
use cretoai_types::Parameters;
use std::collections::BTreeMap;

/// The leader is killed at some time after this, microseconds.
const WARM_UP: u64 = 500_000;
/// What the bar is about, microseconds.
pub const BAR: u64 = 700_000;

/// Outages, microseconds, each with its seed, in order.
#[derive(Debug, Default)]
pub struct Outages(Vec<(u64, u64)>);

impl Outages {
    /// Kills the leader on a LAN in each of these seeds.
    ///
    /// # Errors
    /// The rule that is broken, and the seed.
    pub fn measure(base: u64, seeds: u64) -> Result<Self, Broken> {
        Self::measure_in(Weather::lan(), base, seeds)
    }

    /// Kills the leader in each of these seeds.
    ///
    /// # Errors
    /// The rule that is broken, and the seed.
    pub fn measure_in(weather: Weather, base: u64, seeds: u64) -> Result<Self, Broken> {
        Self::of_seeds(base, seeds, |seed| outage(weather, seed))
    }

    /// Leaves each of these seeds a minute without a quorum: how long it takes from its return to
    /// the first decision.
    ///
    /// # Errors
    /// The rule that is broken, and the seed.
    pub fn without_quorum(base: u64, seeds: u64) -> Result<Self, Broken> {
        Self::of_seeds(base, seeds, without_quorum)
    }

    fn of_seeds(
        base: u64,
        seeds: u64,
        outage: impl Fn(u64) -> Result<u64, Broken>,
    ) -> Result<Self, Broken> {
        let measured: Result<Vec<(u64, u64)>, Broken> = (base..base + seeds)
            .map(|seed| Ok((outage(seed).map_err(|e| format!("seed {seed}: {e}"))?, seed)))
            .collect();
        measured.map(Self::of)
    }

    fn of(mut outages: Vec<(u64, u64)>) -> Self {
        outages.sort_unstable();
        Self(outages)
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    /// The outage that so many of a thousand do not exceed.
    #[must_use]
    pub fn per_mille(&self, per_mille: usize) -> u64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((self.0.len() * per_mille / 1000).min(last)).map_or(0, |(outage, _)| *outage)
    }

    /// The longest, and its seed.
    #[must_use]
    pub fn longest(&self) -> (u64, u64) {
        self.0.last().copied().unwrap_or_default()
    }
}

/// The longest time without a decision on any survivor after its leader is killed, microseconds.
fn outage(weather: Weather, seed: u64) -> Result<u64, Broken> {
    let trouble = 2_500_000 + 20 * weather.delay.1;
    let mut scenario = Scenario::lan(4, seed, trouble, 1_500);
    scenario.weather = weather;
    scenario.payload_bytes = 100;
    scenario.parameters = Parameters::default();
    let mut world = World::new(scenario);
    let killed = WARM_UP + 10 * weather.delay.1 + seed.wrapping_mul(7_919) % 100_000;
    world.run_until(killed)?;
    let leader = world.leader().0 as usize;
    world.stop(leader, false);
    world.run_until(trouble - 1)?;
    Ok(longest_pause(&world, leader, killed, trouble - 1))
}

/// The time from the return of a quorum to the first decision, after two of four nodes were cut off
/// for a minute, microseconds.
fn without_quorum(seed: u64) -> Result<u64, Broken> {
    let trouble = WARM_UP + 70_000_000;
    let mut scenario = Scenario::lan(4, seed, trouble, 20 * trouble / 1_000_000);
    scenario.parameters = Parameters::default();
    let mut world = World::new(scenario);
    world.run_until(WARM_UP)?;
    let leader = world.leader().0 as usize;
    let away = [leader, (leader + 1) % 4];
    away.iter().for_each(|node| world.isolate(*node));
    world.run_until(WARM_UP + 60_000_000)?;
    let (from, length) = (world.now, world.length());
    away.iter().for_each(|node| world.rejoin(*node));
    world.run_until(trouble - 1)?;
    let first = world
        .timeline
        .executed
        .iter()
        .filter(|((sequence, _), at)| *sequence > length && **at >= from)
        .map(|(_, at)| *at - from)
        .min();
    Ok(first.unwrap_or(trouble - from))
}

/// How many views four nodes without a fault enter in some minutes, beyond those that terms end,
/// with messages that take so many microseconds one way and little load.
///
/// # Errors
/// The rule that is broken.
pub fn needless_views(delay: u64, minutes: u64) -> Result<u64, Broken> {
    let time = minutes * 60_000_000;
    let mut scenario = Scenario::lan(4, delay, time + 1, 120 * minutes);
    scenario.weather = Weather::exactly(delay);
    scenario.parameters = Parameters::default();
    let mut world = World::new(scenario);
    world.run_until(time)?;
    Ok(world.view().0.saturating_sub(minutes))
}

/// The longest time between two times without a decision on a node other than the victim.
fn longest_pause(world: &World, victim: usize, from: u64, to: u64) -> u64 {
    let mut longest = 0;
    for survivor in (0..4).filter(|node| *node != victim) {
        let mut last = from;
        for at in world
            .timeline
            .executed
            .iter()
            .filter(|((_, node), _)| *node == survivor)
            .map(|(_, at)| *at)
        {
            if at > from && at <= to {
                longest = longest.max(at - last);
                last = at;
            }
        }
        // Whoever never decides again has the longest outage of all.
        longest = longest.max(to.saturating_sub(last));
    }
    longest
}

/// What happens to one node of a cluster that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// Its process is killed, and starts again after a second; the others reach it three seconds
    /// later.
    Kill {
        /// The leader's.
        leader: bool,
    },
    /// It is cut off for three seconds.
    Cut {
        /// The leader.
        leader: bool,
    },
}

/// From one blow to the next.
const BETWEEN: u64 = 7_000_000;
/// Blows to one cluster.
const BLOWS: u64 = 6;

/// Strikes one node after the other in each of these seeds, one at a time.
///
/// # Errors
/// The rule that is broken, and the seed.
pub fn strike(base: u64, seeds: u64) -> Result<BTreeMap<Blow, Outages>, Broken> {
    let mut outages: BTreeMap<Blow, Vec<(u64, u64)>> = BTreeMap::new();
    for seed in base..base + seeds {
        for (blow, outage) in struck(seed).map_err(|e| format!("seed {seed}: {e}"))? {
            outages.entry(blow).or_default().push((outage, seed));
        }
    }
    Ok(outages.into_iter().map(|(blow, outages)| (blow, Outages::of(outages))).collect())
}

/// One cluster and its blows.
///
/// # Errors
/// The rule that is broken.
pub fn struck(seed: u64) -> Result<Vec<(Blow, u64)>, Broken> {
    let trouble = WARM_UP + BETWEEN * BLOWS + 1;
    let mut scenario = Scenario::lan(4, seed, trouble, 60 * trouble / 1_000_000);
    scenario.parameters = Parameters::default();
    let mut world = World::new(scenario);
    let mut rng = Rng::new(seed ^ 0xB70);
    let mut outages = Vec::new();
    for number in 0..BLOWS {
        let from = WARM_UP + number * BETWEEN + rng.below(100_000);
        world.run_until(from)?;
        let leads = rng.chance(500);
        let leader = world.leader().0 as usize;
        let victim = if leads { leader } else { (leader + 1 + rng.index(3)) % 4 };
        let blow = if rng.chance(500) {
            Blow::Kill { leader: leads }
        } else {
            Blow::Cut { leader: leads }
        };
        match blow {
            Blow::Kill { .. } => {
                world.stop(victim, false);
                let deaf = world.pairs_of(victim, false, true);
                deaf.iter().for_each(|pair| world.network.cut(*pair));
                world.run_until(from + 1_000_000)?;
                world.start(victim)?;
                world.run_until(from + 4_000_000)?;
                deaf.iter().for_each(|pair| world.mend(*pair));
            }
            Blow::Cut { .. } => {
                world.isolate(victim);
                world.run_until(from + 3_000_000)?;
                world.rejoin(victim);
            }
        }
        let until = WARM_UP + (number + 1) * BETWEEN;
        world.run_until(until)?;
        outages.push((blow, longest_pause(&world, victim, from, until)));
    }
    Ok(outages)
}
