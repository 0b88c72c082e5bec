//! What the scenarios share: a run's own namespaces, its operator, the cluster of four, and what is
//! known to be final.

use super::monitoring::Prometheus;
use crate::{
    install::Installation,
    k8s::{Cluster, delete_namespace},
    settings::Settings,
};
use anyhow::{Context, Result};
use bytes::Bytes;
use cretoai_types::Hash;
use kube::Client;
use std::time::Duration;

/// A payload that was told to be final.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its id.
    pub id: String,
    /// Sequence, index and chain hash, as the first node said.
    pub place: (u64, u32, String),
    /// Hash of its bytes.
    pub content: Hash,
}

impl Known {
    /// What `receipt` says of `data`.
    ///
    /// # Errors
    /// The receipt lacks its place.
    pub fn new(receipt: &crate::api::Receipt, data: &Bytes) -> Result<Self> {
        let place = || Some((receipt.sequence?, receipt.index?, receipt.chain_hash.clone()?));
        let place = place().with_context(|| {
            format!("the receipt of {} lacks sequence, index or chainHash", receipt.id)
        })?;
        Ok(Self { id: receipt.id.clone(), place, content: Hash::of_bytes(data) })
    }
}

/// All of it.
pub struct Lab {
    /// What the scripts told.
    pub settings: Settings,
    /// The API server.
    pub client: Client,
    /// The run's operator.
    pub installation: Installation,
    /// The cluster of four.
    pub cluster: Cluster,
    /// Payloads that must never be lost.
    pub known: Vec<Known>,
    /// The Prometheus of this run, once a scenario started it.
    pub prometheus: Option<Prometheus>,
}

impl Lab {
    /// A run with names of its own; makes nothing yet.
    ///
    /// # Errors
    /// There is no way to the API server.
    pub async fn new(settings: Settings) -> Result<Self> {
        let client = Client::try_default()
            .await
            .context("no way to the API server; is KUBECONFIG set? make e2e sets it")?;
        let namespace = format!("creto-e2e-{:06x}", rand::random::<u32>() & 0xff_ffff);
        let installation = Installation {
            release: "creto".into(),
            namespace: format!("{namespace}-system"),
            watches: Some(namespace.clone()),
        };
        let cluster = Cluster::new(&client, &namespace, "prod");
        Ok(Self { settings, client, installation, cluster, known: Vec::new(), prometheus: None })
    }

    /// After a failure: gives the cluster time to be whole again, so that the next scenario is
    /// about itself.
    pub async fn mend(&self) {
        if let Err(error) = self.cluster.whole(Duration::from_secs(60)).await {
            println!("the cluster is not whole after that: {error:#}");
        }
    }

    /// Removes all that the run made, but for the definitions.
    pub async fn clean_up(&self) {
        let namespace = &self.cluster.namespace;
        let steps = async {
            delete_namespace(&self.client, namespace, Duration::from_secs(90)).await?;
            self.installation.uninstall(&self.settings).await?;
            delete_namespace(&self.client, &self.installation.namespace, Duration::from_secs(60))
                .await
        };
        if let Err(error) = steps.await {
            println!("not all of the run could be removed: {error:#}");
        }
    }
}
