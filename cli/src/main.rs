//! `cretoai`: submits payloads to a ledger, reads them, follows what is decided, and verifies
//! receipts. It speaks to port 8080 of a node, or of a Service before several.

mod client;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use client::{Client, Naming};
use cretoai_control::{api::NodeStatus, keys::MlDsa87};
use cretoai_types::{Receipt, SignedGenesis};
use serde_json::Value;
use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How long a payload may become final after it was submitted first.
const VALID: Duration = Duration::from_secs(30);
/// The most that a file may have. A genesis of 31 members has 230 KiB.
const LARGEST_FILE: u64 = 16 << 20;
/// The most bytes of a payload.
const LARGEST_PAYLOAD: u64 = 128 << 10;

#[derive(Parser)]
#[command(
    name = "cretoai",
    version,
    about = "Submits, reads, follows and verifies what is on a CretoAI ledger"
)]
struct Arguments {
    /// Address of a node or of a Service; several are tried in turn.
    #[arg(
        long,
        short,
        global = true,
        env = "CRETO_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080"
    )]
    server: Vec<String>,
    /// How answers are printed.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Human)]
    output: Output,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Human,
    Json,
}

#[derive(Subcommand)]
enum Verb {
    /// Submits a payload, and waits until it is final.
    Submit {
        /// The file with the bytes; - is the standard input.
        file: PathBuf,
        /// The topic under which it is filed.
        #[arg(long)]
        topic: Option<String>,
        /// Its idempotency key, 32 hexadecimal digits. The default is a random one.
        #[arg(long, requires = "valid_until")]
        key: Option<String>,
        /// Until when it may execute, Unix milliseconds. The default is 30 s from now.
        #[arg(long)]
        valid_until: Option<u64>,
        /// Returns when a node has taken the payload in.
        #[arg(long)]
        no_wait: bool,
    },
    /// Writes a payload's bytes to the standard output; with -o json, its place beside them.
    Get {
        /// The payload's id.
        id: String,
    },
    /// Prints every record as it is decided, each once, in order.
    Tail {
        /// The first sequence. The default is what is decided next.
        #[arg(long)]
        from: Option<u64>,
        /// Only payloads of this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Ends after so many records.
        #[arg(long)]
        count: Option<u64>,
    },
    /// Saves the receipt of a payload, which `verify` reads.
    Receipt {
        /// The payload's id.
        id: String,
        /// Where it is written. The default is ID.receipt.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Says what a receipt proves, with no server's word.
    Verify {
        /// The receipt.
        receipt: PathBuf,
        /// The genesis of the chain that it must be of.
        #[arg(long)]
        genesis: PathBuf,
    },
    /// Says what one node says of itself and of the quorum.
    Status,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads no more has had enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cretoai: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Verb::Verify { receipt, genesis } = &arguments.verb {
        return verify(receipt, genesis);
    }
    let mut client = Client::new(&arguments.server)?;
    let json = arguments.output == Output::Json;
    match &arguments.verb {
        Verb::Submit { file, topic, key, valid_until, no_wait } => {
            let data = read(file, LARGEST_PAYLOAD)?;
            let now = unix_ms();
            let naming = Naming {
                key: key.clone().unwrap_or_else(|| hex::encode(rand::random::<[u8; 16]>())),
                valid_until_ms: valid_until
                    .unwrap_or(now + u64::try_from(VALID.as_millis()).unwrap_or(u64::MAX)),
            };
            let limit = Duration::from_millis(naming.valid_until_ms.saturating_sub(now));
            let answer = client
                .submit(&data, topic.as_deref(), &naming, !no_wait, limit)
                .with_context(|| again(&naming))?;
            let pending = answer.status == 202 && !no_wait;
            submitted(&answer.success()?, json)?;
            if pending {
                bail!("it is not final yet; {}", again(&naming));
            }
        }
        Verb::Get { id } => {
            let path = format!("/v1/payloads/{id}");
            if json {
                let status = client.get_json(&path)?.success()?;
                print(&[&status[..], b"\n"].concat())?;
            } else {
                let answer = client.get(&path)?;
                if answer.status == 202 {
                    bail!("payload {id} is not final yet");
                }
                print(&answer.success()?)?;
            }
        }
        Verb::Tail { from, topic, count } => {
            let mut left = count.unwrap_or(u64::MAX);
            if left == 0 {
                return Ok(());
            }
            client.follow(*from, topic.as_deref(), |data| {
                let text = if json { format!("{data}\n") } else { record(data)? };
                print(text.as_bytes())?;
                left -= 1;
                Ok(left > 0)
            })?;
        }
        Verb::Receipt { id, file } => {
            let bytes = receipt(&mut client, id)?;
            let file = file.clone().unwrap_or_else(|| format!("{id}.receipt").into());
            std::fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))?;
            print(format!("{}\n", file.display()).as_bytes())?;
        }
        Verb::Status => status(&client.get("/v1/status")?.success()?, json)?,
        Verb::Verify { .. } => {}
    }
    Ok(())
}

