//! A queue in which every source has its own line, and the lines are served in turn: what one of
//! them sends, however much, delays another by one item.

use cretoai_types::NodeId;
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

/// See the module. It bounds nothing itself.
pub(super) struct Fair<T> {
    lines: BTreeMap<NodeId, VecDeque<T>>,
    /// Whose turn it was last.
    last: Option<NodeId>,
    length: usize,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self { lines: BTreeMap::new(), last: None, length: 0 }
    }
}

impl<T> Fair<T> {
    pub(super) fn push(&mut self, from: NodeId, item: T) {
        self.lines.entry(from).or_default().push_back(item);
        self.length += 1;
    }

    /// The oldest item of the source whose turn it is.
    pub(super) fn pop(&mut self) -> Option<(NodeId, T)> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.lines.range((after, Bound::Unbounded)).next();
        let from = *next.or_else(|| self.lines.first_key_value())?.0;
        let line = self.lines.get_mut(&from)?;
        let item = line.pop_front()?;
        if line.is_empty() {
            self.lines.remove(&from);
        }
        self.last = Some(from);
        self.length -= 1;
        Some((from, item))
    }

    /// Drops what one source sent.
    pub(super) fn forget(&mut self, from: NodeId) {
        self.length -= self.lines.remove(&from).map_or(0, |line| line.len());
    }

    /// How many items wait.
    pub(super) const fn len(&self) -> usize {
        self.length
    }

    /// How many items of one source wait.
    pub(super) fn of(&self, from: NodeId) -> usize {
        self.lines.get(&from).map_or(0, VecDeque::len)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_flood_delays_another_source_by_one_item() {
        let mut fair = Fair::default();
        for n in 0..1_000 {
            fair.push(NodeId(1), n);
        }
        assert_eq!(fair.pop(), Some((NodeId(1), 0)));
        fair.push(NodeId(0), 7);
        fair.push(NodeId(2), 8);
        fair.push(NodeId(2), 9);
        let next: Vec<(u32, i32)> =
            (0..6).map_while(|_| fair.pop()).map(|(from, n)| (from.0, n)).collect();
        assert_eq!(next, [(2, 8), (0, 7), (1, 1), (2, 9), (1, 2), (1, 3)]);
        assert_eq!((fair.len(), fair.of(NodeId(1)), fair.of(NodeId(2))), (996, 996, 0));
        fair.push(NodeId(2), 1);
        fair.forget(NodeId(1));
        assert_eq!((fair.len(), fair.of(NodeId(1))), (1, 0));
        while fair.pop().is_some() {}
        assert_eq!((fair.len(), fair.pop()), (0, None));
    }
}
