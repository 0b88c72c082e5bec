//! One author's lane above its decided tip: the first chain of vertices that this node holds, until
//! a proposal or a decision names another one: an honest node obeys what is named, whatever it saw
//! first, or an author who forks could keep it from voting for ever.

use cretoai_types::{CheckedVertex, Hash, Height, Tip, mutants::rule};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// How many vertices whose parents are missing are kept for a lane.
const MAX_WAITING: usize = 64;

/// How many vertices of one slot are kept while a named tip is looked for, beside the one that is
/// known to be needed.
const MAX_CANDIDATES: usize = 3;

/// Bytes of vertices in memory that nobody named: of the chain, of those that wait, and of
/// candidates.
const MAX_CHAIN_BYTES: usize = 8 << 20;
const MAX_WAITING_BYTES: usize = 1 << 20;
const MAX_CANDIDATE_BYTES: usize = 4 << 20;

/// How much one lane may add in a single cut, as the sum of its vertices' weights and payloads.
///
/// Every voter checks both, so a decided cut fits the chain of every node, and one decision costs
/// a bounded amount of work. One vertex always fits.
const MAX_CUT_BYTES: usize = 4 << 20;
const MAX_CUT_PAYLOADS: usize = 4_096;

/// How many branches are kept beside the chain: that of the newest vote and that of the prepared
/// certificate.
const MAX_PINNED: usize = 2;

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
    /// The weight of the chain, and of what waits.
    bytes: usize,
    waiting: BTreeMap<Height, Arc<CheckedVertex>>,
    waiting_bytes: usize,
    wanted: Option<Wanted>,
    /// The vertex at the decided tip, if it was decided since the start.
    last_decided: Option<Arc<CheckedVertex>>,
    /// Tips of branches that a prepared proposal named: what leads to them is kept until the
    /// sequence is decided.
    pinned: VecDeque<Tip>,
    /// Vertices of such branches that another branch took the place of.
    beside: BTreeMap<Height, Vec<Arc<CheckedVertex>>>,
}

/// A tip that was named and is not held, with what may lead to it.
#[derive(Debug)]
struct Wanted {
    tip: Tip,
    candidates: BTreeMap<Height, Vec<Arc<CheckedVertex>>>,
    /// The vertices that lead to the tip exceed what one cut may add: no honest node votes for it.
    too_heavy: bool,
}

/// The sum of what some vertices of one lane add to a cut.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    bytes: usize,
    payloads: usize,
}

impl Load {
    fn with(self, vertex: &CheckedVertex) -> Self {
        Self {
            bytes: self.bytes + vertex.weight(),
            payloads: self.payloads + vertex.vertex().payloads.len(),
        }
    }

    fn fits_a_cut(self) -> bool {
        rule!(CutUnbounded, self.bytes <= MAX_CUT_BYTES && self.payloads <= MAX_CUT_PAYLOADS)
    }
}

impl Lane {
    pub(super) fn new(decided: Tip) -> Self {
        Self { decided, ..Self::default() }
    }

    pub(super) const fn decided(&self) -> Tip {
        self.decided
    }

    /// Whether the heaviest vertex that can be sealed still has room in memory.
    pub(super) const fn has_room_for_bytes(&self) -> bool {
        self.bytes + CheckedVertex::MAX_WEIGHT <= MAX_CHAIN_BYTES
    }

    fn weigh(&mut self) {
        self.bytes = self.chain.iter().map(|vertex| vertex.weight()).sum();
        self.waiting_bytes = self.waiting.values().map(|vertex| vertex.weight()).sum();
    }

    /// How many vertices are held beside the chain.
    pub(super) fn beside(&self) -> usize {
        let wanted = self
            .wanted
            .iter()
            .flat_map(|wanted| wanted.candidates.values())
            .map(Vec::len)
            .sum::<usize>();
        self.waiting.len() + wanted + self.beside.values().map(Vec::len).sum::<usize>()
    }

