//! Starting, leading and stopping.

use crate::{
    cluster::{
        reconcile::{Context, on_error, reconcile},
        validate::Settings,
    },
    health::Health,
    lead::{Candidate, Terms},
    metrics::Metrics,
    names::{CLUSTER, MANAGER},
    nodes::Network,
    server,
};
use anyhow::{Context as _, Result, bail};
use clap::Parser;
use cretoai_crds::CretoCluster;
use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        Controller,
        controller::{self, Config},
        events::Reporter,
        reflector::ObjectRef,
        watcher,
    },
};
use serde::de::DeserializeOwned;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{error, info, warn};

/// How long connecting to the API server may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the API server may take to answer a request.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// How long one pass may take.
pub const PASS_LIMIT: Duration = Duration::from_secs(90);
/// How often the CretoClusters are counted.
const COUNT_PACE: Duration = Duration::from_secs(30);
/// How many passes run at once. Most of a pass is waiting.
const CONCURRENCY: u16 = 32;
/// No message about a watch has more characters.
const MAX_ERROR: usize = 300;

/// Runs CretoAI clusters on Kubernetes.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// Look after CretoClusters of this namespace alone. Default: all.
    #[arg(long, env = "CRETO_WATCH_NAMESPACE")]
    pub namespace: Option<String>,
    /// The operator's own namespace: holds the lease, and only operator pods of it may reach the
    /// nodes' port 9000.
    #[arg(long, env = "POD_NAMESPACE", default_value = "creto-system")]
    pub lease_namespace: String,
    /// Who we are towards the lease. The pod's name, so that a restarted container leads again at
    /// once.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// Image of the nodes of CretoClusters that name none.
    #[arg(long, env = "CRETO_NODE_IMAGE")]
    pub node_image: String,
    /// Where /health, /ready and /metrics are served.
    #[arg(long, env = "CRETO_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
}

/// The ways to the API server. Each has connections of its own, so that a stuck one costs no other.
struct Clients {
    /// For everything that is asked once: an answer comes in time or counts as lost.
    requests: Client,
    /// For watches, which are silent for long; the watcher itself ends one that is silent too long.
    watches: Client,
    /// For the lease alone.
    lease: Client,
}

impl Clients {
    async fn connect() -> Result<Self> {
        let config = kube::Config::infer()
            .await
            .context("no way to the API server: no kubeconfig and no ServiceAccount")?;
        let with = |read_timeout: Option<Duration>| -> Result<Client> {
            let mut config = config.clone();
            config.connect_timeout = Some(CONNECT_LIMIT);
            config.read_timeout = read_timeout;
            // The time counts from the request, not from when its connection became idle.
            config.reset_reader_on_write = true;
            Client::try_from(config).context("the configuration of the API server is not usable")
        };
        Ok(Self {
            requests: with(Some(REQUEST_LIMIT))?,
            watches: with(None)?,
            lease: with(Some(Terms::OPERATOR.request))?,
        })
    }
}

/// Runs until SIGTERM or SIGINT, or until the lease is lost.
///
/// # Errors
/// If it cannot start, or lost the lease: the kubelet starts it again.
pub async fn run(arguments: Arguments) -> Result<()> {
    let stop = stop_signal()?;
    let metrics = Metrics::new()?;
    let health = Health::new(metrics.clone());
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen at --listen {}", arguments.listen))?;
    let serving = tokio::spawn(server::serve(
        listener,
        metrics.clone(),
        health.clone(),
        raised(stop.clone()),
    ));
    let clients = Clients::connect().await?;
    let clusters: Api<CretoCluster> = in_scope(&clients.requests, arguments.namespace.as_deref());
    tokio::select! {
        () = definition(&clusters) => health.started(),
        () = raised(stop.clone()) => return Ok(()),
    }
    let result = lead(&arguments, &clients, &clusters, metrics, &health, stop).await;
    serving.abort();
    result
}

/// How many CretoClusters there are, whether or not they can be read.
async fn count(clusters: &Api<CretoCluster>) -> Result<usize, kube::Error> {
    let list = clusters.list_metadata(&ListParams::default().limit(1)).await?;
    let more = list.metadata.remaining_item_count.and_then(|more| usize::try_from(more).ok());
    Ok(list.items.len().saturating_add(more.unwrap_or_default()))
}

