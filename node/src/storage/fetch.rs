//! Answers to what peers ask for, straight from the store.

use super::{Storage, StorageError};
use cretoai_consensus::{Height, MAX_FETCHED_VERTICES, MAX_FRAME, MAX_RECORDS, Message, NodeId, Sequence, encode};
use std::sync::Arc;

/// The most bytes of vertices in answer to one request; what is missing is asked for again.
const MAX_ANSWER: usize = 4 << 20;

impl Storage {
    /// Records from `from` on, up to one whose commit certificate is kept: as many as fit one frame. Nothing when
    /// none is here.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn records(&self, from: Sequence) -> Result<Option<Message>, StorageError> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut answer = None;
        for sequence in (from.0..).map(Sequence).take(MAX_RECORDS) {
            let Some(finalized) = self.finalized(sequence)? else { break };
            bytes += encode(&finalized.record).len();
            records.push(finalized.record);
            let Some(certificate) = self.commit_certificate(sequence)? else { continue };
            if bytes + encode(&certificate).len() + 64 > MAX_FRAME {
                break;
            }
            answer = Some((records.len(), certificate));
        }
        Ok(answer.map(|(count, certificate)| {
            records.truncate(count);
            Message::Records { records, certificate }
        }))
    }

    /// Vertices of a lane with heights `above` < h <= `up_to`, ascending.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn lane(&self, author: NodeId, above: Height, up_to: Height) -> Result<Vec<Message>, StorageError> {
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
}
