//! What the front of a node (its ports) asks of the back (store and engine), and nothing more: the
//! two meet in these traits, so that each is tested without the other.

use crate::{
    config::Config,
    metrics::Metrics,
    storage::{Decided, Receipted},
};
use cretoai_control::{
    api::{EvidenceList, NodeStatus},
    keys::SecretKey,
};
use cretoai_types::{
    Epoch, Hash, Outcome, Payload, PublicKey, Ready, Sequence, SignedGenesis, SignedReconfig,
};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::sync::{oneshot, watch};

/// The running ledger, as clients see it.
pub trait Ledger: Send + Sync + 'static {
    /// Takes a payload in, to be sealed into the next vertex. Never blocks.
    ///
    /// # Errors
    /// [`SubmitError`]; then nothing was taken in.
    fn submit(&self, payload: Payload) -> Result<SubmitTicket, SubmitError>;

    /// What is known of the payload with this id. May read the disk.
    ///
    /// # Errors
    /// A sentence, when the store cannot be read.
    fn lookup(&self, id: &Hash) -> Result<Option<Lookup>, String>;

    /// The receipt for a payload. May read the disk.
    ///
    /// # Errors
    /// A sentence, when the store cannot be read.
    fn receipt(&self, id: &Hash) -> Result<Receipted, String>;

    /// What a sequence decided, or nothing if it is not executed here. May read the disk.
    ///
    /// # Errors
    /// A sentence, when the store cannot be read.
    fn decided(&self, sequence: Sequence) -> Result<Option<Decided>, String>;

    /// The newest executed sequence, as it grows; nothing once the node stops.
    fn newest(&self) -> watch::Receiver<Option<Sequence>>;

    /// Evidence that the chain counted, at most `count` from number `first` on. May read the disk.
    ///
    /// # Errors
    /// A sentence, when the store cannot be read.
    fn evidence(&self, first: usize, count: usize) -> Result<EvidenceList, String>;

    /// Passes the admin's order on, to be judged by the decision that executes it.
    ///
    /// # Errors
    /// Why it is void as far as this node knows; then it is not passed on.
    fn reconfigure(&self, order: SignedReconfig) -> Result<(), String>;

    /// The epoch, and the newest place in the chain that READY may name. May read the disk.
    ///
    /// # Errors
    /// A sentence, when the store cannot be read.
    fn knows(&self) -> Result<(Epoch, Ready), String>;

    /// Lets the holders of these keys connect and fetch.
    fn admit_learners(&self, keys: Vec<PublicKey>);

    /// This node's account of itself.
    fn status(&self) -> NodeStatus;

    /// Why this process should be restarted, or nothing: its engine or its disk stands still.
    fn death(&self) -> Option<String> {
        None
    }

    /// The commit time of the newest record, Unix milliseconds.
    fn newest_time_ms(&self) -> u64;
}

/// A payload that was taken in.
#[derive(Debug)]
pub struct SubmitTicket {
    /// The payload's id.
    pub id: Hash,
    /// Resolves when a decision ordered the payload; closes without a value when the node stops
    /// first.
    pub outcome: oneshot::Receiver<Place>,
}

/// Where a decision put a payload, and what became of it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The decision's sequence.
    pub sequence: Sequence,
    /// The payload's position in that decision, from 0.
    pub index: u32,
    /// The chain hash of that decision.
    pub chain_hash: Hash,
    /// The decision's time, Unix milliseconds.
    pub time_ms: u64,
    /// What the chain says of it.
    pub outcome: Outcome,
}

/// What is known of a payload. What waits to be ordered once more is pending, whatever its last
/// order brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Taken in, not yet ordered.
    Pending,
    /// Ordered, and not waiting.
    Final {
        /// Where, and with which outcome.
        place: Place,
        /// The payload itself.
        payload: Payload,
    },
}

/// Why a payload was not taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// As much is waiting as the node is willing to hold.
    Full {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The disk is as full as it may become; the sentence says what to do.
    NoSpace(String),
    /// The node cannot take anything now; the sentence says why.
    NotReady(String),
}

/// The store's side of a node's birth.
pub trait Birth: Send + Sync + 'static {
    /// The chain that the store holds, if any.
    fn chain_id(&self) -> Option<Hash>;

    /// The genesis of that chain.
    fn genesis(&self) -> Option<SignedGenesis>;

    /// Writes a genesis durably. It has been verified: the admin key's signature, all proofs, this
    /// node among its members unless it is to be a learner. The same one again is accepted.
    ///
    /// # Errors
    /// [`GenesisRefused`].
    fn accept_genesis(&self, genesis: SignedGenesis) -> Result<(), GenesisRefused>;
}

/// Why a genesis was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisRefused {
    /// The volume holds another chain.
    #[error(
        "this node's volume holds chain {held} and was offered chain {offered}; a volume never changes its chain: \
         give this pod the volume of the offered chain, or an empty one"
    )]
    OtherChain {
        /// What the volume holds.
        held: Hash,
        /// What was offered.
        offered: Hash,
    },
    /// It could not be made durable.
    #[error("the genesis could not be written: {0}")]
    Storage(String),
}

/// The back of a node: opens the store, later starts the engine on it.
pub trait Runtime: Send + Sync + 'static {
    /// The opened store.
    type Store: Birth;
    /// The running node.
    type Node: Ledger;

    /// Opens or makes the store of the node with this key.
    ///
    /// # Errors
    /// When the database cannot be opened, or belongs to another key.
    fn open(
        config: &Config,
        key: &SecretKey,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Arc<Self::Store>>;

    /// Starts transport and engine, after the genesis is in the store.
    ///
    /// # Errors
    /// When the transport cannot listen or the store cannot be read.
    fn start(
        config: &Config,
        key: &SecretKey,
        genesis: SignedGenesis,
        store: Arc<Self::Store>,
        metrics: Arc<Metrics>,
    ) -> impl Future<Output = anyhow::Result<Arc<Self::Node>>> + Send;

    /// Is ready no more, serves on for `grace`, hands the leadership over, takes nothing more in,
    /// and tells whoever still waits that the node stops: the same bytes may be sent to another
    /// node. At most 2 s beyond the grace.
    fn leave(node: Arc<Self::Node>, grace: Duration) -> impl Future<Output = ()> + Send;

    /// Stops: the last turn is finished, the transport is closed, and no thread works on the store
    /// any more. At most 6 s.
    fn stop(node: Arc<Self::Node>) -> impl Future<Output = ()> + Send;
}
