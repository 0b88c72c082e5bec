//! Who may connect: the members of the epoch, and guests.

use super::{Class, lock, queue::Outgoing};
use cretoai_types::{Member, NodeId, PublicKey};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore, watch};

/// Keys that may connect as guests; the oldest goes when there are more.
const MAX_ADMITTED: usize = 64;
/// Guests that are connected at a time.
const MAX_GUESTS: usize = 8;
/// From here on numbers name guests. Members' ids are given from 0 on, one at a time, and never
/// come this far.
const FIRST_GUEST: u32 = 1 << 31;

/// Whether this is no member's id but a guest's number.
#[must_use]
pub const fn is_guest(id: NodeId) -> bool {
    id.0 >= FIRST_GUEST
}

/// Signatures that do not verify, within [`STRIKES_WITHIN`], after which a channel is closed. Honest
/// nodes send none: what they pass on they have verified.
const MAX_STRIKES: u32 = 32;
const STRIKES_WITHIN: Duration = Duration::from_secs(10);
/// For how long a peer stays shut out the first time; each time doubles it.
const FIRST_SHUT_OUT: Duration = Duration::from_secs(10);
const LONGEST_SHUT_OUT: Duration = Duration::from_secs(300);

/// What a peer's channel was found to carry.
#[derive(Default)]
struct Strikes {
    count: u32,
    since: Option<Instant>,
    shut_out: Option<(Instant, Duration)>,
}

impl Strikes {
    /// A signature did not verify. Says whether the channel is to be closed.
    fn strike(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) > STRIKES_WITHIN) {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += 1;
        if self.count < MAX_STRIKES {
            return false;
        }
        let last = self.shut_out.map(|(_, length)| length * 2);
        let length = last.unwrap_or(FIRST_SHUT_OUT).min(LONGEST_SHUT_OUT);
        (self.since, self.count, self.shut_out) = (None, 0, Some((now, length)));
        true
    }

    fn is_shut_out(&self, now: Instant) -> bool {
        self.shut_out.is_some_and(|(at, length)| now.duration_since(at) < length)
    }
}

/// Another node.
pub(super) struct Peer {
    pub(super) id: NodeId,
    pub(super) name: String,
    key: PublicKey,
    /// Where frames for it go.
    pub(super) outgoing: Mutex<Option<Arc<Outgoing>>>,
    /// Its connection to us.
    pub(super) accepted: Mutex<Option<quinn::Connection>>,
    /// It has just connected to us.
    pub(super) arrived: Notify,
    pub(super) budgets: [Arc<Semaphore>; 3],
    strikes: Mutex<Strikes>,
    /// Turns true when its standing changes: its connections end, and it may come back as what it
    /// is then.
    left: watch::Sender<bool>,
}

impl Peer {
    fn new(id: NodeId, name: String, key: PublicKey) -> Arc<Self> {
        Arc::new(Self {
            id,
            name,
            key,
            outgoing: Mutex::new(None),
            accepted: Mutex::new(None),
            arrived: Notify::new(),
            budgets: Class::ALL.map(|class| Arc::new(Semaphore::new(class.budget_kib()))),
            strikes: Mutex::default(),
            left: watch::Sender::new(false),
        })
    }

    pub(super) fn is_guest(&self) -> bool {
        is_guest(self.id)
    }

    /// A signature on its channel did not verify. Says whether the channel is to be closed.
    pub(super) fn strike(&self) -> bool {
        lock(&self.strikes).strike(Instant::now())
    }

    /// Whether it may not connect for a while.
    pub(super) fn is_shut_out(&self) -> bool {
        lock(&self.strikes).is_shut_out(Instant::now())
    }

    /// Resolves when its standing changes.
    pub(super) async fn left(&self) {
        let mut left = self.left.subscribe();
        // The sender lives as long as `self`.
        if left.wait_for(|left| *left).await.is_err() {}
    }
}

/// Everybody whom this node talks to.
pub(super) struct Peers {
    own: PublicKey,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The other members.
    members: BTreeMap<NodeId, Arc<Peer>>,
    admitted: VecDeque<PublicKey>,
    guests: BTreeMap<NodeId, Arc<Peer>>,
    next_guest: u32,
}

/// What a key is to this node.
pub(super) enum Who {
    Myself,
    Peer(Arc<Peer>),
    Stranger,
}

