//! The `consensus` column family, but for proofs and evidence: what decides who this node is and
//! what it may still sign.
//!
//! | key | value |
//! |---|---|
//! | `genesis` | [`SignedGenesis`] |
//! | `format` | the format of the whole store, written with the genesis |
//! | `owner` | fingerprint of the key whose votes these are, written with the genesis |
//! | `state` | [`ChainState`] after the newest decision, or with which the epoch began |
//! | `validators/` epoch | [`Validators`] of every epoch after the first; kept for ever |
//! | `successor` | those of the next epoch, between its order and its beginning |
//! | `view-change`, `new-view` | what made this node enter its view, and what began it |
//! | `prepared` | the prepared certificate of the highest view, with its proposal |
//! | `proposed` | the proposal that this node voted for last, with the leader's vote |
//! | `prepare`, `commit` | its newest vote of each kind |
//! | `checkpoint`, `stable` | its newest checkpoint; the stable one |
//! | `mark` | the newest thing of each kind that it signed |
//! | `stale` | there if its key must never sign again |
//!
//! Votes, views and what was prepared are of the current epoch only: the beginning of the next
//! erases them.

use super::{CONSENSUS, FORMAT, Storage, StorageError};
use cretoai_consensus::engine::{Mark, Turn, Write};
use cretoai_types::{
    ChainState, Checkpoint, CheckpointCertificate, Epoch, Genesis, Hash, Phase, Prepared, Proposal,
    Sequence, SignedGenesis, Validators, Vote, encode,
};
use rocksdb::WriteBatch;

const GENESIS: &[u8] = b"genesis";
const OWNER: &[u8] = b"owner";
const FORMAT_KEY: &[u8] = b"format";
pub(super) const STATE: &[u8] = b"state";
pub(super) const SUCCESSOR: &[u8] = b"successor";
pub(super) const VIEW_CHANGE: &[u8] = b"view-change";
pub(super) const NEW_VIEW: &[u8] = b"new-view";
pub(super) const PREPARED: &[u8] = b"prepared";
pub(super) const PROPOSED: &[u8] = b"proposed";
pub(super) const PREPARE: &[u8] = b"prepare";
pub(super) const COMMIT: &[u8] = b"commit";
pub(super) const CHECKPOINT: &[u8] = b"checkpoint";
pub(super) const STABLE: &[u8] = b"stable";
pub(super) const MARK: &[u8] = b"mark";
pub(super) const STALE: &[u8] = b"stale";

fn validators(epoch: Epoch) -> Vec<u8> {
    [b"validators/".as_slice(), &epoch.0.to_be_bytes()].concat()
}

/// The key of a vote.
fn slot_of(vote: &Vote) -> &'static [u8] {
    if vote.ballot.phase == Phase::Commit { COMMIT } else { PREPARE }
}

