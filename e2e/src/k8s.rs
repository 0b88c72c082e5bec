//! The API server, as the demo and the scenarios use it.

use crate::{
    api::{API_PORT, Client as Api8080, METRICS_PORT},
    settings::Settings,
};
use anyhow::{Context, Result, bail};
use cretoai_crds::CretoCluster;
use hyper::{Method, Request};
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, Service};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::process::Command;

/// Who we are towards the API server.
pub const MANAGER: &str = "creto-e2e";

/// A CretoCluster in its namespace, and how to reach what belongs to it.
#[derive(Clone)]
pub struct Cluster {
    /// The API server.
    pub client: Client,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Cluster {
    /// The cluster `name` in `namespace`; it need not exist.
    pub fn new(client: &Client, namespace: &str, name: &str) -> Self {
        Self { client: client.clone(), namespace: namespace.into(), name: name.into() }
    }

    /// An API of its namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The resource.
    ///
    /// # Errors
    /// It is not there.
    pub async fn get(&self) -> Result<CretoCluster> {
        self.api()
            .get(&self.name)
            .await
            .with_context(|| format!("reading CretoCluster {}/{}", self.namespace, self.name))
    }

    /// Applies it with this spec.
    ///
    /// # Errors
    /// The API server refuses it.
    pub async fn apply(&self, spec: &Value) -> Result<CretoCluster> {
        let object = json!({"apiVersion": "cretoai.io/v1alpha1", "kind": "CretoCluster", "metadata": {"name": self.name}, "spec": spec});
        let api: Api<CretoCluster> = self.api();
        api.patch(
            &self.name,
            &PatchParams::apply(MANAGER).force().validation_strict(),
            &Patch::Apply(&object),
        )
        .await
        .with_context(|| format!("applying CretoCluster {}", self.name))
    }

    /// Name of pod `ordinal`.
    pub fn pod(&self, ordinal: usize) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// Its pods, by name.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let of_it = ListParams::default().labels(&format!(
            "app.kubernetes.io/name=cretoai-node,app.kubernetes.io/instance={}",
            self.name
        ));
        let mut pods = self.api::<Pod>().list(&of_it).await.context("listing pods")?.items;
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// The address of one of its pods' ports.
    ///
    /// # Errors
    /// The pod is not there or has no address yet.
    pub async fn pod_address(&self, name: &str, port: u16) -> Result<SocketAddr> {
        let pod =
            self.api::<Pod>().get(name).await.with_context(|| format!("reading pod {name}"))?;
        pod_ip(&pod)
            .map(|ip| SocketAddr::new(ip, port))
            .with_context(|| format!("pod {name} has no address yet"))
    }

    /// A client of one pod's port 8080.
    ///
    /// # Errors
    /// As [`Self::pod_address`].
    pub async fn node(&self, name: &str) -> Result<Api8080> {
        Ok(Api8080::new(self.pod_address(name, API_PORT).await?)
            .with_limit(Duration::from_secs(20)))
    }

    /// A node's metrics, as text.
    ///
    /// # Errors
    /// They are not served.
    pub async fn metrics(&self, name: &str) -> Result<String> {
        let mut client = Api8080::new(self.pod_address(name, METRICS_PORT).await?)
            .with_limit(Duration::from_secs(10));
        let answer = client.get("/metrics").await?;
        if !answer.status.is_success() {
            bail!("metrics of {name}: {}", answer.status);
        }
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// The address of the Service for clients.
    ///
    /// # Errors
    /// There is no such Service.
    pub async fn service_address(&self) -> Result<SocketAddr> {
        let name = format!("{}-api", self.name);
        let service = self
            .api::<Service>()
            .get(&name)
            .await
            .with_context(|| format!("reading Service {name}"))?;
        let ip =
            service.spec.and_then(|spec| spec.cluster_ip).and_then(|ip| ip.parse::<IpAddr>().ok());
        Ok(SocketAddr::new(
            ip.with_context(|| format!("Service {name} has no cluster address"))?,
            API_PORT,
        ))
    }

    /// Events about the CretoCluster, oldest first: reason and note.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn events(&self) -> Result<Vec<(String, String)>> {
        let events = self
            .api::<Event>()
            .list(&ListParams::default().fields(&format!("involvedObject.name={}", self.name)))
            .await?;
        Ok(events
            .items
            .into_iter()
            .map(|event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default()))
            .collect())
    }

    /// Deletes the resource and waits until its pods are gone.
    ///
    /// # Errors
    /// They do not go.
    pub async fn delete(&self) -> Result<()> {
        let api: Api<CretoCluster> = self.api();
        if api.get_opt(&self.name).await?.is_some() {
            api.delete(&self.name, &DeleteParams::background())
                .await
                .context("deleting the CretoCluster")?;
        }
        until(Duration::from_secs(90), "the CretoCluster and its pods to be gone", || async {
            let left = self.pods().await?;
            Ok(if api.get_opt(&self.name).await?.is_none() && left.is_empty() {
                Ok(())
            } else {
                Err(format!("{} pods are left", left.len()))
            })
        })
        .await
    }

    /// Waits until the condition `kind` is `status`; returns its message.
    ///
    /// # Errors
    /// It is not in time; the sentence says what the status says.
    pub async fn condition(&self, kind: &str, status: &str, limit: Duration) -> Result<String> {
        until(limit, &format!("{kind}={status} of CretoCluster {}", self.name), || async {
            let resource = self.get().await?;
            let found = condition(&resource, kind);
            Ok(match found {
                Some((now, message)) if now == status => Ok(message),
                Some((now, message)) => Err(format!("{kind}={now}: {message}")),
                None => Err(format!("it has no condition {kind}")),
            })
        })
        .await
    }

    /// Waits until the status says Ready and all members take part.
    ///
    /// # Errors
    /// Not in time.
    pub async fn whole(&self, limit: Duration) -> Result<CretoCluster> {
        until(limit, &format!("all nodes of CretoCluster {}", self.name), || async {
            let resource = self.get().await?;
            let quorum = resource
                .status
                .as_ref()
                .and_then(|status| status.quorum.clone())
                .unwrap_or_default();
            let ready = condition(&resource, "Ready").is_some_and(|(status, _)| status == "True");
            let pods = self.pods().await?;
            let running = pods.iter().filter(|pod| is_ready(pod)).count();
            let size = usize::try_from(resource.spec.replicas).unwrap_or_default();
            let whole = ready
                && quorum.size == resource.spec.replicas
                && quorum.participating == quorum.size
                && running == size;
            let told = resource
                .status
                .as_ref()
                .and_then(|status| status.summary.as_ref())
                .map(|summary| summary.status.clone())
                .unwrap_or_default();
            Ok(if whole {
                Ok(resource)
            } else {
                Err(format!("{running}/{size} pods ready; {told}"))
            })
        })
        .await
    }
}

