//! What is remembered of a cluster between passes.
//!
//! The rule that it keeps: it paces writes, retries and log lines, and nothing is decided from it.
//! An operator that forgot all of it does the same, only less evenly.

use cretoai_crds::CretoClusterStatus;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A cluster that no pass looked at for this long is gone.
const FORGET: Duration = Duration::from_secs(600);
/// After its first failure a step is tried again this much later, then twice as late each time.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// But never later than this, since its cause may be gone.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// The memories of all clusters, by UID.
#[derive(Debug, Default)]
pub(super) struct Memories(Mutex<HashMap<String, Memory>>);

impl Memories {
    /// Looks at the memory of the cluster `uid`.
    pub(super) fn of<T>(&self, uid: &str, look: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !memories.contains_key(uid) {
            memories.retain(|_, memory| memory.touched.elapsed() < FORGET);
        }
        let memory = memories.entry(uid.to_string()).or_insert_with(Memory::new);
        memory.touched = Instant::now();
        look(memory)
    }

    /// Forgets the cluster `uid`.
    pub(super) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// What is remembered of one cluster.
#[derive(Debug)]
pub(super) struct Memory {
    touched: Instant,
    /// When the status was written last.
    written: Option<Instant>,
    /// The newest status, written or not, for the times in it.
    derived: Option<CretoClusterStatus>,
    /// Generation of the spec that the failures are about.
    generation: i64,
    /// Steps that failed, by what they are about.
    failures: BTreeMap<String, Failure>,
}

#[derive(Debug)]
struct Failure {
    message: String,
    pause: Duration,
    next: Instant,
}

impl Memory {
    fn new() -> Self {
        Self {
            touched: Instant::now(),
            written: None,
            derived: None,
            generation: 0,
            failures: BTreeMap::new(),
        }
    }

    /// A new spec is tried at once.
    pub(super) fn generation(&mut self, generation: i64) {
        if self.generation != generation {
            self.generation = generation;
            self.failures.clear();
        }
    }

    /// Why the step about `subject` is not tried now.
    pub(super) fn waits(&self, subject: &str, now: Instant) -> Option<String> {
        self.failures
            .get(subject)
            .filter(|failure| now < failure.next)
            .map(|failure| failure.message.clone())
    }

    /// The step about `subject` failed. Says whether that is news.
    pub(super) fn failed(&mut self, subject: &str, message: &str, now: Instant) -> bool {
        let before = self.failures.get(subject).filter(|failure| failure.message == message);
        let pause = before.map_or(FIRST_RETRY, |failure| (failure.pause * 2).min(LAST_RETRY));
        let news = before.is_none();
        let failure = Failure { message: message.to_string(), pause, next: now + pause };
        self.failures.insert(subject.to_string(), failure);
        news
    }

    /// The step about `subject` was done.
    pub(super) fn succeeded(&mut self, subject: &str) {
        self.failures.remove(subject);
    }

    /// The status was written.
    pub(super) fn wrote(&mut self) {
        self.written = Some(Instant::now());
    }

    /// Whether the status was written longer than `pace` ago.
    pub(super) fn aged(&self, pace: Duration) -> bool {
        self.written.is_none_or(|written| written.elapsed() >= pace)
    }

    /// This is the status now, whether or not it is written.
    pub(super) fn derived(&mut self, status: &CretoClusterStatus) {
        self.derived = Some(status.clone());
    }

    /// Brings the times in `status`, as it was written, up to date.
    pub(super) fn recall(&self, status: &mut CretoClusterStatus) {
        let Some(derived) = self.derived.as_ref().filter(|one| one.chain_id == status.chain_id)
        else {
            return;
        };
        if derived.agreed_at > status.agreed_at {
            status.agreed_at.clone_from(&derived.agreed_at);
        }
        for member in &mut status.members {
            let newer = derived.members.iter().find(|newer| newer.name == member.name);
            if let Some(newer) = newer.filter(|newer| newer.last_seen > member.last_seen) {
                member.last_seen.clone_from(&newer.last_seen);
            }
        }
    }
}

/// A status without the times that move although nothing happens.
pub(super) fn without_times(status: &CretoClusterStatus) -> CretoClusterStatus {
    let mut status = status.clone();
    status.agreed_at = None;
    for member in &mut status.members {
        member.last_seen = None;
    }
    status
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_step_that_fails_is_tried_ever_later_until_the_spec_changes() {
        let (mut memory, start) = (Memory::new(), Instant::now());
        let mut now = start;
        let mut pauses = Vec::new();
        for count in 0..8 {
            assert_eq!(memory.waits("volume", now), None, "{count}");
            assert_eq!(memory.failed("volume", "forbidden", now), count == 0, "told once");
            assert_eq!(memory.waits("volume", now).as_deref(), Some("forbidden"));
            assert_eq!(memory.waits("service", now), None, "others go on");
            let before = now;
            while memory.waits("volume", now).is_some() {
                now += Duration::from_secs(1);
            }
            pauses.push((now - before).as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(memory.failed("volume", "another reason", now), "another reason is news");
        memory.generation(7);
        assert_eq!(memory.waits("volume", now), None);
        memory.failed("volume", "forbidden", now);
        memory.succeeded("volume");
        assert_eq!(memory.waits("volume", now), None);
    }

    #[test]
    fn clusters_that_are_gone_are_forgotten() {
        let memories = Memories::default();
        memories.of("a", Memory::wrote);
        if let Some(past) = Instant::now().checked_sub(FORGET) {
            memories.0.lock().unwrap().get_mut("a").unwrap().touched = past;
        }
        memories.of("b", Memory::wrote);
        assert!(!memories.0.lock().unwrap().contains_key("a"));
        memories.forget("b");
        assert!(memories.0.lock().unwrap().is_empty());
    }
}
