//! The table, and the JSON.

use super::{Arguments, PAYLOAD, nodes};
use crate::{
    figures::{bytes, median, milliseconds, table},
    load::Outcome,
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;

/// The figures of one run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Payloads per second that were offered.
    pub rate: u32,
    /// What the client saw.
    pub outcome: Outcome,
    /// Processors that the nodes kept busy, all together.
    pub cpu: f64,
    /// Bytes of memory of the largest node.
    pub resident: u64,
    /// Bytes that all nodes sent to the disk in the measured time.
    pub written: u64,
    /// Bytes of all nodes' folders after it.
    pub on_disk: u64,
}

/// The medians of the runs at one rate.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    rate: u32,
    throughput: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    cpu: f64,
    resident: f64,
    written: f64,
    on_disk: f64,
    refused: f64,
    failed: f64,
}

fn line(rate: u32, runs: &[Run]) -> Line {
    let of = |figure: &dyn Fn(&Run) -> Option<f64>| {
        median(&runs.iter().filter(|run| run.rate == rate).filter_map(figure).collect::<Vec<_>>())
    };
    // A run without a figure is one that was too slow for it.
    let latency = |figure: &dyn Fn(&Run) -> Option<f64>| {
        of(&|run| Some(figure(run).unwrap_or(f64::INFINITY))).filter(|value| value.is_finite())
    };
    let share =
        |figure: &dyn Fn(&Run) -> u64| of(&|run| Some(figure(run) as f64)).unwrap_or_default();
    Line {
        rate,
        throughput: of(&|run| Some(run.outcome.throughput)).unwrap_or_default(),
        p50_ms: latency(&|run| run.outcome.p50_ms),
        p99_ms: latency(&|run| run.outcome.p99_ms),
        cpu: of(&|run| Some(run.cpu)).unwrap_or_default(),
        resident: share(&|run| run.resident),
        written: share(&|run| run.written),
        on_disk: share(&|run| run.on_disk),
        refused: share(&|run| run.outcome.refused),
        failed: share(&|run| run.outcome.failed),
    }
}

impl Line {
    fn cells(&self) -> Vec<String> {
        vec![
            format!("{}/s", self.rate),
            format!("{:.0}", self.throughput),
            milliseconds(self.p50_ms),
            milliseconds(self.p99_ms),
            format!("{:.2}", self.cpu),
            bytes(self.resident as u64),
            bytes(self.written as u64),
            bytes(self.on_disk as u64),
            format!("{:.0}", self.refused),
            format!("{:.0}", self.failed),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "rate": self.rate, "throughput": self.throughput, "p50Ms": self.p50_ms, "p99Ms": self.p99_ms, "nodesCpu": self.cpu,
            "residentBytesOfLargestNode": self.resident, "writtenBytesOfAllNodes": self.written, "diskBytesOfAllNodes": self.on_disk,
            "refused": self.refused, "failed": self.failed,
        })
    }
}

const HEAD: [&str; 10] = [
    "offered",
    "tx/s",
    "p50",
    "p99",
    "processors",
    "memory",
    "written",
    "on disk",
    "refused",
    "failed",
];

/// Prints the table and writes the file.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, arguments: &Arguments, runs: &[Run]) -> Result<()> {
    let lines: Vec<Line> = arguments.rates.iter().map(|rate| line(*rate, runs)).collect();
    println!("\n{}", table(&HEAD, &lines.iter().map(Line::cells).collect::<Vec<_>>()));
    println!(
        "medians of {} runs. tx/s: told to be final within the measured {} s. Latency: from when a payload was due until it was",
        arguments.runs, arguments.seconds
    );
    println!(
        "told to be final. processors: of the {} nodes together, of {} in this machine, which the client shares. memory: the largest node.",
        nodes::COUNT,
        processors()
    );
    println!(
        "written, on disk: all nodes together, within the measured time and after it. failed: not final 10 s after it; -: too many of them for this figure."
    );
    for line in lines.iter().filter(|line| line.throughput < 0.99 * f64::from(line.rate)) {
        println!(
            "{} payloads/s could not be carried: {:.0}/s is what this machine reached, and the latency is that of an overload.",
            line.rate, line.throughput
        );
    }
    let document = json!({
        "nodes": nodes::COUNT, "payloadBytes": PAYLOAD, "warmupSeconds": arguments.warmup, "measuredSeconds": arguments.seconds,
        "runs": arguments.runs, "processors": processors(), "version": env!("CARGO_PKG_VERSION"),
        "medians": lines.iter().map(Line::json).collect::<Vec<_>>(),
        "all": runs.iter().map(|run| json!({
            "rate": run.rate, "client": run.outcome, "nodesCpu": run.cpu, "residentBytesOfLargestNode": run.resident,
            "writtenBytesOfAllNodes": run.written, "diskBytesOfAllNodes": run.on_disk,
        })).collect::<Vec<_>>(),
    });
    std::fs::write(path, format!("{document:#}\n"))
        .with_context(|| format!("writing {}", path.display()))
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_the_medians_of_its_rate_alone() {
        let run = |rate, throughput, p50_ms| Run {
            rate,
            outcome: Outcome { throughput, p50_ms, ..Outcome::default() },
            cpu: 1.0,
            resident: 1_000_000,
            written: 0,
            on_disk: 0,
        };
        let runs = [
            run(100, 99.0, Some(3.0)),
            run(100, 100.0, Some(1.0)),
            run(100, 90.0, None),
            run(1000, 5.0, Some(9.0)),
        ];
        let line = line(100, &runs);
        assert_eq!((line.throughput, line.p50_ms, line.p99_ms), (99.0, Some(3.0), None));
        assert_eq!(line.cells().len(), HEAD.len());
    }
}
