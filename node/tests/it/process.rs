//! The node as a process of its own: how it ends, and what a log that nobody takes does to it.

use crate::cluster::{Addresses, CLUSTER, addresses, birth, http, node_toml, until};
use cretoai_control::{client::ControlClient, keys::SecretKey};
use std::{
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

struct Process {
    child: Child,
    own: Addresses,
}

/// Starts the only member of a cluster.
fn start(volume: &Path, own: Addresses, admin: &SecretKey, grace_ms: u64, level: &str) -> Process {
    let config = volume.join("node.toml");
    std::fs::write(&config, node_toml(0, own, volume, &[own])).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_cretoai-node"))
        .args(["run", "--config", config.to_str().unwrap()])
        .args(["--api-listen", &own.clients.to_string()])
        .args(["--stop-grace-ms", &grace_ms.to_string()])
        .env("CRETO_ADMIN_KEY", admin.public_key().fingerprint().to_string())
        .env("CRETO_CLUSTER_UID", CLUSTER)
        .env("RUST_LOG", level)
        .env_remove("POD_NAME")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Process { child, own }
}

impl Process {
    async fn ready(&self) {
        until("readiness", async || {
            let answer = tokio::net::TcpStream::connect(self.own.metrics).await.is_ok();
            let ready = answer && http(self.own.metrics, "GET /ready", b"").await.0 == 200;
            ready.then_some(())
        })
        .await;
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        until("the end of the process", async || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        if self.child.kill().is_ok() {
            self.child.wait().unwrap();
        }
    }
}

fn admin() -> SecretKey {
    SecretKey::from_seed(&[42; 32]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_stops_end_without_a_signal() {
    let volume = tempfile::tempdir().unwrap();
    let [own] = addresses(1)[..] else { unreachable!() };
    let client = ControlClient::new(&admin()).unwrap();
    for round in 0..50_u64 {
        let mut process = start(volume.path(), own, &admin(), 0, "warn");
        if round == 0 {
            birth(&client, &[own], &admin()).await;
        }
        process.ready().await;
        let (status, _) = http(own.clients, "POST /v1/payloads?wait=10000", b"a payload").await;
        assert_eq!(status, 200);
        tokio::time::sleep(Duration::from_millis(round % 10)).await;
        process.signal(rustix::process::Signal::TERM);
        let status = process.ended().await;
        assert_eq!(status.code(), Some(0), "stop {round} ended with {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_is_not_ready_and_serves_on_for_the_grace() {
    let volume = tempfile::tempdir().unwrap();
    let [own] = addresses(1)[..] else { unreachable!() };
    let mut process = start(volume.path(), own, &admin(), 4_000, "warn");
    birth(&ControlClient::new(&admin()).unwrap(), &[own], &admin()).await;
    process.ready().await;
    process.signal(rustix::process::Signal::TERM);
    let told = until("that it is not ready", async || {
        let (status, body) = http(own.metrics, "GET /ready", b"").await;
        (status == 503).then(|| String::from_utf8(body).unwrap())
    })
    .await;
    assert!(told.contains("stopping"), "{told}");
    let (status, body) = http(own.clients, "POST /v1/payloads?wait=10000", b"a late one").await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_takes_neither_stops_nor_ends_the_node() {
    for closed in [true, false] {
        let volume = tempfile::tempdir().unwrap();
        let [own] = addresses(1)[..] else { unreachable!() };
        let mut process = start(volume.path(), own, &admin(), 0, "trace");
        // Closed, or open and never read, with room for a few lines.
        let reader = process.child.stderr.take().unwrap();
        rustix::pipe::fcntl_setpipe_size(&reader, 4_096).unwrap();
        let kept = (!closed).then_some(reader);
        birth(&ControlClient::new(&admin()).unwrap(), &[own], &admin()).await;
        process.ready().await;
        for _ in 0..20 {
            let (status, _) = http(own.clients, "POST /v1/payloads?wait=10000", b"on").await;
            assert_eq!(status, 200);
        }
        // A closed log loses every line. An unread one keeps what has room in memory, which is
        // more than this test logs: only the thread of the log waits for its reader.
        until("lines that are dropped and counted", async || {
            let text = http(own.metrics, "GET /metrics", b"").await.1;
            let text = String::from_utf8(text).unwrap();
            let line = text.lines().find(|l| l.starts_with("cretoai_log_lines_dropped_total "));
            (!closed || line.unwrap() != "cretoai_log_lines_dropped_total 0").then_some(())
        })
        .await;
        process.signal(rustix::process::Signal::TERM);
        let status = process.ended().await;
        assert_eq!(status.code(), Some(0), "closed: {closed}; {status}");
        drop(kept);
    }
}