/// How to repeat a submission so that it executes at most once.
fn again(naming: &Naming) -> String {
    format!(
        "submit the same file again with --key {} --valid-until {}: it executes at most once",
        naming.key, naming.valid_until_ms
    )
}

fn submitted(body: &[u8], json: bool) -> Result<()> {
    if json {
        return print(&[body, b"\n"].concat());
    }
    let told: Value = serde_json::from_slice(body).context("the answer is no JSON")?;
    let id = told["id"].as_str().unwrap_or_default();
    match (told["status"].as_str(), told["sequence"].as_u64()) {
        (Some("final"), Some(sequence)) => {
            print(format!("{id}  final at sequence {sequence}\n").as_bytes())
        }
        _ => print(format!("{id}  pending\n").as_bytes()),
    }
}

/// A record's lines: one for each payload.
fn record(data: &str) -> Result<String> {
    let record: Value = serde_json::from_str(data).context("the event is no JSON")?;
    let sequence = record["sequence"].as_u64().context("the record has no sequence")?;
    let mut text = String::new();
    for payload in record["payloads"].as_array().into_iter().flatten() {
        let word = |name: &str| payload[name].as_str().unwrap_or_default().to_owned();
        let topic = payload["topic"].as_str().map_or_else(String::new, |t| format!("  {t:?}"));
        text += &format!(
            "{sequence:>8}.{:<4} {}  {}{topic}\n",
            payload["index"].as_u64().unwrap_or_default(),
            word("id"),
            word("outcome")
        );
    }
    Ok(text)
}

/// The receipt, once the chain has proven the payload's place.
fn receipt(client: &mut Client, id: &str) -> Result<Vec<u8>> {
    for _ in 0..20 {
        let answer = client.get(&format!("/v1/receipts/{id}"))?;
        let waits = answer.status == 404
            && String::from_utf8_lossy(&answer.body).contains("receipt_not_ready");
        if !waits {
            return answer.success();
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    bail!("nothing proves the place of payload {id} yet; the next decision will: ask again later")
}

fn verify(receipt: &Path, genesis: &Path) -> Result<()> {
    let signed = SignedGenesis::decode(&read(genesis, LARGEST_FILE)?)
        .with_context(|| format!("{} is no genesis", genesis.display()))?;
    signed
        .verify(&MlDsa87)
        .with_context(|| format!("the genesis {} does not hold", genesis.display()))?;
    let proves_nothing = || format!("{} proves nothing", receipt.display());
    let decoded = Receipt::decode(&read(receipt, LARGEST_FILE)?).with_context(proves_nothing)?;
    decoded.verify(&signed.genesis, &MlDsa87).with_context(proves_nothing)?;
    print(format!("{decoded}\na quorum of the chain's validators signed it\n").as_bytes())
}

fn status(body: &[u8], json: bool) -> Result<()> {
    if json {
        return print(&[body, b"\n"].concat());
    }
    let status: NodeStatus = serde_json::from_slice(body).context("the answer is no status")?;
    let quorum = status.quorum.as_ref().map_or_else(
        || "no quorum is known".to_owned(),
        |quorum| {
            format!(
                "{} of {} validators decide, and {} may lie or fail",
                quorum.required, quorum.members, quorum.fault_tolerance
            )
        },
    );
    let ready = if status.ready { "ready".to_owned() } else { status.waiting_for.clone() };
    print(
        format!(
            "{} ({:?}, {}): {ready}\nsequence {}, view {}, epoch {}, led by {}\n{quorum}\n",
            status.name,
            status.role,
            status.version,
            status.sequence,
            status.view,
            status.epoch,
            status.leader.as_deref().unwrap_or("nobody that it knows"),
        )
        .as_bytes(),
    )
}

/// Reads a file, or the standard input, of at most so many bytes.
fn read(file: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let what = || format!("reading {}", file.display());
    if file == Path::new("-") {
        std::io::stdin().lock().take(most + 1).read_to_end(&mut bytes).with_context(what)?;
    } else {
        let open = std::fs::File::open(file).with_context(what)?;
        open.take(most + 1).read_to_end(&mut bytes).with_context(what)?;
    }
    if bytes.len() as u64 > most {
        bail!("{} has more than {most} bytes, which is the most", file.display());
    }
    Ok(bytes)
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_make_sense() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_record_is_a_line_for_each_payload() {
        let data = r#"{"sequence":12,"payloads":[
            {"index":0,"id":"aa","outcome":"executed","topic":"orders"},
            {"index":1,"id":"bb","outcome":"expired"}]}"#;
        assert_eq!(
            record(data).unwrap(),
            "      12.0    aa  executed  \"orders\"\n      12.1    bb  expired\n"
        );
        assert!(record("{}").is_err());
    }
}
