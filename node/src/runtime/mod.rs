//! The running node: the engine on a thread of its own, between the store, the transport and the clients.
//!
//! | thread | what it does |
//! |---|---|
//! | `creto-engine` | takes events, runs the engine's turns, writes, then sends and answers |
//! | `creto-serve` | answers peers' fetches from the store, within a rate |
//! | tokio | transport and HTTP; decodes frames |
//!
//! The rule of the engine is kept in one place, [`engine_thread`]: a turn's writes are durable before its messages leave,
//! and a write that fails ends the process.

mod birth;
mod engine_thread;
mod ledger;
mod serve;
mod status;

use crate::{
    config::Config,
    handle::Runtime,
    metrics::Metrics,
    storage::{Storage, StorageOptions},
    transport::{Inbound, Transport},
};
use anyhow::Context;
use birth::Store;
use cretoai_consensus::{Message, NodeId, SignedGenesis, decode, engine::Engine};
use cretoai_control::keys::{MlDsa87, SecretKey};
use engine_thread::{EngineThread, Event};
use ledger::Node;
use std::sync::{Arc, OnceLock, mpsc};

/// The runtime of a real node.
pub struct Creto;

impl Runtime for Creto {
    type Store = Store;
    type Node = Node;

    fn open(config: &Config, key: &SecretKey, metrics: Arc<Metrics>) -> anyhow::Result<Arc<Store>> {
        let path = &config.storage.path;
        std::fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        let mib = |size: u64| usize::try_from(size << 20).unwrap_or(usize::MAX);
        let options =
            StorageOptions { cache_bytes: mib(config.storage.cache_size_mb), write_buffer_bytes: mib(config.storage.write_buffer_mb) };
        let storage = Storage::open(path, options, metrics)?;
        let key = key.public_key().fingerprint();
        storage.check_owner(key)?;
        let genesis = storage.genesis()?;
        Ok(Arc::new(Store::new(storage, genesis, key)))
    }

    async fn start(
        config: &Config,
        key: &SecretKey,
        genesis: SignedGenesis,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Arc<Node>> {
        let genesis = genesis.genesis;
        let quorum = genesis.quorum();
        config.check_quorum(quorum, genesis.fault_model)?;
        let members = genesis.members();
        let own = members.iter().find(|m| m.key == *key.public_key()).map(|m| m.id);
        let Some(own) = own else {
            // A learner in this version follows nothing: it has no channel to members before a reconfiguration names it.
            return Ok(Node::learner(config, key, &genesis, store, metrics));
        };
        let storage = store.storage();
        let recovered = tokio::task::spawn_blocking({
            let (storage, genesis) = (Arc::clone(&storage), genesis.clone());
            move || storage.recover(&genesis)
        })
        .await??;
        tracing::info!(
            chain_id = %genesis.chain_id(), node_id = own.0, sequence = recovered.executed.0, chain_hash = %recovered.chain_hash,
            undecided = recovered.undecided.len(), "recovered"
        );

        let (events, receiver) = mpsc::channel();
        let (requests, answered) = mpsc::sync_channel(serve::MAX_WAITING);
        let inbound = {
            let (events, metrics) = (events.clone(), Arc::clone(&metrics));
            move |inbound| dispatch(inbound, &events, &requests, &metrics)
        };
        let peers = config.network.bootstrap_peers.clone();
        let transport = Transport::start(config.quic_address(), key, members.clone(), own, peers, Arc::clone(&metrics), inbound).await?;
        serve::spawn(answered, Arc::clone(&storage), Arc::downgrade(&transport))?;

        let limits = cretoai_consensus::engine::Limits::default();
        let engine = Engine::new(
            cretoai_consensus::engine::Config {
                genesis: genesis.clone(),
                own,
                signer: Arc::new(SecretKey::from_seed(key.seed())?),
                verifier: Arc::new(MlDsa87),
                timing: cretoai_consensus::engine::Timing::default(),
                limits,
            },
            recovered,
        );
        let recent = storage.recent_chain_hashes(engine.executed(), status::RECENT)?;
        let node = Node::validator(config, key, &genesis, own, store, metrics, Arc::clone(&transport), events, &engine, recent);
        let thread = EngineThread::new(engine, receiver, storage, transport, Arc::clone(&node));
        node.runs_on(thread.spawn()?);
        Ok(node)
    }

    async fn stop(node: Arc<Node>) {
        node.stop().await;
    }
}

/// Takes what comes from the network to whom it concerns. Runs on the reader of one peer's stream.
fn dispatch(inbound: Inbound, events: &mpsc::Sender<Event>, requests: &mpsc::SyncSender<serve::Request>, metrics: &Metrics) {
    let event = match inbound {
        Inbound::Connected(peer) => Event::Connected(peer),
        Inbound::Disconnected(_) => return,
        Inbound::Frame { from, frame, budget } => match decode::<Message>(&frame) {
            Ok(message @ (Message::FetchRecords { .. } | Message::FetchLane { .. })) => {
                // A full queue drops the request: the laggard asks somebody else after a while.
                if requests.try_send(serve::Request { from, message }).is_err() {
                    tracing::debug!(peer = from.0, "dropped a fetch: too many wait");
                }
                return;
            }
            Ok(message) => Event::Message { from, message, _budget: budget },
            Err(error) => {
                metrics.byzantine_violations.with_label_values(&[&from.0.to_string(), "malformed"]).inc();
                tracing::debug!(peer = from.0, %error, "a frame that no honest node sends");
                return;
            }
        },
    };
    if events.send(event).is_err() {
        tracing::debug!("the engine has stopped");
    }
}

/// Ends the process because going on would be unsafe: what was promised might be forgotten, or the chain has diverged.
/// Restarting begins from what is durable.
fn stop_for_safety(reason: &str) -> ! {
    tracing::error!(reason, "stopping for safety");
    std::process::exit(70)
}

/// A value that is set once, after the thing that it belongs to exists.
type Later<T> = OnceLock<T>;

/// The name of a member, for people.
fn name_of(members: &[cretoai_consensus::Member], id: NodeId) -> Option<String> {
    members.get(id.lane()).map(|m| m.name.clone())
}
