//! The `consensus` column family: what decides who this node is and what it may still sign.
//!
//! | key | value |
//! |---|---|
//! | `genesis` | [`SignedGenesis`] |
//! | `owner` | fingerprint of the key whose votes these are, written with the genesis |
//! | `proposed` | the proposal that this node voted for last, with the leader's vote |
//! | `prepare`, `commit` | its newest vote of each kind |
//! | `prepared` | the newest prepared certificate |
//! | `certificate/` sequence | commit certificates that are kept |
//! | `recent-certificate/` sequence | commit certificates of the newest [`RECENT_CERTIFICATES`] sequences |

use super::{CONSENSUS, Storage, StorageError};
use cretoai_consensus::{Certificate, Hash, Phase, Proposal, Sequence, SignedGenesis, Vote, encode, engine::Execution};
use rocksdb::WriteBatch;

/// So many of the newest sequences keep their commit certificates (about 14 KB each at n = 4).
pub const RECENT_CERTIFICATES: u64 = 256;
/// One in so many keeps it for ever: a range of records is proven by the certificate of its last one.
pub const KEPT_CERTIFICATES: u64 = 16;
/// A record of more vertices than this keeps its certificate too, so that every range fits a frame.
const LARGE_RECORD: usize = 256;

const GENESIS: &[u8] = b"genesis";
const OWNER: &[u8] = b"owner";
const PROPOSED: &[u8] = b"proposed";
const PREPARE: &[u8] = b"prepare";
const COMMIT: &[u8] = b"commit";
const PREPARED: &[u8] = b"prepared";

fn kept(sequence: Sequence) -> Vec<u8> {
    [b"certificate/".as_slice(), &sequence.0.to_be_bytes()].concat()
}

fn recent(sequence: Sequence) -> Vec<u8> {
    [b"recent-certificate/".as_slice(), &sequence.0.to_be_bytes()].concat()
}

/// What this node voted last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LastVotes {
    pub(super) proposed: Option<(Proposal, Vote)>,
    pub(super) votes: Vec<Vote>,
}

impl Storage {
    /// The genesis, once it was accepted.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn genesis(&self) -> Result<Option<SignedGenesis>, StorageError> {
        self.get(CONSENSUS, GENESIS)
    }

    /// Checks that the votes in this store, if there are any, are those of the key with this fingerprint.
    ///
    /// # Errors
    /// [`StorageError::Owner`] if they are another's: this key may have voted what they do not know.
    pub fn check_owner(&self, key: Hash) -> Result<(), StorageError> {
        match self.get::<Hash>(CONSENSUS, OWNER)? {
            Some(owner) if owner != key => Err(StorageError::Owner { path: self.path.clone(), owner, key }),
            _ => Ok(()),
        }
    }

    /// Keeps the genesis, and whose votes this store will hold, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_genesis(&self, genesis: &SignedGenesis, owner: Hash) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        self.put(&mut batch, CONSENSUS, OWNER, &encode(&owner))?;
        self.put(&mut batch, CONSENSUS, GENESIS, &genesis.encode())?;
        self.commit(batch, true)
    }

    pub(super) fn put_vote(&self, batch: &mut WriteBatch, vote: &Vote, proposed: Option<&(Proposal, Vote)>) -> Result<(), StorageError> {
        if let Some(proposed) = proposed {
            self.put(batch, CONSENSUS, PROPOSED, &encode(proposed))?;
        }
        let key = if vote.ballot.phase == Phase::Commit { COMMIT } else { PREPARE };
        self.put(batch, CONSENSUS, key, &encode(vote))
    }

    pub(super) fn put_prepared(&self, batch: &mut WriteBatch, certificate: &Certificate) -> Result<(), StorageError> {
        self.put(batch, CONSENSUS, PREPARED, &encode(certificate))
    }

    pub(super) fn last_votes(&self) -> Result<LastVotes, StorageError> {
        let votes = [self.get(CONSENSUS, PREPARE)?, self.get(CONSENSUS, COMMIT)?];
        Ok(LastVotes { proposed: self.get(CONSENSUS, PROPOSED)?, votes: votes.into_iter().flatten().collect() })
    }

    pub(super) fn put_commit_certificate(&self, batch: &mut WriteBatch, execution: &Execution) -> Result<(), StorageError> {
        let sequence = execution.record.proposal.sequence;
        if let Some(certificate) = &execution.certificate {
            // The end of a learnt range stands alone: without it the range could not be served again.
            let ends_a_range = sequence.0 > 1 && !self.has_commit_certificate(Sequence(sequence.0 - 1))?;
            let keep = sequence.0.is_multiple_of(KEPT_CERTIFICATES) || execution.record.vertices.len() > LARGE_RECORD || ends_a_range;
            let key = if keep { kept(sequence) } else { recent(sequence) };
            self.put(batch, CONSENSUS, &key, &encode(certificate))?;
        }
        if let Some(old) = sequence.0.checked_sub(RECENT_CERTIFICATES) {
            batch.delete_cf(&self.family(CONSENSUS)?, recent(Sequence(old)));
        }
        Ok(())
    }

    /// Whether the commit certificate of a sequence is kept. Reads no more than that: it is asked at every decision.
    fn has_commit_certificate(&self, sequence: Sequence) -> Result<bool, StorageError> {
        let family = self.family(CONSENSUS)?;
        let held = |key: Vec<u8>| self.db.get_pinned_cf(&family, key).map(|found| found.is_some()).map_err(|e| self.failed(e));
        Ok(held(recent(sequence))? || held(kept(sequence))?)
    }

    /// The commit certificate of a sequence, if it is kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn commit_certificate(&self, sequence: Sequence) -> Result<Option<Certificate>, StorageError> {
        match self.get(CONSENSUS, &kept(sequence))? {
            Some(certificate) => Ok(Some(certificate)),
            None => self.get(CONSENSUS, &recent(sequence)),
        }
    }
}
