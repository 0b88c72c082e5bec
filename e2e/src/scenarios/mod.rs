//! The scenarios: real API server, real pods, one line each.
//!
//! The rule: a scenario asks the nodes and the API server themselves, from outside. What it cannot
//! show on this Kubernetes (NetworkPolicies are not enforced on the local one) its line says.

mod attacker;
mod birth;
mod check;
mod client;
mod diagnose;
mod faults;
mod input;
mod lab;
mod monitoring;
mod operator;
mod partition;
mod payloads;
mod refusals;
pub mod soak;
mod strangers;
mod traffic;

use crate::{
    figures::seconds,
    process,
    settings::{Reach, Settings},
};
use anyhow::{Result, bail};
use lab::Lab;
use std::time::{Duration, Instant};

/// Which scenarios.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Only these, by name; the cluster that they need is made in any case.
    #[arg(long)]
    only: Vec<String>,
    /// Tells which there are.
    #[arg(long)]
    list: bool,
    /// Leaves the namespaces for looking at.
    #[arg(long, env = "CRETO_KEEP_NAMESPACES", value_parser = clap::builder::BoolishValueParser::new(), default_value = "false", default_missing_value = "true", num_args = 0..=1)]
    keep: bool,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    Install,
    Payloads,
    Latency,
    Client,
    Stranger,
    Input,
    Refusals,
    Follower,
    Leader,
    Partition,
    TwoNodes,
    Adopt,
    Monitoring,
    Operator,
    Attacker,
}

/// Why a scenario cannot be played on this Kubernetes. It counts neither as passed nor as failed.
#[derive(Debug)]
struct Skipped(String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

/// In the order in which they run: the shared cluster is left whole by each.
const ALL: [Scenario; 15] = [
    Scenario::Install,
    Scenario::Payloads,
    Scenario::Latency,
    Scenario::Client,
    Scenario::Stranger,
    Scenario::Input,
    Scenario::Refusals,
    Scenario::Follower,
    Scenario::Leader,
    Scenario::Partition,
    Scenario::TwoNodes,
    Scenario::Adopt,
    Scenario::Monitoring,
    Scenario::Operator,
    Scenario::Attacker,
];

impl Scenario {
    const fn name(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Payloads => "payloads",
            Self::Latency => "latency",
            Self::Client => "client",
            Self::Stranger => "stranger",
            Self::Input => "input",
            Self::Refusals => "refusals",
            Self::Follower => "follower",
            Self::Leader => "leader",
            Self::Partition => "partition",
            Self::TwoNodes => "two-nodes",
            Self::Adopt => "adopt",
            Self::Monitoring => "monitoring",
            Self::Operator => "operator",
            Self::Attacker => "attacker",
        }
    }

    const fn about(self) -> &'static str {
        match self {
            Self::Install => "helm install, apply the sample: 4 of 4 ready, and a quorum",
            Self::Payloads => {
                "1,000 payloads of 1 B to 128 KiB from 4 clients: final, equal and in one order on all nodes"
            }
            Self::Latency => {
                "100 payloads/s of 512 B through the Service; memory of nodes and operator"
            }
            Self::Client => "cretoai, as people type it: submit, tail, get, receipt, verify",
            Self::Stranger => {
                "a pod that is no member, and one with a stolen public key: refused and counted"
            }
            Self::Input => {
                "bad CretoClusters are refused with field and fix; edits by hand are put back"
            }
            Self::Refusals => {
                "bad payloads, and a storm beyond capacity: refused, bounded, nothing accepted is lost"
            }
            Self::Follower => {
                "a follower's pod deleted under load: payloads go on, it comes back as the same and catches up"
            }
            Self::Leader => {
                "kill -9 of the leader under load: another one is elected, no acknowledged payload is lost"
            }
            Self::Partition => {
                "the leader cut off from the others and let back: another one is elected, then one chain again"
            }
            Self::TwoNodes => {
                "kill -9 of two nodes, the leader among them: nothing is final meanwhile, the status names them, nothing is lost"
            }
            Self::Adopt => "the CretoCluster deleted and applied again: the same chain goes on",
            Self::Monitoring => {
                "a real Prometheus: every panel has data, no alert while all is well, a lost quorum is told"
            }
            Self::Operator => {
                "the operator killed at a random moment of ten creations: one genesis, one identity each"
            }
            Self::Attacker => {
                "one of four nodes equivocates, withholds and lies: payloads go on, the evidence is verified, the status names it"
            }
        }
    }

    async fn play(self, lab: &mut Lab) -> Result<String> {
        match self {
            Self::Install => birth::install(lab).await,
            Self::Payloads => payloads::thousand(lab).await,
            Self::Latency => payloads::latency(lab).await,
            Self::Client => client::typed(lab).await,
            Self::Stranger => strangers::refused(lab).await,
            Self::Input => input::refused(lab).await,
            Self::Refusals => refusals::bounded(lab).await,
            Self::Follower => faults::follower(lab).await,
            Self::Leader => faults::leader(lab).await,
            Self::Partition => faults::partition(lab).await,
            Self::TwoNodes => faults::two_nodes(lab).await,
            Self::Adopt => birth::adopt(lab).await,
            Self::Monitoring => monitoring::watched(lab).await,
            Self::Operator => operator::killed(lab).await,
            Self::Attacker => attacker::tolerated(lab).await,
        }
    }

    const fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Operator | Self::Monitoring => 420,
            _ => 300,
        })
    }
}

