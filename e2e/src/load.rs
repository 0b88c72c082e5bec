//! An open-loop client: payloads are due at a constant rate whatever the nodes do, and a payload's
//! latency counts from when it was due until it was told to be final. So a stall is seen by every
//! payload that was due in it.

use crate::{
    api::Client,
    figures::{due, percentile},
};
use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};
use std::{
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, time::sleep_until};

/// What a load is.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Addresses, IP:PORT; payloads are spread over them in turn.
    #[arg(long, value_delimiter = ',', required = true)]
    pub targets: Vec<SocketAddr>,
    /// Payloads per second, all targets together.
    #[arg(long)]
    pub rate: u32,
    /// Seconds before measuring.
    #[arg(long, default_value_t = 3)]
    pub warmup: u32,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 15)]
    pub seconds: u32,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 512)]
    pub size: usize,
    /// Connections to each target.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Seconds after the last payload was due in which it may still become final.
    #[arg(long, default_value_t = 10)]
    pub patience: u32,
}

/// What came of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Payloads that were due in the measured time.
    pub due: u64,
    /// Of these, told to be final.
    pub finalized: u64,
    /// Of these, refused with 429.
    pub refused: u64,
    /// Of these, not final for other reasons: errors, or no answer in time.
    pub failed: u64,
    /// Payloads told to be final within the measured time, per second.
    pub throughput: f64,
    /// Within how many milliseconds half of those that were due and not refused were final;
    /// nothing, if they were not.
    pub p50_ms: Option<f64>,
    /// The same for 99 of 100.
    pub p99_ms: Option<f64>,
    /// The first error, if there was one.
    pub first_error: Option<String>,
}

/// A payload that is due.
struct Due {
    at: Instant,
    data: Bytes,
}

#[derive(Default)]
struct Tally {
    latencies: Vec<f64>,
    in_time: u64,
    refused: u64,
    first_error: Option<String>,
}

/// The measured part of a run.
#[derive(Clone, Copy)]
struct Window {
    from: Instant,
    to: Instant,
}

impl Window {
    fn holds(&self, at: Instant) -> bool {
        at >= self.from && at < self.to
    }
}

/// The hidden subcommand: tells when measuring begins and ends, and what came of it, as lines on
/// standard output.
pub async fn run(arguments: &Arguments) -> Result<()> {
    let outcome = drive(arguments, |event| {
        println!("{event}");
        // The parent reads figures of the nodes at this moment; if it is gone, the next line ends
        // us.
        if std::io::stdout().flush().is_err() {}
    })
    .await?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// Offers the load. `event` is told "measuring" and "measured" when the measured time begins and
/// ends.
///
/// # Errors
/// The load makes no sense.
pub async fn drive(arguments: &Arguments, mut event: impl FnMut(&str)) -> Result<Outcome> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let start = Instant::now() + Duration::from_millis(200);
    let from = start + Duration::from_secs(arguments.warmup.into());
    let window = Window { from, to: from + Duration::from_secs(arguments.seconds.into()) };
    let deadline = window.to + Duration::from_secs(arguments.patience.into());
    let mut queues = Vec::new();
    let mut workers = Vec::new();
    for target in &arguments.targets {
        let (sender, receiver) = mpsc::unbounded_channel();
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        queues.push(sender);
        for _ in 0..arguments.connections {
            let (receiver, tally) = (Arc::clone(&receiver), Arc::clone(&tally));
            workers.push(tokio::spawn(work(*target, receiver, tally, window)));
        }
    }
    let total = u64::from(arguments.rate) * u64::from(arguments.warmup + arguments.seconds);
    let measured_from = u64::from(arguments.rate) * u64::from(arguments.warmup);
    let mut random = SmallRng::from_os_rng();
    for index in 0..total {
        let at = start + due(index, arguments.rate);
        if at > Instant::now() {
            sleep_until(at.into()).await;
        }
        if index == measured_from {
            event("measuring");
        }
        let mut data = vec![0; arguments.size];
        random.fill_bytes(&mut data);
        let queue = usize::try_from(index).unwrap_or_default() % queues.len().max(1);
        // Fails only if every worker of the target has ended, which is counted as not final below.
        if let Some(queue) = queues.get(queue)
            && queue.send(Due { at, data: data.into() }).is_err()
        {}
    }
    sleep_until(window.to.into()).await;
    event("measured");
    drop(queues);
    let mut workers = workers;
    let all = futures::future::join_all(workers.iter_mut());
    if tokio::time::timeout_at(deadline.into(), all).await.is_err() {
        workers.iter().for_each(tokio::task::JoinHandle::abort);
    }
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(outcome(&tally, u64::from(arguments.rate) * u64::from(arguments.seconds), arguments.seconds))
}

