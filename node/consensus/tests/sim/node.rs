//! One simulated machine: an engine, or none while it is down, and its disk.

use crate::{
    byzantine::Attacker,
    crypto::{SimVerifier, member_key},
    disk::Disk,
};
use cretoai_consensus::{
    Engine, Genesis, NodeId,
    engine::{Config, Limits, Now, Timing},
};
use std::{sync::Arc, time::Duration};

/// The wall clock at the beginning of every run, Unix milliseconds.
pub const EPOCH_MS: u64 = 1_790_000_000_000;

/// Small ones, to be met.
pub const LIMITS: Limits = Limits { lane: 48, unacknowledged: 16, pool_bytes: 1 << 20 };

pub struct Machine {
    pub own: NodeId,
    pub engine: Option<Engine>,
    pub disk: Disk,
    pub attacker: Option<Attacker>,
    /// Counts starts: what was meant for an earlier life is lost.
    pub life: u64,
    /// When the earliest wake that is on its way comes.
    pub wake: Option<u64>,
    began: u64,
    skew_ms: u64,
    limits: Limits,
}

impl Machine {
    pub fn new(own: NodeId, disk: Disk, attacker: Option<Attacker>, skew_ms: u64) -> Self {
        Self { own, engine: None, disk, attacker, life: 0, wake: None, began: 0, skew_ms, limits: LIMITS }
    }

    pub fn is_honest(&self) -> bool {
        self.attacker.is_none()
    }

    /// Starts the engine from what the disk has.
    pub fn start(&mut self, genesis: &Genesis, micros: u64) {
        let recovered = self.disk.recover(genesis);
        let config = Config {
            genesis: genesis.clone(),
            own: self.own,
            signer: Arc::new(member_key(self.own.lane())),
            verifier: Arc::new(SimVerifier),
            timing: Timing::default(),
            limits: self.limits,
        };
        self.engine = Some(Engine::new(config, recovered));
        self.life += 1;
        self.wake = None;
        self.began = micros;
    }

    pub fn stop(&mut self) {
        self.engine = None;
        self.life += 1;
    }

    pub fn now(&self, micros: u64) -> Now {
        Now { at: Duration::from_micros(micros - self.began), wall_ms: EPOCH_MS + self.skew_ms + micros / 1000 }
    }

    /// The simulated time of a time that the engine named.
    pub fn micros(&self, at: Duration) -> u64 {
        self.began + at.as_micros() as u64
    }
}
