//! Changes of the validators: what the admin key orders, and when it is valid.
//!
//! The first valid RECONFIG that a sequence executes ends its epoch there.

use crate::{
    crypto::{PublicKey, Signature},
    domain::Domain,
    hash::Hash,
    ids::{Epoch, NodeId, Sequence},
    validators::Parameters,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// One step from one set of validators to the next.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Change {
    /// A new validator, with the next id.
    Add {
        /// Its name.
        name: String,
        /// Its key.
        key: PublicKey,
    },
    /// One validator less.
    Remove {
        /// Which.
        id: NodeId,
    },
    /// A validator changes its key, which it still has.
    Rotate {
        /// Which.
        id: NodeId,
        /// The new key.
        key: PublicKey,
    },
    /// A validator that lost its volume gets a new key, which has never voted.
    Replace {
        /// Which.
        id: NodeId,
        /// The new key.
        key: PublicKey,
    },
    /// Another admin key.
    RotateAdmin {
        /// The new key.
        key: PublicKey,
    },
    /// Other shared intervals.
    SetParameters(Parameters),
}

impl Change {
    /// The key that it brings in.
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

/// A new key's word that its node follows the chain: it knows a recent chain hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Ready {
    /// One of the last 64 sequences that 64 divides; 0 is the genesis.
    pub sequence: Sequence,
    /// The chain hash there.
    pub chain_hash: Hash,
}

/// What the admin orders.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Reconfig {
    /// The epoch that it ends.
    pub epoch: Epoch,
    /// Void in decisions after this time, and more than a minute before it; Unix milliseconds.
    pub valid_until_ms: u64,
    /// The step.
    pub change: Change,
    /// What the new key knows; needed by add and replace.
    pub ready: Option<Ready>,
}

impl Reconfig {
    /// What the admin key signs, and the old key of a rotation.
    #[must_use]
    pub fn signing_message(&self, chain_id: Hash) -> Vec<u8> {
        Domain { chain_id, epoch: self.epoch }.signing_message("creto reconfig v1", self)
    }

    /// What the new key signs: the epoch, the change and what it knows.
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
    /// The admin key's.
    pub admin: Signature,
    /// The new key's, if there is one.
    pub new_key: Option<Signature>,
    /// The old key's, if a validator rotates (an admin key's old key is the admin).
    pub old_key: Option<Signature>,
}

/// Why an order is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Void {
    /// Made for another epoch, too late, or for more than a minute ahead.
    #[error("it is not of this epoch, too late, or valid for more than a minute")]
    Late,
    /// A signature that is missing or does not verify.
    #[error("a signature is missing or does not verify")]
    Signature,
    /// A key that is or was in use.
    #[error("its key is or was in use")]
    KeyUsed,
    /// No such validator, or a name that is taken.
    #[error("there is no such validator, or its name is taken")]
    Member,
    /// A number of validators that the protocol does not know.
    #[error("it leads to a number of validators that cannot be")]
    Count,
    /// The new key's node does not know the chain.
    #[error("READY is missing or not of this chain")]
    Ready,
    /// Parameters that no cluster can run with.
    #[error("its parameters are not sound")]
    Parameters,
}