/// Waits until the API server knows CretoClusters.
async fn definition(clusters: &Api<CretoCluster>) {
    while let Err(error) = count(clusters).await {
        warn!(%error, "cannot list CretoClusters; is the chart creto-crds installed, and the ClusterRole bound? tries again");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Counts the CretoClusters now and then, apart from the watches, so that a watch that broke is
/// noticed.
async fn count_on(clusters: &Api<CretoCluster>, health: &Health) {
    loop {
        match count(clusters).await {
            Ok(count) => health.clusters(count),
            Err(error) => warn!(%error, "cannot list CretoClusters; is their definition there?"),
        }
        tokio::time::sleep(COUNT_PACE).await;
    }
}

/// Waits for the lease, and acts while it is held.
async fn lead(
    arguments: &Arguments,
    clients: &Clients,
    clusters: &Api<CretoCluster>,
    metrics: Metrics,
    health: &Health,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let identity = arguments
        .identity
        .clone()
        .unwrap_or_else(|| format!("{MANAGER}-{:016x}", rand::random::<u64>()));
    let leases = Api::namespaced(clients.lease.clone(), &arguments.lease_namespace);
    let candidate = Candidate::new(leases, identity.clone(), Terms::OPERATOR);
    info!(identity, "waits for the lease");
    let since = tokio::select! {
        since = candidate.acquire() => since,
        () = raised(stop.clone()) => return Ok(()),
    };
    info!(identity, "leads");
    health.leads(true);
    // A task of its own, so that no pass delays the renewal.
    let keeper = candidate.clone();
    let mut kept = tokio::spawn(async move { keeper.keep(since).await });
    let context = context(arguments, &clients.requests, metrics, health.clone());
    let lost = tokio::select! {
        () = control(arguments, &clients.watches, context, raised(stop.clone())) => None,
        () = count_on(clusters, health) => None,
        lost = &mut kept => Some(lost.context("the task that keeps the lease ended")?),
    };
    health.leads(false);
    kept.abort();
    if let Some(lost) = lost {
        error!(%lost, "leads no more");
        bail!("leads no more: {lost}");
    }
    candidate.release().await;
    Ok(())
}

fn context(
    arguments: &Arguments,
    client: &Client,
    metrics: Metrics,
    health: Health,
) -> Arc<Context> {
    let settings = Settings {
        node_image: arguments.node_image.clone(),
        operator_namespace: arguments.lease_namespace.clone(),
    };
    let reporter = Reporter { controller: MANAGER.into(), instance: arguments.identity.clone() };
    Arc::new(Context::new(client.clone(), settings, Arc::new(Network), reporter, metrics, health))
}

/// A CretoCluster that may not be one that this operator can read.
type Guarded = DeserializeGuard<CretoCluster>;

/// Runs the controller until `stop`.
async fn control(
    arguments: &Arguments,
    client: &Client,
    context: Arc<Context>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let scope = arguments.namespace.as_deref();
    let health = context.health.clone();
    let ours =
        watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"));
    Controller::new(in_scope::<Guarded>(client, scope), watcher::Config::default())
        .with_config(
            Config::default().debounce(Duration::from_millis(200)).concurrency(CONCURRENCY),
        )
        .watches(guarded::<Pod>(client, scope), ours.clone(), cluster_of)
        .watches(guarded::<StatefulSet>(client, scope), ours.clone(), cluster_of)
        .watches(guarded::<Service>(client, scope), ours.clone(), cluster_of)
        .watches(guarded::<ConfigMap>(client, scope), ours.clone(), cluster_of)
        .watches(guarded::<ServiceAccount>(client, scope), ours.clone(), cluster_of)
        .watches(guarded::<NetworkPolicy>(client, scope), ours.clone(), cluster_of)
        .watches(guarded::<PodDisruptionBudget>(client, scope), ours.clone(), cluster_of)
        .watches(guarded::<PersistentVolumeClaim>(client, scope), ours, cluster_of)
        .graceful_shutdown_on(stop)
        .run(reconcile, on_error, context)
        .for_each(|result| {
            if let Err(controller::Error::QueueError(error)) = result {
                let error = watch_message(&error);
                warn!(error, "a watch failed; it is tried again");
                health.watch_failed(error);
            }
            std::future::ready(())
        })
        .await;
}

/// What went wrong with a watch, short: some errors carry whole answers, with the resources of
/// everybody.
fn watch_message(error: &watcher::Error) -> String {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = cause.source();
    }
    if message.chars().count() > MAX_ERROR {
        message = message.chars().take(MAX_ERROR).chain("...".chars()).collect();
    }
    message
}

/// The objects of kind `K`; one that cannot be read costs only itself.
fn guarded<K>(client: &Client, namespace: Option<&str>) -> Api<DeserializeGuard<K>>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    in_scope(client, namespace)
}

fn in_scope<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    namespace.map_or_else(
        || Api::all(client.clone()),
        |namespace| Api::namespaced(client.clone(), namespace),
    )
}

/// The CretoCluster that an object belongs to, by the label that all of them carry: also those that
/// outlive it.
fn cluster_of<K: ResourceExt>(object: K) -> Option<ObjectRef<Guarded>> {
    let name = object.labels().get(CLUSTER)?.clone();
    Some(ObjectRef::new(&name).within(&object.namespace()?))
}

/// Turns true at SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stops");
        sender.send_replace(true);
        // Kept, so that late listeners still hear it.
        sender.closed().await;
    });
    Ok(receiver)
}

/// Waits until `stop` is raised.
async fn raised(mut stop: watch::Receiver<bool>) {
    // An error means that nobody can raise it any more: the process is about to end.
    if stop.wait_for(|raised| *raised).await.is_err() {
        warn!("the signal handler ended");
    }
}
