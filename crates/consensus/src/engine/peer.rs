//! What is known of another member of the epoch.

use crate::message::Status;
use cretoai_types::{Signature, Tip, ViewChange, ViewChangeHead, Vote};
use std::{sync::Arc, time::Duration};

/// One repair that is sent again when a peer stands still.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    /// Since when the peer reports the same.
    since: Duration,
    resent: Option<Duration>,
}

impl Standstill {
    pub(super) fn moved(&mut self, now: Duration) {
        self.since = now;
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) fn resent(&mut self, now: Duration) {
        self.resent = Some(now);
    }

    /// Whether it has lasted, and nothing was sent again for as long.
    pub(super) fn is_due(&self, now: Duration, patience: Duration) -> bool {
        let waited = |since: Duration| now.saturating_sub(since) >= patience;
        waited(self.since) && self.resent.is_none_or(waited)
    }
}

#[derive(Debug)]
pub(super) struct Peer {
    /// Its newest acknowledgement of every lane.
    pub(super) acknowledged: Vec<Tip>,
    /// Its newest acknowledgement of every lane that was of a vertex held here.
    pub(super) confirmed: Vec<Tip>,
    /// Its newest status of this epoch, and when it came.
    pub(super) status: Option<(Status, Duration)>,
    /// Its view, sequence and vote.
    pub(super) progress: Standstill,
    /// Its acknowledgement of this node's lane. Apart from the above: a cluster that goes on
    /// deciding other lanes must not keep this one from being repaired.
    pub(super) lane: Standstill,
    /// Its stable checkpoint.
    pub(super) checkpoint: Standstill,
    /// The head of its VIEW-CHANGE of the highest view, verified.
    pub(super) signed_view: Option<(ViewChangeHead, Signature)>,
    /// Its newest vote of a round that was given up.
    pub(super) newest_vote: Option<Vote>,
    /// When it was told last what it signed, or what ended its epoch.
    pub(super) told: Option<Duration>,
    /// The whole of it, while this node would lead that view; and whether all of it was found to
    /// verify.
    pub(super) view_change: Option<(Arc<ViewChange>, Option<bool>)>,
}

impl Peer {
    pub(super) fn new(lanes: usize) -> Self {
        Self {
            acknowledged: vec![Tip::default(); lanes],
            confirmed: vec![Tip::default(); lanes],
            status: None,
            progress: Standstill::default(),
            lane: Standstill::default(),
            checkpoint: Standstill::default(),
            signed_view: None,
            newest_vote: None,
            told: None,
            view_change: None,
        }
    }
}
