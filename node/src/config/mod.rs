//! `node.toml`: every key of the specification, honoured or refused by name with the reason.
//!
//! The rule: nothing is ignored. An unknown section or key, a value of the wrong type or outside
//! its range, and a choice that this node does not offer each stop the start with the key, the
//! value and what to write instead.

mod reader;

use crate::peer_address::PeerAddress;
use cretoai_types::{FaultModel, Quorum};
use reader::Section;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: {source}; give --config the path of a readable node.toml")]
    Read {
        /// The file meant.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration is not valid TOML: {0}")]
    Syntax(Box<toml::de::Error>),
    /// A section or key that does not exist.
    #[error("`{key}` is not a key of node.toml; {fix}")]
    Unknown {
        /// The key, with its section.
        key: String,
        /// The keys that there are.
        fix: String,
    },
    /// A key without a value that is needed.
    #[error("`{key}` is missing; {fix}")]
    Missing {
        /// The key, with its section.
        key: String,
        /// How to give it.
        fix: String,
    },
    /// A value that cannot be honoured.
    #[error("`{key} = {value}` is refused: {fix}")]
    Value {
        /// The key, with its section.
        key: String,
        /// The value, as TOML.
        value: String,
        /// The reason, and what to write instead.
        fix: String,
    },
}

/// A node's whole configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[node]`
    pub node: NodeSection,
    /// `[consensus]`
    pub consensus: ConsensusSection,
    /// `[network]`
    pub network: NetworkSection,
    /// `[storage]`
    pub storage: StorageSection,
    /// `[crypto]`
    pub crypto: CryptoSection,
    /// `[metrics]`
    pub metrics: MetricsSection,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSection {
    /// The validator's name: the pod's name in Kubernetes.
    pub id: String,
    /// The folder that holds all that the node must remember.
    pub data_dir: PathBuf,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
}

/// `[consensus]`. `algorithm` has one value, "bft".
#[derive(Clone, Debug, PartialEq)]
pub struct ConsensusSection {
    /// The share of the members that a quorum needs; see [`Config::check_quorum`].
    pub quorum_threshold: f64,
    /// Within how many milliseconds a payload is expected to be final.
    pub finality_timeout_ms: u64,
    /// How many vertices may wait for a decision before clients are refused.
    pub max_pending_vertices: u64,
}

/// `[network]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSection {
    /// The control port (HTTPS with raw public keys), TCP.
    pub listen_addr: SocketAddr,
    /// The validators' QUIC port, UDP, on the same address.
    pub quic_port: u16,
    /// Where the other validators are.
    pub bootstrap_peers: Vec<PeerAddress>,
}

/// `[storage]`. `backend` has one value, "rocksdb".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageSection {
    /// The database's folder.
    pub path: PathBuf,
    /// RocksDB's block cache, MiB.
    pub cache_size_mb: u64,
    /// RocksDB's write buffers, all together, MiB.
    pub write_buffer_mb: u64,
    /// Free space of the disk below which payloads are refused, MiB; 0 for none.
    pub reserve_mb: u64,
}

/// `[crypto]`. `signature_algorithm` has one value, "ml-dsa-87", and `hash_algorithm` one,
/// "blake3".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CryptoSection {
    /// The folder that holds the node's identity.
    pub key_path: PathBuf,
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSection {
    /// Whether `endpoint` is served. `/health` and `/ready` are served in any case.
    pub enabled: bool,
    /// The port, TCP, on the address of `network.listen_addr`.
    pub port: u16,
    /// The path of the metrics.
    pub endpoint: String,
}

const SECTIONS: &[&str] = &["node", "consensus", "network", "storage", "crypto", "metrics"];

impl Config {
    /// Reads a file. `pod_name` (the environment's `POD_NAME`) comes before `node.id`: one
    /// ConfigMap serves all pods.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path, pod_name: Option<&str>) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, pod_name)
    }

    /// Reads the text of a `node.toml`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, pod_name: Option<&str>) -> Result<Self, ConfigError> {
        let mut root: toml::Table = text.parse().map_err(|e| ConfigError::Syntax(Box::new(e)))?;
        let mut sections = Section::split(&mut root, SECTIONS)?.into_iter();
        let mut next = || sections.next().unwrap_or_default();
        let node = node(next(), pod_name)?;
        let consensus = consensus(next())?;
        let network = network(next())?;
        let storage = storage(next(), &node.data_dir)?;
        let crypto = crypto(next(), &node.data_dir)?;
        let metrics = metrics(next())?;
        let config = Self { node, consensus, network, storage, crypto, metrics };
        config.check_together()?;
        Ok(config)
    }

    fn check_together(&self) -> Result<(), ConfigError> {
        let (db, keys) = (&self.storage.path, &self.crypto.key_path);
        if db.starts_with(keys) || keys.starts_with(db) {
            return Err(ConfigError::Value {
                key: "crypto.key_path".into(),
                value: format!("{:?}", keys.display().to_string()),
                fix: format!(
                    "the keys and the database (storage.path = {:?}) need folders of their own, none inside the other",
                    db.display()
                ),
            });
        }
        if self.metrics.port == self.network.listen_addr.port() {
            return Err(ConfigError::Value {
                key: "metrics.port".into(),
                value: self.metrics.port.to_string(),
                fix: format!(
                    "network.listen_addr = \"{}\" has the same port; choose another, such as 9090",
                    self.network.listen_addr
                ),
            });
        }
        Ok(())
    }

    /// Where validators reach this node.
    #[must_use]
    pub fn quic_address(&self) -> SocketAddr {
        SocketAddr::new(self.network.listen_addr.ip(), self.network.quic_port)
    }

    /// Where metrics and probes are served.
    #[must_use]
    pub fn metrics_address(&self) -> SocketAddr {
        SocketAddr::new(self.network.listen_addr.ip(), self.metrics.port)
    }

    /// Checks `consensus.quorum_threshold` against the members, once they are known. The threshold
    /// times n, rounded up, must be the quorum that the protocol uses. Crash tolerance has another
    /// quorum by design, so there nothing is checked.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with a threshold that fits.
    pub fn check_quorum(&self, quorum: Quorum, model: FaultModel) -> Result<(), ConfigError> {
        let Quorum { n, f, q, .. } = quorum;
        let threshold = self.consensus.quorum_threshold;
        // The tolerance is for products such as 0.7 * 10, which binary fractions make a little more
        // than 7.
        let required = (threshold * n as f64 - 1e-9).ceil();
        if model == FaultModel::Crash || required == q as f64 {
            return Ok(());
        }
        let fitting = (q as f64 / n as f64 * 100.0).floor() / 100.0;
        Err(ConfigError::Value {
            key: "consensus.quorum_threshold".into(),
            value: threshold.to_string(),
            fix: format!(
                "with {n} validators, of which {f} may be faulty, the quorum is {q}, and ceil({threshold} * {n}) is {required}; write {}",
                if (fitting * n as f64 - 1e-9).ceil() == q as f64 {
                    fitting
                } else {
                    q as f64 / n as f64
                }
            ),
        })
    }
}

