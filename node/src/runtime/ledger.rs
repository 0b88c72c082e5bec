//! The node as its clients see it: takes payloads in, tells their outcomes, looks things up.

use super::{
    Later,
    birth::Store,
    engine_thread::Event,
    status::{Identity, Snapshot},
};
use crate::{
    config::Config,
    handle::{Ledger, Lookup, Place, SubmitError, SubmitTicket},
    metrics::Metrics,
    transport::Transport,
};
use cretoai_consensus::{
    Genesis, Hash, NodeId, Payload, Sequence,
    engine::{Engine, Execution, Turn},
};
use cretoai_control::{api::NodeStatus, keys::SecretKey};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Bytes of payloads that were taken in and are not final. Not more than the engine holds unsealed, so that it never refuses what was taken in.
const MAX_PENDING_BYTES: usize = 16 << 20;
/// And their number.
const MAX_PENDING: usize = 65_536;
/// How many clients may wait for one payload.
const MAX_WAITING: usize = 64;

/// A running node.
pub struct Node {
    identity: Identity,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    max_pending_vertices: usize,
    back: Option<Back>,
    pending: Mutex<Pending>,
    snapshot: Mutex<Snapshot>,
}

/// What only a validator has.
struct Back {
    transport: Arc<Transport>,
    events: mpsc::Sender<Event>,
    thread: Later<Mutex<Option<JoinHandle<()>>>>,
}

#[derive(Default)]
struct Pending {
    payloads: HashMap<Hash, Waiting>,
    bytes: usize,
}

struct Waiting {
    since: Instant,
    bytes: usize,
    clients: Vec<oneshot::Sender<Place>>,
}

impl Pending {
    fn remove(&mut self, id: &Hash) -> Option<Waiting> {
        let waiting = self.payloads.remove(id)?;
        self.bytes -= waiting.bytes;
        Some(waiting)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    pub(super) fn learner(config: &Config, key: &SecretKey, genesis: &Genesis, store: Arc<Store>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self::new(config, key, genesis, None, store, metrics))
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a node, each once")]
    pub(super) fn validator(
        config: &Config,
        key: &SecretKey,
        genesis: &Genesis,
        own: NodeId,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
        transport: Arc<Transport>,
        events: mpsc::Sender<Event>,
        engine: &Engine,
        recent: Vec<(Sequence, Hash)>,
    ) -> Arc<Self> {
        let mut node = Self::new(config, key, genesis, Some(own), store, metrics);
        node.back = Some(Back { transport, events, thread: Later::new() });
        let mut snapshot = lock(&node.snapshot);
        snapshot.take(engine);
        snapshot.recent = recent.into();
        drop(snapshot);
        Arc::new(node)
    }

    fn new(config: &Config, key: &SecretKey, genesis: &Genesis, own: Option<NodeId>, store: Arc<Store>, metrics: Arc<Metrics>) -> Self {
        Self {
            identity: Identity::new(config.node.id.clone(), key.public_key().fingerprint(), own, genesis),
            store,
            metrics,
            max_pending_vertices: usize::try_from(config.consensus.max_pending_vertices).unwrap_or(usize::MAX),
            back: None,
            pending: Mutex::default(),
            snapshot: Mutex::new(Snapshot::new(genesis)),
        }
    }

    pub(super) fn runs_on(&self, thread: JoinHandle<()>) {
        if let Some(back) = &self.back {
            back.thread.get_or_init(|| Mutex::new(Some(thread)));
        }
    }

    /// Stops the engine after the turn that it is in, then closes the transport.
    pub(super) async fn stop(&self) {
        let Some(back) = &self.back else { return };
        if back.events.send(Event::Stop).is_err() {
            tracing::debug!("the engine has stopped already");
        }
        let thread = back.thread.get().and_then(|thread| lock(thread).take());
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join());
            if tokio::time::timeout(Duration::from_secs(3), joined).await.is_err() {
                tracing::warn!("the engine's last turn takes more than 3 s");
            }
        }
        back.transport.shutdown().await;
    }

    // ---- what the engine's thread reports

    pub(super) fn count_violation(&self, node: NodeId, kind: &'static str) {
        self.metrics.byzantine_violations.with_label_values(&[&node.0.to_string(), kind]).inc();
        // The counter is what to watch: a log line for each would let a member write logs at line rate.
        tracing::debug!(node = node.0, kind, "a peer broke a rule");
    }

    /// Publishes a turn: answers clients, counts, renews the snapshot.
    pub(super) fn turned(&self, engine: &Engine, turn: &Turn) {
        let mut finality = Vec::new();
        for execution in &turn.executions {
            self.answer(execution, &mut finality);
        }
        if !turn.refused.is_empty() {
            let mut pending = lock(&self.pending);
            for id in &turn.refused {
                // Dropping the senders tells the clients that it was not taken.
                pending.remove(id);
            }
        }
        let mut snapshot = lock(&self.snapshot);
        snapshot.take(engine);
        for execution in &turn.executions {
            snapshot.executed(execution.record.proposal.sequence, execution.chain_hash);
        }
        for seconds in finality {
            snapshot.measured(seconds * 1000.0);
        }
        let participating = snapshot.participating(&self.identity);
        drop(snapshot);
        self.metrics.sequence.set(i64::try_from(engine.executed().0).unwrap_or(i64::MAX));
        self.metrics.view.set(i64::try_from(engine.view().0).unwrap_or(i64::MAX));
        self.metrics.quorum_participating.set(participating as i64);
        self.metrics.pending_payload_bytes.set(lock(&self.pending).bytes as i64);
    }

    /// Notes that a member was heard, with the sequence that it reported.
    pub(super) fn heard(&self, from: NodeId, executed: Sequence) {
        if let Some(peer) = lock(&self.snapshot).peers.get_mut(from.lane()) {
            *peer = Some((executed, Instant::now()));
        }
    }

    fn answer(&self, execution: &Execution, finality: &mut Vec<f64>) {
        self.metrics.vertices_finalized.inc_by(execution.vertices.len() as u64);
        let proposal = &execution.record.proposal;
        let mut pending = lock(&self.pending);
        let payloads = execution.vertices.iter().flat_map(|(vertex, outcomes)| vertex.payloads().zip(outcomes));
        for (index, ((id, _), outcome)) in (0..).zip(payloads) {
            let Some(waiting) = pending.remove(&id) else { continue };
            let place = Place {
                sequence: proposal.sequence,
                index,
                chain_hash: execution.chain_hash,
                time_ms: proposal.time_ms,
                outcome: *outcome,
            };
            let seconds = waiting.since.elapsed().as_secs_f64();
            self.metrics.finality_time.observe(seconds);
            self.metrics.payloads_finalized.inc();
            finality.push(seconds);
            for client in waiting.clients {
                // A client that went away is told nothing; it can look the payload up.
                if client.send(place).is_err() {
                    tracing::trace!("a client did not wait for its outcome");
                }
            }
        }
    }
}

