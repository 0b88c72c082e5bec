//! A long run under load, with one fault after the other: pods killed and cut off at random, never
//! more at a time than the chain tolerates. At the end no acknowledged payload is lost, and all
//! nodes have one chain hash.

use super::{
    check,
    lab::Lab,
    partition::{self, Partition},
    traffic::{Traffic, Way},
};
use crate::{
    figures::{milliseconds, percentile, seconds, table},
    k8s::{Cluster, kubectl, restricted_namespace, until},
    process,
    settings::{Reach, Settings},
};
use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Clients at each of the four nodes.
const CLIENTS: usize = 2;
/// What a client rests between payloads.
const REST: Duration = Duration::from_millis(80);
/// How long the cluster may take to be whole again after a fault.
const WHOLE: Duration = Duration::from_secs(150);

/// How long, and with which faults.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Minutes of load and faults.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// Decides which faults come when; told at the beginning, so that a run can be repeated.
    #[arg(long)]
    seed: Option<u64>,
    /// Tells of each fault when it is over.
    #[arg(long)]
    each: bool,
}

/// What is done to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill { leader: bool },
    Partition { leader: bool },
}

impl Fault {
    fn random(random: &mut StdRng) -> Self {
        let leader = random.random_bool(0.5);
        if random.random_bool(0.5) { Self::Kill { leader } } else { Self::Partition { leader } }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Kill { leader: true } => "kill of the leader",
            Self::Kill { leader: false } => "kill of a follower",
            Self::Partition { leader: true } => "partition of the leader",
            Self::Partition { leader: false } => "partition of a follower",
        }
    }

    const fn hits_the_leader(self) -> bool {
        match self {
            Self::Kill { leader } | Self::Partition { leader } => leader,
        }
    }
}

/// How the faults went: for each kind the longest pauses that clients of the other pods saw, in
/// milliseconds.
type Outages = BTreeMap<Fault, Vec<f64>>;

/// Plays it; whether all held.
///
/// # Errors
/// It cannot be played, or something did not hold.
pub async fn run(arguments: &Arguments) -> Result<bool> {
    let settings = Settings::from_environment()?;
    if settings.reach != Reach::Direct {
        bail!(
            "the soak kills processes of pods and filters their packets, which only the local Kubernetes allows: unset CRETO_KUBECONFIG"
        );
    }
    let lab = Lab::new(settings).await?;
    let result = tokio::select! {
        result = soak(&lab, arguments) => result,
        error = process::interrupted() => Err(error),
    };
    if result.is_err() {
        super::diagnose::print(&lab).await;
    }
    lab.clean_up().await;
    result.map(|()| true)
}

async fn soak(lab: &Lab, arguments: &Arguments) -> Result<()> {
    let cluster = &lab.cluster;
    restricted_namespace(&lab.client, &cluster.namespace).await?;
    lab.installation.install(&lab.settings, &lab.client).await?;
    let sample = lab.settings.samples.join("cretocluster.yaml");
    kubectl(&lab.settings, &["apply", "-n", &cluster.namespace, "-f", &sample.to_string_lossy()])
        .await?;
    cluster.whole(Duration::from_secs(180)).await?;
    partition::possible(cluster).await?;

    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("{} minutes of load and faults on four nodes, seed {seed}", arguments.minutes);
    let ways: Vec<Way> = check::names(cluster).await?.into_iter().map(Way::Pod).collect();
    let traffic = Traffic::begin(cluster, &ways, CLIENTS, REST);
    let began = Instant::now();
    let end = began + Duration::from_secs(arguments.minutes * 60);
    let mut random = StdRng::seed_from_u64(seed);
    let mut outages = Outages::new();
    let faults = async {
        loop {
            tokio::time::sleep(Duration::from_millis(random.random_range(3_000..8_000))).await;
            if Instant::now() >= end {
                return anyhow::Ok(());
            }
            let fault = Fault::random(&mut random);
            let blow = strike(cluster, fault, &traffic, &mut random)
                .await
                .with_context(|| format!("after a {}", fault.name()))?;
            if arguments.each {
                println!("            {}", blow.told(fault));
            }
            outages
                .entry(fault)
                .or_default()
                .push(blow.meanwhile.max(blow.afterwards).as_secs_f64() * 1000.0);
        }
    };
    tokio::select! {
        result = faults => result?,
        () = tell(&traffic, began) => {}
    }
    let lasted = began.elapsed();
    let seen = traffic.end().await?;
    let known = seen.known();
    println!(
        "stopped after {}; reading {} payloads back from each of four nodes",
        seconds(lasted),
        known.len()
    );
    cluster.whole(WHOLE).await?;
    let (sequence, hash) = check::agree(cluster, Duration::from_secs(60)).await?;
    check::all_hold(cluster, &known).await?;
    println!("\n{}", report(&outages));
    println!(
        "{} payloads acknowledged in {}, {} on average per second, none lost; {} attempts failed or were given up while their node was away",
        known.len(),
        seconds(lasted),
        known.len() as u64 / lasted.as_secs().max(1),
        seen.failed + seen.pending.len() as u64
    );
    println!("one chain hash on four nodes at sequence {sequence}: {hash}");
    Ok(())
}

