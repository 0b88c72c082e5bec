//! Bad CretoClusters, and edits by hand.

use super::lab::Lab;
use crate::k8s::{MANAGER, raw, until};
use anyhow::{Context, Result, ensure};
use hyper::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

/// A write that must be refused.
struct Bad {
    what: &'static str,
    method: Method,
    object: Value,
    /// What the refusal must say: the field, and the fix.
    says: &'static [&'static str],
}

fn creation(what: &'static str, name: &str, spec: Value, says: &'static [&'static str]) -> Bad {
    let object = json!({"apiVersion": "cretoai.io/v1alpha1", "kind": "CretoCluster", "metadata": {"name": name}, "spec": spec});
    Bad { what, method: Method::POST, object, says }
}

fn change(what: &'static str, spec: Value, says: &'static [&'static str]) -> Bad {
    Bad { what, method: Method::PATCH, object: json!({ "spec": spec }), says }
}

fn all() -> Vec<Bad> {
    vec![
        creation(
            "replicas 0",
            "bad",
            json!({"replicas": 0}),
            &["spec.replicas must be 1", "set 4"],
        ),
        creation(
            "replicas 2",
            "bad",
            json!({"replicas": 2}),
            &["spec.replicas must be 1", "set 4"],
        ),
        creation(
            "an unknown field",
            "bad",
            json!({"replicas": 4, "replicaCount": 4}),
            &["unknown field", "spec.replicaCount"],
        ),
        creation(
            "a 10,000-character name",
            &"a".repeat(10_000),
            json!({"replicas": 4}),
            &["metadata.name", "more than"],
        ),
        creation(
            "a 41-character name",
            &"a".repeat(41),
            json!({"replicas": 4}),
            &["metadata.name", "at most 40", "shorter name"],
        ),
        change(
            "shrinking storage",
            json!({"storage": {"size": "1Gi"}}),
            &["spec.storage.size never shrinks", "or more"],
        ),
        change(
            "another storage class",
            json!({"storage": {"storageClassName": "other"}}),
            &["spec.storage.storageClassName is immutable", "set it back"],
        ),
        change(
            "other replicas after birth",
            json!({"replicas": 7}),
            &["spec.replicas is immutable", "set it back to"],
        ),
    ]
}

/// Each refused; then edits put back.
pub async fn refused(lab: &mut Lab) -> Result<String> {
    let cluster = &lab.cluster;
    let before = cluster.get().await?;
    let collection =
        format!("/apis/cretoai.io/v1alpha1/namespaces/{}/cretoclusters", cluster.namespace);
    let mut count = 0;
    for bad in all() {
        let (path, content_type) = match bad.method {
            Method::POST => (format!("{collection}?fieldValidation=Strict"), JSON),
            _ => (format!("{collection}/{}?fieldValidation=Strict", cluster.name), MERGE),
        };
        let (status, message) =
            raw(&lab.client, bad.method, &path, content_type, &bad.object).await?;
        let shown: String = message.chars().take(600).collect();
        ensure!(
            (400..500).contains(&status),
            "{}: the API server answered {status}: {shown}",
            bad.what
        );
        for words in bad.says {
            ensure!(
                message.contains(words),
                "{}: the refusal does not say '{words}': {shown}",
                bad.what
            );
        }
        count += 1;
    }
    let after = cluster.get().await?;
    ensure!(
        after.metadata.generation == before.metadata.generation,
        "a refused change changed the resource"
    );
    let repaired = drift(lab).await?;
    Ok(format!(
        "{count} refused, each with field and fix; edits of a Service and a ConfigMap put back within {:.1} s, with Events",
        repaired.as_secs_f64()
    ))
}

/// Adds to one object of the operator by hand and changes another; the time until both are as before.
async fn drift(lab: &Lab) -> Result<Duration> {
    let cluster = &lab.cluster;
    let (service, config) = (format!("{}-api", cluster.name), format!("{}-config", cluster.name));
    let edit =
        PatchParams { field_manager: Some(format!("{MANAGER}-hand")), ..PatchParams::default() };
    let began = Instant::now();
    let body = json!({"spec": {"selector": {"app.kubernetes.io/instance": "mine"}}});
    cluster
        .api::<Service>()
        .patch(&service, &edit, &Patch::Merge(&body))
        .await
        .context("editing the Service")?;
    let body = json!({"data": {"node.toml": "[node]\n"}});
    cluster
        .api::<ConfigMap>()
        .patch(&config, &edit, &Patch::Merge(&body))
        .await
        .context("editing the ConfigMap")?;
    until(Duration::from_secs(30), "the edits to be put back", || async {
        let selector = cluster
            .api::<Service>()
            .get(&service)
            .await?
            .spec
            .and_then(|spec| spec.selector)
            .unwrap_or_default();
        let text = cluster
            .api::<ConfigMap>()
            .get(&config)
            .await?
            .data
            .unwrap_or_default()
            .remove("node.toml")
            .unwrap_or_default();
        let as_before =
            !selector.contains_key("app.kubernetes.io/instance") && text.contains("[consensus]");
        Ok(if as_before {
            Ok(())
        } else {
            Err(format!("selector {selector:?}, node.toml of {} bytes", text.len()))
        })
    })
    .await?;
    let took = began.elapsed();
    until(Duration::from_secs(10), "Events about the edits", || async {
        let events = cluster.events().await?;
        let told = |name: &str| {
            events.iter().any(|(reason, note)| reason == "DriftRepaired" && note.contains(name))
        };
        Ok(if told(&service) && told(&config) { Ok(()) } else { Err(format!("{events:?}")) })
    })
    .await?;
    cluster.whole(Duration::from_secs(60)).await.context("after the edits were put back")?;
    Ok(took)
}
