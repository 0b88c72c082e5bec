//! The Kubernetes API of CretoAI, group `cretoai.io/v1alpha1`, as Rust types.
//!
//! The binary `crdgen` generates the YAML in `crds/yaml` and `charts/creto-crds` from these types,
//! and checks that it is fresh.
//!
//! The rule: every field is one that the operator acts on, every refusal is a sentence that names
//! the field and the fix, and every list, map and string has a bound.

mod generate;
mod spec;
mod status;

pub use generate::{MAX_YAML_BYTES, chart_yaml, crd, crd_yaml};
pub use spec::{
    Consensus, CretoCluster, CretoClusterSpec, ImagePullPolicy, LogLevel, PodTemplate, Resources,
    RetentionPolicy, Storage, Tuning,
};
pub use status::{CretoClusterStatus, MemberStatus, QuorumStatus, Summary};

/// The API group.
pub const GROUP: &str = "cretoai.io";
