//! Starting, leading and stopping.

use crate::{
    cluster::{
        reconcile::{Context, on_error, reconcile},
        validate::Settings,
    },
    metrics::Metrics,
    names::MANAGER,
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
    core::NamespaceResourceScope,
    runtime::{Controller, controller::Config, events::Reporter, reflector::ObjectRef, watcher},
};
use kube_lease_manager::LeaseManagerBuilder;
use serde::de::DeserializeOwned;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{error, info, warn};

/// The lease is free this long after its holder fell silent.
const LEASE_SECONDS: u64 = 15;
/// The holder renews it this long before.
const LEASE_GRACE_SECONDS: u64 = 5;

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

/// Runs until SIGTERM or SIGINT, or until the lease is lost.
///
/// # Errors
/// If it cannot start, or lost the lease: the kubelet starts it again.
pub async fn run(arguments: Arguments) -> Result<()> {
    let stop = stop_signal()?;
    let metrics = Metrics::new()?;
    let ready = Arc::new(AtomicBool::new(false));
    let serving = tokio::spawn(server::serve(
        arguments.listen,
        metrics.clone(),
        Arc::clone(&ready),
        raised(stop.clone()),
    ));
    let client = Client::try_default()
        .await
        .context("no way to the API server: no kubeconfig and no ServiceAccount")?;
    let clusters: Api<CretoCluster> = in_scope(&client, arguments.namespace.as_deref());
    tokio::select! {
        () = definition(&clusters) => ready.store(true, Ordering::Relaxed),
        () = raised(stop.clone()) => return Ok(()),
    }
    let result = lead(&arguments, &client, clusters, metrics, stop).await;
    serving.abort();
    result
}

/// Waits until the API server knows CretoClusters.
async fn definition(clusters: &Api<CretoCluster>) {
    while let Err(error) = clusters.list(&ListParams::default().limit(1)).await {
        warn!(%error, "cannot list CretoClusters; is the chart creto-crds installed, and the ClusterRole bound? tries again");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Waits for the lease, and acts while it is held.
async fn lead(
    arguments: &Arguments,
    client: &Client,
    clusters: Api<CretoCluster>,
    metrics: Metrics,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let identity = arguments
        .identity
        .clone()
        .unwrap_or_else(|| format!("{MANAGER}-{:016x}", rand::random::<u64>()));
    let manager = LeaseManagerBuilder::new(client.clone(), MANAGER)
        .with_namespace(&arguments.lease_namespace)
        .with_identity(&identity)
        .with_duration(LEASE_SECONDS)
        .with_grace(LEASE_GRACE_SECONDS)
        .build()
        .await
        .with_context(|| {
            format!("cannot use the lease {MANAGER} in namespace {}", arguments.lease_namespace)
        })?;
    let (mut leading, lease) = manager.watch().await;
    info!(identity, "waits for the lease");
    tokio::select! {
        held = leading.wait_for(|held| *held) => { held.context("the lease manager ended")?; }
        () = raised(stop.clone()) => {}
    }
    let mut lost = false;
    if !*stop.borrow() {
        info!(identity, "leads");
        metrics.leader.set(1);
        let context = context(arguments, client, metrics.clone());
        let mut watched = leading.clone();
        let lost_lease = async move {
            // An error means that the manager ended, and nobody renews the lease any more.
            let ended = watched.wait_for(|held| !*held).await.is_err();
            error!(ended, "lost the lease");
        };
        tokio::select! {
            () = control(arguments, client, clusters, context, raised(stop.clone())) => {}
            () = lost_lease => lost = true,
        }
        metrics.leader.set(0);
    }
    // Dropping every receiver releases the lease, so that the next leader need not wait for it to
    // expire.
    drop(leading);
    match tokio::time::timeout(Duration::from_secs(5), lease).await {
        Ok(Ok(Ok(_))) => info!("released the lease"),
        Ok(Ok(Err(error))) => {
            warn!(%error, "the lease was not released; it expires in {LEASE_SECONDS} s")
        }
        Ok(Err(error)) => warn!(%error, "the lease manager ended"),
        Err(_) => warn!("the lease was not released in time; it expires in {LEASE_SECONDS} s"),
    }
    if lost {
        bail!("lost the lease");
    }
    Ok(())
}

fn context(arguments: &Arguments, client: &Client, metrics: Metrics) -> Arc<Context> {
    let settings = Settings {
        node_image: arguments.node_image.clone(),
        operator_namespace: arguments.lease_namespace.clone(),
    };
    let reporter = Reporter { controller: MANAGER.into(), instance: arguments.identity.clone() };
    Arc::new(Context::new(client.clone(), settings, Arc::new(Network), reporter, metrics))
}

/// Runs the controller until `stop`.
async fn control(
    arguments: &Arguments,
    client: &Client,
    clusters: Api<CretoCluster>,
    context: Arc<Context>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let scope = arguments.namespace.as_deref();
    let ours =
        watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"));
    Controller::new(clusters, watcher::Config::default())
        .with_config(Config::default().debounce(Duration::from_millis(200)).concurrency(4))
        .watches(in_scope::<Pod>(client, scope), ours.clone(), cluster_of)
        .watches(in_scope::<StatefulSet>(client, scope), ours.clone(), cluster_of)
        .watches(in_scope::<Service>(client, scope), ours.clone(), cluster_of)
        .watches(in_scope::<ConfigMap>(client, scope), ours.clone(), cluster_of)
        .watches(in_scope::<ServiceAccount>(client, scope), ours.clone(), cluster_of)
        .watches(in_scope::<NetworkPolicy>(client, scope), ours.clone(), cluster_of)
        .watches(in_scope::<PodDisruptionBudget>(client, scope), ours.clone(), cluster_of)
        .watches(in_scope::<PersistentVolumeClaim>(client, scope), ours, cluster_of)
        .graceful_shutdown_on(stop)
        .run(reconcile, on_error, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "controller");
            }
        })
        .await;
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
fn cluster_of<K: ResourceExt>(object: K) -> Option<ObjectRef<CretoCluster>> {
    let name = object.labels().get("app.kubernetes.io/instance")?.clone();
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
