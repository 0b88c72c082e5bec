//! One simulated machine: an engine, or none while it is down, its disk, its clock and its keys.

use crate::{
    byzantine::Attacker,
    crypto::{SimKey, SimVerifier, member_key},
    disk::Disk,
};
use cretoai_consensus::{
    Engine,
    engine::{Config, Input, Limits, Now, Timing, Turn},
};
use cretoai_types::{Genesis, NodeId, Signer};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// The wall clock at the beginning of every run, Unix milliseconds.
pub const BEGINNING_MS: u64 = 1_790_000_000_000;

/// Small ones, to be met.
pub const LIMITS: Limits = Limits { lane: 48, unacknowledged: 16, pool_bytes: 1 << 20 };

/// A machine.
pub struct Machine {
    /// The id of its validator, once it is one.
    pub own: NodeId,
    /// Its place among the machines.
    pub index: usize,
    /// The process.
    pub engine: Option<Engine>,
    /// The volume.
    pub disk: Disk,
    /// An older copy of the volume, with the keys on it.
    pub backup: Option<Box<(Disk, Vec<u32>)>>,
    /// What it does with its messages, if it is not honest.
    pub attacker: Option<Attacker>,
    /// Its volume was restored from an older copy, and nobody replaced its key yet: it may
    /// contradict itself.
    pub suspect: bool,
    /// Generations of the keys that it has.
    pub keys: Vec<u32>,
    /// The generation of the next new key.
    pub next_key: u32,
    /// Counts starts: what was meant for an earlier life is lost.
    pub life: u64,
    /// When the earliest wake that is on its way comes.
    pub wake: Option<u64>,
    /// Turns in a row that were asked for at once and led to nothing.
    pub vain_turns: u32,
    /// A turn whose writes are being synced.
    pub flushing: Option<Turn>,
    /// What came while it was busy or paused.
    pub inbox: VecDeque<Input>,
    /// It gets no processor time.
    pub paused: bool,
    /// Its volume takes no writes.
    pub full: bool,
    /// Microseconds that each fsync takes more than usual.
    pub slow_disk: u64,
    /// It was removed from the validators, or has not been switched on yet.
    pub off: bool,
    /// Milliseconds that its clock is ahead.
    pub skew_ms: i64,
    /// What each machine may still fetch: bytes, and when they were counted.
    serves: BTreeMap<usize, (i64, u64)>,
    began: u64,
}

/// What one machine may fetch from another in a second, as the node grants it: at most so much is
/// saved up, and one answer may overdraw it.
const SERVED: i64 = 32 << 20;

impl Machine {
    /// A machine that has not started yet.
    #[must_use]
    pub fn new(
        index: usize,
        own: NodeId,
        disk: Disk,
        attacker: Option<Attacker>,
        skew_ms: i64,
    ) -> Self {
        Self {
            own,
            index,
            engine: None,
            disk,
            backup: None,
            attacker,
            suspect: false,
            keys: vec![0],
            next_key: 1,
            life: 0,
            wake: None,
            vain_turns: 0,
            flushing: None,
            inbox: VecDeque::new(),
            paused: false,
            full: false,
            slow_disk: 0,
            off: false,
            skew_ms,
            serves: BTreeMap::new(),
            began: 0,
        }
    }

    /// Whether the rules hold for it.
    #[must_use]
    pub const fn is_honest(&self) -> bool {
        self.attacker.is_none() && !self.suspect
    }

    /// Whether inputs must wait.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        self.paused || self.flushing.is_some()
    }

    /// Its keys.
    #[must_use]
    pub fn signers(&self) -> Vec<SimKey> {
        self.keys.iter().map(|generation| member_key(self.own.0 as usize, *generation)).collect()
    }

    /// Starts the engine from what the disk has.
    pub fn start(&mut self, genesis: &Genesis, micros: u64, seed: u64, timing: Timing) {
        let recovered = self.disk.recover(genesis, self.own);
        let config = Config {
            chain_id: genesis.chain_id(),
            signers: self
                .signers()
                .into_iter()
                .map(|key| Arc::new(key) as Arc<dyn Signer>)
                .collect(),
            verifier: Arc::new(SimVerifier),
            timing,
            limits: LIMITS,
            seed,
        };
        self.engine = Some(Engine::new(config, recovered));
        self.life += 1;
        self.wake = None;
        self.vain_turns = 0;
        self.began = micros;
    }

    /// The process ends.
    pub fn stop(&mut self) {
        self.engine = None;
        self.flushing = None;
        self.inbox.clear();
        self.serves.clear();
        self.life += 1;
    }

    /// Whether a peer's request is answered now, or dropped because it fetched too much.
    pub fn serves(&mut self, peer: usize, micros: u64) -> bool {
        let (bytes, counted) = self.serves.entry(peer).or_insert((SERVED, micros));
        let elapsed = (micros - *counted).min(1_000_000) as i64;
        (*bytes, *counted) = ((*bytes + elapsed * SERVED / 1_000_000).min(SERVED), micros);
        *bytes > 0
    }

    /// Counts what an answer takes.
    pub fn served(&mut self, peer: usize, bytes: usize) {
        if let Some((left, _)) = self.serves.get_mut(&peer) {
            *left -= bytes as i64;
        }
    }

    /// What its clocks show.
    #[must_use]
    pub const fn now(&self, micros: u64) -> Now {
        Now {
            at: Duration::from_micros(micros - self.began),
            wall_ms: (BEGINNING_MS + micros / 1000).saturating_add_signed(self.skew_ms),
        }
    }

    /// The simulated time of a time that the engine named.
    #[must_use]
    pub const fn micros(&self, at: Duration) -> u64 {
        self.began + at.as_micros() as u64
    }
}