/// Status and message of a condition.
pub fn condition(resource: &CretoCluster, kind: &str) -> Option<(String, String)> {
    let condition =
        resource.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((condition.status.clone(), condition.message.clone()))
}

/// The address of a pod.
pub fn pod_ip(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// Whether a pod is ready and not on its way out.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    });
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// How often its containers were started again.
pub fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers
        .map_or(0, |containers| containers.iter().map(|container| container.restart_count).sum())
}

/// Tries until there is a value; an `Err` inside is what is so instead.
///
/// # Errors
/// Not in time, with the last thing that was so.
pub async fn until<T, F>(limit: Duration, what: &str, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Result<T, String>>>,
{
    let end = Instant::now() + limit;
    loop {
        let so = match look().await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(so)) => so,
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            bail!("waited {} s for {what}; now: {so}", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Makes a namespace in which the restricted Pod Security standard is enforced.
///
/// # Errors
/// The API server refuses.
pub async fn restricted_namespace(client: &Client, name: &str) -> Result<()> {
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/enforce-version": "latest",
        }},
    });
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object))
        .await
        .with_context(|| format!("making namespace {name}"))?;
    Ok(())
}

/// Deletes a namespace with all in it, and waits at most `limit` until it is gone.
///
/// # Errors
/// It does not go.
pub async fn delete_namespace(client: &Client, name: &str, limit: Duration) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    if namespaces.get_opt(name).await?.is_none() {
        return Ok(());
    }
    namespaces
        .delete(name, &DeleteParams::background())
        .await
        .with_context(|| format!("deleting namespace {name}"))?;
    until(limit, &format!("namespace {name} to be gone"), || async {
        Ok(if namespaces.get_opt(name).await?.is_none() {
            Ok(())
        } else {
            Err("it is still there".into())
        })
    })
    .await
}

/// A write to the API server as kubectl does it, with strict validation: status and body.
///
/// # Errors
/// No answer.
pub async fn raw(
    client: &Client,
    method: Method,
    path: &str,
    content_type: &str,
    body: &Value,
) -> Result<(u16, String)> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(serde_json::to_vec(body)?.into())?;
    let response = client.send(request).await?;
    let status = response.status().as_u16();
    let body = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    let message = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|value| Some(value.get("message")?.as_str()?.to_owned()));
    Ok((status, message.unwrap_or(text)))
}

/// Runs a program; what it prints, if it succeeds.
///
/// # Errors
/// It fails, with what it printed.
pub async fn program(command: &mut Command) -> Result<String> {
    let shown = command.as_std().get_program().to_string_lossy().into_owned();
    let output =
        command.kill_on_drop(true).output().await.with_context(|| format!("running {shown}"))?;
    if !output.status.success() {
        let arguments: Vec<_> =
            command.as_std().get_args().map(|argument| argument.to_string_lossy()).collect();
        bail!(
            "{shown} {} ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// kubectl.
///
/// # Errors
/// It fails.
pub async fn kubectl(settings: &Settings, arguments: &[&str]) -> Result<String> {
    program(Command::new(&settings.kubectl).args(arguments)).await
}

/// The last lines that a pod printed, also before its last restart.
pub async fn tail(client: &Client, namespace: &str, pod: &Pod, lines: i64) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut text = String::new();
    let previous = restarts(pod) > 0;
    for previous in previous.then_some(true).into_iter().chain([false]) {
        let wanted = LogParams { tail_lines: Some(lines), previous, ..LogParams::default() };
        match pods.logs(&pod.name_any(), &wanted).await {
            Ok(log) => text.push_str(&format!(
                "{}{log}",
                if previous { "(before its restart)\n" } else { "" }
            )),
            Err(error) => text.push_str(&format!("(no log: {error})\n")),
        }
    }
    text
}
