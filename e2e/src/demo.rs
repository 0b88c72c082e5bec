//! The demo: from an empty Kubernetes to final payloads, with the leader killed on the way. Safe to
//! run again.

use crate::{
    api::{API_PORT, submit_again_and_again},
    figures::{milliseconds, percentile, seconds},
    install::{Installation, SYSTEM},
    k8s::{
        Cluster, condition, delete_namespace, is_ready, kubectl, restarts, restricted_namespace,
        until,
    },
    load::random_payload,
    process,
    progress::{Progress, title},
    settings::{Reach, Settings},
};
use anyhow::{Context, Result, bail};
use cretoai_crds::CretoCluster;
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

const NAMESPACE: &str = "creto-demo";
const CLUSTER: &str = "prod";
const PAYLOADS: usize = 20;
const FINAL: Duration = Duration::from_secs(10);
/// How long a payload may take, also while the leader is killed, before the demo has failed.
const PATIENCE: Duration = Duration::from_secs(2);

fn installation() -> Installation {
    Installation { release: "creto".into(), namespace: SYSTEM.into(), watches: None }
}

/// Shows it, and leaves it running.
///
/// # Errors
/// Something did not come up; the sentence names what to look at.
pub async fn up() -> Result<()> {
    let settings = Settings::from_environment()?;
    let client = Client::try_default()
        .await
        .context("no way to the API server; is KUBECONFIG set? make demo sets it")?;
    let cluster = Cluster::new(&client, NAMESPACE, CLUSTER);

    title("The operator, by Helm (charts/creto-crds and charts/creto-operator)");
    let began = Instant::now();
    installation().install(&settings, &client).await?;
    println!("  installed into {SYSTEM} in {}", seconds(began.elapsed()));

    title("Four validators (config/samples/cretocluster.yaml)");
    let began = Instant::now();
    restricted_namespace(&client, NAMESPACE).await?;
    apply_sample(&settings, &cluster).await?;
    wait_for_quorum(&settings, &cluster).await?;
    let message = cluster.condition("QuorumAvailable", "True", Duration::from_secs(5)).await?;
    println!("  a quorum after {}: {message}", seconds(began.elapsed()));

    let (_, leader) = leader(&cluster).await?;
    let survivor = (0..4)
        .map(|ordinal| cluster.pod(ordinal))
        .find(|pod| *pod != leader)
        .context("no follower")?;
    let door = Door::open(&settings, &cluster, &survivor).await?;
    title(&format!("{PAYLOADS} payloads through {}", door.name));
    let mut before = submit(&door, PAYLOADS, |_| {}).await?;
    before.sort_by(f64::total_cmp);
    println!(
        "  all final; half of them within {}, the slowest in {}",
        milliseconds(percentile(&before, 50.0)),
        milliseconds(percentile(&before, 100.0))
    );

    lose_the_leader(&settings, &cluster, &door, &survivor).await?;
    drop(door);
    finish(&settings).await
}

