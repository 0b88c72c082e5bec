//! Runs of many seeds, and the replay of one.

use crate::{
    invariants::Broken,
    scenario::Scenario,
    trace::Trace,
    world::{RECOVERY_TIMEOUTS, Report, T0, World},
};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

/// So many failing seeds are reported before the run ends.
const MAX_FAILURES: usize = 10;

/// What many runs were like.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds that kept every rule.
    pub passed: u64,
    /// Seeds that broke one, and which.
    pub failed: Vec<(u64, Broken)>,
    /// Sums over all seeds.
    pub total: Report,
    /// The longest time from healing to all being final, microseconds, and its seed.
    pub slowest: (u64, u64),
    /// Seeds in which some attacker followed a strategy.
    pub attacks: BTreeMap<String, u64>,
    /// Seeds with crashes at random steps.
    pub with_crashes: u64,
}

impl Summary {
    fn add(&mut self, seed: u64, scenario: &Scenario, result: Result<Report, Broken>) {
        for strategy in scenario.strategies() {
            *self.attacks.entry(format!("{strategy:?}")).or_default() += 1;
        }
        match result {
            Ok(report) => {
                self.passed += 1;
                self.with_crashes += u64::from(scenario.crashes > 0);
                self.slowest = self.slowest.max((report.recovery, seed));
                let total = &mut self.total;
                total.events += report.events;
                total.crashes += report.crashes;
                total.sequences += report.sequences;
                total.views += report.views;
                total.epochs += report.epochs;
                for (fault, count) in report.faults {
                    *total.faults.entry(fault).or_default() += count;
                }
            }
            Err(broken) => self.failed.push((seed, broken)),
        }
    }

    /// Prints it.
    pub fn print(&self) {
        let Report { events, crashes, sequences, views, epochs, faults, .. } = &self.total;
        println!(
            "{events} events, {sequences} sequences, {views} view changes, {epochs} epochs, {crashes} stops and crashes"
        );
        println!("faults injected: {}", list(faults));
        println!("seeds with attackers who follow: {}", list(&self.attacks));
        let (micros, seed) = self.slowest;
        println!(
            "slowest recovery: {:.1} T0 = {} ms (seed {seed}); the bound is {RECOVERY_TIMEOUTS} T0",
            micros as f64 / T0 as f64,
            micros / 1000
        );
    }
}

fn list(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

/// What replays a seed.
#[must_use]
pub fn replay_command(seed: u64) -> String {
    format!("cargo run --release -p cretoai-consensus-sim -- replay {seed} --trace")
}

/// Runs seeds `base..base + count`, and goes on after failures, up to ten of them.
#[must_use]
pub fn run(base: u64, count: u64, threads: usize) -> Summary {
    let began = Instant::now();
    let next = AtomicU64::new(base);
    let enough = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= base + count || enough.load(Ordering::Relaxed) {
                        return;
                    }
                    let (scenario, result) = run_one(seed);
                    if let Err(broken) = &result {
                        println!(
                            "seed {seed} breaks a rule: {broken}\n  replay: {}",
                            replay_command(seed)
                        );
                    }
                    let mut summary = summary.lock().unwrap();
                    summary.add(seed, &scenario, result);
                    enough.store(summary.failed.len() >= MAX_FAILURES, Ordering::Relaxed);
                }
            });
        }
    });
    let summary = summary.into_inner().unwrap();
    println!(
        "{} seeds from {base} in {:.1} s",
        summary.passed + summary.failed.len() as u64,
        began.elapsed().as_secs_f64()
    );
    summary
}

fn run_one(seed: u64) -> (Scenario, Result<Report, Broken>) {
    let scenario = Scenario::of_seed(seed);
    // A panic inside an engine breaks a rule, too: no input may stop it.
    let result = std::panic::catch_unwind(|| World::new(Scenario::of_seed(seed)).run());
    (scenario, result.unwrap_or_else(|panic| Err(format!("panic: {}", text_of(&*panic)))))
}

/// What a panic said.
#[must_use]
pub fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Runs one seed again. Gives back how it ended, what happened, and between how many machines.
pub fn replay(seed: u64, print: bool) -> (Result<Report, Broken>, Trace, usize) {
    let mut world = World::new(Scenario::of_seed(seed));
    println!("{:#?}", world.scenario);
    world.trace = Some(Trace { print, ..Trace::default() });
    let result = world.run();
    match &result {
        Ok(report) => println!("{:.3} ms: kept every rule: {report:?}", world.now as f64 / 1000.0),
        Err(broken) => println!("{:.3} ms: {broken}", world.now as f64 / 1000.0),
    }
    (result, world.trace.unwrap_or_default(), world.machines.len())
}
