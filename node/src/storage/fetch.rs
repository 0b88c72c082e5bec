//! Answers to what peers ask for, straight from the store.

use super::{Storage, StorageError};
use cretoai_consensus::{MAX_FETCHED_VERTICES, MAX_RECORDS, Message};
use cretoai_types::{Epoch, Height, MAX_FRAME, NodeId, Sequence, Tip, encode};
use std::sync::Arc;

/// The most bytes of vertices in answer to one request; what is missing is asked for again.
const MAX_ANSWER: usize = 4 << 20;
/// What an answer has beside its records and their proof.
const HEAD: usize = 64;

impl Storage {
    /// Records of an epoch from `from` on, up to one whose proof is kept: as many as fit one frame,
    /// and none of another epoch. If the epoch ended before `from`: its end. Nothing when neither
    /// is here.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn records(&self, epoch: Epoch, from: Sequence) -> Result<Option<Message>, StorageError> {
        let mut records = Vec::new();
        let mut bytes = HEAD;
        let mut answer = None;
        let last = from.0.saturating_add(MAX_RECORDS as u64);
        for sequence in (from.0..last).map(Sequence) {
            let Some(finalized) =
                self.finalized(sequence)?.filter(|finalized| finalized.epoch == epoch)
            else {
                break;
            };
            bytes += encode(&finalized.record).len();
            records.push(finalized.record);
            if bytes > MAX_FRAME {
                break;
            }
            if let Some(proof) = self.proof(sequence)?
                && bytes + encode(&proof).len() <= MAX_FRAME
            {
                answer = Some((records.len(), proof));
            }
        }
        if let Some((count, proof)) = answer {
            records.truncate(count);
            return Ok(Some(Message::Records { epoch, records, proof }));
        }
        let end = self.epoch_certificate(epoch)?.filter(|end| end.state.sequence < from);
        Ok(end.map(|end| Message::Stable(Arc::new(end))))
    }

    /// Vertices of a lane with heights `above` < h <= `up_to`, ascending: all of a slot, of
    /// whatever epoch.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn lane(
        &self,
        author: NodeId,
        above: Height,
        up_to: Height,
    ) -> Result<Vec<Message>, StorageError> {
        let mut answer = Vec::new();
        let mut bytes = 0;
        let last = up_to.0.min(above.0.saturating_add(MAX_FETCHED_VERTICES));
        for height in (above.0.saturating_add(1)..=last).map(Height) {
            let ids = self.slot(author, height)?;
            if ids.is_empty() || bytes > MAX_ANSWER {
                break;
            }
            for vertex in ids.iter().map(|id| self.vertex(id)) {
                let Some(vertex) = vertex? else { continue };
                bytes += vertex.header.payload_bytes as usize + 8192;
                answer.push(Message::Fetched(Arc::new(vertex)));
            }
        }
        Ok(answer)
    }

    /// The vertex `tip` of a lane and its ancestors above `above`, from the top down: each is the
    /// parent that the one before it names. Ends where a vertex is not stored.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn branch(
        &self,
        author: NodeId,
        tip: Tip,
        above: Height,
    ) -> Result<Vec<Message>, StorageError> {
        let mut answer = Vec::new();
        let (mut wanted, mut bytes) = (tip.id, 0);
        while answer.len() < MAX_FETCHED_VERTICES as usize && bytes <= MAX_ANSWER {
            let Some(vertex) = self.vertex(&wanted)? else { break };
            if vertex.header.author != author || vertex.header.height <= above {
                break;
            }
            bytes += vertex.header.payload_bytes as usize + 8192;
            wanted = vertex.header.parent;
            answer.push(Message::Fetched(Arc::new(vertex)));
        }
        Ok(answer)
    }
}
