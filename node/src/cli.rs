//! The command line.

use crate::{
    config::Config,
    dev::{self, DevArguments},
    evidence,
    http::front::Identification,
    identity::Identity,
    init::{self, InitArguments},
    logging::{self, Log},
    run::Options,
    version::VERSION,
};
use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use cretoai_control::{
    api::{EvidenceItem, encode_base64},
    keys::MlDsa87,
};
use cretoai_types::{Hash, Receipt, SignedGenesis};
use std::{
    io::{IsTerminal, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};
use tracing_subscriber::EnvFilter;

/// The port of clients, unless `--api-listen` says otherwise.
const API_PORT: u16 = 8080;
/// How long a probe waits.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// What a probe's answer may have.
const PROBE_ANSWER: u64 = 16 * 1024;

/// The most that a file to verify may have. A genesis of 31 members has 230 KiB.
const MAX_FILE: u64 = 1 << 20;

/// A validator of a CretoAI ledger.
#[derive(Debug, Parser)]
#[command(name = "cretoai-node", version = VERSION, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node until SIGTERM.
    Run(RunArguments),
    /// Make keys, genesis and configuration of a chain, to run without an operator.
    Init(InitArguments),
    /// Run a whole chain on this machine in one process, to build against.
    Dev(DevArguments),
    /// Exit 0 if the node on this machine lives.
    Health(ProbeArguments),
    /// Exit 0 if the node on this machine is a caught-up validator with a quorum; say what it waits
    /// for otherwise.
    Ready(ProbeArguments),
    /// The node's identity.
    Keys {
        /// What to do with it.
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Verify what a node handed out, without any node.
    Verify {
        /// What to verify.
        #[command(subcommand)]
        command: VerifyCommand,
    },
    /// Print the version.
    Version,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The node.toml.
    #[arg(long, value_name = "FILE", default_value = "/etc/cretoai/node.toml")]
    pub config: PathBuf,
    /// Where clients are served [default: port 8080 on the address of network.listen_addr].
    #[arg(long, value_name = "ADDRESS", env = "CRETO_API_LISTEN")]
    pub api_listen: Option<SocketAddr>,
    /// The pod's name, which comes before node.id.
    #[arg(long, env = "POD_NAME", hide = true)]
    pub pod_name: Option<String>,
    /// The pod's UID.
    #[arg(long, env = "POD_UID", hide = true, default_value = "")]
    pub pod_uid: String,
    /// The UID of the CretoCluster that this node belongs to.
    #[arg(long, env = "CRETO_CLUSTER_UID", default_value = "")]
    pub cluster_uid: String,
    /// The fingerprint (64 hexadecimal digits) of the admin key, the only one that the control port
    /// admits.
    #[arg(long, env = "CRETO_ADMIN_KEY", value_parser = parse_fingerprint)]
    pub admin_key: Option<Hash>,
    /// For how many milliseconds a node that stops serves on while it is not ready, so that clients
    /// are sent elsewhere first.
    #[arg(
        long,
        value_name = "MILLISECONDS",
        env = "CRETO_STOP_GRACE_MS",
        default_value_t = 3_000,
        value_parser = clap::value_parser!(u64).range(0..=20_000)
    )]
    pub stop_grace_ms: u64,
    /// The file of the projected ServiceAccount token that attestation hands out.
    #[arg(long, env = "CRETO_TOKEN_PATH")]
    pub token_path: Option<PathBuf>,
}

/// Arguments of `health` and `ready`.
#[derive(Debug, Args)]
pub struct ProbeArguments {
    /// The node's metrics port.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    pub address: SocketAddr,
}

/// What `keys` does.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Print the public key and its fingerprint; the private key is never printed.
    Show {
        /// The node.toml.
        #[arg(long, value_name = "FILE", default_value = "/etc/cretoai/node.toml")]
        config: PathBuf,
    },
}

/// What `verify` verifies.
#[derive(Debug, Subcommand)]
pub enum VerifyCommand {
    /// Say who did what, if both signatures verify: a file from GET /v1/evidence/{number}.
    Evidence {
        /// The file.
        file: PathBuf,
        /// The chain's genesis: then key and chain must be those of the genesis, too.
        #[arg(long, value_name = "FILE")]
        genesis: Option<PathBuf>,
    },
    /// Say what became of a payload, if a quorum of the chain signed it: a file from GET
    /// /v1/receipts/{id}.
    Receipt {
        /// The file.
        file: PathBuf,
        /// The chain's genesis.
        #[arg(long, value_name = "FILE")]
        genesis: PathBuf,
    },
}

fn parse_fingerprint(text: &str) -> Result<Hash, String> {
    text.parse().map_err(|_| {
        "an admin key is named by the 64 hexadecimal digits of its fingerprint".to_owned()
    })
}

/// Runs the command line.
///
/// # Errors
/// What went wrong, for people.
pub fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(arguments) => run(arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Dev(arguments) => {
            log("warn")?;
            raise_file_limit()?;
            dev::run(&arguments)
        }
        Command::Health(arguments) => probe(arguments.address, "/health"),
        Command::Ready(arguments) => probe(arguments.address, "/ready"),
        Command::Keys { command: KeysCommand::Show { config } } => show_key(&config),
        Command::Verify { command: VerifyCommand::Evidence { file, genesis } } => {
            verify_evidence(&file, genesis.as_deref())
        }
        Command::Verify { command: VerifyCommand::Receipt { file, genesis } } => {
            verify_receipt(&file, &genesis)
        }
        Command::Version => print(&format!("cretoai-node {VERSION}\n")),
    }
}

