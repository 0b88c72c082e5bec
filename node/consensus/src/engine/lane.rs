//! One author's lane above its decided tip: the first chain of vertices that this node holds.

use crate::{
    ids::Height,
    vertex::{CheckedVertex, Tip},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// How many vertices whose parents are missing are kept for a lane.
const MAX_WAITING: usize = 64;

/// What became of a vertex that was offered to a lane.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// It, and perhaps some that waited for it, now extend the lane.
    Extended(Vec<Arc<CheckedVertex>>),
    /// Its parent is missing.
    Waits,
    /// Held already, decided already, or no room.
    Known,
    /// Another vertex of the same slot is held: the author signed two.
    Fork,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    decided: Tip,
    chain: VecDeque<Arc<CheckedVertex>>,
    waiting: BTreeMap<Height, Arc<CheckedVertex>>,
}

impl Lane {
    pub(super) fn new(decided: Tip) -> Self {
        Self { decided, ..Self::default() }
    }

    pub(super) const fn decided(&self) -> Tip {
        self.decided
    }

    /// The newest vertex that is held with all its ancestors.
    pub(super) fn tip(&self) -> Tip {
        self.chain.back().map_or(self.decided, |v| v.tip())
    }

    pub(super) fn undecided(&self) -> usize {
        self.chain.len()
    }

    fn at(&self, height: Height) -> Option<&Arc<CheckedVertex>> {
        let index = height.0.checked_sub(self.decided.height.0 + 1)?;
        self.chain.get(usize::try_from(index).ok()?)
    }

    /// Whether `tip` is the decided one or held above it.
    pub(super) fn holds(&self, tip: Tip) -> bool {
        tip == self.decided || self.at(tip.height).is_some_and(|v| v.id() == tip.id)
    }

    /// Whether another vertex than this is held in its slot, or it is below the decided one: it can never be held.
    pub(super) fn contradicts(&self, tip: Tip) -> bool {
        tip.height < self.decided.height
            || (tip.height == self.decided.height && tip != self.decided)
            || self.at(tip.height).is_some_and(|v| v.id() != tip.id)
    }

    /// Offers a checked vertex. `room` is how many undecided vertices may be held.
    pub(super) fn offer(&mut self, vertex: Arc<CheckedVertex>, room: usize) -> Offer {
        let height = vertex.header().height;
        let top = self.tip();
        if height <= top.height {
            let fork = height > self.decided.height && self.contradicts(vertex.tip());
            return if fork { Offer::Fork } else { Offer::Known };
        }
        if self.chain.len() >= room {
            return Offer::Known;
        }
        if height > top.height.next() {
            if self.waiting.contains_key(&height) || self.waiting.len() >= MAX_WAITING {
                return Offer::Known;
            }
            self.waiting.insert(height, vertex);
            return Offer::Waits;
        }
        if vertex.header().parent != top.id {
            // It extends a vertex that is not ours: a fork further down, which its parent will show.
            return Offer::Known;
        }
        let mut extended = vec![vertex];
        while let Some(last) = extended.last() {
            let next = match self.waiting.first_entry() {
                Some(entry) if *entry.key() <= last.header().height => {
                    entry.remove();
                    continue;
                }
                Some(entry) if *entry.key() == last.header().height.next() => entry.remove(),
                _ => break,
            };
            if next.header().parent == last.id() {
                extended.push(next);
            }
        }
        self.chain.extend(extended.iter().cloned());
        Offer::Extended(extended)
    }

    /// The held vertices above `above`, oldest first.
    pub(super) fn above(&self, above: Height) -> impl Iterator<Item = &Arc<CheckedVertex>> {
        let skip = above.0.saturating_sub(self.decided.height.0);
        self.chain.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }

    /// The held vertices from the decided tip (excluded) to `tip` (included), if it is held.
    pub(super) fn between(&self, tip: Tip) -> Option<impl Iterator<Item = &Arc<CheckedVertex>>> {
        let count = tip.height.0.checked_sub(self.decided.height.0)?;
        self.holds(tip).then(|| self.chain.iter().take(usize::try_from(count).unwrap_or(0)))
    }

    /// Decides everything up to `tip`, which must be held.
    pub(super) fn decide(&mut self, tip: Tip) {
        while self.chain.front().is_some_and(|v| v.header().height <= tip.height) {
            self.chain.pop_front();
        }
        self.decided = tip;
    }

    /// A decision named `tip`, which is not held because the author forked and another vertex came first here: drops
    /// what stands in its way.
    pub(super) fn make_way_for(&mut self, tip: Tip) {
        if self.contradicts(tip) || self.waiting.contains_key(&tip.height) {
            self.chain.clear();
            self.waiting.clear();
        }
    }
}
