//! A real Prometheus with the chart's own alerts: every panel of every dashboard has something to
//! draw, a cluster that is well raises no alert, and one without a quorum raises its alert and
//! takes it back.

use super::{
    Skipped,
    lab::Lab,
    partition::{self, Partition},
    traffic::{Traffic, Way},
};
use crate::{
    api::{Client, METRICS_PORT},
    figures::seconds,
    k8s::{Cluster, pod_ip, until},
    settings::Settings,
};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// How long clients write before the dashboards are read: a rate needs a few scrapes.
const WRITTEN: Duration = Duration::from_secs(45);
/// The rule waits a minute and is evaluated twice a minute; Prometheus notices after a scrape.
const RAISED: Duration = Duration::from_secs(150);
/// From the quorum's return to the end of the alert.
const TAKEN_BACK: Duration = Duration::from_secs(90);
/// Where the operator's metrics are.
const OPERATOR_PORT: u16 = 8080;
/// What Grafana puts in place of its variable.
const RATE_INTERVAL: &str = "1m";

/// A Prometheus of this run. It ends with it.
pub struct Prometheus {
    address: SocketAddr,
    folder: PathBuf,
    _process: Child,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // What it wrote is of no use to anybody.
        if std::fs::remove_dir_all(&self.folder).is_err() {}
    }
}

impl Prometheus {
    /// Starts one that scrapes the operator of this run, with the chart's rules.
    async fn start(lab: &Lab) -> Result<Self> {
        let program = &lab.settings.prometheus;
        if !program.exists() {
            return Err(Skipped(format!(
                "{} is not there: make tools unpacks Debian's package prometheus",
                program.display()
            ))
            .into());
        }
        let folder = std::env::temp_dir().join(format!("{}-prometheus", lab.cluster.namespace));
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let file = folder.join("prometheus.json");
        std::fs::write(&file, configuration(lab, &folder)?.to_string())
            .with_context(|| format!("writing {}", file.display()))?;
        let operator = lab.installation.pods(&lab.client).await?;
        let operator: Vec<Value> =
            operator.iter().map(|pod| target(pod, OPERATOR_PORT, None)).collect::<Result<_>>()?;
        std::fs::write(folder.join("operator-targets.json"), Value::from(operator).to_string())?;
        let address = free_address().await?;
        let log = folder.join("log");
        let errors =
            std::fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let process = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let prometheus = Self { address, folder, _process: process };
        let ready = until(Duration::from_secs(30), "Prometheus to be ready", || async {
            let answer = Client::new(address).get("/-/ready").await;
            Ok(match answer {
                Ok(answer) if answer.status.is_success() => Ok(()),
                Ok(answer) => Err(answer.message()),
                Err(error) => Err(error.to_string()),
            })
        });
        ready.await.with_context(|| {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            format!("it said: {}", text.lines().last().unwrap_or("nothing"))
        })?;
        Ok(prometheus)
    }

    /// Scrapes the nodes of `cluster`, too.
    ///
    /// # Errors
    /// The API server does not answer, or the disk takes nothing.
    pub async fn watch(&self, cluster: &Cluster) -> Result<()> {
        let pods = cluster.pods().await?;
        let targets: Vec<Value> = pods
            .iter()
            .map(|pod| target(pod, METRICS_PORT, Some(cluster)))
            .collect::<Result<_>>()?;
        // Renamed into place, so that no half file is read.
        let file = self.folder.join(format!("{}-targets.json", cluster.name));
        let new = self.folder.join("new");
        std::fs::write(&new, Value::from(targets).to_string())
            .and_then(|()| std::fs::rename(&new, &file))
            .with_context(|| format!("writing {}", file.display()))
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let answer = Client::new(self.address).get(path).await?;
        ensure!(
            answer.status.is_success(),
            "Prometheus answered {} to {path}: {}",
            answer.status,
            answer.message()
        );
        serde_json::from_slice(&answer.body).context("Prometheus' answer is no JSON")
    }

    /// How many samples a query gives now that are numbers.
    async fn samples(&self, query: &str) -> Result<usize> {
        let answer = self.get(&format!("/api/v1/query?query={}", percent_encoded(query))).await?;
        let samples = answer.pointer("/data/result").and_then(Value::as_array);
        let value = |sample: &Value| sample.pointer("/value/1")?.as_str()?.parse::<f64>().ok();
        Ok(samples.into_iter().flatten().filter_map(value).filter(|value| !value.is_nan()).count())
    }

    /// The alerts that fire for a CretoCluster, in order, each once.
    async fn firing(&self, cluster: &Cluster) -> Result<Vec<String>> {
        let answer = self.get("/api/v1/alerts").await?;
        let alerts = answer.pointer("/data/alerts").and_then(Value::as_array);
        let ours = |alert: &&Value| {
            let label = |name: &str| alert.pointer(&format!("/labels/{name}"))?.as_str();
            alert.pointer("/state").and_then(Value::as_str) == Some("firing")
                && label("namespace") == Some(cluster.namespace.as_str())
                && label("creto") == Some(cluster.name.as_str())
        };
        let name = |alert: &Value| Some(alert.pointer("/labels/alertname")?.as_str()?.to_owned());
        let mut names: Vec<String> =
            alerts.into_iter().flatten().filter(ours).filter_map(name).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Waits until an alert fires for `cluster`; how long that took.
    ///
    /// # Errors
    /// It does not within `limit`, or Prometheus does not answer.
    pub async fn raises(
        &self,
        cluster: &Cluster,
        alert: &str,
        limit: Duration,
    ) -> Result<Duration> {
        let began = Instant::now();
        until(limit, &format!("alert {alert} to fire for {}", cluster.name), || async {
            let firing = self.firing(cluster).await?;
            Ok(if firing.iter().any(|name| name == alert) {
                Ok(())
            } else {
                Err(format!("there fires: {firing:?}"))
            })
        })
        .await?;
        Ok(began.elapsed())
    }
}

/// An address on loopback that nobody listens at.
async fn free_address() -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("finding a port")?;
    Ok(listener.local_addr()?)
}

