//! What happened in a run, for people.

use cretoai_consensus::Message;
use cretoai_types::{Phase, Sequence};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A message, from one machine to another, and when it arrives if it does.
    Sent {
        /// When, microseconds.
        at: u64,
        /// Sender.
        from: usize,
        /// Recipient.
        to: usize,
        /// What kind.
        kind: &'static str,
        /// When it arrives.
        arrives: Option<u64>,
    },
    /// A decision was carried out.
    Executed {
        /// When, microseconds.
        at: u64,
        /// Where.
        node: usize,
        /// Which.
        sequence: Sequence,
    },
    /// A process ended.
    Down {
        /// When, microseconds.
        at: u64,
        /// Where.
        node: usize,
    },
    /// A process started.
    Up {
        /// When, microseconds.
        at: u64,
        /// Where.
        node: usize,
    },
    /// Anything else.
    Note {
        /// When, microseconds.
        at: u64,
        /// What.
        text: String,
    },
}

/// All of it, in order.
#[derive(Debug, Default)]
pub struct Trace {
    /// What happened.
    pub entries: Vec<Entry>,
    /// Whether it is printed at once.
    pub print: bool,
}

impl Trace {
    /// Notes something.
    pub fn add(&mut self, entry: Entry) {
        if self.print
            && let Some(line) = line(&entry)
        {
            println!("{line}");
        }
        self.entries.push(entry);
    }
}

/// As a line; nothing for heartbeats, which would hide everything else.
fn line(entry: &Entry) -> Option<String> {
    let ms = |at: u64| format!("{:>10.3} ms  ", at as f64 / 1000.0);
    Some(match entry {
        Entry::Sent { kind: "Status" | "Acknowledge", .. } => return None,
        Entry::Sent { at, from, to, kind, arrives: Some(arrives) } => {
            format!(
                "{}{from} -> {to}  {kind} (arrives {:.3} ms)",
                ms(*at),
                *arrives as f64 / 1000.0
            )
        }
        Entry::Sent { at, from, to, kind, arrives: None } => {
            format!("{}{from} -> {to}  {kind} is lost", ms(*at))
        }
        Entry::Executed { at, node, sequence } => {
            format!("{}node {node} executes {sequence}", ms(*at))
        }
        Entry::Down { at, node } => format!("{}node {node} stops", ms(*at)),
        Entry::Up { at, node } => format!("{}node {node} starts", ms(*at)),
        Entry::Note { at, text } => format!("{}{text}", ms(*at)),
    })
}

/// A word for a message.
#[must_use]
pub const fn kind(message: &Message) -> &'static str {
    match message {
        Message::Vertex(_) => "Vertex",
        Message::Acknowledge { .. } => "Acknowledge",
        Message::PrePrepare { .. } => "PRE-PREPARE",
        Message::Vote(vote) => match vote.ballot.phase {
            Phase::Commit => "COMMIT",
            Phase::Prepare | Phase::PrePrepare => "PREPARE",
        },
        Message::Status(_) => "Status",
        Message::ViewChange(_) => "VIEW-CHANGE",
        Message::NewView(_) => "NEW-VIEW",
        Message::Checkpoint(_) => "Checkpoint",
        Message::Stable(_) => "Stable",
        Message::FetchRecords { .. } => "FetchRecords",
        Message::Records { .. } => "Records",
        Message::FetchLane { .. } => "FetchLane",
        Message::FetchBranch { .. } => "FetchBranch",
        Message::Fetched(_) => "Fetched",
        Message::Recall => "Recall",
        Message::Recalled(_) => "Recalled",
    }
}
