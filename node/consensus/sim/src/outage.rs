//! How long nothing is decided when the leader is killed under load, on a LAN with good disks and default timing.

use crate::{invariants::Broken, scenario::Scenario, world::World};
use cretoai_consensus::Parameters;

/// The leader is killed at some time after this, microseconds.
const WARM_UP: u64 = 500_000;
/// What the bar is about, microseconds.
pub const BAR: u64 = 700_000;

/// The outages of many seeds, microseconds, in order.
#[derive(Debug, Default)]
pub struct Outages(Vec<u64>);

impl Outages {
    /// Kills the leader in each of these seeds.
    ///
    /// # Errors
    /// The rule that is broken, and the seed.
    pub fn measure(base: u64, seeds: u64) -> Result<Self, Broken> {
        let measured: Result<Vec<u64>, Broken> =
            (base..base + seeds).map(|seed| outage(seed).map_err(|e| format!("seed {seed}: {e}"))).collect();
        let mut measured = measured?;
        measured.sort_unstable();
        Ok(Self(measured))
    }

    /// The outage that so many of a thousand do not exceed.
    #[must_use]
    pub fn per_mille(&self, per_mille: usize) -> u64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((self.0.len() * per_mille / 1000).min(last)).copied().unwrap_or(0)
    }

    /// The longest.
    #[must_use]
    pub fn longest(&self) -> u64 {
        self.0.last().copied().unwrap_or(0)
    }
}

/// The longest time without a decision on any survivor after its leader is killed, microseconds.
fn outage(seed: u64) -> Result<u64, Broken> {
    let trouble = 2_500_000;
    let mut scenario = Scenario::lan(4, seed, trouble, 1_500);
    scenario.payload_bytes = 100;
    scenario.parameters = Parameters::default();
    let mut world = World::new(scenario);
    let killed = WARM_UP + seed.wrapping_mul(7_919) % 100_000;
    world.run_until(killed)?;
    let leader = world.leader().0 as usize;
    world.stop(leader, false);
    world.run_until(trouble - 1)?;
    let mut longest = 0;
    for survivor in (0..4).filter(|node| *node != leader) {
        let mut last = killed;
        for at in world.timeline.executed.iter().filter(|((_, node), _)| *node == survivor).map(|(_, at)| *at) {
            if at > killed {
                longest = longest.max(at - last);
                last = at;
            }
        }
        // Whoever never decides again has the longest outage of all.
        longest = longest.max((trouble - 1).saturating_sub(last));
    }
    Ok(longest)
}
