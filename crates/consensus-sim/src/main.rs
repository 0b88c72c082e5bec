//! `cretoai-sim`: runs the simulator.

use clap::{Parser, Subcommand};
use cretoai_consensus_sim::{invariants::Broken, network::Weather, outage, seeds, svg, twins};
use std::{path::PathBuf, process::ExitCode};

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
        /// Draws the messages over time into this file.
        #[arg(long)]
        svg: Option<PathBuf>,
    },
    /// Breaks one rule after the other, and shows that the checks notice.
    #[cfg(feature = "mutants")]
    Mutants {
        /// How many at a time; one for each core if not given.
        #[arg(long)]
        threads: Option<usize>,
    },
    /// Tries every scenario of partitions in which one of four nodes runs twice.
    Twins {
        /// For how long.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// What longer scenarios are drawn from.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// All scenarios of up to so many rounds, before longer ones are drawn.
        #[arg(long, default_value_t = 2)]
        rounds: usize,
    },
    /// Measures how long nothing is decided when one node after the other is killed or cut off, and
    /// comes back.
    Strike {
        /// How many clusters.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 0)]
        base: u64,
    },
    /// Measures needless view changes, and outages, from a LAN to a wide WAN.
    Bars {
        /// How many seeds of each.
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        /// Minutes without a fault.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Measures how long nothing is decided when the leader is killed.
    Outage {
        /// How many seeds.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 0)]
        base: u64,
    },
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn closing_line(passed: u64, failed: u64) -> ExitCode {
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Seeds { seeds, base, threads } => {
            let summary = seeds::run(base, seeds, threads.unwrap_or_else(cores));
            summary.print();
            closing_line(summary.passed, summary.failed.len() as u64)
        }
        Verb::Replay { seed, trace, svg } => replay(seed, trace, svg),
        #[cfg(feature = "mutants")]
        Verb::Mutants { threads } => {
            println!("| mutant | rule | caught by | seeds needed |\n|---|---|---|---|");
            let hunts = cretoai_consensus_sim::mutants::hunt_all(threads.unwrap_or_else(cores));
            let caught = hunts.iter().filter(|hunt| hunt.is_caught()).count();
            closing_line(caught as u64, (hunts.len() - caught) as u64)
        }
        Verb::Twins { seconds, seed, rounds } => {
            let tried = twins::explore(seconds, seed, rounds);
            for (scenario, broken) in &tried.failed {
                println!("{scenario} breaks a rule: {broken}");
            }
            println!(
                "all scenarios of up to {} rounds, and {} longer ones",
                tried.whole_rounds, tried.sampled
            );
            closing_line(tried.passed, tried.failed.len() as u64)
        }
        Verb::Strike { seeds, base } => match outage::strike(base, seeds) {
            Ok(outages) => {
                let ms = |micros: u64| micros / 1000;
                for (blow, outages) in &outages {
                    let (longest, seed) = outages.longest();
                    let (p50, p99) = (outages.per_mille(500), outages.per_mille(990));
                    println!(
                        "{blow:?}: {} times, p50 {} ms, p99 {} ms, max {} ms (seed {seed})",
                        outages.count(),
                        ms(p50),
                        ms(p99),
                        ms(longest)
                    );
                }
                closing_line(seeds, 0)
            }
            Err(broken) => {
                println!("{broken}");
                closing_line(0, 1)
            }
        },
        Verb::Bars { seeds, minutes } => match bars(seeds, minutes) {
            Ok(()) => closing_line(1, 0),
            Err(broken) => {
                println!("{broken}");
                closing_line(0, 1)
            }
        },
        Verb::Outage { seeds, base } => match outage::Outages::measure(base, seeds) {
            Ok(outages) => {
                let ms = |micros: u64| micros as f64 / 1000.0;
                let (p50, p99, (longest, _)) =
                    (outages.per_mille(500), outages.per_mille(990), outages.longest());
                println!(
                    "leader killed under load, {seeds} seeds: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
                    ms(p50),
                    ms(p99),
                    ms(longest)
                );
                println!("the bar is p99 < {} ms", outage::BAR / 1000);
                closing_line(u64::from(p99 < outage::BAR), u64::from(p99 >= outage::BAR))
            }
            Err(broken) => {
                println!("{broken}");
                closing_line(0, 1)
            }
        },
    }
}

fn bars(seeds: u64, minutes: u64) -> Result<(), Broken> {
    for one_way in [1, 30, 60, 100, 150] {
        let views = outage::needless_views(one_way * 1_000, minutes)?;
        let weather = Weather::exactly(one_way * 1_000);
        let (longest, seed) = outage::Outages::measure_in(weather, 0, seeds)?.longest();
        println!(
            "{one_way} ms one way: {views} needless view changes in {minutes} minutes; leader killed: at most {} ms = {:.1} delays (seed {seed})",
            longest / 1_000,
            longest as f64 / (one_way * 1_000) as f64
        );
    }
    let (longest, seed) = outage::Outages::without_quorum(0, seeds)?.longest();
    println!(
        "after a minute without a quorum: the first decision within {} ms (seed {seed})",
        longest / 1_000
    );
    Ok(())
}

fn replay(seed: u64, trace: bool, file: Option<PathBuf>) -> ExitCode {
    let (result, trace, machines) = seeds::replay(seed, trace);
    if let Some(file) = file {
        if let Err(error) = std::fs::write(&file, svg::draw(&trace, machines)) {
            println!("{} cannot be written: {error}", file.display());
            return ExitCode::FAILURE;
        }
        println!("{}", file.display());
    }
    closing_line(u64::from(result.is_ok()), u64::from(result.is_err()))
}
