//! What is true of this process: whether its engine turns, whether its disk answers, how much room
//! is left, what was found damaged, and whether it is about to end.
//!
//! The rule: readiness, liveness and intake ask here, and nowhere else. The engine's thread only
//! stores numbers here, so that a standstill of it or of the disk is seen from outside.

use crate::{metrics::Metrics, storage::Storage, sync::lock};
use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

/// How often the engine's thread is looked at. It turns at least once a second.
const TICK: Duration = Duration::from_millis(250);
/// From here on a standstill makes the node unready.
const UNREADY: Duration = Duration::from_secs(2);
/// From here on the node does not live: the kubelet restarts it.
const DEAD: Duration = Duration::from_secs(30);
/// From here on the process ends by itself.
const HOPELESS: Duration = Duration::from_secs(60);
/// How often the disk is asked for its free space.
const DISK_EVERY: Duration = Duration::from_secs(1);

const SERVING: u8 = 0;
const LEAVING: u8 = 1;
const CLOSED: u8 = 2;

/// See the module.
pub(super) struct Vitals {
    turns: AtomicU64,
    writing: AtomicBool,
    stalled_ms: AtomicU64,
    reserve: u64,
    free: AtomicU64,
    low: AtomicBool,
    stage: AtomicU8,
    damage: Mutex<Option<String>>,
}

impl Vitals {
    /// `reserve` is how many bytes must stay free; 0 for none.
    pub(super) fn new(reserve: u64) -> Self {
        Self {
            turns: AtomicU64::new(0),
            writing: AtomicBool::new(false),
            stalled_ms: AtomicU64::new(0),
            reserve,
            free: AtomicU64::new(u64::MAX),
            low: AtomicBool::new(false),
            stage: AtomicU8::new(SERVING),
            damage: Mutex::new(None),
        }
    }

    // ---- what the threads report

    /// The engine finished a turn, or had nothing to do.
    pub(super) fn turned(&self) {
        self.turns.fetch_add(1, Relaxed);
    }

    /// The engine's thread waits for the disk, or does so no more.
    pub(super) fn writes(&self, writing: bool) {
        self.writing.store(writing, Relaxed);
    }

    /// Damage was found; the first is kept.
    pub(super) fn damaged(&self, what: &str) {
        let mut damage = lock(&self.damage);
        if damage.is_none() {
            tracing::error!(what, "the store is damaged: this node is not ready any more");
            *damage = Some(what.to_owned());
        }
    }

    /// The node is about to stop: it serves on, and asks to be sent nothing more.
    pub(super) fn leave(&self) {
        self.stage.fetch_max(LEAVING, Relaxed);
    }

