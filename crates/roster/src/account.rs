//! What one node says, and what Kubernetes says about its pod.

/// What a node is to the chain, in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has no genesis yet.
    Waiting,
    /// It follows the chain without a vote.
    Learner,
    /// It asks the others what it signed before it was started again, and does not vote yet.
    Checking,
    /// It votes.
    Validator,
    /// Its volume was restored from an older copy: it never votes again with its key.
    Stale,
}

/// A node's account of itself, from the holder of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What it is to the chain.
    pub role: Role,
    /// The chain that it is on, 64 hexadecimal digits.
    pub chain: Option<String>,
    /// Its epoch.
    pub epoch: u64,
    /// Its view.
    pub view: u64,
    /// The name of that view's leader.
    pub leader: Option<String>,
    /// The newest sequence that it executed.
    pub sequence: u64,
    /// The chain hash of that sequence.
    pub chain_hash: String,
    /// Sequences and chain hashes of its newest records.
    pub recent: Vec<(u64, String)>,
    /// The names of the members against whom evidence counted.
    pub suspected: Vec<String>,
    /// What it hears of the other members.
    pub hears: Vec<Heard>,
    /// Whether it is a validator that hears a quorum and has caught up.
    pub ready: bool,
    /// What it waits for.
    pub waits_for: String,
    /// Its version.
    pub version: String,
}

/// What a node hears of another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its name.
    pub name: String,
    /// Whether there are connections in both directions.
    pub connected: bool,
    /// The newest sequence that it reported.
    pub sequence: u64,
    /// Milliseconds since it was last heard.
    pub ago_ms: Option<u64>,
}

/// What Kubernetes says about a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Whether its container runs.
    pub running: bool,
    /// Whether the kubelet says that it is ready.
    pub ready: bool,
    /// Whether it is being deleted.
    pub leaving: bool,
    /// When it should be gone, if it is being deleted, in Unix milliseconds.
    pub leaving_ms: Option<u64>,
    /// What Kubernetes says is wrong with it.
    pub trouble: Option<String>,
    /// Whether it was made from the newest template.
    pub newest: bool,
    /// When it was made, in Unix milliseconds.
    pub made_ms: Option<u64>,
    /// Since when it is ready, in Unix milliseconds.
    pub ready_since_ms: Option<u64>,
    /// How often its container was started again.
    pub restarts: u32,
}

/// What came back when a node was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its account.
    Account(Box<Account>),
    /// Its pod refused the connection: no process serves there, and one that does not serve does
    /// not vote, because a node opens its ports before it speaks to its peers.
    NotServing(String),
    /// No answer in time; the sentence says what happened.
    Silent(String),
    /// An answer that proves that it is not the validator; the sentence says how.
    Refused(String),
}

/// All that is seen of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Its pod.
    pub pod: Option<PodFacts>,
    /// Its answer, if it was asked.
    pub answer: Option<Answer>,
    /// Since when it surely casts no vote, as the look before this one knew, in Unix milliseconds.
    pub absent_since_ms: Option<u64>,
    /// Whether proof of violations of it was agreed on before.
    pub was_suspected: bool,
}
