//! Orders of the admin key that change the validators. The first valid RECONFIG that a sequence
//! executes ends the epoch at that sequence.

use crate::{
    crypto::{PublicKey, Signature},
    domain::Domain,
    hash::Hash,
    ids::{Epoch, NodeId, Sequence},
    quorum::MAX_MEMBERS,
    validators::Parameters,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// One step from one set of validators to the next.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Change {
    /// Adds a validator with the next id.
    Add {
        /// The name of the new validator.
        name: String,
        /// The key of the new validator.
        key: PublicKey,
    },
    /// Removes a validator.
    Remove {
        /// The validator to remove.
        id: NodeId,
    },
    /// Gives a validator a new key while it still holds the old one.
    Rotate {
        /// The validator that rotates its key.
        id: NodeId,
        /// The new key.
        key: PublicKey,
    },
    /// Gives a validator that lost its volume a new key, which has never voted.
    Replace {
        /// The validator that is replaced.
        id: NodeId,
        /// The new key.
        key: PublicKey,
    },
    /// Replaces the admin key.
    RotateAdmin {
        /// The new key.
        key: PublicKey,
    },
    /// Replaces the shared intervals.
    SetParameters(Parameters),
}

impl Change {
    /// The key that the change brings in, if there is one.
    #[must_use]
    pub const fn new_key(&self) -> Option<&PublicKey> {
        match self {
            Self::Add { key, .. }
            | Self::Rotate { key, .. }
            | Self::Replace { key, .. }
            | Self::RotateAdmin { key } => Some(key),
            Self::Remove { .. } | Self::SetParameters(_) => None,
        }
    }
}

/// The claim of a new key that its node follows the chain, shown by a recent chain hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Ready {
    /// One of the last 64 multiples of 64; 0 is the genesis.
    pub sequence: Sequence,
    /// The chain hash after that sequence.
    pub chain_hash: Hash,
}

/// The content of an order.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Reconfig {
    /// The epoch that the order ends.
    pub epoch: Epoch,
    /// The order is void in decisions after this time and in those more than a minute before it;
    /// Unix milliseconds.
    pub valid_until_ms: u64,
    /// The change of the validators.
    pub change: Change,
    /// The recent chain hash that the new key knows. Adding and replacing need it.
    pub ready: Option<Ready>,
}

impl Reconfig {
    /// The bytes that the admin key signs, and in a rotation the old key, too.
    #[must_use]
    pub fn signing_message(&self, chain_id: Hash) -> Vec<u8> {
        Domain { chain_id, epoch: self.epoch }.signing_message("creto reconfig v1", self)
    }

    /// The bytes that the new key signs: the epoch, the change and the chain hash that it knows.
    #[must_use]
    pub fn possession_message(&self, chain_id: Hash) -> Vec<u8> {
        Domain { chain_id, epoch: self.epoch }
            .signing_message("creto new key v1", &(&self.change, self.ready))
    }
}

/// An order with all its signatures.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SignedReconfig {
    /// The order.
    pub reconfig: Reconfig,
    /// The admin key's signature.
    pub admin: Signature,
    /// The new key's signature, if the change brings a key in.
    pub new_key: Option<Signature>,
    /// The old key's signature, if a validator rotates its key. In a rotation of the admin key the
    /// old key is the admin key, which signs anyway.
    pub old_key: Option<Signature>,
}

/// Why an order is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Void {
    /// The order is for another epoch, too late, or valid for more than a minute.
    #[error(
        "the order is of another epoch, has expired, or is valid for more than a minute; make it anew for this epoch"
    )]
    Late,
    /// A signature is missing or does not verify.
    #[error(
        "a signature is missing or does not verify; the admin key signs, a new key, and the old key of a rotation"
    )]
    Signature,
    /// The new key is or was in use.
    #[error("the new key is or was in use on this chain; make a fresh one")]
    KeyUsed,
    /// There is no such validator, or the new name is empty, too long or taken.
    #[error(
        "no validator has this id, or the new name is empty, too long or taken; look at the members"
    )]
    Member,
    /// The protocol does not know the resulting number of validators.
    #[error(
        "it would leave no validator, or more than {MAX_MEMBERS}, or more than 3 under fault model `crash`"
    )]
    Count,
    /// The new key's node does not know the chain.
    #[error(
        "READY is missing or names no recent chain hash of this chain; ask the new node for it again"
    )]
    Ready,
    /// No cluster can run with the parameters.
    #[error(
        "its parameters are not sound: no interval may be 0, the window is at least two checkpoint intervals, and recent_payloads at least {MAX_MEMBERS}"
    )]
    Parameters,
}