impl Storage {
    /// The genesis, once it was accepted.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn genesis(&self) -> Result<Option<SignedGenesis>, StorageError> {
        self.get(CONSENSUS, GENESIS)
    }

    /// Checks that the votes in this store, if there are any, are those of the key with this
    /// fingerprint.
    ///
    /// # Errors
    /// [`StorageError::Owner`] if they are another's: this key may have voted what they do not
    /// know.
    pub fn check_owner(&self, key: Hash) -> Result<(), StorageError> {
        match self.get::<Hash>(CONSENSUS, OWNER)? {
            Some(owner) if owner != key => {
                Err(StorageError::Owner { path: self.path.clone(), owner, key })
            }
            _ => Ok(()),
        }
    }

    /// Checks that a store that is in use has this release's format.
    pub(super) fn check_format(&self) -> Result<(), StorageError> {
        let used = self.get::<Hash>(CONSENSUS, OWNER)?.is_some();
        let found = self.get::<u32>(CONSENSUS, FORMAT_KEY)?.unwrap_or(1);
        if used && found != FORMAT {
            return Err(StorageError::Format { path: self.path.clone(), found });
        }
        Ok(())
    }

    /// Keeps the genesis, and whose votes this store will hold, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_genesis(&self, genesis: &SignedGenesis, owner: Hash) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        self.put(&mut batch, CONSENSUS, FORMAT_KEY, &encode(&FORMAT))?;
        self.put(&mut batch, CONSENSUS, OWNER, &encode(&owner))?;
        self.put(&mut batch, CONSENSUS, GENESIS, &genesis.encode())?;
        self.commit(batch, true)
    }

    /// The validators of an epoch that was opened here.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn validators(
        &self,
        genesis: &Genesis,
        epoch: Epoch,
    ) -> Result<Option<Validators>, StorageError> {
        if epoch == Epoch(0) {
            return Ok(Some(genesis.validators()));
        }
        self.get(CONSENSUS, &validators(epoch))
    }

    /// The state after the newest decision, or with which the epoch began.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn state(&self, genesis: &Genesis) -> Result<ChainState, StorageError> {
        Ok(self.get(CONSENSUS, STATE)?.unwrap_or_else(|| ChainState::at_genesis(genesis)))
    }

    pub(super) fn put_vote(
        &self,
        batch: &mut WriteBatch,
        vote: &Vote,
        proposed: Option<&(Proposal, Vote)>,
    ) -> Result<(), StorageError> {
        if let Some(proposed) = proposed {
            self.put(batch, CONSENSUS, PROPOSED, &encode(proposed))?;
        }
        self.put(batch, CONSENSUS, slot_of(vote), &encode(vote))
    }

    pub(super) fn put_epoch(
        &self,
        batch: &mut WriteBatch,
        certificate: &CheckpointCertificate,
        opened: &Validators,
        state: &ChainState,
    ) -> Result<(), StorageError> {
        self.put_epoch_certificate(batch, certificate)?;
        self.put(batch, CONSENSUS, &validators(opened.epoch), &encode(opened))?;
        self.put(batch, CONSENSUS, STATE, &encode(state))?;
        let family = self.family(CONSENSUS)?;
        for key in [SUCCESSOR, VIEW_CHANGE, NEW_VIEW, PREPARED, PROPOSED, PREPARE, COMMIT] {
            batch.delete_cf(&family, key);
        }
        Ok(())
    }

    /// Erases votes and what was prepared up to a stable checkpoint. What this very turn wrote
    /// stays: it takes the place of what is in the store, and the next checkpoint erases it.
    pub(super) fn erase_votes(
        &self,
        batch: &mut WriteBatch,
        turn: &Turn,
        stable: Sequence,
    ) -> Result<(), StorageError> {
        let of_vote = |vote: Vote| vote.ballot.sequence;
        let held = [
            (PREPARE, self.get(CONSENSUS, PREPARE)?.map(of_vote)),
            (COMMIT, self.get(CONSENSUS, COMMIT)?.map(of_vote)),
            (
                PROPOSED,
                self.get::<(Proposal, Vote)>(CONSENSUS, PROPOSED)?
                    .map(|(proposal, _)| proposal.sequence),
            ),
            (
                PREPARED,
                self.get::<Prepared>(CONSENSUS, PREPARED)?
                    .map(|prepared| prepared.certificate.sequence),
            ),
        ];
        let written = |key: &[u8]| {
            turn.writes.iter().any(|write| match write {
                Write::Vote { vote, proposed } => {
                    slot_of(vote) == key || (key == PROPOSED && proposed.is_some())
                }
                Write::Prepared(_) => key == PREPARED,
                _ => false,
            })
        };
        let family = self.family(CONSENSUS)?;
        for (key, sequence) in held {
            if sequence.is_some_and(|sequence| sequence <= stable) && !written(key) {
                batch.delete_cf(&family, key);
            }
        }
        Ok(())
    }

    pub(super) fn put_signed(
        &self,
        batch: &mut WriteBatch,
        key: &'static [u8],
        value: &impl borsh::BorshSerialize,
    ) -> Result<(), StorageError> {
        self.put(batch, CONSENSUS, key, &encode(value))
    }

    /// The newest thing of each kind that this node signed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn mark(&self) -> Result<Option<Mark>, StorageError> {
        self.get(CONSENSUS, MARK)
    }

    pub(super) fn own_checkpoint(&self) -> Result<Option<Checkpoint>, StorageError> {
        self.get(CONSENSUS, CHECKPOINT)
    }
}