fn node(mut section: Section, pod_name: Option<&str>) -> Result<NodeSection, ConfigError> {
    let id = section.text("id", None)?;
    let data_dir = section.path("data_dir", "/data".into())?;
    let log_level =
        section.choice("log_level", &["error", "warn", "info", "debug", "trace"], 2, "")?;
    section.finish()?;
    let (source, id) = match (pod_name.filter(|n| !n.is_empty()), id) {
        (Some(name), _) => ("POD_NAME", name.to_owned()),
        (None, Some(id)) => ("node.id", id),
        (None, None) => {
            return Err(ConfigError::Missing {
                key: "node.id".into(),
                fix: "write the validator's name, or set POD_NAME in the environment".into(),
            });
        }
    };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if id.is_empty() || id.len() > 253 || !id.chars().all(allowed) {
        let shown: String = id.chars().take(80).collect();
        let fix =
            "a name has 1 to 253 lowercase letters, digits, `-` and `.`, as a pod's name does"
                .into();
        return Err(ConfigError::Value { key: source.into(), value: format!("{shown:?}"), fix });
    }
    Ok(NodeSection { id, data_dir, log_level })
}

fn consensus(mut section: Section) -> Result<ConsensusSection, ConfigError> {
    section.choice(
        "algorithm",
        &["bft"],
        0,
        "this node speaks one protocol, PBFT over DAG lanes; ",
    )?;
    let consensus = ConsensusSection {
        quorum_threshold: section.fraction("quorum_threshold", 0.67)?,
        finality_timeout_ms: section.number("finality_timeout_ms", 500, 50..=60_000)?,
        max_pending_vertices: section.number("max_pending_vertices", 10_000, 32..=1_000_000)?,
    };
    section.finish()?;
    Ok(consensus)
}

fn network(mut section: Section) -> Result<NetworkSection, ConfigError> {
    let listen_addr = section.parsed(
        "listen_addr",
        "0.0.0.0:9000",
        "write an IP address and a port, such as \"0.0.0.0:9000\"",
    )?;
    let quic_port = section.port("quic_port", 9001)?;
    let bootstrap_peers = section.peers("bootstrap_peers")?;
    section.finish()?;
    Ok(NetworkSection { listen_addr, quic_port, bootstrap_peers })
}

fn storage(mut section: Section, data_dir: &Path) -> Result<StorageSection, ConfigError> {
    section.choice("backend", &["rocksdb"], 0, "the ledger is kept in RocksDB; ")?;
    let storage = StorageSection {
        path: section.path("path", data_dir.join("db"))?,
        cache_size_mb: section.number("cache_size_mb", 512, 8..=1_048_576)?,
        write_buffer_mb: section.number("write_buffer_mb", 128, 8..=65_536)?,
        reserve_mb: section.number("reserve_mb", 256, 0..=1_048_576)?,
    };
    section.finish()?;
    Ok(storage)
}

fn crypto(mut section: Section, data_dir: &Path) -> Result<CryptoSection, ConfigError> {
    let signature =
        "every identity and vote is ML-DSA-87 (FIPS 204), and no weaker one is accepted; ";
    section.choice("signature_algorithm", &["ml-dsa-87"], 0, signature)?;
    section.choice("hash_algorithm", &["blake3"], 0, "every id and chain hash is BLAKE3; ")?;
    let key_path = section.path("key_path", data_dir.join("keys"))?;
    section.finish()?;
    Ok(CryptoSection { key_path })
}

fn metrics(mut section: Section) -> Result<MetricsSection, ConfigError> {
    let enabled = section.flag("enabled", true)?;
    let port = section.port("port", 9090)?;
    let endpoint = section.text("endpoint", Some("/metrics"))?.unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !endpoint.starts_with('/')
        || endpoint.len() > 128
        || !endpoint.chars().all(plain)
        || ["/", "/health", "/ready"].contains(&endpoint.as_str())
    {
        let fix = "write a path such as \"/metrics\"; /health and /ready are taken".into();
        return Err(ConfigError::Value {
            key: "metrics.endpoint".into(),
            value: format!("{endpoint:?}"),
            fix,
        });
    }
    section.finish()?;
    Ok(MetricsSection { enabled, port, endpoint })
}