impl Ledger for Node {
    fn submit(&self, payload: Payload) -> Result<SubmitTicket, SubmitError> {
        let Some(back) = &self.back else {
            let why = lock(&self.snapshot).hindrance(&self.identity);
            return Err(SubmitError::NotReady(why.unwrap_or_default()));
        };
        let id = payload.id(self.identity.chain_id);
        let bytes = payload.encoded_len();
        let undecided = lock(&self.snapshot).sizes.undecided_vertices;
        let (sender, outcome) = oneshot::channel();
        let mut pending = lock(&self.pending);
        let full = SubmitError::Full { retry_after_ms: 1_000 };
        if let Some(waiting) = pending.payloads.get_mut(&id) {
            waiting.clients.retain(|client| !client.is_closed());
            if waiting.clients.len() >= MAX_WAITING {
                return Err(full);
            }
            waiting.clients.push(sender);
            return Ok(SubmitTicket { id, outcome });
        }
        if undecided >= self.max_pending_vertices || pending.bytes + bytes > MAX_PENDING_BYTES || pending.payloads.len() >= MAX_PENDING {
            return Err(full);
        }
        pending.bytes += bytes;
        pending.payloads.insert(id, Waiting { since: Instant::now(), bytes, clients: vec![sender] });
        if back.events.send(Event::Submit(payload)).is_err() {
            pending.remove(&id);
            return Err(SubmitError::NotReady("the node is shutting down; send the payload to another one".to_owned()));
        }
        Ok(SubmitTicket { id, outcome })
    }

    fn lookup(&self, id: &Hash) -> Result<Option<Lookup>, String> {
        let storage = self.store.storage();
        let found = || {
            let Some(location) = storage.location(id)? else { return Ok(None) };
            let payload = storage.payload(&location)?;
            Ok(storage.finalized(location.sequence)?.map(|finalized| (location, finalized, payload)))
        };
        let found = found().map_err(|error: crate::storage::StorageError| error.to_string())?;
        if let Some((location, finalized, payload)) = found {
            let place = Place {
                sequence: location.sequence,
                index: location.index,
                chain_hash: finalized.chain_hash,
                time_ms: finalized.record.proposal.time_ms,
                outcome: location.outcome,
            };
            return Ok(Some(Lookup::Final { place, payload }));
        }
        Ok(lock(&self.pending).payloads.contains_key(id).then_some(Lookup::Pending))
    }

    fn status(&self) -> NodeStatus {
        let connected = self.back.as_ref().map(|back| back.transport.connected()).unwrap_or_default();
        // Sorting and printing are not for the engine's thread to wait for.
        let snapshot = lock(&self.snapshot).clone();
        snapshot.status(&self.identity, &connected)
    }

    fn newest_time_ms(&self) -> u64 {
        lock(&self.snapshot).time_ms
    }
}
