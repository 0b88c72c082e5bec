//! The node as its clients see it: takes payloads in, tells their outcomes, looks things up.

use super::{
    Later,
    birth::Store,
    event::{Event, Events},
    safety::stop_for_safety,
    serve::Requests,
    status::{Identity, Snapshot},
    vitals::{Vitals, Watch},
};
use crate::{
    config::Config,
    evidence,
    handle::{Ledger, Lookup, Place, SubmitError, SubmitTicket},
    metrics::Metrics,
    storage::{Decided, Receipted, StorageError},
    sync::{lock, unix_ms},
    transport::Transport,
};
use cretoai_consensus::{
    Status,
    engine::{Engine, Execution, Role, Turn, Write},
};
use cretoai_control::{
    api::{EvidenceList, NodeStatus},
    keys::{MlDsa87, SecretKey},
};
use cretoai_types::{
    ChainState, Epoch, Genesis, Hash, Member, NodeId, Outcome, Payload, PublicKey, Ready, Sequence,
    SignedReconfig, Validators,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::{oneshot, watch};

/// Bytes of payloads that were taken in and are not final. Not more than the engine holds unsealed,
/// so that it never refuses what was taken in.
const MAX_PENDING_BYTES: usize = 16 << 20;
/// And their number.
const MAX_PENDING: usize = 65_536;
/// How many clients may wait for one payload.
const MAX_WAITING: usize = 64;

/// How long a node that stops waits for the payloads that it took in.
const LAST_PAYLOADS: Duration = Duration::from_secs(1);

/// What the end of all threads may take. After that the process ends as a crash does.
const STOP_LIMIT: Duration = Duration::from_secs(4);

/// How long a leader that stops waits for another one to lead.
const RESIGN_LIMIT: Duration = Duration::from_secs(1);

/// What runs beside tokio, to be joined before the process ends: a thread that works on the
/// database while the process exits crashes it.
pub(super) struct Threads {
    pub(super) engine: JoinHandle<()>,
    pub(super) serving: JoinHandle<()>,
    pub(super) requests: Arc<Requests>,
    pub(super) watch: Watch,
}

/// A running node.
pub struct Node {
    identity: Identity,
    genesis: Genesis,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    max_pending_vertices: usize,
    transport: Arc<Transport>,
    events: Arc<Events>,
    vitals: Arc<Vitals>,
    threads: Later<Mutex<Option<Threads>>>,
    pending: Mutex<Pending>,
    snapshot: Mutex<Snapshot>,
    /// The newest executed sequence, durable; nothing once the node stops.
    newest: watch::Sender<Option<Sequence>>,
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

impl Node {
    #[allow(clippy::too_many_arguments, reason = "the parts of a node, each once")]
    pub(super) fn new(
        config: &Config,
        key: &SecretKey,
        genesis: Genesis,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
        transport: Arc<Transport>,
        events: Arc<Events>,
        engine: &Engine,
        recent: Vec<(Sequence, Hash)>,
        vitals: Arc<Vitals>,
    ) -> Arc<Self> {
        let key = key.public_key().clone();
        let mut snapshot = Snapshot::of(engine, &key);
        snapshot.recent = recent.into();
        metrics.show_reputation(
            snapshot.member_records.iter().map(|record| (record.id, record.reputation)),
        );
        Arc::new(Self {
            identity: Identity { name: config.node.id.clone(), key, chain_id: genesis.chain_id() },
            genesis,
            store,
            metrics,
            max_pending_vertices: usize::try_from(config.consensus.max_pending_vertices)
                .unwrap_or(usize::MAX),
            transport,
            events,
            vitals,
            threads: Later::new(),
            pending: Mutex::default(),
            snapshot: Mutex::new(snapshot),
            newest: watch::Sender::new(Some(engine.state().sequence)),
        })
    }

    pub(super) fn runs_on(&self, threads: Threads) {
        self.threads.get_or_init(|| Mutex::new(Some(threads)));
    }

    /// Is ready no more and serves on for a while, until nobody sends clients here. Then it takes
    /// nothing in, waits a moment for what is pending, and tells the clients of the rest.
    pub(super) async fn leave(&self, grace: Duration) {
        self.vitals.leave();
        tokio::time::sleep(grace).await;
        self.vitals.close();
        // Ends the streams, which tells their readers where to go on.
        self.newest.send_replace(None);
        self.resign().await;
        let pending = || lock(&self.pending).payloads.len();
        let ordered = async {
            while pending() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(LAST_PAYLOADS, ordered).await.is_err() {
            tracing::warn!(payloads = pending(), "payloads are not final yet as this node stops");
        }
        for waiting in lock(&self.pending).payloads.values_mut() {
            // Dropping the senders tells the clients.
            waiting.clients.clear();
        }
    }

    /// Stops the engine after the turn that it is in, closes the transport, and waits until no
    /// thread works on the database.
    pub(super) async fn stop(&self) {
        self.vitals.close();
        if !self.events.push(Event::Stop) {
            tracing::debug!("the engine has stopped already");
        }
        let threads = self.threads.get().and_then(|threads| lock(threads).take());
        let Some(Threads { engine, serving, requests, mut watch }) = threads else { return };
        let joined = tokio::task::spawn_blocking(move || engine.join().is_ok());
        self.transport.shutdown().await;
        requests.close();
        let rest = tokio::task::spawn_blocking(move || {
            watch.stop();
            serving.join().is_ok()
        });
        let all = async { (joined.await, rest.await) };
        match tokio::time::timeout(STOP_LIMIT, all).await {
            Ok((Ok(true), Ok(true))) => {}
            Ok(_) => tracing::error!("a thread of the node had panicked"),
            Err(_) => stop_for_safety(&format!(
                "the last work on the database takes more than {} s; what is durable is kept",
                STOP_LIMIT.as_secs()
            )),
        }
    }

    /// If this node leads others, waits a moment until one of them does: nobody has to wait for a
    /// timeout.
    async fn resign(&self) {
        let leads = || {
            let snapshot = lock(&self.snapshot);
            snapshot.validators.members.len() > 1 && snapshot.own == Some(snapshot.leader)
        };
        if !leads() || !self.events.push(Event::Resign) {
            return;
        }
        let handed_over = async {
            while leads() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(RESIGN_LIMIT, handed_over).await {
            Ok(()) => tracing::info!("another validator leads"),
            Err(_) => tracing::warn!(
                "no other validator leads after {} ms: they will notice",
                RESIGN_LIMIT.as_millis()
            ),
        }
    }

    // ---- what the engine's thread reports

    /// A turn with events took so long, and so many more wait.
    pub(super) fn took(&self, time: Duration, waiting: usize) {
        self.metrics.turn.observe(time.as_secs_f64());
        self.metrics.event_queue_length.set(waiting as i64);
    }

    /// A new epoch began.
    pub(super) fn opened(&self, members: &[Member]) {
        self.metrics.show_members(members);
    }

    pub(super) fn count_violation(&self, node: NodeId, kind: &'static str) {
        self.metrics.violation(node, kind);
        // The counter is what to watch: a log line for each would let a member write logs at line
        // rate.
        tracing::debug!(node = node.0, kind, "a peer broke a rule");
    }

    /// Publishes a turn: answers clients, counts, renews the snapshot.
    pub(super) fn turned(&self, engine: &Engine, turn: &Turn) {
        let mut finality = Vec::new();
        for execution in &turn.executions {
            self.answer(execution, &mut finality);
        }
        if let Some(last) = turn.executions.last() {
            let sequence = last.record.proposal.sequence;
            self.newest.send_if_modified(|newest| {
                newest.as_mut().map(|newest| *newest = sequence).is_some()
            });
        }
        if !turn.refused.is_empty() {
            let mut pending = lock(&self.pending);
            for id in &turn.refused {
                // Dropping the senders tells the clients that it was not taken.
                pending.remove(id);
            }
        }
        let mut snapshot = lock(&self.snapshot);
        if let Some((left, reason)) = turn.left {
            let name = |view| {
                engine
                    .validators()
                    .member(engine.validators().leader(view))
                    .map_or("", |member| member.name.as_str())
            };
            let (view, leader) = (engine.view(), name(engine.view()));
            tracing::info!(
                left = left.0,
                its_leader = name(left),
                ?reason,
                view = view.0,
                leader,
                "entered a view"
            );
        }
        let judged = snapshot.take(engine, &self.identity.key);
        for execution in &turn.executions {
            snapshot.executed(execution.record.proposal.sequence, execution.chain_hash);
        }
        for seconds in finality {
            snapshot.measured(seconds * 1000.0);
        }
        self.metrics.quorum_participating.set(snapshot.participating() as i64);
        self.metrics.quorum_voters.set(snapshot.voters() as i64);
        self.metrics.quorum_required.set(snapshot.validators.quorum().q as i64);
        let ready = self.vitals.ailment().is_none() && snapshot.hindrance(&self.identity).is_none();
        self.metrics.ready.set(i64::from(ready));
        if let Some(offset) = snapshot.watch_clock() {
            self.metrics.clock_offset.set(offset as f64 / 1000.0);
        }
        if judged {
            self.metrics.show_reputation(
                snapshot.member_records.iter().map(|record| (record.id, record.reputation)),
            );
        }
        drop(snapshot);
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.epoch.set(number(engine.epoch().0));
        self.metrics.sequence.set(number(engine.executed().0));
        self.metrics.stable_sequence.set(number(engine.stable().0));
        self.metrics.view.set(number(engine.view().0));
        self.metrics.view_active.set(i64::from(engine.is_active()));
        let entered =
            turn.writes.iter().filter(|write| matches!(write, Write::ViewChange(_))).count();
        self.metrics.view_changes.inc_by(entered as u64);
        self.metrics.sizes.show(&engine.sizes());
        self.metrics.pending_payload_bytes.set(lock(&self.pending).bytes as i64);
    }

    /// Notes that a member was heard, with what it reported.
    pub(super) fn heard(&self, from: NodeId, status: &Status) {
        lock(&self.snapshot).heard(from, status);
    }

    /// This node's id, if it is a member.
    #[cfg(feature = "byzantine")]
    pub(super) fn own_id(&self) -> Option<NodeId> {
        lock(&self.snapshot).own
    }

    /// The newest state with its validators, from the store.
    fn newest(&self) -> Result<(ChainState, Validators), String> {
        let storage = self.store.storage();
        let state = storage.state(&self.genesis).map_err(|error| error.to_string())?;
        let validators =
            storage.validators(&self.genesis, state.epoch).map_err(|error| error.to_string())?;
        let missing = || format!("the validators of epoch {} are missing", state.epoch);
        validators.ok_or_else(missing).map(|validators| (state, validators))
    }

    fn answer(&self, execution: &Execution, finality: &mut Vec<f64>) {
        self.metrics.vertices_finalized.inc_by(execution.vertices.len() as u64);
        for (offence, _) in &execution.evidence {
            let (accused, kind) = (offence.accused, offence.kind.label());
            self.metrics.evidence(accused, kind);
            tracing::warn!(
                node = accused.0,
                kind,
                sequence = execution.record.proposal.sequence.0,
                "evidence counted against a validator"
            );
        }
        let proposal = &execution.record.proposal;
        let mut pending = lock(&self.pending);
        let payloads = execution
            .vertices
            .iter()
            .flat_map(|(vertex, outcomes)| vertex.payloads().zip(outcomes));
        for (index, ((id, _), outcome)) in (0..).zip(payloads) {
            // This node's lane seals it again, when there is room.
            if *outcome == Outcome::Crowded {
                continue;
            }
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
        if self.vitals.is_closed() {
            return Err(SubmitError::NotReady(
                "this node is stopping; send the payload to another one".to_owned(),
            ));
        }
        if let Some(shortage) = self.vitals.shortage() {
            return Err(SubmitError::NoSpace(shortage));
        }
        let id = payload.id(self.identity.chain_id);
        let bytes = payload.encoded_len();
        let snapshot = lock(&self.snapshot);
        if matches!(snapshot.role, Role::Learner | Role::Stale) {
            // It seals nothing; and what it took in would wait for ever.
            return Err(SubmitError::NotReady(
                snapshot.hindrance(&self.identity).unwrap_or_default(),
            ));
        }
        let undecided = snapshot.sizes.undecided_vertices;
        drop(snapshot);
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
        if undecided >= self.max_pending_vertices
            || pending.bytes + bytes > MAX_PENDING_BYTES
            || pending.payloads.len() >= MAX_PENDING
        {
            return Err(full);
        }
        pending.bytes += bytes;
        pending
            .payloads
            .insert(id, Waiting { since: Instant::now(), bytes, clients: vec![sender] });
        if !self.events.push(Event::Submit(payload)) {
            pending.remove(&id);
            return Err(SubmitError::NotReady(
                "the node is shutting down; send the payload to another one".to_owned(),
            ));
        }
        Ok(SubmitTicket { id, outcome })
    }

    fn lookup(&self, id: &Hash) -> Result<Option<Lookup>, String> {
        let storage = self.store.storage();
        let found = || {
            let Some(location) = storage.location(id)? else { return Ok(None) };
            // This node's lane seals it again.
            if !location.outcome.is_final() && lock(&self.pending).payloads.contains_key(id) {
                return Ok(None);
            }
            let payload = storage.payload(&location)?;
            Ok(storage
                .finalized(location.sequence)?
                .map(|finalized| (location, finalized, payload)))
        };
        let found = found().map_err(|error: StorageError| error.to_string())?;
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

    fn receipt(&self, id: &Hash) -> Result<Receipted, String> {
        self.store.storage().receipt(&self.genesis, id).map_err(|error| error.to_string())
    }

    fn decided(&self, sequence: Sequence) -> Result<Option<Decided>, String> {
        let storage = self.store.storage();
        storage.decided(self.identity.chain_id, sequence).map_err(|error| error.to_string())
    }

    fn newest(&self) -> watch::Receiver<Option<Sequence>> {
        self.newest.subscribe()
    }

    fn evidence(&self, first: usize, count: usize) -> Result<EvidenceList, String> {
        let storage = self.store.storage();
        let found =
            || -> Result<EvidenceList, StorageError> {
                let (counted, total) = storage.evidence(first, count)?;
                let mut items = Vec::with_capacity(counted.len());
                for (number, counted) in (first..).zip(&counted) {
                    // Whoever was judged was a member then, and the validators of every epoch are
                    // kept.
                    let validators = storage.validators(&self.genesis, counted.offence.epoch)?;
                    let member = validators
                        .as_ref()
                        .and_then(|validators| validators.member(counted.offence.accused));
                    items.extend(member.map(|member| {
                        evidence::item(self.identity.chain_id, number, counted, member)
                    }));
                }
                let end = first.saturating_add(counted.len());
                let next = (end < total).then_some(end as u64);
                Ok(EvidenceList {
                    chain_id: self.identity.chain_id.to_string(),
                    total: total as u64,
                    items,
                    next,
                })
            };
        found().map_err(|error| error.to_string())
    }

    fn reconfigure(&self, order: SignedReconfig) -> Result<(), String> {
        let (state, validators) = self.newest()?;
        if state.successor.is_some() {
            return Err(format!(
                "epoch {} has just ended; look again which one there is",
                state.epoch
            ));
        }
        // The next decision's time is about now, however long ago the newest one was.
        let time_ms = state.time_ms.max(unix_ms());
        if let Err(void) =
            state.judge_reconfig(&order, self.identity.chain_id, &validators, time_ms, &MlDsa87)
        {
            return Err(format!(
                "in epoch {}, at sequence {}: {void}",
                state.epoch, state.sequence
            ));
        }
        if !self.events.push(Event::Reconfigure(Box::new(order))) {
            return Err("the node is shutting down; send it to another one".to_owned());
        }
        Ok(())
    }

    fn knows(&self) -> Result<(Epoch, Ready), String> {
        let (state, _) = self.newest()?;
        let newest =
            state.known.back().copied().ok_or_else(|| "the state names no sequence".to_owned());
        newest.map(|(sequence, chain_hash)| (state.epoch, Ready { sequence, chain_hash }))
    }

    fn admit_learners(&self, keys: Vec<PublicKey>) {
        self.transport.admit(keys);
    }

    fn status(&self) -> NodeStatus {
        let connected = self.transport.connected();
        // Sorting and printing are not for the engine's thread to wait for.
        let snapshot = lock(&self.snapshot).clone();
        let mut status = snapshot.status(&self.identity, &connected);
        if let Some(ailment) = self.vitals.ailment() {
            (status.ready, status.waiting_for) = (false, ailment);
        }
        status
    }

    fn death(&self) -> Option<String> {
        self.vitals.death()
    }

    fn newest_time_ms(&self) -> u64 {
        lock(&self.snapshot).time_ms
    }
}
