//! `cretoai-node run`: the order in which a node comes up and goes down.
//!
//! 1. Configuration, identity, store.
//! 2. The ports: 9090, 9000 and 8080 (which answers 503).
//! 3. The genesis, from the store, from a file, or handed in at port 9000.
//! 4. Transport and engine; clients are served.
//! 5. SIGTERM or SIGINT: `/ready` says 503 while clients are served on for the grace; then the
//!    leadership is handed over and waiting clients are answered; then the ports close, the engine
//!    flushes and the transport closes. All within ten seconds beyond the grace.

use crate::{
    config::Config,
    handle::{Birth, Runtime},
    http::{Front, Listening, client_api, control, front::Identification, probes},
    identity::Identity,
    metrics::{Metrics, Port},
    version::VERSION,
};
use anyhow::Context;
use cretoai_types::SignedGenesis;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

/// Connections at a time: clients, each at most one request; the operator's; Prometheus and probes.
const CLIENT_CONNECTIONS: usize = 4096;
const CONTROL_CONNECTIONS: usize = 64;
const METRICS_CONNECTIONS: usize = 512;
/// What `run` needs beside the configuration.
pub struct Options {
    /// Where clients are served.
    pub api_listen: SocketAddr,
    /// Who this node is.
    pub identification: Identification,
    /// For how long a node that stops serves on.
    pub stop_grace: Duration,
    /// The genesis to begin with, where no operator hands one in.
    pub genesis: Option<SignedGenesis>,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// When it cannot start; what is wrong and what to do is in the message.
pub async fn run<R: Runtime>(config: Config, options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    run_until::<R>(config, options, async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
    .await
}

/// Runs a node until `stop` resolves; what it resolves to is logged.
///
/// # Errors
/// As [`run`].
pub async fn run_until<R: Runtime>(
    config: Config,
    options: Options,
    stop: impl Future<Output = &'static str>,
) -> anyhow::Result<()> {
    if cfg!(feature = "byzantine") {
        tracing::error!(
            "THIS BINARY CAN ATTACK ITS CLUSTER: it is built with the feature `byzantine`, for tests only"
        );
    }
    let identity = Identity::open(&config.crypto.key_path)?;
    tracing::info!(
        version = VERSION,
        name = config.node.id,
        fingerprint = %identity.key.public_key().fingerprint(),
        "starting"
    );
    if options.identification.admin.is_none() {
        tracing::warn!("CRETO_ADMIN_KEY is not set: the control port admits nobody");
    }
    let metrics = Arc::new(Metrics::new().context("setting up metrics")?);
    identity.expect_database(&config.storage.path)?;
    let store =
        R::open(&config, &identity.key, Arc::clone(&metrics)).context("opening the store")?;
    identity.bind(store.chain_id())?;
    let birth: Arc<dyn Birth> = store.clone();
    let front =
        Front::new(options.identification, identity.key.clone(), Arc::clone(&metrics), birth);
    if let Some(genesis) = options.genesis {
        let front = Arc::clone(&front);
        tokio::task::spawn_blocking(move || front.offer_genesis(genesis, false))
            .await?
            .context("the genesis file of this node")?;
    }

    let probes_port = Listening::bind(
        config.metrics_address(),
        "metrics.port",
        Port::Metrics,
        METRICS_CONNECTIONS,
    )
    .await?;
    let control_port = Listening::bind(
        config.network.listen_addr,
        "network.listen_addr",
        Port::Control,
        CONTROL_CONNECTIONS,
    )
    .await?;
    let client_port =
        Listening::bind(options.api_listen, "--api-listen", Port::Client, CLIENT_CONNECTIONS)
            .await?;
    let control_port = control_port.with_tls(control::tls(&front)?);
    let (close, closing) = watch::channel(false);
    let mut ports = JoinSet::new();
    ports.spawn(probes_port.serve(
        probes::router(Arc::clone(&front), &config.metrics),
        Arc::clone(&metrics),
        closing.clone(),
    ));
    ports.spawn(control_port.serve(
        control::router(Arc::clone(&front)),
        Arc::clone(&metrics),
        closing.clone(),
    ));
    let wait_ms = config.consensus.finality_timeout_ms.saturating_mul(10);
    ports.spawn(client_port.serve(
        client_api::router(Arc::clone(&front), wait_ms),
        Arc::clone(&metrics),
        closing,
    ));
    tracing::info!(
        control = %config.network.listen_addr, quic = %config.quic_address(), metrics = %config.metrics_address(), clients = %options.api_listen,
        waiting_for_genesis = store.chain_id().is_none(),
        "listening"
    );

    let mut stop = std::pin::pin!(stop);
    let born = async {
        front.genesis_arrived().await;
        let genesis = store.genesis().context("the store lost the genesis that it accepted")?;
        identity.bind(store.chain_id())?;
        R::start(&config, &identity.key, genesis, Arc::clone(&store), Arc::clone(&metrics))
            .await
            .context("starting the ledger")
    };
    let node = tokio::select! {
        node = born => Some(node?),
        reason = &mut stop => {
            tracing::info!(reason, "stopping before there was a genesis");
            None
        }
    };
    if let Some(node) = &node {
        front.set_ledger(node.clone());
        tracing::info!(chain_id = %front.chain_id().unwrap_or_default(), "serving");
        let reason = stop.await;
        let grace_ms = options.stop_grace.as_millis();
        tracing::info!(reason, grace_ms, "stopping: not ready from now on");
        R::leave(Arc::clone(node), options.stop_grace).await;
    }
    close.send_replace(true);
    while ports.join_next().await.is_some() {}
    if let Some(node) = node {
        R::stop(node).await;
    }
    tracing::info!("stopped");
    Ok(())
}
