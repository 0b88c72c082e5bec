//! `cretoai-node init`: keys, genesis and configuration of a whole chain, made on one machine
//! without an operator.
//!
//! The rule: nothing is overwritten, and a folder is complete once it holds `genesis`, which is
//! written last. Whoever runs `init` holds all private keys for that moment; in Kubernetes each
//! node makes its own instead.

mod layout;

use crate::config::Config;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use cretoai_control::keys::{MlDsa87, SecretKey};
use cretoai_types::{FaultModel, Genesis, GenesisMember, MAX_MEMBERS, Parameters, SignedGenesis};
pub use layout::{Host, Layout, api_address, node_name};
use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// The signed genesis, in the folder of the chain and in the data folder of each node.
pub const GENESIS_FILE: &str = "genesis";
const CONFIG_FILE: &str = "node.toml";
const ADMIN_KEY: &str = "admin/admin.key";
/// What a genesis may have. One of 31 members has 230 KiB.
const MAX_GENESIS: u64 = 1 << 20;

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArguments {
    /// The folder to make: it must be missing or empty.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// How many nodes: 1, or 3 to 31.
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    pub nodes: usize,
    /// Where the nodes run: one IP address or DNS name for each, in order, or one for all [default:
    /// 127.0.0.1]. On one host, each further node has its ports 100 higher.
    #[arg(long = "host", value_name = "HOST", value_delimiter = ',')]
    pub hosts: Vec<Host>,
    /// Where each node finds its folder at run time, such as /data in a container [default: where
    /// init makes it].
    #[arg(long, value_name = "PATH")]
    pub data_dir: Option<PathBuf>,
    /// What faulty nodes are assumed to do; `crash` is for at most 3 nodes.
    #[arg(long, value_enum, default_value_t = Faults::Byzantine)]
    pub fault_model: Faults,
    /// Change nothing, and succeed, if the folder holds a complete chain already.
    #[arg(long)]
    pub if_missing: bool,
}

/// The fault model, as the command line spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Faults {
    /// Faulty nodes may do anything.
    Byzantine,
    /// Faulty nodes only stop.
    Crash,
}

impl From<Faults> for FaultModel {
    fn from(faults: Faults) -> Self {
        match faults {
            Faults::Byzantine => Self::Byzantine,
            Faults::Crash => Self::Crash,
        }
    }
}

/// Makes the folder, and says what to type next.
///
/// # Errors
/// Arguments that give no chain; a folder that is not empty; a file that cannot be written.
pub fn run(arguments: &InitArguments) -> anyhow::Result<()> {
    let folder = &arguments.folder;
    if arguments.if_missing
        && let Some(genesis) = read_genesis(folder)?
    {
        return say(&format!(
            "{} holds chain {} of {} nodes already; nothing was changed\n",
            folder.display(),
            genesis.genesis.chain_id(),
            genesis.genesis.members.len()
        ));
    }
    let layout =
        Layout::new(folder, arguments.nodes, &arguments.hosts, arguments.data_dir.as_deref())?;
    let genesis = make(folder, &layout, arguments.fault_model.into())?;
    say(&next_steps(folder, &layout, &genesis)?)
}

/// Writes all files of a chain into `folder`.
///
/// # Errors
/// As [`run`].
pub fn make(folder: &Path, layout: &Layout, model: FaultModel) -> anyhow::Result<SignedGenesis> {
    let nodes = layout.nodes();
    if nodes == 0 || nodes == 2 || nodes > MAX_MEMBERS {
        bail!("--nodes {nodes} is refused: a chain has 1 or 3 to {MAX_MEMBERS} nodes");
    }
    if model == FaultModel::Crash && nodes > 3 {
        bail!(
            "--fault-model crash is refused with --nodes {nodes}: it is for at most 3 nodes; write \
             byzantine"
        );
    }
    check_empty(folder)?;
    let unfinished = || {
        format!(
            "{} was not finished; remove what is in it and type the command again",
            folder.display()
        )
    };
    write_all(folder, layout, model).with_context(unfinished)
}