/// Plays them; whether all passed.
///
/// # Errors
/// They cannot be played at all.
pub async fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        ALL.iter().for_each(|scenario| println!("{:<10} {}", scenario.name(), scenario.about()));
        return Ok(true);
    }
    if let Some(unknown) =
        arguments.only.iter().find(|name| ALL.iter().all(|scenario| scenario.name() != **name))
    {
        bail!(
            "no scenario is named '{unknown}'; there are: {}",
            ALL.map(Scenario::name).join(", ")
        );
    }
    let settings = Settings::from_environment()?;
    if settings.reach != Reach::Direct {
        bail!(
            "the scenarios speak to pods and look into their processes, and CRETO_REACH says that neither is reached from here; unset CRETO_KUBECONFIG to use the local Kubernetes"
        );
    }
    let mut lab = Lab::new(settings).await?;
    let chosen = |scenario: &Scenario| {
        *scenario == Scenario::Install
            || arguments.only.is_empty()
            || arguments.only.iter().any(|name| name == scenario.name())
    };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for scenario in ALL.into_iter().filter(chosen) {
        let began = Instant::now();
        let result = tokio::select! {
            result = tokio::time::timeout(scenario.limit(), scenario.play(&mut lab)) => {
                result.unwrap_or_else(|_| Err(anyhow::anyhow!("did not end within {} s", scenario.limit().as_secs())))
            }
            error = process::interrupted() => {
                if !arguments.keep {
                    lab.clean_up().await;
                }
                return Err(error);
            }
        };
        let took = seconds(began.elapsed());
        match result {
            Ok(figures) => {
                passed += 1;
                println!("ok    {:<10} {took:>8}  {figures}", scenario.name());
            }
            Err(error) if error.is::<Skipped>() => {
                skipped += 1;
                println!("skip  {:<10} {took:>8}  {error}", scenario.name());
            }
            Err(error) => {
                failed += 1;
                println!(
                    "FAIL  {:<10} {took:>8}  {} - {error:#}",
                    scenario.name(),
                    scenario.about()
                );
                diagnose::print(&lab).await;
                if scenario == Scenario::Install {
                    println!("the others need this cluster and are not played");
                    break;
                }
                lab.mend().await;
            }
        }
    }
    if arguments.keep {
        println!(
            "left for looking at: namespaces {} and {}",
            lab.cluster.namespace, lab.installation.namespace
        );
    } else {
        lab.clean_up().await;
    }
    if skipped > 0 {
        println!("{skipped} skipped");
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn scenarios_have_names_of_their_own_and_the_cluster_comes_first() {
        let names: BTreeSet<&str> = ALL.iter().map(|scenario| scenario.name()).collect();
        assert_eq!(names.len(), ALL.len());
        assert_eq!(ALL.first(), Some(&Scenario::Install));
    }
}
