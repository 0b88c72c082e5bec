//! The Kubernetes API of CretoAI, group `cretoai.io/v1alpha1`, as Rust types.
//!
//! The YAML in `crds/yaml` and in `charts/creto-crds` is generated from these types by the `crdgen`
//! binary and checked to be fresh. The rule of this crate: a field stands here only if the operator
//! acts on it, every refusal is a sentence that names the field and the fix, and every list, map
//! and string is bounded.

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