fn write_all(folder: &Path, layout: &Layout, model: FaultModel) -> anyhow::Result<SignedGenesis> {
    // The admin key comes first: its file is never overwritten, so that of two `init` at a time
    // one stops here.
    let admin = SecretKey::create(folder.join(ADMIN_KEY))?;
    let cluster_uid = format!("init-{}", hex::encode(rand::random::<[u8; 8]>()));
    let mut members = Vec::new();
    for index in 0..layout.nodes() {
        let name = node_name(index);
        let home = folder.join(&name);
        let key = SecretKey::create(home.join("keys").join(crate::identity::KEY_FILE))?;
        let proof = key.sign(&Genesis::possession_message(&cluster_uid, &name));
        members.push(GenesisMember { name, key: key.public_key().clone(), proof });
        write_new(&home.join(CONFIG_FILE), layout.node_toml(index)?.as_bytes())?;
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock of this machine stands before 1970; set it")?;
    let genesis = Genesis {
        cluster_uid,
        admin_key: admin.public_key().clone(),
        members,
        fault_model: model,
        parameters: Parameters::default(),
        created_ms: u64::try_from(now.as_millis()).context("the clock of this machine is off")?,
    };
    let signature = admin.sign(&genesis.signing_message());
    let signed = SignedGenesis { genesis, signature };
    signed.verify(&MlDsa87).context("the genesis that was just made does not hold")?;
    for index in 0..layout.nodes() {
        let config = layout.config(index)?;
        config.check_quorum(signed.genesis.quorum(), model)?;
        write_new(&folder.join(node_name(index)).join(GENESIS_FILE), &signed.encode())?;
    }
    write_new(&folder.join(GENESIS_FILE), &signed.encode())?;
    Ok(signed)
}

/// The genesis that lies in `folder`, if one does. It is not verified yet.
///
/// # Errors
/// When there is a file that cannot be read, or that is no genesis.
pub fn read_genesis(folder: &Path) -> anyhow::Result<Option<SignedGenesis>> {
    let path = folder.join(GENESIS_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    let mut bytes = Vec::new();
    file.take(MAX_GENESIS + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading {}", path.display()))?;
    if bytes.len() as u64 > MAX_GENESIS {
        bail!("{} has more than {MAX_GENESIS} bytes; it is no genesis", path.display());
    }
    let signed = SignedGenesis::decode(&bytes).with_context(|| {
        format!("{} is no genesis; put back the one that `init` made", path.display())
    })?;
    Ok(Some(signed))
}

/// The configuration of a node of a folder that [`make`] wrote.
///
/// # Errors
/// As [`Config::load`].
pub fn load_config(folder: &Path, index: usize) -> anyhow::Result<Config> {
    Ok(Config::load(&folder.join(node_name(index)).join(CONFIG_FILE), None)?)
}

fn check_empty(folder: &Path) -> anyhow::Result<()> {
    let mut entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", folder.display())),
    };
    if let Some(entry) = entries.next() {
        let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
        bail!(
            "{} is not empty (it holds {:?}), and nothing is overwritten; name a new folder, or \
             write --if-missing to keep a chain that is there",
            folder.display(),
            entry.file_name().to_string_lossy()
        );
    }
    Ok(())
}

/// Writes a file that is not there yet, durably.
fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().with_context(|| format!("writing {}", path.display()))
}

fn next_steps(folder: &Path, layout: &Layout, signed: &SignedGenesis) -> anyhow::Result<String> {
    let quorum = signed.genesis.quorum();
    let mut text = format!(
        "{} holds a chain of {} nodes; {} of them decide, and {} may be faulty\n\
         chain id  {}\n\n\
         Start each node where its folder is:\n",
        folder.display(),
        quorum.n,
        quorum.q,
        quorum.f,
        signed.genesis.chain_id()
    );
    for index in 0..layout.nodes() {
        let config = layout.data_dir(index).join(CONFIG_FILE);
        let api = layout.api_argument(index);
        // Writing to a String does not fail.
        writeln!(text, "  cretoai-node run --config {}{api}", config.display()).unwrap_or_default();
    }
    write!(
        text,
        "\nThen submit a payload:\n  \
         curl -s -H 'Content-Type: application/octet-stream' --data-binary hello \
         http://{}/v1/payloads\n\n\
         {} orders changes of the chain: move it away from the nodes.\n\
         Never put a node's folder back as it is now after the node has run: its key would vote \
         twice.\n",
        layout.client_address(0),
        folder.join(ADMIN_KEY).display()
    )
    .unwrap_or_default();
    Ok(text)
}

fn say(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("writing the answer")
}
