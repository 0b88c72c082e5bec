//! Processes, through /proc: finding those of a pod, what they use, and killing them.

use anyhow::{Context, Result, bail};
use std::{fs, path::Path, process::Stdio};
use tokio::process::Command;

/// Clock ticks of /proc/PID/stat per second. Linux reports 100 to programs on all machines that we
/// run on.
const TICKS: f64 = 100.0;

/// What a process has used and uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Seconds of processor, user and system.
    pub cpu_seconds: f64,
    /// Bytes of memory now.
    pub resident: u64,
    /// The most bytes of memory so far.
    pub peak: u64,
    /// Bytes sent to disks.
    pub written: u64,
}

/// The use of process `pid`, if it lives.
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    Some(Usage {
        cpu_seconds: cpu_seconds(&stat)?,
        resident: field(&status, "VmRSS:") * 1024,
        peak: field(&status, "VmHWM:") * 1024,
        written: field(&io, "write_bytes:"),
    })
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name in brackets may hold anything; after it come state (3rd) ... utime (14th) and stime
    // (15th).
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_whitespace().skip(11);
    let ticks: f64 = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks / TICKS)
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// The processes of pod `uid` whose program is `program`. Seen only from a place that sees the
/// node's processes.
pub fn of_pod(uid: &str, program: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|pid| runs(*pid, program) && belongs(*pid, uid)).collect()
}

fn runs(pid: u32, program: &str) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
    Path::new(&*String::from_utf8_lossy(first)).file_name().is_some_and(|name| name == program)
}

fn belongs(pid: u32, uid: &str) -> bool {
    // Cgroups name the pod by its UID, with underscores where systemd manages them.
    fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .is_ok_and(|text| text.contains(uid) || text.contains(&uid.replace('-', "_")))
}

/// kill -9.
///
/// # Errors
/// The process was there and was not killed.
pub async fn kill(pid: u32) -> Result<()> {
    signal(pid, "KILL").await
}

/// Sends a signal; a process that is gone is no error.
///
/// # Errors
/// The process was there and did not get it.
pub async fn signal(pid: u32, name: &str) -> Result<()> {
    let sent = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .await
        .context("running kill")?;
    if !sent.success() && Path::new(&format!("/proc/{pid}/stat")).exists() {
        bail!(
            "process {pid} could not be sent {name}; this needs root, in the process namespace of the nodes"
        );
    }
    Ok(())
}

/// Waits until somebody wants this process to end (SIGINT or SIGTERM), so that what it started can
/// be ended first.
pub async fn interrupted() -> anyhow::Error {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        }
        // Without handlers the signals end the process at once.
        _ => std::future::pending().await,
    }
    anyhow::anyhow!("interrupted")
}

/// Bytes of all files below `folder`.
pub fn disk_usage(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_usage(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_use_of_a_process_is_read() {
        assert_eq!(
            cpu_seconds("7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 5 1 1"),
            Some(2.0)
        );
        assert_eq!(cpu_seconds("7 (a"), None);
        assert_eq!(field("VmHWM:\t  100 kB\nVmRSS:\t  42 kB\n", "VmRSS:"), 42);
        assert_eq!(field("", "VmRSS:"), 0);
        let own = usage(std::process::id());
        assert!(own.is_some_and(|own| own.resident > 0 && own.peak >= own.resident));
    }
}