impl Peers {
    pub(super) fn new(own: PublicKey, members: &[Member]) -> Self {
        let peers = Self { own, known: Mutex::default() };
        peers.set_members(members);
        peers
    }

    pub(super) fn set_members(&self, members: &[Member]) {
        let mut known = lock(&self.known);
        let mut old = std::mem::take(&mut known.members);
        for member in members.iter().filter(|member| member.key != self.own) {
            let kept = old.remove(&member.id);
            let kept = match kept {
                Some(peer) if peer.key == member.key => peer,
                replaced => {
                    if let Some(peer) = replaced {
                        old.insert(peer.id, peer);
                    }
                    Peer::new(member.id, member.name.clone(), member.key.clone())
                }
            };
            known.members.insert(member.id, kept);
        }
        for peer in old.into_values() {
            peer.left.send_replace(true);
            known.admit(peer.key.clone());
        }
        // A guest that is a member now comes back as one.
        let joined = |key: &PublicKey| members.iter().any(|member| member.key == *key);
        known.guests.retain(|_, guest| {
            let stays = !joined(&guest.key);
            if !stays {
                guest.left.send_replace(true);
            }
            stays
        });
    }

    pub(super) fn admit(&self, keys: impl IntoIterator<Item = PublicKey>) {
        let mut known = lock(&self.known);
        for key in keys {
            known.admit(key);
        }
    }

    /// Whether the holder of a key may connect.
    pub(super) fn admits(&self, key: &PublicKey) -> bool {
        // Its own: a node that finds itself at one of the addresses sees who is there, and lets go.
        *key == self.own || lock(&self.known).admits(key)
    }

    /// Who holds a key. A guest gets its number here.
    pub(super) fn who(&self, key: &PublicKey) -> Who {
        if *key == self.own {
            return Who::Myself;
        }
        let mut known = lock(&self.known);
        let found = known
            .members
            .values()
            .chain(known.guests.values())
            .find(|peer| peer.key == *key)
            .cloned();
        if let Some(peer) = found {
            return Who::Peer(peer);
        }
        if !known.admits(key) {
            return Who::Stranger;
        }
        // Who was here and went makes room: nothing but this list holds it.
        known.guests.retain(|_, guest| Arc::strong_count(guest) > 1);
        if known.guests.len() >= MAX_GUESTS {
            return Who::Stranger;
        }
        let id = NodeId(FIRST_GUEST + known.next_guest % FIRST_GUEST);
        known.next_guest = known.next_guest.wrapping_add(1);
        let guest = Peer::new(id, format!("guest {}", key.fingerprint()), key.clone());
        known.guests.insert(id, Arc::clone(&guest));
        Who::Peer(guest)
    }

    /// A member or guest.
    pub(super) fn get(&self, id: NodeId) -> Option<Arc<Peer>> {
        let known = lock(&self.known);
        known.members.get(&id).or_else(|| known.guests.get(&id)).cloned()
    }

    /// The other members.
    pub(super) fn members(&self) -> Vec<Arc<Peer>> {
        lock(&self.known).members.values().cloned().collect()
    }
}

impl Known {
    fn admit(&mut self, key: PublicKey) {
        self.admitted.retain(|known| *known != key);
        if self.admitted.len() >= MAX_ADMITTED {
            self.admitted.pop_front();
        }
        self.admitted.push_back(key);
    }

    fn admits(&self, key: &PublicKey) -> bool {
        self.members.values().any(|member| member.key == *key) || self.admitted.contains(key)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn many_bad_signatures_shut_a_peer_out_for_longer_each_time_and_few_never() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut rare = Strikes::default();
        assert!((0..200).all(|n| !rare.strike(after(n))), "one a second is no flood");
        let mut flood = Strikes::default();
        let closed = |flood: &mut Strikes, at| (0..MAX_STRIKES).any(|_| flood.strike(at));
        assert!(closed(&mut flood, began));
        assert!(flood.is_shut_out(after(9)) && !flood.is_shut_out(after(10)));
        assert!(closed(&mut flood, after(10)));
        assert!(flood.is_shut_out(after(29)) && !flood.is_shut_out(after(30)));
        for n in 1..20 {
            assert!(closed(&mut flood, after(1_000 * n)));
        }
        assert!(flood.is_shut_out(after(19_299)) && !flood.is_shut_out(after(19_300)));
    }
}
