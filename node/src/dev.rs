//! `cretoai-node dev`: a whole chain in one process on this machine, to build against.
//!
//! The rule: these are the nodes that run in production, with their stores, keys, ports and
//! quorums; only the process is shared.

use crate::{
    cli::ask,
    config::Config,
    http::front::Identification,
    init::{self, Host, Layout},
    run::{Options, run_until},
    runtime::Creto,
};
use anyhow::{Context, bail};
use clap::Args;
use cretoai_types::{FaultModel, SignedGenesis};
use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub struct DevArguments {
    /// How many nodes: 1, or 3 to 31. A chain that is in --dir keeps its number.
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    pub nodes: usize,
    /// Keep the chain in this folder, and go on with the one that is there [default: a temporary
    /// folder, removed at the end].
    #[arg(long = "dir", value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// The address that all nodes listen on.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
}

/// Runs the nodes until SIGINT or SIGTERM.
///
/// # Errors
/// When no chain can be made, or a node does not start.
pub fn run(arguments: &DevArguments) -> anyhow::Result<()> {
    let began = Instant::now();
    let temporary = match arguments.folder {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("cretoai-dev-")
                .tempdir()
                .context("making a temporary folder; --dir names another place")?,
        ),
    };
    let folder = match (&arguments.folder, &temporary) {
        (Some(folder), _) => folder.as_path(),
        (None, Some(temporary)) => temporary.path(),
        (None, None) => bail!("there is no folder for the chain; name one with --dir"),
    };
    let genesis = match init::read_genesis(folder)? {
        Some(genesis) => genesis,
        None => {
            let host = Host::Address(arguments.host);
            let layout = Layout::new(folder, arguments.nodes, &[host], None)?;
            init::make(folder, &layout, FaultModel::Byzantine)?
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let ended = runtime.block_on(run_all(folder, &genesis, temporary.is_some(), began));
    runtime.shutdown_timeout(Duration::from_millis(500));
    ended
}

/// One node of the chain.
struct Place {
    name: String,
    clients: SocketAddr,
    metrics: SocketAddr,
}

async fn run_all(
    folder: &Path,
    genesis: &SignedGenesis,
    temporary: bool,
    began: Instant,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let (stop, _) = watch::channel(false);
    let mut running = JoinSet::new();
    let mut places = Vec::new();
    for index in 0..genesis.genesis.members.len() {
        let config = init::load_config(folder, index)?;
        let clients = init::api_address(config.network.listen_addr)?;
        let name = config.node.id.clone();
        places.push(Place { name: name.clone(), clients, metrics: config.metrics_address() });
        running.spawn(run_one(config, genesis.clone(), clients, stop.subscribe()));
    }
    let ended = tokio::select! {
        first = running.join_next() => match first {
            Some(ended) => ended.context("a node's task failed")?,
            None => Ok(()),
        },
        told = serve(&places, genesis, temporary.then_some(folder), began) => told,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    stop.send_replace(true);
    while running.join_next().await.is_some() {}
    ended
}

async fn run_one(
    config: Config,
    genesis: SignedGenesis,
    clients: SocketAddr,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let name = config.node.id.clone();
    let identification = Identification {
        name: name.clone(),
        pod_uid: String::new(),
        cluster_uid: genesis.genesis.cluster_uid.clone(),
        admin: Some(genesis.genesis.admin_key.fingerprint()),
        token_path: None,
    };
    let options = Options {
        api_listen: clients,
        identification,
        stop_grace: Duration::ZERO,
        genesis: Some(genesis),
    };
    let stopped = async move {
        match stop.wait_for(|stop| *stop).await {
            Ok(_) => "the end of dev",
            Err(_) => "the end of the process",
        }
    };
    run_until::<Creto>(config, options, stopped).await.with_context(|| name)
}

/// Says where the nodes are once all are ready, and then waits for ever.
async fn serve(
    places: &[Place],
    genesis: &SignedGenesis,
    temporary: Option<&Path>,
    began: Instant,
) -> anyhow::Result<()> {
    for place in places {
        ready(place, began + PATIENCE).await?;
    }
    let quorum = genesis.genesis.quorum();
    let mut text = format!(
        "{} nodes are ready after {:.1} s: {} of them decide, and {} may be faulty\n\
         chain id  {}\n",
        quorum.n,
        began.elapsed().as_secs_f64(),
        quorum.q,
        quorum.f,
        genesis.genesis.chain_id()
    );
    for Place { name, clients, metrics } in places {
        text += &format!("{name:<8}  API http://{clients}   metrics http://{metrics}/metrics\n");
    }
    if let Some(first) = places.first() {
        text += &format!(
            "\nSubmit a payload:\n  curl -s -H 'Content-Type: application/octet-stream' \
             --data-binary hello http://{}/v1/payloads\n",
            first.clients
        );
    }
    text += &match temporary {
        Some(folder) => format!("Ctrl-C ends it and removes {}.\n", folder.display()),
        None => "Ctrl-C ends it; the chain stays.\n".into(),
    };
    std::io::stdout().write_all(text.as_bytes()).context("writing the addresses")?;
    std::future::pending().await
}

async fn ready(place: &Place, end: Instant) -> anyhow::Result<()> {
    let metrics = place.metrics;
    loop {
        let answer = tokio::task::spawn_blocking(move || ask(metrics, "/ready"))
            .await
            .context("asking for readiness")?;
        let waits = match answer {
            Ok((status, _)) if status == "200" => return Ok(()),
            Ok((_, sentence)) => sentence,
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            bail!("{} is not ready after {} s: {waits}", place.name, PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