async fn apply_sample(settings: &Settings, cluster: &Cluster) -> Result<()> {
    let sample = settings.samples.join("cretocluster.yaml");
    let told =
        kubectl(settings, &["apply", "-n", NAMESPACE, "-f", &sample.to_string_lossy()]).await?;
    println!("  {}", told.trim());
    // A cluster keeps the image that it began with. After a new build the demo should show the new
    // one.
    let wanted = settings.node_image.name();
    let running = cluster.api::<StatefulSet>().get_opt(CLUSTER).await?.and_then(|set| {
        let spec = set.spec?.template.spec?;
        spec.containers.into_iter().next()?.image
    });
    if running.is_some_and(|running| running != wanted) {
        println!("  the cluster is here already with another image; it is told to run {wanted}");
        let patch = json!({"spec": {"image": wanted}});
        let api: Api<CretoCluster> = cluster.api();
        api.patch(CLUSTER, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .context("setting spec.image")?;
    }
    Ok(())
}

/// Shows how pods, identities, genesis and quorum come about.
async fn wait_for_quorum(settings: &Settings, cluster: &Cluster) -> Result<()> {
    let limit = Duration::from_secs(300);
    let began = Instant::now();
    let mut progress = Progress::new();
    loop {
        let resource = cluster.get().await?;
        let pods = cluster.pods().await?;
        let status = resource.status.clone().unwrap_or_default();
        let running = pods
            .iter()
            .filter(|pod| {
                pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
            })
            .count();
        let attested =
            status.members.iter().filter(|member| member.key_fingerprint.is_some()).count();
        let quorum = status.quorum.clone().unwrap_or_default();
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let replicas = resource.spec.replicas;
        progress.tell(&format!(
            "pods {running}/{replicas}, attested {attested}/{replicas}, genesis {}, votes {} of {} needed, ready {ready}/{replicas}",
            if status.bootstrapped { "signed" } else { "-" },
            quorum.participating,
            quorum.required,
        ));
        let settled = resource.metadata.generation == status.observed_generation;
        if settled
            && i32::try_from(ready).unwrap_or_default() == replicas
            && condition(&resource, "Ready").is_some_and(|(status, _)| status == "True")
        {
            progress.done();
            return Ok(());
        }
        if began.elapsed() > limit {
            progress.done();
            let told = status.summary.map(|summary| summary.status).unwrap_or_default();
            let kubectl = settings.kubectl_of_the_user();
            bail!(
                "not ready after {} s: {told}\n  look at:  {kubectl} describe creto,pods -n {NAMESPACE}\n            {kubectl} logs deployment/creto-operator -n {SYSTEM}\n            {kubectl} logs {CLUSTER}-0 -n {NAMESPACE}",
                limit.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// The way to the Service, or to one pod by kubectl where Services are not reached.
struct Door {
    name: String,
    address: SocketAddr,
    _forward: Option<Child>,
}

impl Door {
    async fn open(settings: &Settings, cluster: &Cluster, pod: &str) -> Result<Self> {
        if settings.reach == Reach::Direct {
            let address = cluster.service_address().await?;
            return Ok(Self {
                name: format!("Service {CLUSTER}-api ({address})"),
                address,
                _forward: None,
            });
        }
        let mut child = Command::new(&settings.kubectl)
            .args(["port-forward", "-n", NAMESPACE, &format!("pod/{pod}"), &format!(":{API_PORT}")])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting kubectl port-forward")?;
        let mut lines =
            BufReader::new(child.stdout.take().context("no output of kubectl port-forward")?)
                .lines();
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line())
            .await
            .context("kubectl port-forward is silent")??
            .unwrap_or_default();
        let port = line
            .split("127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u16>().ok());
        let address = SocketAddr::from((
            [127, 0, 0, 1],
            port.with_context(|| format!("kubectl port-forward said: {line}"))?,
        ));
        Ok(Self {
            name: format!("kubectl port-forward to pod {pod}"),
            address,
            _forward: Some(child),
        })
    }
}

/// Submits payloads one after the other, on a new connection each, so that the Service spreads
/// them. Returns milliseconds.
async fn submit(door: &Door, count: usize, mut told: impl FnMut(f64)) -> Result<Vec<f64>> {
    let mut latencies = Vec::new();
    for number in 1..=count {
        let data = random_payload(4096);
        let size = data.len();
        let began = Instant::now();
        // The Service may still lead to a pod that has just gone.
        let receipt = submit_again_and_again(door.address, &data, FINAL, |error| {
            println!("  {number:>3}  tried again after: {error:#}");
        })
        .await?;
        let latency = began.elapsed().as_secs_f64() * 1000.0;
        println!(
            "  {number:>3}  {}  {size:>5} B  final at sequence {:>5}  {:>9}",
            receipt.id,
            receipt.sequence.unwrap_or_default(),
            milliseconds(Some(latency))
        );
        if began.elapsed() > PATIENCE {
            bail!(
                "payload {number} took {}, and a client may not wait longer than {}: is this \
                 machine busy with something else? make demo may be run again",
                seconds(began.elapsed()),
                seconds(PATIENCE)
            );
        }
        told(latency);
        latencies.push(latency);
    }
    Ok(latencies)
}

/// View and leader that the status shows.
async fn leader(cluster: &Cluster) -> Result<(i64, String)> {
    let status = cluster.get().await?.status.unwrap_or_default();
    let leader = status.leader.context("the status names no leader")?;
    Ok((status.view.unwrap_or_default(), leader))
}

async fn lose_the_leader(
    settings: &Settings,
    cluster: &Cluster,
    door: &Door,
    survivor: &str,
) -> Result<()> {
    let (view, victim) = leader(cluster).await?;
    // Where ports are forwarded through one pod, that pod has to stay; it seldom leads by now.
    if settings.reach == Reach::Forward && victim == survivor {
        println!("  {victim} leads by now, and the payloads go through it: its pod is left alone");
        return Ok(());
    }
    title(&format!("The leader is killed: {victim}, which leads view {view}"));
    let before = cluster.api::<Pod>().get(&victim).await?;
    // A pod that is deleted serves for a while and hands its lead over. A killed process does not.
    let processes = process::of_pod(&before.uid().unwrap_or_default(), "cretoai-node");
    let began = Instant::now();
    for process in &processes {
        process::kill(*process).await?;
    }
    if processes.is_empty() {
        println!("  its process is not seen from here: its pod is deleted by force");
        let delete = ["delete", "pod", "-n", NAMESPACE, &victim, "--force", "--wait=false"];
        kubectl(settings, &[&delete[..], &["--grace-period=0"]].concat()).await?;
    }
    let mut slowest = 0.0_f64;
    submit(door, 8, |latency| slowest = slowest.max(latency))
        .await
        .context("payloads did not go on becoming final without one of four nodes")?;
    println!(
        "  payloads went on becoming final without {victim}, the slowest in {}",
        milliseconds(Some(slowest))
    );
    if !processes.is_empty() {
        let (view, heir) =
            until(Duration::from_secs(30), "the status to name another leader", || async {
                let (view, leader) = leader(cluster).await?;
                Ok(if leader == victim {
                    Err(format!("it names {leader}"))
                } else {
                    Ok((view, leader))
                })
            })
            .await?;
        println!("  {heir} leads view {view}");
    }
    let mut progress = Progress::new();
    loop {
        let pod = cluster.api::<Pod>().get_opt(&victim).await?;
        let back = pod.as_ref().is_some_and(|pod| {
            let again = pod.uid() != before.uid() || restarts(pod) > restarts(&before);
            again && is_ready(pod)
        });
        let participating = cluster
            .get()
            .await?
            .status
            .and_then(|status| status.quorum)
            .map_or(0, |quorum| quorum.participating);
        progress.tell(&format!(
            "{victim} {}, {participating} of 4 validators take part",
            if back { "is back" } else { "is on its way back" }
        ));
        if back && participating == 4 {
            break;
        }
        if began.elapsed() > Duration::from_secs(180) {
            bail!(
                "{victim} is not back after 180 s; look at: {} describe pod {victim} -n {NAMESPACE}",
                settings.kubectl_of_the_user()
            );
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    progress.done();
    println!(
        "  {victim} is back with its identity and has caught up, {} after it was killed",
        seconds(began.elapsed())
    );
    Ok(())
}

async fn finish(settings: &Settings) -> Result<()> {
    let user = settings.kubectl_of_the_user();
    title(&format!("{user} get creto,pods -n {NAMESPACE}"));
    for line in kubectl(settings, &["get", "creto,pods", "-n", NAMESPACE]).await?.lines() {
        println!("{}", format!("  {line}").trim_end());
    }
    title("Three things to try next");
    let forward = match settings.reach {
        Reach::Direct => format!(
            "e2e/kubernetes/cluster forward 8080 {CLUSTER}-api.{NAMESPACE}.svc.cluster.local:8080 &"
        ),
        Reach::Forward => {
            format!("kubectl port-forward -n {NAMESPACE} service/{CLUSTER}-api 8080:8080 &")
        }
    };
    println!("  1. Submit a payload of your own, and read it back by the id in the answer:");
    println!("       {forward}");
    println!(
        "       curl -s -H 'Content-Type: application/octet-stream' --data-binary 'hello' http://127.0.0.1:8080/v1/payloads"
    );
    println!("       curl -s http://127.0.0.1:8080/v1/payloads/ID");
    println!(
        "  2. Take two of four nodes away, and see that nothing is called final and the status names them:"
    );
    println!(
        "       {user} delete pod -n {NAMESPACE} {CLUSTER}-2 {CLUSTER}-3 --wait=false; {user} get creto -n {NAMESPACE} -o wide -w"
    );
    println!("  3. Edit what the operator made, and see it put back with an Event:");
    println!(
        "       {user} label service -n {NAMESPACE} {CLUSTER}-api app.kubernetes.io/instance=mine --overwrite"
    );
    println!("       {user} describe creto -n {NAMESPACE} {CLUSTER}");
    Ok(())
}

/// Removes it all, with the data.
///
/// # Errors
/// Something does not go.
pub async fn down() -> Result<()> {
    let settings = Settings::from_environment()?;
    let client = Client::try_default()
        .await
        .context("no way to the API server; is KUBECONFIG set? make demo-down sets it")?;
    let cluster = Cluster::new(&client, NAMESPACE, CLUSTER);
    if let Err(error) = cluster.delete().await {
        println!("the CretoCluster was not deleted first: {error:#}");
    }
    delete_namespace(&client, NAMESPACE, Duration::from_secs(120)).await?;
    installation().uninstall(&settings).await?;
    println!(
        "the demo is gone, with its data; the definitions stay: helm uninstall creto-crds -n {SYSTEM} leaves them too, by design"
    );
    Ok(())
}
