//! Whether the operator does its work, for the probes and for alerts.
//!
//! The rule that it keeps: `/health` is false when a leader ends no pass although there are
//! CretoClusters, because a restart helps then; `/ready` is false also while a watch fails, which a
//! person should see and which a restart does not repair.

use crate::metrics::Metrics;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A leader that has CretoClusters ends a pass at least this often: it looks at each of them
/// every minute or more often, and no pass takes longer than [`crate::run::PASS_LIMIT`].
pub const LONGEST_SILENCE: Duration = Duration::from_secs(300);
/// A watch that fails is tried again within half a minute, so that an older error is history.
const WATCH_MEMORY: Duration = Duration::from_secs(60);

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassEnd {
    /// All that was to do was done.
    Ok,
    /// Some steps failed.
    Incomplete,
    /// The pass failed as a whole.
    Error,
}

impl PassEnd {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Incomplete => "incomplete",
            Self::Error => "error",
        }
    }
}

#[derive(Debug)]
struct State {
    /// Whether the API server answered and knows CretoClusters.
    started: bool,
    /// When this process began to lead, if it leads.
    leads_since: Option<Instant>,
    /// How many CretoClusters there are, as the API server says.
    clusters: usize,
    /// When a pass ended last, well or badly.
    last_pass: Option<Instant>,
    /// The newest error of a watch.
    watch_error: Option<(Instant, String)>,
}

/// What the probes ask. Clones share one state.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<Mutex<State>>,
    metrics: Metrics,
}

impl Health {
    /// Of a process that has not started yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let state = State {
            started: false,
            leads_since: None,
            clusters: 0,
            last_pass: None,
            watch_error: None,
        };
        Self { state: Arc::new(Mutex::new(state)), metrics }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The API server answered.
    pub fn started(&self) {
        self.change(|state| state.started = true);
    }

    /// This process leads from now on, or no more.
    pub fn leads(&self, leads: bool) {
        self.metrics.leader.set(i64::from(leads));
        self.change(|state| state.leads_since = leads.then(Instant::now));
    }

    /// The API server has `count` CretoClusters.
    pub fn clusters(&self, count: usize) {
        self.metrics.clusters.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.change(|state| state.clusters = count);
    }

    /// A pass ended.
    pub fn pass_ended(&self, end: PassEnd) {
        self.metrics.passes.with_label_values(&[end.as_str()]).inc();
        if end == PassEnd::Ok {
            self.metrics.last_success.set(k8s_openapi::jiff::Timestamp::now().as_second());
        }
        self.change(|state| state.last_pass = Some(Instant::now()));
    }

    /// A watch failed.
    pub fn watch_failed(&self, error: String) {
        self.metrics.watch_errors.inc();
        self.change(|state| state.watch_error = Some((Instant::now(), error)));
    }

    /// Whether the process should go on.
    ///
    /// # Errors
    /// What is wrong.
    pub fn healthy(&self, now: Instant) -> Result<(), String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(leads_since) = state.leads_since.filter(|_| state.clusters > 0) else {
            return Ok(());
        };
        let last = state.last_pass.map_or(leads_since, |pass| pass.max(leads_since));
        let silence = now.saturating_duration_since(last);
        if silence < LONGEST_SILENCE {
            return Ok(());
        }
        let watch = state.watch_error.as_ref().map(|(_, error)| format!("; a watch said: {error}"));
        Err(format!(
            "{} CretoClusters are there, but no pass has ended for {} s{}",
            state.clusters,
            silence.as_secs(),
            watch.unwrap_or_default()
        ))
    }

    /// Whether everything that the operator needs is there.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self, now: Instant) -> Result<(), String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.started {
            return Err("waits for the API server and the CretoCluster definition".to_string());
        }
        match &state.watch_error {
            Some((when, error)) if now.saturating_duration_since(*when) < WATCH_MEMORY => {
                Err(format!("a watch fails: {error}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn leader(clusters: usize) -> Health {
        let health = Health::new(Metrics::new().unwrap());
        health.started();
        health.leads(true);
        health.clusters(clusters);
        health
    }

    fn later() -> Instant {
        Instant::now() + LONGEST_SILENCE
    }

    #[test]
    fn a_leader_that_ends_no_pass_is_not_healthy() {
        let health = leader(3);
        assert_eq!(health.healthy(Instant::now()), Ok(()));
        health.watch_failed("invalid value: integer `3000000000`".into());
        let said = health.healthy(later()).unwrap_err();
        assert!(said.contains("3 CretoClusters") && said.contains("3000000000"), "{said}");
        // A pass that ends badly is an end: a restart repairs no API server.
        health.pass_ended(PassEnd::Error);
        assert_eq!(health.healthy(Instant::now()), Ok(()));
        assert!(health.healthy(later()).is_err());
    }

    #[test]
    fn a_standby_and_a_leader_without_clusters_are_healthy() {
        assert_eq!(leader(0).healthy(later()), Ok(()));
        let standby = leader(3);
        standby.leads(false);
        assert_eq!(standby.healthy(later()), Ok(()));
    }

    #[test]
    fn a_watch_that_fails_is_said() {
        let health = Health::new(Metrics::new().unwrap());
        assert!(health.ready(Instant::now()).unwrap_err().contains("CretoCluster definition"));
        health.started();
        assert_eq!(health.ready(Instant::now()), Ok(()));
        health.watch_failed("pods is forbidden".into());
        assert!(health.ready(Instant::now()).unwrap_err().contains("pods is forbidden"));
        assert_eq!(health.ready(Instant::now() + WATCH_MEMORY), Ok(()), "it came back");
    }
}
