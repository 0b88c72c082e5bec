//! What shows that CretoAI works on real parts: the demo and the scenarios on a real Kubernetes,
//! and the benchmark on real processes.
//!
//! The rule: nothing is simulated. Where a check is weaker than it sounds, the line that reports it
//! says so.

mod api;
mod bench;
mod demo;
mod figures;
mod install;
mod k8s;
mod load;
mod process;
mod progress;
mod scenarios;
mod settings;
mod stranger;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The demo, the end-to-end scenarios and the benchmark of CretoAI.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs the operator, makes a cluster of four nodes, submits payloads, removes a pod;
    /// leaves it running.
    Demo,
    /// Removes what the demo installed, with its data.
    DemoDown,
    /// Runs the scenarios on a real Kubernetes; ends with "N passed, N failed".
    Scenarios(scenarios::Arguments),
    /// Minutes of load on a real Kubernetes while pods are killed and cut off; ends with a table.
    Soak(scenarios::soak::Arguments),
    /// Four node processes on loopback under an open load.
    Bench(bench::Arguments),
    /// The open-loop client of the benchmark, a process of its own.
    #[command(hide = true)]
    Load(load::Arguments),
    /// Tries to get into a node without being a member. Runs as a pod in the scenarios.
    #[command(hide = true)]
    Stranger(stranger::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    // kube and this crate may bring more than one provider; the process has to name one.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("error: another cryptography provider was installed first");
        return ExitCode::FAILURE;
    }
    let result = match Arguments::parse().command {
        Command::Demo => demo::up().await.map(|()| true),
        Command::DemoDown => demo::down().await.map(|()| true),
        Command::Scenarios(arguments) => scenarios::run(&arguments).await,
        Command::Soak(arguments) => scenarios::soak::run(&arguments).await,
        Command::Bench(arguments) => bench::run(&arguments).await.map(|()| true),
        Command::Load(arguments) => load::run(&arguments).await.map(|()| true),
        Command::Stranger(arguments) => stranger::run(&arguments).await.map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
