//! What waits to be sent to one member on one connection: a bounded queue per class.

use super::{Class, lock};
use bytes::Bytes;
use std::{collections::VecDeque, sync::Mutex};
use tokio::sync::Notify;

/// How much one queue holds.
struct Limit {
    frames: usize,
    bytes: usize,
}

const fn limit(class: Class) -> Limit {
    match class {
        // Votes are small. An old one is worth little, so the oldest makes room: Status asks again
        // for what matters.
        Class::Vote => Limit { frames: 256, bytes: 16 << 20 },
        Class::Data | Class::Bulk => Limit { frames: 16_384, bytes: 16 << 20 },
    }
}

/// The most frames that go to QUIC in one call.
const BATCH: usize = 32;

/// The queues of one connection.
#[derive(Default)]
pub(super) struct Outgoing {
    queues: [Queue; 3],
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Outgoing {
    fn queue(&self, class: Class) -> &Queue {
        let [vote, data, bulk] = &self.queues;
        match class {
            Class::Vote => vote,
            Class::Data => data,
            Class::Bulk => bulk,
        }
    }

    /// Queues a frame. Says whether nothing was lost: among votes the oldest goes where there is no
    /// room, among all else the new frame.
    pub(super) fn push(&self, class: Class, frame: Bytes) -> bool {
        let limit = limit(class);
        let queue = self.queue(class);
        let mut waiting = lock(&queue.waiting);
        let full = |waiting: &Waiting| {
            waiting.frames.len() >= limit.frames || waiting.bytes + frame.len() > limit.bytes
        };
        let lost = full(&waiting);
        if lost && class != Class::Vote {
            return false;
        }
        while full(&waiting)
            && let Some(oldest) = waiting.frames.pop_front()
        {
            waiting.bytes -= oldest.len();
        }
        waiting.bytes += frame.len();
        waiting.frames.push_back(frame);
        drop(waiting);
        queue.filled.notify_one();
        !lost
    }

    /// The next frames, at least one, oldest first. For one caller per class.
    pub(super) async fn take(&self, class: Class) -> Vec<Bytes> {
        let queue = self.queue(class);
        loop {
            let batch: Vec<Bytes> = {
                let mut waiting = lock(&queue.waiting);
                let count = waiting.frames.len().min(BATCH);
                let batch: Vec<Bytes> = waiting.frames.drain(..count).collect();
                waiting.bytes -= batch.iter().map(Bytes::len).sum::<usize>();
                batch
            };
            if !batch.is_empty() {
                return batch;
            }
            queue.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[tokio::test]
    async fn frames_leave_in_order_and_the_oldest_votes_make_room_for_new_ones() {
        let outgoing = Outgoing::default();
        for n in 0_u16..300 {
            assert_eq!(
                outgoing.push(Class::Vote, Bytes::copy_from_slice(&n.to_be_bytes())),
                n < 256,
                "{n}"
            );
        }
        let mut taken = vec![];
        while taken.len() < 256 {
            taken.extend(outgoing.take(Class::Vote).await);
        }
        let expected: Vec<Bytes> =
            (44_u16..300).map(|n| Bytes::copy_from_slice(&n.to_be_bytes())).collect();
        assert_eq!(taken, expected);
        assert!(outgoing.push(Class::Vote, Bytes::from_static(b"room again")));
    }

    #[test]
    fn bytes_are_bounded_too_and_each_class_has_its_own_bound() {
        let outgoing = Outgoing::default();
        let frame = Bytes::from(vec![0; 512 * 1024]);
        assert_eq!((0..40).filter(|_| outgoing.push(Class::Bulk, frame.clone())).count(), 32);
        assert_eq!((0..40).filter(|_| outgoing.push(Class::Data, frame.clone())).count(), 32);
        assert!(outgoing.push(Class::Vote, Bytes::from_static(b"vote")));
    }
}
