//! From the CretoCluster as the API server holds it to a cluster that the builders can rely on.
//!
//! The CRD's schema and rules refuse bad input already; what stands here is checked again, because
//! a CRD may be older or newer than this operator, and it must never act on a number that it does
//! not understand.

use crate::names::Names;
use cretoai_crds::{CretoCluster, CretoClusterSpec, CretoClusterStatus};
use cretoai_roster::budget::ACCEPT_DISRUPTION;
use cretoai_types::{FaultModel, Quorum};
use std::net::IpAddr;

/// What the operator itself was told when it was installed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of the node for clusters that name none.
    pub node_image: String,
    /// The operator's own namespace: the only one whose operator pods may reach port 9000.
    pub operator_namespace: String,
}

/// A cluster whose input is good.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Names of its objects.
    pub names: Names,
    /// UID of the CretoCluster.
    pub uid: String,
    /// Generation of its spec.
    pub generation: i64,
    /// What the user asks for.
    pub spec: CretoClusterSpec,
    /// Validators.
    pub replicas: usize,
    /// Whether a person accepts, for this generation of the spec, that the chain pauses while a
    /// node restarts.
    pub accepts_disruption: bool,
    /// What was so in the last pass.
    pub status: CretoClusterStatus,
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// An object without name, namespace or UID does not come from an API server.
    #[error("the CretoCluster has no {0}; it did not come from an API server")]
    Unnamed(&'static str),
    /// A count that makes no chain.
    #[error(
        "spec.replicas is {0}, but must be 1 (development) or 3 to 31; set 4, the least that tolerates one faulty node"
    )]
    Replicas(i32),
    /// A name that does not fit its pods.
    #[error("metadata.name {0:?} has more than 40 characters; choose a shorter name")]
    Name(String),
}

impl Cluster {
    /// Checks `cluster`.
    ///
    /// # Errors
    /// The first field that is wrong, with the fix.
    pub fn new(cluster: &CretoCluster) -> Result<Self, Invalid> {
        let name = cluster.metadata.name.clone().ok_or(Invalid::Unnamed("name"))?;
        let namespace = cluster.metadata.namespace.clone().ok_or(Invalid::Unnamed("namespace"))?;
        let uid = cluster.metadata.uid.clone().ok_or(Invalid::Unnamed("uid"))?;
        if name.len() > 40 {
            return Err(Invalid::Name(name));
        }
        let replicas = match cluster.spec.replicas {
            count @ (1 | 3..=31) => usize::try_from(count).map_err(|_| Invalid::Replicas(count))?,
            other => return Err(Invalid::Replicas(other)),
        };
        Ok(Self {
            names: Names::new(namespace, name),
            uid,
            generation: cluster.metadata.generation.unwrap_or_default(),
            spec: cluster.spec.clone(),
            replicas,
            accepts_disruption: cluster
                .metadata
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get(ACCEPT_DISRUPTION))
                .is_some_and(|text| {
                    text.parse::<i64>().ok()
                        == Some(cluster.metadata.generation.unwrap_or_default())
                }),
            status: cluster.status.clone().unwrap_or_default(),
        })
    }

    /// How many nodes a decision needs, and how many may fail.
    #[must_use]
    pub const fn quorum(&self) -> Quorum {
        Quorum::new(self.replicas, FaultModel::Byzantine)
    }

    /// Names of the pods, in the order of their ordinals.
    pub fn pods(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.replicas).map(|ordinal| self.names.pod(ordinal))
    }
}

/// Address of a pod's port 9000.
#[must_use]
pub const fn control_address(ip: IpAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new(ip, crate::names::CONTROL_PORT)
}