fn outcome(tally: &Tally, due: u64, seconds: u32) -> Outcome {
    let mut sorted = tally.latencies.clone();
    sorted.sort_by(f64::total_cmp);
    let finalized = sorted.len() as u64;
    let failed = due.saturating_sub(finalized + tally.refused);
    // What never became final took longer than all that did; leaving it out would flatter an
    // overload.
    sorted.extend(std::iter::repeat_n(f64::INFINITY, usize::try_from(failed).unwrap_or_default()));
    let finite = |p| percentile(&sorted, p).filter(|value| value.is_finite());
    Outcome {
        due,
        finalized,
        refused: tally.refused,
        failed,
        throughput: tally.in_time as f64 / f64::from(seconds.max(1)),
        p50_ms: finite(50.0),
        p99_ms: finite(99.0),
        first_error: tally.first_error.clone(),
    }
}

type Queue = Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Due>>>;

async fn work(target: SocketAddr, queue: Queue, tally: Arc<Mutex<Tally>>, window: Window) {
    let mut client = Client::new(target);
    loop {
        let next = queue.lock().await.recv().await;
        let Some(Due { at, data }) = next else { return };
        let answer = client.post(data, Duration::from_secs(60)).await;
        let now = Instant::now();
        let result = answer.and_then(|answer| {
            if answer.status.as_u16() == 429 { Ok(None) } else { answer.receipt().map(Some) }
        });
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(Some(receipt)) if receipt.is_final() => {
                if window.holds(now) {
                    tally.in_time += 1;
                }
                if window.holds(at) {
                    tally.latencies.push(now.duration_since(at).as_secs_f64() * 1000.0);
                }
            }
            Ok(None) => tally.refused += u64::from(window.holds(at)),
            Ok(Some(receipt)) => tally.fail(|| {
                format!("payload {} is {} ({:?})", receipt.id, receipt.status, receipt.outcome)
            }),
            Err(error) => tally.fail(|| format!("{error:#}")),
        }
    }
}

impl Tally {
    fn fail(&mut self, why: impl FnOnce() -> String) {
        if self.first_error.is_none() {
            self.first_error = Some(why());
        }
    }
}

/// Random bytes of a random length.
pub fn random_payload(longest: usize) -> Bytes {
    let mut random = SmallRng::from_os_rng();
    let mut data = vec![0; random.random_range(1..=longest)];
    random.fill_bytes(&mut data);
    data.into()
}

/// The last line that a load printed.
pub fn parse_outcome(line: &str) -> Result<Outcome> {
    serde_json::from_str(line).with_context(|| format!("the load generator ended with: {line}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_has_no_answer_counts_as_failed() {
        let tally =
            Tally { latencies: vec![5.0, 1.0, 3.0], in_time: 2, refused: 1, ..Tally::default() };
        let outcome = outcome(&tally, 6, 2);
        assert_eq!((outcome.finalized, outcome.refused, outcome.failed), (3, 1, 2));
        assert_eq!((outcome.p50_ms, outcome.p99_ms, outcome.throughput), (Some(5.0), None, 1.0));
        assert_eq!(parse_outcome(&serde_json::to_string(&outcome).unwrap()).unwrap(), outcome);
    }

    #[test]
    fn payloads_are_of_any_allowed_size_and_differ() {
        for _ in 0..100 {
            assert!((1..=10).contains(&random_payload(10).len()));
        }
        assert_ne!(random_payload(131_072), random_payload(131_072));
    }
}