    /// The highest vertex that is held, decided or not.
    pub(super) fn newest(&self) -> Option<&Arc<CheckedVertex>> {
        self.chain.back().or(self.last_decided.as_ref())
    }

    /// The vertex that is held in a slot.
    pub(super) fn in_slot(&self, height: Height) -> Option<&Arc<CheckedVertex>> {
        self.at(height).or_else(|| {
            self.last_decided.as_ref().filter(|vertex| vertex.header().height == height)
        })
    }

    /// Keeps what leads to `tip` until the lane is decided past it.
    pub(super) fn pin(&mut self, tip: Tip) {
        if tip.height <= self.decided.height || self.pinned.contains(&tip) {
            return;
        }
        if self.pinned.len() >= MAX_PINNED {
            self.pinned.pop_front();
        }
        self.pinned.push_back(tip);
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

    /// Whether another vertex than this is held in its slot, or it is below the decided one: it can
    /// never be held.
    pub(super) fn contradicts(&self, tip: Tip) -> bool {
        tip.height < self.decided.height
            || (tip.height == self.decided.height && tip != self.decided)
            || self.at(tip.height).is_some_and(|v| v.id() != tip.id)
    }

    /// Whether a vertex of this height can be taken, or tells something: what cannot is not worth
    /// checking.
    pub(super) fn may_take(&self, height: Height, room: usize) -> bool {
        let top = self.tip().height;
        self.wanted.is_some()
            || height <= top
            || (self.chain.len() < room
                && (height == top.next() || self.waiting.len() < MAX_WAITING))
    }

    /// The vertex of the decided tip, given back after a restart.
    pub(super) fn recall_decided(&mut self, vertex: Arc<CheckedVertex>) {
        if vertex.tip() == self.decided {
            self.last_decided = Some(vertex);
        }
    }

    /// Offers a checked vertex. `room` is how many undecided vertices may be held.
    pub(super) fn offer(&mut self, vertex: Arc<CheckedVertex>, room: usize) -> Offer {
        let candidate = self.wanted.is_some().then(|| Arc::clone(&vertex));
        let offer = self.offer_first(vertex, room);
        if matches!(offer, Offer::Extended(_)) {
            return offer;
        }
        if let Some(candidate) = candidate {
            self.consider(candidate);
            let found = self.reach_wanted();
            if !found.is_empty() {
                return Offer::Extended(found);
            }
        }
        offer
    }

    /// Takes a vertex into the first chain, if it extends it.
    fn offer_first(&mut self, vertex: Arc<CheckedVertex>, room: usize) -> Offer {
        let height = vertex.header().height;
        let top = self.tip();
        if height <= top.height {
            let fork = height > self.decided.height && self.contradicts(vertex.tip());
            return if fork { Offer::Fork } else { Offer::Known };
        }
        // What a start gives back was held before.
        let recalled = room == usize::MAX;
        if self.chain.len() >= room || (!recalled && self.bytes + vertex.weight() > MAX_CHAIN_BYTES)
        {
            return Offer::Known;
        }
        if height > top.height.next() {
            let full = self.waiting.len() >= MAX_WAITING
                || self.waiting_bytes + vertex.weight() > MAX_WAITING_BYTES;
            if self.waiting.contains_key(&height) || (full && !recalled) {
                return Offer::Known;
            }
            self.waiting_bytes += vertex.weight();
            self.waiting.insert(height, vertex);
            return Offer::Waits;
        }
        if vertex.header().parent != top.id {
            // It extends a vertex that is not ours: a fork further down, which its parent will
            // show.
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
        self.weigh();
        Offer::Extended(extended)
    }

    /// A proposal or a decision names `tip`. From now on whatever leads to it is kept, and takes
    /// the place of the first chain once it is complete. Returns what that adds now.
    pub(super) fn want(&mut self, tip: Tip) -> Vec<Arc<CheckedVertex>> {
        if tip.height <= self.decided.height || self.holds(tip) {
            self.wanted = None;
            return Vec::new();
        }
        if self.wanted.as_ref().is_some_and(|wanted| wanted.tip == tip) {
            return self.reach_wanted();
        }
        self.wanted = Some(Wanted { tip, candidates: BTreeMap::new(), too_heavy: false });
        let waiting: Vec<_> = self.waiting.values().cloned().collect();
        for vertex in waiting {
            self.consider(vertex);
        }
        self.reach_wanted()
    }

    fn consider(&mut self, vertex: Arc<CheckedVertex>) {
        let Some((path, first_missing)) = self.path() else { return };
        let decided = self.decided;
        let load = path.iter().fold(Load::default(), |load, held| load.with(held));
        let Some(wanted) = &mut self.wanted else { return };
        let bytes: usize = wanted.candidates.values().flatten().map(|vertex| vertex.weight()).sum();
        let height = vertex.header().height;
        if height <= decided.height || height > wanted.tip.height {
            return;
        }
        let slot = wanted.candidates.entry(height).or_default();
        if slot.iter().any(|known| known.id() == vertex.id()) {
            return;
        }
        if first_missing == vertex.tip() {
            if !load.with(&vertex).fits_a_cut() {
                wanted.too_heavy = true;
                return;
            }
            slot.insert(0, vertex);
            slot.truncate(MAX_CANDIDATES + 1);
        } else if slot.len() < MAX_CANDIDATES && bytes + vertex.weight() <= MAX_CANDIDATE_BYTES {
            slot.push(vertex);
        }
    }

    /// From the wanted tip down: what is here, and then the first that is not, or the decided tip.
    fn path(&self) -> Option<(Vec<Arc<CheckedVertex>>, Tip)> {
        let wanted = self.wanted.as_ref()?;
        let mut tip = wanted.tip;
        let mut path = Vec::new();
        while tip.height > self.decided.height {
            let candidates = [&wanted.candidates, &self.beside]
                .into_iter()
                .filter_map(|held| held.get(&tip.height))
                .flatten();
            let Some(vertex) =
                candidates.chain(self.at(tip.height)).find(|vertex| vertex.id() == tip.id)
            else {
                break;
            };
            path.push(Arc::clone(vertex));
            tip = Tip { height: Height(tip.height.0 - 1), id: vertex.header().parent };
        }
        Some((path, tip))
    }

    /// The highest ancestor of the wanted tip (or the tip itself) that is not here, if the tip is
    /// worth looking for.
    pub(super) fn needed(&self) -> Option<Tip> {
        if self.wanted.as_ref().is_some_and(|wanted| wanted.too_heavy) {
            return None;
        }
        self.path().map(|(_, tip)| tip).filter(|tip| tip.height > self.decided.height)
    }

    /// Takes the chain to the wanted tip, if it is complete, in place of the first one. Returns
    /// what is new in it.
    fn reach_wanted(&mut self) -> Vec<Arc<CheckedVertex>> {
        if self.wanted.as_ref().is_some_and(|wanted| self.holds(wanted.tip)) {
            // The wanted tip arrived by ordinary broadcast. Keep the chain already built on it.
            self.wanted = None;
            return Vec::new();
        }
        let Some((mut path, _)) = self.path().filter(|(_, bottom)| *bottom == self.decided) else {
            return Vec::new();
        };
        path.reverse();
        let before = std::mem::replace(&mut self.chain, path.iter().cloned().collect());
        let kept = self.beside.values().flatten().map(|vertex| vertex.id());
        let held: Vec<Hash> = before.iter().map(|vertex| vertex.id()).chain(kept).collect();
        self.keep_pinned(before);
        self.waiting.clear();
        self.weigh();
        self.wanted = None;
        path.retain(|vertex| !held.contains(&vertex.id()));
        path
    }

    /// Of a chain that another one took the place of, keeps what leads to a pinned tip.
    fn keep_pinned(&mut self, chain: VecDeque<Arc<CheckedVertex>>) {
        let highest = self
            .pinned
            .iter()
            .filter(|tip| chain.iter().any(|vertex| vertex.tip() == **tip))
            .map(|tip| tip.height)
            .max();
        let Some(highest) = highest else { return };
        for vertex in chain
            .into_iter()
            .filter(|vertex| vertex.header().height <= highest && !self.holds(vertex.tip()))
            .collect::<Vec<_>>()
        {
            let slot = self.beside.entry(vertex.header().height).or_default();
            if slot.len() < MAX_PINNED && slot.iter().all(|known| known.id() != vertex.id()) {
                slot.push(vertex);
            }
        }
    }

    /// Whether the wanted tip stands on another branch than the chain that is held.
    pub(super) fn is_forked(&self) -> bool {
        self.needed().is_some_and(|needed| needed.height <= self.tip().height)
    }

    /// Whether a cut that names `tip` adds more of this lane than one cut may. Equal on all nodes
    /// that hold the tip. While the tip is looked for, already the part that came may be too much.
    pub(super) fn is_too_heavy(&self, tip: Tip) -> bool {
        if let Some(vertices) = self.between(tip) {
            let load = vertices.fold(Load::default(), |load, vertex| load.with(vertex));
            return !load.fits_a_cut();
        }
        self.wanted.as_ref().is_some_and(|wanted| wanted.tip == tip && wanted.too_heavy)
    }

    /// The highest vertex at or below `highest` that one cut may decide.
    pub(super) fn highest_that_fits(&self, highest: Height) -> Tip {
        let mut load = Load::default();
        self.chain
            .iter()
            .take_while(|vertex| {
                load = load.with(vertex);
                vertex.header().height <= highest && load.fits_a_cut()
            })
            .last()
            .map_or(self.decided, |vertex| vertex.tip())
    }

    /// The tip that was named and is not held is no longer looked for.
    pub(super) fn forget_wanted(&mut self) {
        self.wanted = None;
    }

    /// The height below the first vertex that waits for its parent.
    pub(super) fn gap(&self) -> Option<Height> {
        let lowest = self.waiting.first_key_value()?.0;
        Some(Height(lowest.0 - 1)).filter(|height| *height > self.tip().height)
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
        while let Some(vertex) = self.chain.pop_front_if(|v| v.header().height <= tip.height) {
            self.last_decided = Some(vertex);
        }
        self.pinned.retain(|pinned| pinned.height > tip.height);
        self.beside.retain(|height, _| *height > tip.height && !self.pinned.is_empty());
        self.decided = tip;
        self.waiting.retain(|height, _| *height > tip.height);
        self.weigh();
        if self.wanted.as_ref().is_some_and(|wanted| wanted.tip.height <= tip.height) {
            self.wanted = None;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use cretoai_types::{
        Domain, Epoch, MAX_BODY, MAX_PAYLOADS, NodeId, Payload, PublicKey, Signature, Signer,
    };

    /// The encoded length of a payload without data.
    const EMPTY_PAYLOAD: usize = 29;

    struct Nobody(PublicKey);

    impl Signer for Nobody {
        fn public_key(&self) -> &PublicKey {
            &self.0
        }

        fn sign(&self, _: &[u8]) -> Signature {
            Signature(Box::new([0; Signature::SIZE]))
        }
    }

    /// The vertex after `previous`; another `branch` is another vertex.
    fn after(previous: Tip, branch: u64) -> Arc<CheckedVertex> {
        heavy_after(previous, branch, 0, 0)
    }

    /// The same with a number of payloads of this encoded length.
    fn heavy_after(
        previous: Tip,
        branch: u64,
        payloads: usize,
        bytes: usize,
    ) -> Arc<CheckedVertex> {
        let payload = |key: usize| Payload {
            key: (key as u64).to_be_bytes().repeat(2).try_into().unwrap(),
            valid_until_ms: 1,
            topic: None,
            data: vec![0; bytes.saturating_sub(EMPTY_PAYLOAD)],
        };
        let payloads = (0..payloads).map(payload).collect();
        let signer = Nobody(PublicKey(Box::new([0; PublicKey::SIZE])));
        let domain = Domain { chain_id: Hash::ZERO, epoch: Epoch(0) };
        Arc::new(CheckedVertex::seal(
            &domain,
            &signer,
            NodeId(0),
            previous,
            Vec::new(),
            branch,
            payloads,
            Vec::new(),
        ))
    }

    fn heavy_chain(
        branch: u64,
        count: usize,
        payloads: usize,
        bytes: usize,
    ) -> Vec<Arc<CheckedVertex>> {
        let mut tip = Tip::default();
        let next = std::iter::repeat_with(|| {
            let vertex = heavy_after(tip, branch, payloads, bytes);
            tip = vertex.tip();
            vertex
        });
        next.take(count).collect()
    }

    /// What a store that holds `branches` answers to a request by hash: from the top down.
    fn answer(
        branches: &[Vec<Arc<CheckedVertex>>],
        tip: Tip,
        above: Height,
    ) -> Vec<Arc<CheckedVertex>> {
        const MAX_ANSWER: usize = 4 << 20;
        let all = || branches.iter().flatten();
        let (mut tip, mut bytes, mut found) = (tip, 0, Vec::new());
        while tip.height > above && bytes <= MAX_ANSWER {
            let Some(vertex) = all().find(|vertex| vertex.id() == tip.id) else { break };
            bytes += vertex.header().payload_bytes as usize + 8_192;
            found.push(Arc::clone(vertex));
            tip = Tip { height: Height(tip.height.0 - 1), id: vertex.header().parent };
        }
        found
    }

    /// How many requests bring a lane to a named tip, if that ever happens.
    fn requests_until_held(
        lane: &mut Lane,
        named: Tip,
        store: &[Vec<Arc<CheckedVertex>>],
    ) -> Option<usize> {
        for requests in 0..100 {
            lane.want(named);
            if lane.holds(named) {
                return Some(requests);
            }
            let needed = lane.needed()?;
            let above = if lane.is_forked() { lane.decided() } else { lane.tip() };
            for vertex in answer(store, needed, above.height) {
                lane.offer(vertex, ROOM);
            }
        }
        None
    }

    fn chain(from: Tip, branch: u64, count: usize) -> Vec<Arc<CheckedVertex>> {
        let mut tip = from;
        let next = std::iter::repeat_with(|| {
            let vertex = after(tip, branch);
            tip = vertex.tip();
            vertex
        });
        next.take(count).collect()
    }

    fn heights(offer: &Offer) -> Vec<u64> {
        let Offer::Extended(vertices) = offer else { return Vec::new() };
        vertices.iter().map(|v| v.header().height.0).collect()
    }

    const ROOM: usize = 256;

    #[test]
    fn vertices_in_any_order_make_one_chain() {
        let mut lane = Lane::default();
        let a = chain(Tip::default(), 1, 4);
        assert_eq!(lane.offer(a[2].clone(), ROOM), Offer::Waits);
        assert_eq!(lane.offer(a[1].clone(), ROOM), Offer::Waits);
        assert_eq!(lane.offer(a[1].clone(), ROOM), Offer::Known, "a second time");
        assert_eq!(lane.gap(), Some(Height(1)), "the parent of the lowest is to be fetched");
        assert_eq!(heights(&lane.offer(a[0].clone(), ROOM)), [1, 2, 3]);
        assert_eq!(lane.gap(), None);
        assert_eq!(heights(&lane.offer(a[3].clone(), ROOM)), [4]);
        assert_eq!(lane.offer(a[0].clone(), ROOM), Offer::Known);
        assert_eq!((lane.tip(), lane.undecided()), (a[3].tip(), 4));
    }

    #[test]
    fn the_first_vertex_of_a_slot_stays_and_another_is_a_fork() {
        let mut lane = Lane::default();
        let (a, b) = (chain(Tip::default(), 1, 3), chain(Tip::default(), 2, 3));
        a.iter().for_each(|v| {
            assert_eq!(lane.offer(v.clone(), ROOM), Offer::Extended(vec![v.clone()]))
        });
        assert_eq!(lane.offer(b[0].clone(), ROOM), Offer::Fork);
        assert_eq!(lane.offer(b[2].clone(), ROOM), Offer::Fork);
        assert!(lane.contradicts(b[1].tip()) && !lane.contradicts(a[1].tip()));
        assert_eq!(lane.offer(after(b[2].tip(), 2), ROOM), Offer::Known, "its parent is not ours");
        assert_eq!(lane.tip(), a[2].tip());
    }

    #[test]
    fn a_waiting_vertex_of_another_branch_is_dropped() {
        let mut lane = Lane::default();
        let (a, b) = (chain(Tip::default(), 1, 3), chain(Tip::default(), 2, 3));
        assert_eq!(lane.offer(b[1].clone(), ROOM), Offer::Waits);
        assert_eq!(lane.offer(a[2].clone(), ROOM), Offer::Waits);
        assert_eq!(heights(&lane.offer(a[0].clone(), ROOM)), [1]);
        assert_eq!(heights(&lane.offer(a[1].clone(), ROOM)), [2, 3]);
    }

    #[test]
    fn a_lane_holds_no_more_than_it_has_room_for() {
        let mut lane = Lane::default();
        let a = chain(Tip::default(), 1, 200);
        assert_eq!(heights(&lane.offer(a[0].clone(), 2)), [1]);
        assert_eq!(heights(&lane.offer(a[1].clone(), 2)), [2]);
        assert_eq!(lane.offer(a[2].clone(), 2), Offer::Known);
        let waiting =
            a.iter().skip(3).filter(|v| lane.offer((*v).clone(), ROOM) == Offer::Waits).count();
        assert_eq!(waiting, MAX_WAITING);
    }

    #[test]
    fn deciding_forgets_what_is_below_and_keeps_what_is_above() {
        let mut lane = Lane::default();
        let a = chain(Tip::default(), 1, 4);
        a.iter().for_each(|v| assert!(matches!(lane.offer(v.clone(), ROOM), Offer::Extended(_))));
        assert_eq!(lane.between(a[2].tip()).unwrap().count(), 3);
        lane.decide(a[2].tip());
        assert_eq!((lane.decided(), lane.tip(), lane.undecided()), (a[2].tip(), a[3].tip(), 1));
        assert_eq!(lane.offer(a[1].clone(), ROOM), Offer::Known);
        assert_eq!(
            lane.offer(after(a[0].tip(), 9), ROOM),
            Offer::Known,
            "a fork below the decided tip is of no use"
        );
        assert_eq!(lane.between(a[3].tip()).unwrap().count(), 1);
        assert!(lane.between(a[1].tip()).is_none());
        assert!(lane.between(Tip { height: Height(u64::MAX), id: Hash::ZERO }).is_none());
    }

    #[test]
    fn a_named_fork_takes_the_place_of_the_first_chain_once_it_is_complete() {
        let mut lane = Lane::default();
        let a = chain(Tip::default(), 1, 5);
        let b = chain(a[0].tip(), 2, 3);
        a.iter().for_each(|v| assert!(matches!(lane.offer(v.clone(), ROOM), Offer::Extended(_))));
        assert!(lane.want(b[2].tip()).is_empty());
        assert_eq!(lane.needed(), Some(b[2].tip()));
        assert!(lane.is_forked());
        assert_eq!(lane.offer(b[2].clone(), ROOM), Offer::Fork);
        assert_eq!(lane.offer(b[0].clone(), ROOM), Offer::Fork);
        assert_eq!(lane.needed(), Some(b[1].tip()), "the one between is needed");
        assert_eq!(lane.tip(), a[4].tip(), "nothing is given up before");
        assert_eq!(
            heights(&lane.offer(b[1].clone(), ROOM)),
            [2, 3, 4],
            "the common one was held already"
        );
        assert!(lane.holds(b[2].tip()) && lane.holds(a[0].tip()) && !lane.holds(a[1].tip()));
        assert_eq!(lane.needed(), None);
    }

    #[test]
    fn a_branch_that_was_voted_for_is_kept_beside_another_one_until_it_is_decided() {
        let mut lane = Lane::default();
        let a = chain(Tip::default(), 1, 5);
        let b = chain(a[0].tip(), 2, 3);
        a.iter().for_each(|v| assert!(matches!(lane.offer(v.clone(), ROOM), Offer::Extended(_))));
        lane.pin(a[4].tip());
        // A later view proposes the other branch, which takes the chain's place.
        assert!(lane.want(b[2].tip()).is_empty());
        b.iter().rev().for_each(|v| drop(lane.offer(v.clone(), ROOM)));
        assert!(lane.holds(b[2].tip()) && !lane.holds(a[4].tip()));
        assert_eq!(lane.beside(), 4, "what leads to the pinned tip and is not in the chain");
        // And a still later one the first branch again: nothing has to be fetched, and nothing is
        // written again.
        assert!(lane.want(a[4].tip()).is_empty());
        assert!(lane.holds(a[4].tip()), "it was kept");
        assert_eq!(lane.needed(), None);
        lane.decide(a[4].tip());
        assert_eq!(lane.beside(), 0);
    }

    #[test]
    fn a_named_tip_that_comes_by_itself_takes_nothing_away_that_stands_on_it() {
        let mut lane = Lane::default();
        let a = chain(Tip::default(), 1, 3);
        let b = chain(Tip::default(), 2, 1);
        assert_eq!(lane.offer(a[1].clone(), ROOM), Offer::Waits);
        assert!(lane.want(a[0].tip()).is_empty());
        assert_eq!(heights(&lane.offer(a[0].clone(), ROOM)), [1, 2]);
        assert_eq!(lane.offer(b[0].clone(), ROOM), Offer::Fork);
        assert_eq!(lane.tip(), a[1].tip());
    }

    #[test]
    fn many_forks_do_not_keep_the_needed_one_out() {
        let mut lane = Lane::default();
        let (a, b) = (chain(Tip::default(), 1, 1), chain(Tip::default(), 2, 2));
        assert!(matches!(lane.offer(a[0].clone(), ROOM), Offer::Extended(_)));
        lane.want(b[1].tip());
        for branch in 10..40 {
            lane.offer(after(Tip::default(), branch), ROOM);
            lane.offer(after(b[0].tip(), branch), ROOM);
        }
        assert!(!matches!(lane.offer(b[1].clone(), ROOM), Offer::Extended(_)));
        assert_eq!(heights(&lane.offer(b[0].clone(), ROOM)), [1, 2]);
        assert_eq!(lane.tip(), b[1].tip());
    }

    #[test]
    fn what_waited_counts_when_it_is_named() {
        let mut lane = Lane::default();
        let b = chain(Tip::default(), 2, 2);
        assert_eq!(lane.offer(b[1].clone(), ROOM), Offer::Waits);
        assert!(lane.want(b[1].tip()).is_empty());
        assert_eq!(heights(&lane.offer(b[0].clone(), ROOM)), [1, 2]);
        assert!(lane.want(b[1].tip()).is_empty(), "it is held");
        lane.decide(b[1].tip());
        assert!(lane.want(b[0].tip()).is_empty(), "it is decided");
        assert_eq!(lane.needed(), None);
    }

    #[test]
    fn whatever_fits_a_cut_can_be_fetched_by_all_who_lack_it() {
        // The heaviest vertices, many payloads, few payloads: of each as many as one cut takes.
        for (payloads, bytes) in [(MAX_PAYLOADS, 128), (2, 128 * 1024), (1, 100_000), (1_024, 31)] {
            let branch = heavy_chain(1, 64, payloads, bytes);
            let mut full = Lane::default();
            for vertex in &branch {
                full.offer(Arc::clone(vertex), ROOM);
            }
            let named = full.highest_that_fits(Height(64));
            assert!(named.height > Height(0) && !full.is_too_heavy(named));
            let mut empty = Lane::default();
            let requests = requests_until_held(&mut empty, named, std::slice::from_ref(&branch));
            assert!(requests.is_some_and(|n| n <= 2), "{payloads} payloads: {requests:?}");
        }
    }

    #[test]
    fn a_cut_that_names_more_than_fits_is_refused_by_all_and_not_collected() {
        for (payloads, bytes) in [(1, 128 * 1024), (MAX_PAYLOADS, 30)] {
            let branch = heavy_chain(1, 64, payloads, bytes);
            let named = branch[63].tip();
            let mut fed_from_above = Lane::default();
            fed_from_above.want(named);
            for vertex in branch.iter().rev() {
                fed_from_above.offer(Arc::clone(vertex), ROOM);
            }
            assert!(!fed_from_above.holds(named));
            assert!(fed_from_above.is_too_heavy(named), "what came is too much already");
            assert_eq!(fed_from_above.needed(), None, "and it is not looked for any more");
            let held = fed_from_above.wanted.as_ref().unwrap();
            let bytes: usize = held.candidates.values().flatten().map(|v| v.weight()).sum();
            assert!(bytes <= MAX_CUT_BYTES + MAX_CANDIDATE_BYTES);
            let mut broadcast = Lane::default();
            for vertex in &branch {
                broadcast.offer(Arc::clone(vertex), ROOM);
            }
            let tip = broadcast.tip();
            assert!(tip.height < Height(64) || broadcast.is_too_heavy(tip));
        }
    }

    #[test]
    fn of_two_stored_branches_the_named_one_can_always_be_fetched() {
        for depth in [8, 9, 12, 16] {
            let (x, y) =
                (heavy_chain(1, depth, 1, 128 * 1024), heavy_chain(2, depth, 1, 128 * 1024));
            let named = x[depth - 1].tip();
            for shown in [true, false] {
                let mut lane = Lane::default();
                for vertex in y.iter().filter(|_| shown) {
                    lane.offer(Arc::clone(vertex), ROOM);
                }
                let store = [y.clone(), x.clone()];
                let requests = requests_until_held(&mut lane, named, &store);
                assert!(requests.is_some_and(|n| n <= 3), "depth {depth}: {requests:?}");
            }
        }
    }

    #[test]
    fn a_vertex_always_fits_where_sealing_is_allowed() {
        // With payloads of 100 bytes a first vertex of some sizes leaves room for two bodies, but
        // not for one vertex of the greatest weight.
        for first in 1..MAX_PAYLOADS {
            let mut lane = Lane {
                bytes: heavy_after(Tip::default(), 1, first, 128).weight(),
                ..Lane::default()
            };
            let full = heavy_after(Tip::default(), 1, MAX_PAYLOADS, 128).weight();
            assert_eq!(full, CheckedVertex::MAX_WEIGHT);
            while lane.has_room_for_bytes() {
                lane.bytes += full;
                assert!(lane.bytes <= MAX_CHAIN_BYTES, "a first vertex of {first} payloads");
            }
        }
        const { assert!(MAX_CUT_BYTES >= CheckedVertex::MAX_WEIGHT && MAX_CUT_BYTES <= MAX_CHAIN_BYTES) };
        const { assert!(MAX_CUT_PAYLOADS >= MAX_PAYLOADS && MAX_BODY <= MAX_CUT_BYTES) };
    }
}