/// What Prometheus is told. JSON is YAML. Debian's is built without the discovery of Kubernetes, so
/// a file names the targets.
fn configuration(lab: &Lab, folder: &Path) -> Result<Value> {
    let rules = lab.settings.charts.join("creto-operator/monitoring/rules");
    let rules = std::path::absolute(&rules).context("the folder of the rules")?;
    Ok(json!({
        "global": { "scrape_interval": "5s", "evaluation_interval": "15s" },
        "rule_files": [rules.join("*.yaml").display().to_string()],
        "scrape_configs": [{
            "job_name": "creto",
            "file_sd_configs": [{ "files": [folder.join("*-targets.json").display().to_string()] }],
        }],
    }))
}

/// A target, with the labels that the chart's ServiceMonitors give it.
fn target(pod: &Pod, port: u16, cluster: Option<&Cluster>) -> Result<Value> {
    let name = pod.name_any();
    let address = pod_ip(pod).with_context(|| format!("pod {name} has no address"))?;
    let mut labels = json!({ "namespace": pod.namespace().unwrap_or_default(), "pod": name });
    if let Some(cluster) = cluster {
        labels["creto"] = cluster.name.clone().into();
    }
    Ok(json!({ "targets": [SocketAddr::new(address, port).to_string()], "labels": labels }))
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Dashboard, panel and query, with the variables filled in.
fn panels(settings: &Settings, cluster: &Cluster, operator: &str) -> Result<Vec<[String; 3]>> {
    let folder = settings.charts.join("creto-operator/monitoring/dashboards");
    let mut panels = Vec::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let board: Value =
            serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
        let name = file.file_stem().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let namespace = if name == "operator" { operator } else { &cluster.namespace };
        for panel in board.pointer("/panels").and_then(Value::as_array).into_iter().flatten() {
            let title = panel.pointer("/title").and_then(Value::as_str).unwrap_or("?");
            let targets = panel.pointer("/targets").and_then(Value::as_array);
            for target in targets.into_iter().flatten() {
                let query = target.pointer("/expr").and_then(Value::as_str).unwrap_or_default();
                let query = query
                    .replace("$__rate_interval", RATE_INTERVAL)
                    .replace("$__range", RATE_INTERVAL)
                    .replace("$namespace", namespace)
                    .replace("$creto", &cluster.name);
                panels.push([name.clone(), title.to_owned(), query]);
            }
        }
    }
    ensure!(!panels.is_empty(), "{} has no dashboard with a panel", folder.display());
    Ok(panels)
}

/// The dashboards have data, a well cluster is quiet, a lost quorum is told and taken back.
pub async fn watched(lab: &mut Lab) -> Result<String> {
    let cluster = lab.cluster.clone();
    partition::possible(&cluster).await?;
    let prometheus = Prometheus::start(lab).await?;
    prometheus.watch(&cluster).await?;
    let way = Way::Service(cluster.service_address().await?);
    let traffic = Traffic::begin(&cluster, &[way], 2, Duration::from_millis(20));
    tokio::time::sleep(WRITTEN).await;
    let panels = panels(&lab.settings, &cluster, &lab.installation.namespace)?;
    let mut empty = Vec::new();
    for [board, title, query] in &panels {
        if prometheus.samples(query).await? == 0 {
            empty.push(format!("{board}: {title}: {query}"));
        }
    }
    lab.known.extend(traffic.end().await?.known());
    ensure!(empty.is_empty(), "panels without a sample:\n  {}", empty.join("\n  "));
    let firing = prometheus.firing(&cluster).await?;
    ensure!(firing.is_empty(), "a cluster that is well raises {firing:?}");

    let victims = [cluster.pod(2), cluster.pod(3)];
    let mut cuts = Vec::new();
    for victim in &victims {
        cuts.push(Partition::cut(&cluster, victim).await?);
    }
    let raised = prometheus.raises(&cluster, "QuorumLost", RAISED).await;
    for cut in cuts {
        cut.heal().await?;
    }
    let raised = raised?;
    cluster.whole(Duration::from_secs(60)).await?;
    let healed = Instant::now();
    until(TAKEN_BACK, "alert QuorumLost to end", || async {
        let firing = prometheus.firing(&cluster).await?;
        Ok(if firing.iter().any(|name| name == "QuorumLost") {
            Err(format!("there fires: {firing:?}"))
        } else {
            Ok(())
        })
    })
    .await?;
    let ended = healed.elapsed();
    lab.prometheus = Some(prometheus);
    Ok(format!(
        "all {} queries of the dashboards have samples in a real Prometheus; no alert while all is well; {} and {} cut off: QuorumLost fires after {}, and ends {} after the cluster is whole",
        panels.len(),
        victims[0],
        victims[1],
        seconds(raised),
        seconds(ended)
    ))
}

#[cfg(test)]
mod tests {
    use super::percent_encoded;

    #[test]
    fn a_query_survives_in_an_address() {
        assert_eq!(percent_encoded("rate(a{b=\"c\"}[1m])"), "rate%28a%7Bb%3D%22c%22%7D%5B1m%5D%29");
    }
}
