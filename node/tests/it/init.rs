//! `init` and `dev` as a person types them: real processes, each node of `init` on a loopback
//! address of its own.

use crate::cluster::{http, until};
use cretoai_node::init::read_genesis;
use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

const BINARY: &str = env!("CARGO_BIN_EXE_cretoai-node");

/// A process that ends with its test, whatever becomes of that.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        for ended in [self.0.kill(), self.0.wait().map(drop)] {
            if let Err(error) = ended {
                println!("a node: {error}");
            }
        }
    }
}

fn command() -> Command {
    let mut command = Command::new(BINARY);
    for variable in
        ["POD_NAME", "POD_UID", "CRETO_ADMIN_KEY", "CRETO_CLUSTER_UID", "CRETO_API_LISTEN"]
    {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

fn init(folder: &Path, arguments: &[&str]) -> Output {
    command().arg("init").args(arguments).arg(folder).output().unwrap()
}

fn logged(command: &mut Command, log: &Path) -> Process {
    let log = File::create(log).unwrap();
    Process(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

fn run(folder: &Path, node: usize) -> Process {
    let home = folder.join(format!("node-{node}"));
    let mut command = command();
    command.args(["run", "--config"]).arg(home.join("node.toml"));
    logged(&mut command, &home.join("log"))
}

/// Loopback addresses that no other test process uses: which, by the process id.
fn host(test: u8, node: u8) -> String {
    let pid = std::process::id();
    format!("127.{}.{}.{}", 64 + pid % 64, pid / 64 % 256, u16::from(test) * 8 + u16::from(node))
}

async fn post(to: SocketAddr, data: &[u8]) -> Option<(u16, String)> {
    tokio::net::TcpStream::connect(to).await.ok()?;
    let (status, body) = http(to, "POST /v1/payloads?wait=20000", data).await;
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Waits for the node's API, submits, and returns the answer's text once the payload is final.
async fn finalised(to: SocketAddr, data: &[u8]) -> String {
    until("a final payload", async || match post(to, data).await {
        Some((200, body)) => Some(body),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_from_one_init_decide_and_come_back() {
    let volume = tempfile::tempdir().unwrap();
    let folder = volume.path().join("chain");
    let hosts: Vec<String> = (1..=4).map(|node| host(1, node)).collect();
    let made = init(&folder, &["--nodes", "4", "--host", &hosts.join(",")]);
    let told = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let genesis = read_genesis(&folder).unwrap().unwrap().genesis;
    assert!(told.contains(&genesis.chain_id().to_string()), "{told}");
    for key in ["admin/admin.key", "node-0/keys/identity.key", "node-3/keys/identity.key"] {
        let mode = fs::metadata(folder.join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }

    // Each line that it tells to type starts a node.
    let lines: Vec<&str> = told.lines().filter(|line| line.contains("cretoai-node run")).collect();
    let typed = |node: usize| format!("--config {}/node-{node}/node.toml", folder.display());
    assert!((0..4).all(|node| lines[node].ends_with(&typed(node))), "{told}");
    let clients: Vec<SocketAddr> =
        hosts.iter().map(|host| format!("{host}:8080").parse().unwrap()).collect();
    let mut running: Vec<Process> = (0..4).map(|node| run(&folder, node)).collect();
    for (node, to) in clients.iter().enumerate() {
        let answer = finalised(*to, format!("from node {node}").as_bytes()).await;
        assert!(answer.contains("\"final\""), "{answer}");
    }

    // Three of them decide, and the fourth goes on from its volume, with the genesis file there.
    drop(running.pop());
    finalised(clients[0], b"with three of four").await;
    running.push(run(&folder, 3));
    finalised(clients[3], b"from the node that came back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genesis_of_another_chain_stops_the_start() {
    let volume = tempfile::tempdir().unwrap();
    let (ours, other) = (volume.path().join("ours"), volume.path().join("other"));
    let address = host(2, 1);
    for folder in [&ours, &other] {
        assert!(init(folder, &["--nodes", "1", "--host", &address]).status.success());
    }
    let node = run(&ours, 0);
    finalised(format!("{address}:8080").parse().unwrap(), b"alone").await;
    drop(node);
    let genesis = fs::read(other.join("genesis")).unwrap();
    fs::write(ours.join("node-0/genesis"), genesis).unwrap();
    let start = || {
        let config = ours.join("node-0/node.toml");
        let ended = command().args(["run", "--config"]).arg(config).output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        String::from_utf8_lossy(&ended.stderr).into_owned()
    };
    let told = start();
    assert!(told.contains("genesis file"), "{told}");
    fs::write(ours.join("node-0/genesis"), b"nonsense").unwrap();
    let told = start();
    assert!(told.contains("is no genesis"), "{told}");
}

#[test]
fn init_never_overwrites() {
    let volume = tempfile::tempdir().unwrap();
    let folder = volume.path().join("chain");
    assert!(init(&folder, &["--nodes", "3"]).status.success());
    let files = || {
        ["genesis", "admin/admin.key", "node-2/keys/identity.key", "node-2/node.toml"]
            .map(|file| fs::read(folder.join(file)).unwrap())
    };
    let before = files();
    let again = init(&folder, &["--nodes", "3"]);
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(1));
    assert!(told.contains("is not empty") && told.contains("--if-missing"), "{told}");
    let kept = init(&folder, &["--nodes", "3", "--if-missing"]);
    assert!(kept.status.success());
    assert!(String::from_utf8_lossy(&kept.stdout).contains("nothing was changed"));
    assert_eq!(files(), before);

    // What was not finished is not taken for a chain.
    fs::remove_file(folder.join("genesis")).unwrap();
    assert_eq!(init(&folder, &["--nodes", "3", "--if-missing"]).status.code(), Some(1));
    // What gives no chain makes no folder.
    for refused in [["--nodes", "2"], ["--nodes", "32"], ["--host", "a,b"]] {
        let folder = volume.path().join("refused");
        assert_eq!(init(&folder, &refused).status.code(), Some(1), "{refused:?}");
        assert!(!folder.exists(), "{refused:?}");
    }
    let folder = volume.path().join("crash");
    assert_eq!(init(&folder, &["--fault-model", "crash"]).status.code(), Some(1));
    assert!(init(&folder, &["--fault-model", "crash", "--nodes", "3"]).status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_is_a_chain_in_one_process_that_stays_in_its_folder() {
    let volume = tempfile::tempdir().unwrap();
    let folder = volume.path().join("chain");
    let address = host(3, 1);
    let dev = |log: &str| {
        let mut command = command();
        command.args(["dev", "--host", &address, "--dir"]).arg(&folder);
        logged(&mut command, &volume.path().join(log))
    };
    let at = |port: u16| -> SocketAddr { format!("{address}:{port}").parse().unwrap() };
    let began = Instant::now();
    let running = dev("first");
    let answer = finalised(at(8380), b"to the fourth node").await;
    println!("first final payload of `dev` after {:?}", began.elapsed());
    assert!(answer.contains("\"final\""), "{answer}");
    until("the addresses", async || {
        let told = fs::read_to_string(volume.path().join("first")).unwrap();
        told.contains(&format!("http://{address}:8080")).then_some(())
    })
    .await;
    let chain = read_genesis(&folder).unwrap().unwrap().genesis.chain_id();
    drop(running);

    let _running = dev("second");
    finalised(at(8080), b"after the restart").await;
    assert_eq!(read_genesis(&folder).unwrap().unwrap().genesis.chain_id(), chain);
    let id: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let path = format!("GET /v1/payloads/{}", id["id"].as_str().unwrap());
    assert_eq!(http(at(8180), &path, b"").await, (200, b"to the fourth node".to_vec()));
}
