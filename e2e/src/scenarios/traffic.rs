//! Clients that go on until they are stopped, and what they saw: what became final, when, and
//! through which pod.

use super::lab::Known;
use crate::{
    api::{API_PORT, Client},
    k8s::Cluster,
    load::random_payload,
};
use anyhow::Result;
use cretoai_types::Hash;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// How long a client waits for finality before it gives a payload up.
const PATIENCE: Duration = Duration::from_secs(15);
/// The largest payload.
const LONGEST: usize = 4096;

/// Where a client goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the Service, on a new connection each time, as short-lived clients do.
    Service(SocketAddr),
    /// To the pod of this name, wherever it is now, on one connection for as long as it lasts.
    Pod(String),
}

/// A payload that was told to be final.
#[derive(Clone, Debug)]
pub struct Final {
    /// The payload.
    pub known: Known,
    /// When the client was told.
    pub at: Instant,
    /// Which way it went.
    pub way: Way,
}

/// A payload that a node took in and did not tell to be final in time.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its id.
    pub id: String,
    /// Hash of its bytes.
    pub content: Hash,
    /// Which way it went.
    pub way: Way,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// What became final, in the order in which clients were told.
    pub finals: Vec<Final>,
    /// What was taken in.
    pub pending: Vec<Pending>,
    /// Attempts that gave no answer, or a refusal.
    pub failed: u64,
    /// The first of these.
    pub first_error: Option<String>,
}

impl Seen {
    /// The longest time from `from` to `to` in which no client that `counts` was told of a final
    /// payload.
    pub fn longest_pause(
        &self,
        from: Instant,
        to: Instant,
        counts: impl Fn(&Way) -> bool,
    ) -> Duration {
        let times = self
            .finals
            .iter()
            .filter(|told| counts(&told.way) && told.at > from && told.at < to)
            .map(|told| told.at);
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in times.chain([to]) {
            longest = longest.max(at.saturating_duration_since(last));
            last = at;
        }
        longest
    }

    /// How many of those that `counts` became final from `from` to `to`.
    pub fn count(&self, from: Instant, to: Instant, counts: impl Fn(&Way) -> bool) -> usize {
        self.finals
            .iter()
            .filter(|told| counts(&told.way) && told.at > from && told.at < to)
            .count()
    }

    /// What was told to be final.
    pub fn known(&self) -> Vec<Known> {
        self.finals.iter().map(|told| told.known.clone()).collect()
    }

    /// The first error, or a word for none.
    pub fn error(&self) -> &str {
        self.first_error.as_deref().unwrap_or("none")
    }
}

/// Clients at work.
pub struct Traffic {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    /// Sends `each` clients every one of the `ways`; a client rests for `rest` between payloads.
    pub fn begin(cluster: &Cluster, ways: &[Way], each: usize, rest: Duration) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let ways = ways.iter().flat_map(|way| std::iter::repeat_n(way, each));
        let clients = ways
            .map(|way| {
                tokio::spawn(go_on(
                    cluster.clone(),
                    way.clone(),
                    rest,
                    Arc::clone(&seen),
                    Arc::clone(&stop),
                ))
            })
            .collect();
        Self { seen, stop, clients }
    }

    /// What they saw so far. They wait while this is held.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        locked(&self.seen)
    }

    /// Stops them, and gives what they saw.
    ///
    /// # Errors
    /// An answer had no sense.
    pub async fn end(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            client.await??;
        }
        Ok(std::mem::take(&mut *self.seen()))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn go_on(
    cluster: Cluster,
    way: Way,
    rest: Duration,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        let data = random_payload(LONGEST);
        let answer = async {
            let client = match kept.take() {
                Some(client) => client,
                None => Client::new(address(&cluster, &way).await?)
                    .with_limit(PATIENCE + Duration::from_secs(5)),
            };
            let client = kept.insert(client);
            client.post(data.clone(), PATIENCE).await?.receipt()
        };
        match answer.await {
            Ok(receipt) if receipt.is_final() => {
                let known = Known::new(&receipt, &data)?;
                locked(&seen).finals.push(Final { known, at: Instant::now(), way: way.clone() });
                if matches!(way, Way::Service(_)) {
                    kept = None;
                }
                tokio::time::sleep(rest).await;
            }
            Ok(receipt) => {
                let pending =
                    Pending { id: receipt.id, content: Hash::of_bytes(&data), way: way.clone() };
                locked(&seen).pending.push(pending);
            }
            Err(error) => {
                kept = None;
                {
                    let mut seen = locked(&seen);
                    seen.failed += 1;
                    seen.first_error.get_or_insert_with(|| format!("{error:#}"));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    Ok(())
}

async fn address(cluster: &Cluster, way: &Way) -> Result<SocketAddr> {
    match way {
        Way::Service(address) => Ok(*address),
        Way::Pod(name) => cluster.pod_address(name, API_PORT).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seen_at_both_ends_and_only_by_those_that_count() {
        let began = Instant::now();
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        let told = |milliseconds, pod: &str| Final {
            known: Known { id: String::new(), place: (1, 0, String::new()), content: Hash::ZERO },
            at: at(milliseconds),
            way: Way::Pod(pod.into()),
        };
        let seen = Seen {
            finals: vec![told(10, "a"), told(40, "b"), told(60, "a"), told(70, "c")],
            ..Seen::default()
        };
        let others = |way: &Way| *way != Way::Pod("b".into());
        assert_eq!(seen.longest_pause(began, at(100), |_| true), Duration::from_millis(30));
        assert_eq!(seen.longest_pause(began, at(100), others), Duration::from_millis(50));
        assert_eq!(seen.longest_pause(began, at(200), |_| true), Duration::from_millis(130));
        assert_eq!(seen.longest_pause(at(65), at(68), |_| true), Duration::from_millis(3));
        assert_eq!(seen.count(at(10), at(70), |_| true), 2);
    }
}
