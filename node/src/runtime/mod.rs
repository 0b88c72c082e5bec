//! The running node: the engine on a thread of its own, between the store, the transport and the
//! clients.
//!
//! | thread | what it does |
//! |---|---|
//! | `creto-engine` | takes events, runs the engine's turns, writes, then sends and answers |
//! | `creto-serve` | answers peers' fetches from the store, within a rate |
//! | `creto-watch`, `creto-disk` | see whether the engine turns and how much space is left |
//! | `creto-log` | writes the log |
//! | tokio | transport and HTTP; decodes frames |
//!
//! The rule of the engine is kept in one place, [`engine_thread`]: a turn's writes are durable
//! before its messages leave, and a write that fails ends the process.

mod birth;
mod engine_thread;
mod event;
mod fair;
mod ledger;
mod safety;
mod serve;
mod status;
mod vitals;

use crate::{
    config::Config,
    handle::Runtime,
    metrics::Metrics,
    storage::{Storage, StorageOptions},
    transport::{Inbound, Transport, is_guest},
};
use anyhow::Context;
use birth::Store;
use cretoai_consensus::{
    Message,
    engine::{self, Engine},
};
use cretoai_control::keys::{MlDsa87, SecretKey};
use cretoai_types::{SignedGenesis, decode};
use engine_thread::EngineThread;
use event::{Event, Events};
use ledger::{Node, Threads};
use safety::stop_for_safety;
use serve::Requests;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use vitals::{Vitals, Watch};

/// The runtime of a real node.
pub struct Creto;

impl Runtime for Creto {
    type Store = Store;
    type Node = Node;

    fn open(config: &Config, key: &SecretKey, metrics: Arc<Metrics>) -> anyhow::Result<Arc<Store>> {
        let path = &config.storage.path;
        std::fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        let mib = |size: u64| usize::try_from(size << 20).unwrap_or(usize::MAX);
        let options = StorageOptions {
            cache_bytes: mib(config.storage.cache_size_mb),
            write_buffer_bytes: mib(config.storage.write_buffer_mb),
        };
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
        let storage = store.storage();
        let recovered = tokio::task::spawn_blocking({
            let (storage, genesis, key) =
                (Arc::clone(&storage), genesis.clone(), key.public_key().clone());
            move || storage.recover(&genesis, &key)
        })
        .await??;
        let validators = Arc::clone(&recovered.validators);
        config.check_quorum(validators.quorum(), validators.fault_model)?;
        tracing::info!(
            chain_id = %genesis.chain_id(), epoch = validators.epoch.0, sequence = recovered.state.sequence.0,
            chain_hash = %recovered.state.chain_hash, undecided = recovered.undecided.len(), stale = recovered.stale, "recovered"
        );
        for counted in storage.evidence(0, usize::MAX)?.0 {
            metrics.evidence(counted.offence.accused, counted.offence.kind.label());
        }

        metrics.show_members(&validators.members);

        let events = Arc::new(Events::default());
        let requests = Arc::new(Requests::default());
        let inbound = {
            let (events, requests) = (Arc::clone(&events), Arc::clone(&requests));
            let metrics = Arc::clone(&metrics);
            move |inbound| dispatch(inbound, &events, &requests, &metrics)
        };
        let peers = config.network.bootstrap_peers.clone();
        let transport = Transport::start(
            config.quic_address(),
            key,
            &validators.members,
            peers,
            Arc::clone(&metrics),
            inbound,
        )
        .await?;
        if let Some(previous) = &recovered.previous {
            transport.admit(previous.members.iter().map(|member| member.key.clone()));
        }
        #[cfg(feature = "byzantine")]
        let attack = attack(key, genesis.chain_id())?;
        let vitals = Arc::new(Vitals::new(config.storage.reserve_mb << 20));
        let serving = serve::spawn(
            Arc::clone(&requests),
            Arc::clone(&storage),
            Arc::downgrade(&transport),
            Arc::clone(&vitals),
            #[cfg(feature = "byzantine")]
            attack.clone(),
            #[cfg(feature = "byzantine")]
            Arc::clone(&validators),
        )?;

        let engine = Engine::new(
            engine::Config {
                chain_id: genesis.chain_id(),
                signers: vec![Arc::new(SecretKey::from_seed(key.seed())?)],
                verifier: Arc::new(MlDsa87),
                timing: engine::Timing::default(),
                limits: engine::Limits::default(),
                seed: rand::random(),
            },
            recovered,
        );
        let recent = storage.recent_chain_hashes(engine.executed(), status::RECENT)?;
        let watch = Watch::start(&vitals, Arc::clone(&storage), &metrics, |reason| {
            stop_for_safety(reason);
        })?;
        let node = Node::new(
            config,
            key,
            genesis,
            store,
            metrics,
            Arc::clone(&transport),
            Arc::clone(&events),
            &engine,
            recent,
            Arc::clone(&vitals),
        );
        let thread =
            EngineThread::new(engine, events, storage, transport, Arc::clone(&node), vitals);
        #[cfg(feature = "byzantine")]
        let thread = thread.attacking(attack);
        node.runs_on(Threads { engine: thread.spawn()?, serving, requests, watch });
        Ok(node)
    }

    async fn leave(node: Arc<Node>, grace: Duration) {
        node.leave(grace).await;
    }

    async fn stop(node: Arc<Node>) {
        node.stop().await;
    }
}

/// The attack that the environment orders, said as loudly as can be.
#[cfg(feature = "byzantine")]
fn attack(
    key: &SecretKey,
    chain_id: cretoai_types::Hash,
) -> anyhow::Result<Option<Arc<crate::byzantine::Attack>>> {
    use crate::byzantine::{Attack, VARIABLE};
    let Ok(words) = std::env::var(VARIABLE) else { return Ok(None) };
    tracing::error!(
        attacks = words,
        "THIS NODE ATTACKS ITS CLUSTER: {VARIABLE} is set. It is for tests only"
    );
    Ok(Some(Arc::new(Attack::of(&words, Arc::new(SecretKey::from_seed(key.seed())?), chain_id)?)))
}

/// Takes what comes from the network to whom it concerns. Runs on the reader of one peer's stream.
fn dispatch(inbound: Inbound, events: &Events, requests: &Requests, metrics: &Metrics) {
    let event = match inbound {
        Inbound::Connected(peer) => Event::Connected(peer),
        Inbound::RoundTrip(peer, time) => Event::RoundTrip(peer, time),
        Inbound::Disconnected(_) => return,
        Inbound::Frame { from, frame, budget } => match decode::<Message>(&frame) {
            Ok(
                message @ (Message::FetchRecords { .. }
                | Message::FetchLane { .. }
                | Message::FetchBranch { .. }),
            ) => {
                if let Err(reason) = requests.push(from, message) {
                    metrics.dropped_fetches.with_label_values(&[reason]).inc();
                }
                return;
            }
            // Who is no member may fetch, and is heard in nothing else.
            Ok(_) if is_guest(from) => return,
            Ok(message) => Event::Message { from, message, _budget: budget },
            Err(error) => {
                metrics.violation(from, "malformed");
                tracing::debug!(peer = from.0, %error, "a frame that no honest node sends");
                return;
            }
        },
    };
    if !events.push(event) {
        tracing::debug!("the engine has stopped");
    }
}

/// A value that is set once, after the thing that it belongs to exists.
type Later<T> = OnceLock<T>;
