//! The four processes: born as the operator would do it, ended by their ids whatever happens.

use crate::api::{API_PORT, Client};
use anyhow::{Context, Result, bail};
use cretoai_control::{client::ControlClient, keys::SecretKey};
use cretoai_types::{FaultModel, Genesis, GenesisMember, Parameters, SignedGenesis};
use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::process::{Child, Command};

/// How many.
pub const COUNT: usize = 4;
const CLUSTER_UID: &str = "bench";
const CONTROL_PORT: u16 = 9000;
const PEER_PORT: u16 = 9001;

/// The running nodes.
pub struct Nodes {
    folder: PathBuf,
    children: [(usize, Child); COUNT],
}

/// Each node has an address of the loopback network of its own, and so the usual ports.
fn address(index: usize) -> IpAddr {
    Ipv4Addr::new(127, 0, 9, u8::try_from(index + 1).unwrap_or(1)).into()
}

fn name(index: usize) -> String {
    format!("bench-{index}")
}

impl Nodes {
    /// Starts them with empty folders below `folder`, gives them a genesis, and waits until all are
    /// ready.
    ///
    /// # Errors
    /// A node does not come up; the sentence names its log.
    pub async fn start(binary: &Path, folder: &Path) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("emptying {}", folder.display()))?;
        }
        let admin = SecretKey::generate()?;
        let start = |index| start_one(binary, folder, index, &admin);
        let children = [(0, start(0)?), (1, start(1)?), (2, start(2)?), (3, start(3)?)];
        let mut nodes = Self { folder: folder.to_owned(), children };
        let born = tokio::select! {
            born = nodes.give_birth(&admin) => born,
            error = crate::process::interrupted() => Err(error),
        };
        if let Err(error) = born {
            let error = nodes.dead().map_or(error, |complaint| anyhow::anyhow!("{complaint}"));
            nodes.stop().await;
            return Err(error);
        }
        Ok(nodes)
    }

    /// What the operator does: attest each, sign a genesis that names them, hand it over, wait.
    async fn give_birth(&self, admin: &SecretKey) -> Result<()> {
        let client = ControlClient::new(admin)?;
        let mut members = Vec::new();
        for index in 0..COUNT {
            let nonce: [u8; 32] = rand::random();
            let control = SocketAddr::new(address(index), CONTROL_PORT);
            let (key, attestation) = patiently(|| client.attest(control, &nonce))
                .await
                .with_context(|| self.log_of(index))?;
            if attestation.pod_name != name(index) || attestation.chain_id.is_some() {
                bail!(
                    "{control} is {} with chain {:?}: another process listens there; end it and try again",
                    attestation.pod_name,
                    attestation.chain_id
                );
            }
            members.push(GenesisMember {
                name: name(index),
                key,
                proof: attestation.possession_signature()?,
            });
        }
        let created_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let keys: Vec<_> = members.iter().map(|member| member.key.clone()).collect();
        let genesis = Genesis {
            cluster_uid: CLUSTER_UID.into(),
            admin_key: admin.public_key().clone(),
            members,
            fault_model: FaultModel::Byzantine,
            parameters: Parameters::default(),
            created_ms,
        };
        let signature = admin.sign(&genesis.signing_message());
        let signed = SignedGenesis { genesis, signature };
        for (index, key) in keys.iter().enumerate() {
            let control = SocketAddr::new(address(index), CONTROL_PORT);
            patiently(|| client.put_genesis(control, key, &signed))
                .await
                .with_context(|| self.log_of(index))?;
        }
        for index in 0..COUNT {
            patiently(|| ready(index)).await.with_context(|| self.log_of(index))?;
        }
        Ok(())
    }

    fn log_of(&self, index: usize) -> String {
        format!(
            "{} does not come up; see {}",
            name(index),
            self.folder.join(name(index)).join("log").display()
        )
    }

    /// Where clients go.
    pub fn api_addresses(&self) -> [SocketAddr; COUNT] {
        [0, 1, 2, 3].map(|index| SocketAddr::new(address(index), API_PORT))
    }

    /// The folder with all of their data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Their process ids.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.children.iter().filter_map(|(_, child)| child.id())
    }

    /// Which of them ended by itself, if one did.
    pub fn dead(&mut self) -> Option<String> {
        let folder = &self.folder;
        self.children.iter_mut().find_map(|(index, child)| {
            let status = child.try_wait().ok()??;
            let log = folder.join(name(*index)).join("log");
            let text = fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(5).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            Some(format!(
                "{} ended with {status}; the end of {} is:\n{}",
                name(*index),
                log.display(),
                tail.join("\n")
            ))
        })
    }

    /// Ends them.
    pub async fn stop(&mut self) {
        for (_, child) in &mut self.children {
            if let Err(error) = child.kill().await {
                eprintln!("a node could not be ended: {error}");
            }
        }
    }
}

fn start_one(binary: &Path, folder: &Path, index: usize, admin: &SecretKey) -> Result<Child> {
    let home = folder.join(name(index));
    fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
    let home = home.canonicalize()?;
    let config = home.join("node.toml");
    fs::write(&config, node_toml(&home, index))
        .with_context(|| format!("writing {}", config.display()))?;
    let log = File::create(home.join("log"))?;
    Command::new(binary)
        .args(["run", "--config"])
        .arg(&config)
        .env("POD_NAME", name(index))
        .env("POD_UID", format!("bench-uid-{index}"))
        .env("POD_NAMESPACE", "bench")
        .env("CRETO_CLUSTER_UID", CLUSTER_UID)
        .env("CRETO_ADMIN_KEY", admin.public_key().fingerprint().to_string())
        .env_remove("CRETO_TOKEN_PATH")
        .stdin(Stdio::null())
        .stderr(log.try_clone()?)
        .stdout(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}; build it with: make build", binary.display()))
}

fn node_toml(home: &Path, index: usize) -> String {
    let mut peers = String::new();
    for peer in 0..COUNT {
        // Writing to a String does not fail.
        write!(peers, "\"/ip4/{}/udp/{PEER_PORT}/quic\", ", address(peer)).unwrap_or_default();
    }
    format!(
        r#"[node]
id = "{name}"
data_dir = "{home}"
log_level = "info"

[consensus]
algorithm = "bft"
quorum_threshold = 0.67
finality_timeout_ms = 500
max_pending_vertices = 10000

[network]
listen_addr = "{address}:{CONTROL_PORT}"
quic_port = {PEER_PORT}
bootstrap_peers = [{peers}]

[storage]
backend = "rocksdb"
path = "{home}/db"
cache_size_mb = 128
write_buffer_mb = 64

[crypto]
signature_algorithm = "ml-dsa-87"
hash_algorithm = "blake3"
key_path = "{home}/keys"

[metrics]
enabled = true
port = 9090
endpoint = "/metrics"
"#,
        name = name(index),
        home = home.display(),
        address = address(index),
    )
}

async fn ready(index: usize) -> Result<()> {
    let status = Client::new(SocketAddr::new(address(index), API_PORT))
        .with_limit(Duration::from_secs(5))
        .status()
        .await?;
    if !status.ready {
        bail!("{} is not ready: {}", status.name, status.waiting_for);
    }
    Ok(())
}

/// Tries for 30 s.
async fn patiently<T, E, F: Future<Output = Result<T, E>>>(
    mut attempt: impl FnMut() -> F,
) -> Result<T>
where
    anyhow::Error: From<E>,
{
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