/// One line a minute; never ends.
async fn tell(traffic: &Traffic, began: Instant) {
    let (mut minute, mut before) = (0, 0);
    loop {
        minute += 1;
        let from = began + Duration::from_secs(60 * (minute - 1));
        let to = from + Duration::from_secs(60);
        tokio::time::sleep_until(to.into()).await;
        let line = {
            let seen = traffic.seen();
            let finals = seen.finals.len();
            let sequence = seen.finals.last().map_or(0, |told| told.known.place.0);
            let line = format!(
                "  {minute:>3} min  {:>6} payloads final, {finals} in all, sequence {sequence}; longest pause {}; {} attempts failed so far",
                finals - before,
                milliseconds(Some(seen.longest_pause(from, to, |_| true).as_secs_f64() * 1000.0)),
                seen.failed
            );
            before = finals;
            line
        };
        println!("{line}");
    }
}

/// How a fault went.
struct Blow {
    victim: String,
    /// How long the pod was cut off; to kill one takes a moment.
    lasted: Duration,
    /// The longest pause that clients of the other pods saw in that time.
    meanwhile: Duration,
    /// The same from then on until the cluster was whole again.
    afterwards: Duration,
    /// View and leader before and after.
    terms: [(u64, String); 2],
}

impl Blow {
    fn told(&self, fault: Fault) -> String {
        let pause = |length: Duration| milliseconds(Some(length.as_secs_f64() * 1000.0));
        let [before, after] =
            self.terms.each_ref().map(|(view, leader)| format!("view {view} of {leader}"));
        format!(
            "{} ({}) for {}: longest pause {} meanwhile, {} afterwards; {before}, then {after}",
            fault.name(),
            self.victim,
            seconds(self.lasted),
            pause(self.meanwhile),
            pause(self.afterwards)
        )
    }
}

/// One fault, until the cluster is whole again.
async fn strike(
    cluster: &Cluster,
    fault: Fault,
    traffic: &Traffic,
    random: &mut StdRng,
) -> Result<Blow> {
    let before = check::leader(cluster).await?;
    let leader = before.1.clone();
    let others: Vec<String> =
        check::names(cluster).await?.into_iter().filter(|name| *name != leader).collect();
    let victim = match others.get(random.random_range(0..others.len().max(1))) {
        Some(other) if !fault.hits_the_leader() => other.clone(),
        _ => leader,
    };
    let struck = Instant::now();
    match fault {
        Fault::Kill { .. } => kill(cluster, &victim).await?,
        Fault::Partition { .. } => {
            let length = Duration::from_millis(random.random_range(2_000..12_000));
            let filter = Partition::cut(cluster, &victim).await?;
            tokio::time::sleep(length).await;
            filter.heal().await?;
        }
    }
    let healed = Instant::now();
    let own = Way::Pod(victim.clone());
    until(WHOLE, &format!("payloads of {victim} to be final again"), || {
        let again = traffic
            .seen()
            .finals
            .iter()
            .rev()
            .take_while(|told| told.at > healed)
            .any(|told| told.way == own);
        async move { Ok(if again { Ok(()) } else { Err("none is".to_owned()) }) }
    })
    .await?;
    cluster.whole(WHOLE).await?;
    let others = |way: &Way| *way != own;
    let terms = [before, check::leader(cluster).await?];
    let seen = traffic.seen();
    Ok(Blow {
        lasted: healed.duration_since(struck),
        meanwhile: seen.longest_pause(struck, healed, others),
        afterwards: seen.longest_pause(healed, Instant::now(), others),
        victim,
        terms,
    })
}

/// kill -9 of a node's process; then its pod is deleted, so that the next one starts at once
/// however often this happens.
async fn kill(cluster: &Cluster, victim: &str) -> Result<()> {
    let uid = cluster.api::<Pod>().get(victim).await?.uid().context("a pod without UID")?;
    let processes = process::of_pod(&uid, "cretoai-node");
    ensure!(
        !processes.is_empty(),
        "the process of {victim} is not seen from here, so it cannot be killed"
    );
    for pid in processes {
        process::kill(pid).await?;
    }
    cluster
        .api::<Pod>()
        .delete(victim, &DeleteParams::default().grace_period(0))
        .await
        .context("deleting the pod")?;
    Ok(())
}

fn report(outages: &Outages) -> String {
    let rows: Vec<Vec<String>> = outages
        .iter()
        .map(|(fault, pauses)| {
            let mut sorted = pauses.clone();
            sorted.sort_by(f64::total_cmp);
            let at = |p| milliseconds(percentile(&sorted, p));
            vec![fault.name().to_owned(), pauses.len().to_string(), at(50.0), at(99.0), at(100.0)]
        })
        .collect();
    table(&["fault", "times", "outage: median", "p99", "longest"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_and_all_kinds_come() {
        let faults = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            (0..100).map(|_| Fault::random(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
        assert_eq!(faults(7).into_iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn the_report_has_a_row_for_each_kind() {
        let outages = Outages::from([(Fault::Kill { leader: true }, vec![900.0, 400.0, 500.0])]);
        let text = report(&outages);
        assert!(
            text.contains("kill of the leader")
                && text.contains("500 ms")
                && text.contains("900 ms"),
            "{text}"
        );
    }
}
