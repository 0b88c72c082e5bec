//! Four node processes on loopback with everything on: post-quantum TLS, signed votes, fsync. An
//! open-loop client, a process of its own, offers constant rates.
//!
//! The rule: a figure that could not be reached is reported as what was reached, never left out.

mod nodes;
mod report;

use crate::{
    figures::{bytes, milliseconds},
    load::{self, Outcome},
    process::{self, Usage},
};
use anyhow::{Context, Result, bail};
use nodes::Nodes;
use report::Run;
use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// Bytes of a payload.
pub const PAYLOAD: usize = 512;

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Payloads per second.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000])]
    rates: Vec<u32>,
    /// Measured seconds of a run.
    #[arg(long, env = "CRETO_BENCH_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Seconds before them.
    #[arg(long, default_value_t = 3)]
    warmup: u32,
    /// Runs of each rate; the median counts.
    #[arg(long, env = "CRETO_BENCH_RUNS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    runs: u32,
    /// Connections to each node; more for higher rates, if it is left out.
    #[arg(long)]
    connections: Option<usize>,
    /// The node's binary.
    #[arg(long, env = "CRETO_NODE_BINARY", default_value = "target/release/cretoai-node")]
    node: PathBuf,
    /// Where the figures go, as JSON. The nodes' folders are made beside it.
    #[arg(long, env = "CRETO_BENCH_OUT", default_value = "target/bench/bench.json")]
    out: PathBuf,
}

/// Runs it all.
///
/// # Errors
/// The nodes do not come up, or nothing could be measured. The nodes are ended in any case.
pub async fn run(arguments: &Arguments) -> Result<()> {
    let folder = arguments
        .out
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let estimate =
        arguments.rates.len() as u32 * arguments.runs * (arguments.seconds + arguments.warmup + 6);
    println!(
        "{} nodes on loopback, {PAYLOAD} B payloads, {} s measured after {} s, {} runs of each rate; takes about {} min",
        nodes::COUNT,
        arguments.seconds,
        arguments.warmup,
        arguments.runs,
        estimate.div_ceil(60)
    );
    let mut runs = Vec::new();
    for &rate in &arguments.rates {
        for number in 1..=arguments.runs {
            // Each run begins with an empty ledger, so that the runs are alike.
            let mut nodes = Nodes::start(&arguments.node, &folder.join("nodes")).await?;
            let result = tokio::select! {
                result = measure(arguments, rate, &nodes) => result,
                error = process::interrupted() => Err(error),
            };
            let complaint = nodes.dead();
            nodes.stop().await;
            let run = match (result, complaint) {
                (_, Some(complaint)) => bail!("{complaint}"),
                (Err(error), None) => {
                    return Err(error.context(format!(
                        "at {rate} payloads/s; the nodes' logs are in {}",
                        folder.join("nodes").display()
                    )));
                }
                (Ok(run), None) => run,
            };
            println!("  {rate}/s, run {number}: {}", describe(&run));
            runs.push(run);
        }
    }
    std::fs::remove_dir_all(folder.join("nodes")).unwrap_or_default();
    report::write(&arguments.out, arguments, &runs)
}

fn describe(run: &Run) -> String {
    let mut text = format!(
        "{:.0} tx/s, p50 {}, p99 {}, processors {:.2}, memory of a node {}",
        run.outcome.throughput,
        milliseconds(run.outcome.p50_ms),
        milliseconds(run.outcome.p99_ms),
        run.cpu,
        bytes(run.resident)
    );
    if run.outcome.refused + run.outcome.failed > 0 {
        text.push_str(&format!(
            ", {} refused and {} failed of {}",
            run.outcome.refused, run.outcome.failed, run.outcome.due
        ));
    }
    if let Some(error) = &run.outcome.first_error {
        text.push_str(&format!(" (first error: {error})"));
    }
    text
}

async fn measure(arguments: &Arguments, rate: u32, nodes: &Nodes) -> Result<Run> {
    let mut client = Command::new(std::env::current_exe()?)
        .arg("load")
        .args(["--targets", &nodes.api_addresses().map(|address| address.to_string()).join(",")])
        .args([
            "--rate",
            &rate.to_string(),
            "--seconds",
            &arguments.seconds.to_string(),
            "--warmup",
            &arguments.warmup.to_string(),
        ])
        .args([
            "--size",
            &PAYLOAD.to_string(),
            "--connections",
            &arguments.connections.unwrap_or_else(|| connections(rate)).to_string(),
        ])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting the load generator")?;
    let mut lines = BufReader::new(client.stdout.take().context("no output")?).lines();
    let (mut before, mut after, mut outcome): (Option<Sample>, Option<Sample>, Option<Outcome>) =
        (None, None, None);
    let limit = Duration::from_secs(u64::from(arguments.seconds + arguments.warmup) + 60);
    let reading = async {
        while let Some(line) = lines.next_line().await? {
            match line.as_str() {
                "measuring" => before = Some(Sample::of(nodes)),
                "measured" => after = Some(Sample::of(nodes)),
                line => outcome = Some(load::parse_outcome(line)?),
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(limit, reading)
        .await
        .context("the load generator did not end in time")??;
    let status = client.wait().await?;
    let (Some(before), Some(after), Some(outcome)) = (before, after, outcome) else {
        bail!("the load generator ended with {status} and no figures")
    };
    let wall = after.at.duration_since(before.at).as_secs_f64();
    let cpu: f64 = after
        .usage
        .iter()
        .zip(&before.usage)
        .map(|(after, before)| after.cpu_seconds - before.cpu_seconds)
        .sum();
    let written = after
        .usage
        .iter()
        .zip(&before.usage)
        .map(|(after, before)| after.written.saturating_sub(before.written))
        .sum();
    Ok(Run {
        rate,
        outcome,
        cpu: cpu / wall,
        resident: after.usage.iter().map(|usage| usage.resident).max().unwrap_or_default(),
        written,
        on_disk: process::disk_usage(nodes.folder()),
    })
}

/// Enough connections that waiting for finality does not hold the rate back at a second of latency,
/// as far as files go.
fn connections(rate: u32) -> usize {
    usize::try_from(rate / 16).unwrap_or(256).clamp(16, 512)
}

/// What the nodes have used up to a moment.
struct Sample {
    at: Instant,
    usage: Vec<Usage>,
}

impl Sample {
    fn of(nodes: &Nodes) -> Self {
        Self {
            at: Instant::now(),
            usage: nodes.pids().map(|pid| process::usage(pid).unwrap_or_default()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn connections_grow_with_the_rate_within_bounds() {
        assert_eq!(super::connections(1), 16);
        assert_eq!(super::connections(1_000), 62);
        assert_eq!(super::connections(1_000_000), 512);
    }
}
