//! What one pass sees. Filled by [`crate::cluster::observe`], read by everything pure.

use crate::{cluster::validate::Cluster, resources::Key};
use cretoai_control::api::NodeStatus;
use cretoai_types::{PublicKey, Signature, SignedGenesis};
use serde_json::Value;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// What one pass sees.
#[derive(Clone, Debug)]
pub struct View {
    /// The validated cluster.
    pub cluster: Cluster,
    /// The admin key's Secret.
    pub admin_key: AdminKey,
    /// The genesis' ConfigMap.
    pub genesis: GenesisFound,
    /// Volume claims with names of this cluster.
    pub volumes: BTreeMap<usize, Volume>,
    /// The objects that stand under the names of ours.
    pub live: BTreeMap<Key, Value>,
    /// Pods of the live StatefulSet, by ordinal.
    pub pods: BTreeMap<usize, Pod>,
    /// Why the API server lets the StatefulSet create no pods, in its own words: a quota, a missing
    /// PriorityClass, an admission policy.
    pub pods_refused: Option<String>,
    /// What the nodes answered in this pass, by ordinal. A pod without address has no entry.
    pub reports: BTreeMap<usize, Report>,
}

/// The Secret with the admin key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminKey {
    /// There is none.
    Missing,
    /// It belongs to an earlier CretoCluster and is about to go.
    Departing,
    /// It holds no key; the sentence says why.
    Unreadable(String),
    /// It is there.
    Present {
        /// The public key that follows from the seed.
        key: PublicKey,
        /// UID of the CretoCluster that it was made for.
        made_for: Option<String>,
        /// Whether it goes with this CretoCluster.
        owned: bool,
    },
}

/// The ConfigMap with the genesis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GenesisFound {
    /// There is none.
    Missing,
    /// It belongs to an earlier CretoCluster and is about to go.
    Departing,
    /// It holds no genesis that verifies; the sentence says why.
    Unreadable(String),
    /// It is there, and the key that it names as admin signed it.
    Present {
        /// The genesis.
        genesis: Arc<SignedGenesis>,
        /// Whether it goes with this CretoCluster.
        owned: bool,
    },
}

/// A volume claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// UID of the chain's first CretoCluster, from the label that only our StatefulSets set.
    pub cluster_uid: Option<String>,
    /// The size that it asks for.
    pub size: String,
    /// Whether it goes with this CretoCluster.
    pub owned: bool,
    /// Whether it is about to go.
    pub departing: bool,
}

/// A pod of the live StatefulSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its UID: the precondition of everything that we do to it.
    pub uid: String,
    /// Its address.
    pub ip: Option<IpAddr>,
    /// Revision of the template that it was made from.
    pub revision: Option<String>,
    /// Whether its container runs.
    pub running: bool,
    /// Whether the kubelet says that it is ready.
    pub ready: bool,
    /// Whether it is being deleted.
    pub leaving: bool,
    /// When it should be gone, if it is being deleted, in Unix milliseconds.
    pub leaving_ms: Option<u64>,
    /// What Kubernetes says is wrong with it.
    pub trouble: Option<String>,
    /// When it was made, in Unix milliseconds.
    pub made_ms: Option<u64>,
    /// Since when it is ready, in Unix milliseconds.
    pub ready_since_ms: Option<u64>,
    /// How often its container was started again.
    pub restarts: u32,
    /// The host that it runs on.
    pub host: Option<String>,
}

/// What a node answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Before birth: who it is, checked against the API server.
    Attested(Attested),
    /// After birth: how it is. It proved the key that the genesis names for it.
    Status(Box<NodeStatus>),
    /// No answer in time; the sentence says what happened.
    Silent(String),
    /// Its pod refused the connection; the sentence says how.
    NotServing(String),
    /// An answer that proves that it is not who it should be; the sentence says how.
    Refused(String),
}

/// A node's identity, proven in this pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// Its key.
    pub key: PublicKey,
    /// The proof that goes into the genesis.
    pub possession: Signature,
    /// The chain that its volume holds.
    pub chain_id: Option<String>,
    /// Its version.
    pub version: String,
}

impl View {
    /// The revision that pods should have, once the StatefulSet controller has seen the newest
    /// template.
    #[must_use]
    pub fn revision(&self) -> Option<&str> {
        self.stateful_set().and_then(StatefulSet::revision)
    }

    /// The live StatefulSet, if it is this CretoCluster's.
    #[must_use]
    pub fn stateful_set(&self) -> Option<StatefulSet<'_>> {
        let key = Key {
            kind: crate::resources::Kind::StatefulSet,
            name: self.cluster.names.cluster.clone(),
        };
        self.live.get(&key).map(StatefulSet)
    }
}

/// Reads a live StatefulSet.
#[derive(Clone, Copy, Debug)]
pub struct StatefulSet<'a>(&'a Value);

impl<'a> StatefulSet<'a> {
    fn text(self, pointer: &str) -> Option<&'a str> {
        self.0.pointer(pointer).and_then(Value::as_str)
    }

    /// Its UID.
    #[must_use]
    pub fn uid(self) -> Option<&'a str> {
        self.text("/metadata/uid")
    }

    /// The image that its template names.
    #[must_use]
    pub fn image(self) -> Option<&'a str> {
        self.text("/spec/template/spec/containers/0/image")
    }

    /// One of its annotations.
    #[must_use]
    pub fn annotation(self, key: &str) -> Option<&'a str> {
        self.0.get("metadata")?.get("annotations")?.get(key)?.as_str()
    }

    /// The size in its claim template.
    #[must_use]
    pub fn claim_size(self) -> Option<&'a str> {
        self.text("/spec/volumeClaimTemplates/0/spec/resources/requests/storage")
    }

    /// The revision that pods should have, once the StatefulSet controller has seen the newest
    /// template.
    #[must_use]
    pub fn revision(self) -> Option<&'a str> {
        let seen = self.0.pointer("/status/observedGeneration")?.as_i64()?;
        let newest = self.0.pointer("/metadata/generation")?.as_i64()?;
        if seen >= newest { self.text("/status/updateRevision") } else { None }
    }
}
