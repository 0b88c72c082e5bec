//! The network: delay, loss, duplication, reordering, one-way and two-way partitions that heal.

use crate::rng::Rng;

/// What the network does to a message.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Microseconds.
    pub delay: (u64, u64),
    /// In a thousand.
    pub loss: u64,
    /// In a thousand.
    pub duplicates: u64,
    /// In a thousand: a message that is a long time on its way, and overtaken.
    pub stragglers: u64,
}

impl Weather {
    /// Every message takes exactly this long.
    pub fn exactly(micros: u64) -> Self {
        Self { delay: (micros, micros), loss: 0, duplicates: 0, stragglers: 0 }
    }

    /// After healing: a LAN.
    pub fn fair() -> Self {
        Self { delay: (100, 2_000), loss: 0, duplicates: 0, stragglers: 0 }
    }
}

pub struct Network {
    pub weather: Weather,
    blocked: Vec<Vec<bool>>,
}

impl Network {
    pub fn new(n: usize, weather: Weather) -> Self {
        Self { weather, blocked: vec![vec![false; n]; n] }
    }

    /// When the copies of a message arrive, in microseconds from now.
    pub fn delays(&self, rng: &mut Rng, from: usize, to: usize) -> Vec<u64> {
        let Weather { delay: (low, high), loss, duplicates, stragglers } = self.weather;
        if self.blocked[from][to] || rng.chance(loss) {
            return Vec::new();
        }
        let copies = 1 + u64::from(rng.chance(duplicates));
        (0..copies).map(|_| if rng.chance(stragglers) { rng.range(high, high * 20) } else { rng.range(low, high) }).collect()
    }

    /// Splits the nodes in two, in one direction or both. Returns the pairs that are cut.
    pub fn split(&mut self, rng: &mut Rng) -> Vec<(usize, usize)> {
        let n = self.blocked.len();
        let side: Vec<bool> = (0..n).map(|_| rng.chance(500)).collect();
        let one_way = rng.chance(300);
        let mut cut = Vec::new();
        for from in 0..n {
            for to in 0..n {
                if side[from] != side[to] && (!one_way || side[from]) {
                    self.blocked[from][to] = true;
                    cut.push((from, to));
                }
            }
        }
        cut
    }

    pub fn heal(&mut self) {
        self.blocked.iter_mut().flatten().for_each(|blocked| *blocked = false);
    }
}
