//! The operator by Helm, as a user installs it.

use crate::{
    k8s::{program, restricted_namespace},
    settings::Settings,
};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use tokio::process::Command;

/// Namespace of the charts of CustomResourceDefinitions, and of the demo's operator.
pub const SYSTEM: &str = "creto-system";
/// Release of the CustomResourceDefinitions. One per Kubernetes.
pub const CRDS: &str = "creto-crds";

/// An installation of the operator.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Helm's name for it.
    pub release: String,
    /// Where the operator runs.
    pub namespace: String,
    /// The only namespace that it looks after; all, if none.
    pub watches: Option<String>,
}

impl Installation {
    /// `helm upgrade --install` of both charts, waiting until the operator is ready. Safe to run
    /// again.
    ///
    /// # Errors
    /// Helm fails; the sentence names what to look at.
    pub async fn install(&self, settings: &Settings, client: &Client) -> Result<()> {
        for namespace in [SYSTEM, &self.namespace] {
            restricted_namespace(client, namespace).await?;
        }
        let chart = settings.charts.join("creto-crds");
        program(
            Command::new(&settings.helm).args(["upgrade", "--install", CRDS]).arg(&chart).args([
                "-n",
                SYSTEM,
                "--wait",
                "--timeout",
                "60s",
            ]),
        )
        .await
        .with_context(|| format!("installing {}", chart.display()))?;
        let chart = settings.charts.join("creto-operator");
        let set = |key: &str, value: &str| format!("{key}={value}");
        let mut command = Command::new(&settings.helm);
        command
            .args(["upgrade", "--install", &self.release])
            .arg(&chart)
            .args(["-n", &self.namespace, "--wait", "--timeout", "120s"])
            .args([
                "--set-string",
                &set("image.repository", &settings.operator_image.repository),
                "--set-string",
                &set("image.tag", &settings.operator_image.tag),
                "--set-string",
                &set("nodeImage.repository", &settings.node_image.repository),
                "--set-string",
                &set("nodeImage.tag", &settings.node_image.tag),
            ]);
        if let Some(namespace) = &self.watches {
            command.args(["--set-string", &set("watchNamespace", namespace)]);
        }
        program(&mut command).await.with_context(|| {
            format!(
                "installing {}; look at: {} describe pods -n {}",
                chart.display(),
                settings.kubectl_of_the_user(),
                self.namespace
            )
        })?;
        Ok(())
    }

    /// `helm uninstall` of the operator. The definitions and their resources stay.
    ///
    /// # Errors
    /// Helm fails.
    pub async fn uninstall(&self, settings: &Settings) -> Result<()> {
        program(Command::new(&settings.helm).args([
            "uninstall",
            &self.release,
            "-n",
            &self.namespace,
            "--ignore-not-found",
            "--wait",
        ]))
        .await?;
        Ok(())
    }

    /// The operator's pods that are not on their way out.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn pods(&self, client: &Client) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
        let ours = ListParams::default().labels("app.kubernetes.io/name=creto-operator");
        Ok(pods
            .list(&ours)
            .await?
            .items
            .into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect())
    }
}
