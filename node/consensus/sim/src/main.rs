//! `cretoai-sim`: runs the simulator.

use cretoai_sim::seeds;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A deterministic simulator of whole CretoAI clusters.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs many seeds with all faults at once.
    Seeds {
        /// How many.
        #[arg(long, default_value_t = 300)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 0)]
        base: u64,
        /// How many at a time; one for each core if not given.
        #[arg(long)]
        threads: Option<usize>,
    },
    /// Runs one seed again.
    Replay {
        /// The seed.
        seed: u64,
        /// Prints what happens.
        #[arg(long)]
        trace: bool,
    },
}

fn closing_line(passed: u64, failed: u64) -> ExitCode {
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Seeds { seeds, base, threads } => {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let summary = seeds::run(base, seeds, threads.unwrap_or(cores));
            summary.print();
            closing_line(summary.passed, summary.failed.len() as u64)
        }
        Verb::Replay { seed, trace } => {
            let (result, _) = seeds::replay(seed, trace);
            closing_line(u64::from(result.is_ok()), u64::from(result.is_err()))
        }
    }
}
