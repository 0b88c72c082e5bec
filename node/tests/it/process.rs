//! The node as a process of its own: how it ends, and what a log that nobody takes does to it.

use crate::cluster::{Addresses, CLUSTER, addresses, birth, http, node_toml, until};
use cretoai_control::{client::ControlClient, keys::SecretKey};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::{
    io::{PipeReader, PipeWriter, Write},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

pub struct Process {
    child: Child,
    own: Addresses,
}

/// Starts the only member of a cluster.
pub fn start(volume: &Path, own: Addresses, admin: &SecretKey, grace_ms: u64) -> Process {
    start_logging_to(volume, own, admin, grace_ms, Stdio::inherit())
}

fn start_logging_to(
    volume: &Path,
    own: Addresses,
    admin: &SecretKey,
    grace_ms: u64,
    log: Stdio,
) -> Process {
    let config = volume.join("node.toml");
    std::fs::write(&config, node_toml(0, own, volume, &[own])).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_cretoai-node"))
        .args(["run", "--config", config.to_str().unwrap()])
        .args(["--api-listen", &own.clients.to_string()])
        .args(["--stop-grace-ms", &grace_ms.to_string()])
        .env("CRETO_ADMIN_KEY", admin.public_key().fingerprint().to_string())
        .env("CRETO_CLUSTER_UID", CLUSTER)
        .env("RUST_LOG", "info")
        .env_remove("POD_NAME")
        .stderr(log)
        .spawn()
        .unwrap();
    Process { child, own }
}

impl Process {
    pub async fn ready(&self) {
        until("readiness", async || {
            let answer = tokio::net::TcpStream::connect(self.own.metrics).await.is_ok();
            let ready = answer && http(self.own.metrics, "GET /ready", b"").await.0 == 200;
            ready.then_some(())
        })
        .await;
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub async fn ended(&mut self) -> ExitStatus {
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

pub fn admin() -> SecretKey {
    SecretKey::from_seed(&[42; 32]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_stops_end_without_a_signal() {
    let volume = tempfile::tempdir().unwrap();
    let [own] = addresses(1)[..] else { unreachable!() };
    let client = ControlClient::new(&admin()).unwrap();
    for round in 0..50_u64 {
        let mut process = start(volume.path(), own, &admin(), 0);
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
    let mut process = start(volume.path(), own, &admin(), 4_000);
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

/// A pipe that has no room, and whose reader is there and reads nothing.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(b".").is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_takes_neither_stops_nor_ends_the_node() {
    for closed in [true, false] {
        let volume = tempfile::tempdir().unwrap();
        let [own] = addresses(1)[..] else { unreachable!() };
        let (reader, writer) = if closed { std::io::pipe().unwrap() } else { full_pipe() };
        let kept = (!closed).then_some(reader);
        let mut process = start_logging_to(volume.path(), own, &admin(), 0, writer.into());
        birth(&ControlClient::new(&admin()).unwrap(), &[own], &admin()).await;
        process.ready().await;
        for _ in 0..20 {
            let (status, _) = http(own.clients, "POST /v1/payloads?wait=10000", b"on").await;
            assert_eq!(status, 200);
        }
        let text = String::from_utf8(http(own.metrics, "GET /metrics", b"").await.1).unwrap();
        let lost = text.lines().find(|l| l.starts_with("cretoai_log_lines_dropped_total "));
        // What waits for a reader that is there is not lost yet.
        assert_eq!(lost.unwrap() != "cretoai_log_lines_dropped_total 0", closed, "{lost:?}");
        process.signal(rustix::process::Signal::TERM);
        let status = process.ended().await;
        assert_eq!(status.code(), Some(0), "closed: {closed}; {status}");
        drop(kept);
    }
}