fn run(arguments: RunArguments) -> anyhow::Result<()> {
    let config = Config::load(&arguments.config, arguments.pod_name.as_deref())?;
    log(&config.node.log_level)?;
    raise_file_limit()?;
    // A folder that `init` made says all that an operator would; what is given otherwise is checked
    // against the genesis.
    let genesis = init::read_genesis(&config.node.data_dir)?;
    let founded = genesis.as_ref().map(|signed| &signed.genesis);
    let admin =
        arguments.admin_key.or_else(|| founded.map(|genesis| genesis.admin_key.fingerprint()));
    let cluster_uid = match (arguments.cluster_uid, founded) {
        (uid, Some(genesis)) if uid.is_empty() => genesis.cluster_uid.clone(),
        (uid, _) => uid,
    };
    let options = Options {
        stop_grace: Duration::from_millis(arguments.stop_grace_ms),
        api_listen: arguments
            .api_listen
            .unwrap_or_else(|| SocketAddr::new(config.network.listen_addr.ip(), API_PORT)),
        identification: Identification {
            name: config.node.id.clone(),
            pod_uid: arguments.pod_uid,
            cluster_uid,
            admin,
            token_path: arguments.token_path.filter(|path| !path.as_os_str().is_empty()),
        },
        genesis,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let ended = runtime.block_on(crate::run::run::<crate::runtime::Creto>(config, options));
    runtime.shutdown_timeout(Duration::from_millis(500));
    logging::flush(Duration::from_millis(500));
    ended
}

/// Files that a node may have open: RocksDB's, and the connections of all ports, with some room.
const FILES_NEEDED: u64 = 6_144;

/// Raises the limit of open files to what the system allows. Connections must never take the files
/// that the database needs.
fn raise_file_limit() -> anyhow::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|soft| limit.maximum.is_none_or(|hard| soft < hard)) {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).context("raising the limit of open files")?;
    }
    if let Some(files) = limit.current.filter(|files| *files < FILES_NEEDED) {
        bail!(
            "this process may open {files} files and needs {FILES_NEEDED}; raise the hard limit (ulimit -Hn, LimitNOFILE of \
             systemd, the container runtime's rlimits)"
        );
    }
    Ok(())
}

/// Logs to standard error: what RUST_LOG says, or else from `level` on.
fn log(level: &str) -> anyhow::Result<()> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(filter) if !filter.is_empty() => {
            EnvFilter::try_new(&filter).with_context(|| format!("RUST_LOG={filter}"))?
        }
        _ => EnvFilter::new(level),
    };
    let log = Log::to(std::io::stderr()).context("starting the thread of the log")?;
    logging::install(&log);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(log)
        .init();
    // The usual hook writes to stderr itself, and waits where nobody reads that.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a thread panicked")));
    Ok(())
}

fn show_key(config: &Path) -> anyhow::Result<()> {
    let pod_name = std::env::var("POD_NAME").ok();
    let config = Config::load(config, pod_name.as_deref())?;
    let identity = Identity::read(&config.crypto.key_path)?;
    let key = identity.key.public_key();
    print(&format!(
        "name         {}\nalgorithm    ML-DSA-87\nfingerprint  {}\npublic key   {}\n",
        config.node.id,
        key.fingerprint(),
        encode_base64(key.as_bytes())
    ))
}

/// Reads a file of at most [`MAX_FILE`] bytes.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading {}", path.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        bail!(
            "{} has more than {MAX_FILE} bytes; this is not what a node hands out",
            path.display()
        );
    }
    Ok(bytes)
}

fn verify_evidence(file: &Path, genesis: Option<&Path>) -> anyhow::Result<()> {
    let what = || format!("{} is not the JSON of GET /v1/evidence/{{number}}", file.display());
    let item: EvidenceItem = serde_json::from_slice(&read(file)?).with_context(what)?;
    let proven = evidence::verify(&item, &MlDsa87)?;
    let told = match genesis {
        Some(path) => {
            let genesis = SignedGenesis::decode(&read(path)?)
                .with_context(|| format!("{} is no genesis", path.display()))?;
            proven.check_genesis(&genesis, &MlDsa87)?;
            "the genesis names this key for this validator\n"
        }
        None => "that the key is this validator's only the file says: --genesis FILE checks it\n",
    };
    print(&format!("{}{told}", proven.told()))
}

fn verify_receipt(file: &Path, genesis: &Path) -> anyhow::Result<()> {
    let signed = SignedGenesis::decode(&read(genesis)?)
        .with_context(|| format!("{} is no genesis", genesis.display()))?;
    signed
        .verify(&MlDsa87)
        .with_context(|| format!("the genesis {} does not hold", genesis.display()))?;
    let proves_nothing = || format!("{} proves nothing", file.display());
    let receipt = Receipt::decode(&read(file)?).with_context(proves_nothing)?;
    receipt.verify(&signed.genesis, &MlDsa87).with_context(proves_nothing)?;
    print(&format!("{receipt}\na quorum of the chain's validators signed it\n"))
}

/// Exit 0 if the metrics port answers 200.
fn probe(address: SocketAddr, path: &str) -> anyhow::Result<()> {
    let (status, sentence) = ask(address, path).with_context(|| {
        format!(
            "no answer from {address}{path}; is the node running there? --address names its \
             metrics port"
        )
    })?;
    match status.as_str() {
        "200" => print(&format!("{sentence}\n")),
        _ => bail!("{sentence}"),
    }
}

/// A plain HTTP GET to the metrics port: status and body.
pub(crate) fn ask(address: SocketAddr, path: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_LIMIT)?;
    stream.set_read_timeout(Some(PROBE_LIMIT))?;
    stream.set_write_timeout(Some(PROBE_LIMIT))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.take(PROBE_ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).unwrap_or_default();
    let sentence = answer.split("\r\n\r\n").nth(1).unwrap_or_default().trim();
    Ok((status.to_owned(), sentence.to_owned()))
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("writing the answer")
}