    /// From now on nothing is taken in.
    pub(super) fn close(&self) {
        self.stage.fetch_max(CLOSED, Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.stage.load(Relaxed) >= CLOSED
    }

    /// The disk has so many bytes left.
    fn free(&self, free: u64) {
        self.free.store(free, Relaxed);
        // Half an eighth more before it is good again, so that it does not flicker.
        let bound = if self.low.load(Relaxed) {
            self.reserve.saturating_add(self.reserve / 16)
        } else {
            self.reserve
        };
        let low = free < bound;
        if self.low.swap(low, Relaxed) != low {
            let (free_mib, reserve_mib) = (free >> 20, self.reserve >> 20);
            if low {
                tracing::error!(free_mib, reserve_mib, "little space is left: no payload is taken");
            } else {
                tracing::info!(free_mib, reserve_mib, "there is space again");
            }
        }
    }

    /// Time passed: `seen` is what this said the last time. Counted in ticks, not by a clock, so
    /// that a process which was stopped as a whole does not take itself for stuck.
    fn tick(&self, seen: &mut u64, passed: Duration) -> Duration {
        let turns = self.turns.load(Relaxed);
        let stalled = if std::mem::replace(seen, turns) == turns {
            let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
            self.stalled_ms.load(Relaxed).saturating_add(passed)
        } else {
            0
        };
        self.stalled_ms.store(stalled, Relaxed);
        Duration::from_millis(stalled)
    }

    // ---- what is asked

    /// Why the node should be restarted, or nothing.
    pub(super) fn death(&self) -> Option<String> {
        self.standstill(DEAD)
    }

    /// Why the node is not ready, as far as the process goes, or nothing.
    pub(super) fn ailment(&self) -> Option<String> {
        if self.stage.load(Relaxed) >= LEAVING {
            return Some("this node is stopping; use another one".to_owned());
        }
        if let Some(what) = lock(&self.damage).as_ref() {
            return Some(what.clone());
        }
        self.standstill(UNREADY).or_else(|| self.shortage())
    }

    /// Why no payload can be stored, or nothing.
    pub(super) fn shortage(&self) -> Option<String> {
        self.low.load(Relaxed).then(|| {
            format!(
                "{} MiB are free on the disk of the database, and storage.reserve_mb = {} are kept: enlarge the volume, or use \
                 another node",
                self.free.load(Relaxed) >> 20,
                self.reserve >> 20
            )
        })
    }

    fn standstill(&self, from: Duration) -> Option<String> {
        let stalled = Duration::from_millis(self.stalled_ms.load(Relaxed));
        (stalled >= from).then(|| {
            let seconds = stalled.as_secs();
            if self.writing.load(Relaxed) {
                format!("the disk of the database has not answered for {seconds} s")
            } else {
                format!("the engine has not finished a turn for {seconds} s")
            }
        })
    }
}

/// The threads that watch the engine and the disk.
pub(super) struct Watch {
    stopping: Arc<(Mutex<bool>, Condvar)>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Starts both. `hopeless` ends the process.
    pub(super) fn start(
        vitals: &Arc<Vitals>,
        storage: Arc<Storage>,
        metrics: &Arc<Metrics>,
        hopeless: impl Fn(&str) + Send + 'static,
    ) -> io::Result<Self> {
        metrics.storage_reserve_bytes.set(i64::try_from(vitals.reserve).unwrap_or(i64::MAX));
        let stopping = Arc::new((Mutex::new(false), Condvar::new()));
        let mut watch = Self { stopping: Arc::clone(&stopping), threads: Vec::new() };
        let (seen_vitals, seen_metrics) = (Arc::clone(vitals), Arc::clone(metrics));
        watch.spawn("creto-watch", TICK, {
            let mut seen = 0;
            move || {
                let stalled = seen_vitals.tick(&mut seen, TICK);
                seen_metrics.engine_stalled.set(stalled.as_secs_f64());
                if stalled >= HOPELESS {
                    hopeless(&seen_vitals.standstill(HOPELESS).unwrap_or_default());
                }
            }
        })?;
        let (vitals, metrics) = (Arc::clone(vitals), Arc::clone(metrics));
        watch.spawn("creto-disk", DISK_EVERY, move || {
            let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            match storage.free_bytes() {
                Ok(free) => {
                    vitals.free(free);
                    metrics.storage_free_bytes.set(number(free));
                }
                Err(error) => tracing::debug!(%error, "the disk does not say what is free"),
            }
            let sizes = storage.sizes();
            metrics.rocksdb_size_bytes.set(number(sizes.tables));
            metrics.rocksdb_pending_compaction_bytes.set(number(sizes.pending_compaction));
            metrics.rocksdb_running_compactions.set(number(sizes.running_compactions));
        })?;
        Ok(watch)
    }

    fn spawn(
        &mut self,
        name: &str,
        every: Duration,
        mut look: impl FnMut() + Send + 'static,
    ) -> io::Result<()> {
        let stopping = Arc::clone(&self.stopping);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let (stop, woken) = &*stopping;
            loop {
                look();
                let held = lock(stop);
                if *held {
                    return;
                }
                let (held, _) =
                    woken.wait_timeout(held, every).unwrap_or_else(PoisonError::into_inner);
                if *held {
                    return;
                }
            }
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Ends both threads.
    pub(super) fn stop(&mut self) {
        *lock(&self.stopping.0) = true;
        self.stopping.1.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a watching thread had panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_standstill_is_told_first_as_unready_and_then_as_dead() {
        let vitals = Vitals::new(0);
        let mut seen = 0;
        vitals.turned();
        vitals.tick(&mut seen, SECOND);
        assert_eq!((vitals.ailment(), vitals.death()), (None, None));
        vitals.writes(true);
        for _ in 0..3 {
            vitals.tick(&mut seen, SECOND);
        }
        let told = vitals.ailment().unwrap();
        assert_eq!(told, "the disk of the database has not answered for 3 s");
        assert_eq!(vitals.death(), None);
        vitals.writes(false);
        for _ in 0..30 {
            vitals.tick(&mut seen, SECOND);
        }
        assert!(vitals.death().unwrap().contains("has not finished a turn for 33 s"));
        vitals.turned();
        vitals.tick(&mut seen, SECOND);
        assert_eq!((vitals.ailment(), vitals.death()), (None, None));
    }

    #[test]
    fn a_reserve_of_space_stops_intake_until_there_is_more_than_it() {
        let vitals = Vitals::new(160);
        vitals.free(160);
        assert_eq!(vitals.shortage(), None);
        vitals.free(159);
        assert!(vitals.shortage().is_some_and(|told| told.contains("storage.reserve_mb")));
        assert_eq!(vitals.ailment(), vitals.shortage());
        vitals.free(165);
        assert!(vitals.shortage().is_some(), "it must not flicker");
        vitals.free(170);
        assert_eq!(vitals.shortage(), None);
    }

    #[test]
    fn damage_and_leaving_are_told_first() {
        let vitals = Vitals::new(0);
        vitals.damaged("a table is damaged");
        vitals.damaged("another one");
        assert_eq!(vitals.ailment().as_deref(), Some("a table is damaged"));
        vitals.leave();
        assert!(vitals.ailment().unwrap().contains("stopping") && !vitals.is_closed());
        vitals.close();
        vitals.leave();
        assert!(vitals.is_closed());
    }
}
