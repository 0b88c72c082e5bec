//! The network: delay, loss, duplication, reordering, one-way and partial partitions, slow links. A
//! channel that breaks loses what was on its way.

use crate::rng::Rng;
use cretoai_consensus::Message;
use cretoai_types::Phase;
use std::time::Duration;

/// What the network does to every message.
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
    #[must_use]
    pub const fn exactly(micros: u64) -> Self {
        Self { delay: (micros, micros), loss: 0, duplicates: 0, stragglers: 0 }
    }

    /// A LAN: what is there after healing, and what the figures of outages are for.
    #[must_use]
    pub const fn lan() -> Self {
        Self { delay: (100, 500), loss: 0, duplicates: 0, stragglers: 0 }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// How many faults cut it.
    cut: u32,
    /// Microseconds more than the weather says.
    slow: u64,
    /// Counts breaks: what was sent before one is lost.
    era: u64,
}

/// Votes of one step reach one machine only. With what follows it is how decisions become known to
/// a single node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Which votes.
    pub phase: Phase,
    /// Who still gets them.
    pub only: usize,
}

/// All links between all machines, members or not.
#[derive(Debug)]
pub struct Network {
    /// For all links.
    pub weather: Weather,
    /// In force now.
    pub filters: Vec<Filter>,
    links: Vec<Vec<Link>>,
}

/// A direction between two machines.
pub type Pair = (usize, usize);

impl Network {
    /// Links between `machines`.
    #[must_use]
    pub fn new(machines: usize, weather: Weather) -> Self {
        Self {
            weather,
            filters: Vec::new(),
            links: vec![vec![Link::default(); machines]; machines],
        }
    }

    /// When the copies of a message arrive, in microseconds from now.
    pub fn delays(&self, rng: &mut Rng, (from, to): Pair, message: &Message) -> Vec<u64> {
        let Weather { delay: (low, high), loss, duplicates, stragglers } = self.weather;
        let link = self.links[from][to];
        let filtered = || match message {
            Message::Vote(vote) => self
                .filters
                .iter()
                .any(|filter| filter.phase == vote.ballot.phase && filter.only != to),
            Message::Records { .. } => self.filters.iter().any(|filter| filter.only != to),
            _ => false,
        };
        if link.cut > 0 || (loss > 0 && rng.chance(loss)) || filtered() {
            return Vec::new();
        }
        let copies = 1 + u64::from(duplicates > 0 && rng.chance(duplicates));
        let delay = |rng: &mut Rng| {
            if rng.chance(stragglers) { rng.range(high, high * 20) } else { rng.range(low, high) }
        };
        (0..copies).map(|_| link.slow + delay(rng)).collect()
    }

    /// What a machine measures of the way to another one and back.
    #[must_use]
    pub fn round_trip(&self, (from, to): Pair) -> Duration {
        let (low, high) = self.weather.delay;
        let slow = self.links[from][to].slow + self.links[to][from].slow;
        Duration::from_micros(low + high + slow)
    }

    /// Which life of a link a message belongs to.
    #[must_use]
    pub fn era(&self, (from, to): Pair) -> u64 {
        self.links[from][to].era
    }

    /// Whether something cuts it.
    #[must_use]
    pub fn is_cut(&self, (from, to): Pair) -> bool {
        self.links[from][to].cut > 0
    }

    /// Breaks a link, and keeps it broken until [`Self::mend`].
    pub fn cut(&mut self, (from, to): Pair) {
        let link = &mut self.links[from][to];
        link.cut += 1;
        link.era += 1;
    }

    /// Takes back one [`Self::cut`].
    pub fn mend(&mut self, (from, to): Pair) {
        let link = &mut self.links[from][to];
        link.cut = link.cut.saturating_sub(1);
    }

    /// Makes a link slower by so many microseconds.
    pub fn slow(&mut self, (from, to): Pair, micros: u64) {
        self.links[from][to].slow = micros;
    }

    /// No more faults.
    pub fn heal(&mut self) {
        self.filters.clear();
        for link in self.links.iter_mut().flatten() {
            (link.cut, link.slow) = (0, 0);
        }
    }
}
