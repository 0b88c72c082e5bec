//! Convergence of views: after the network has settled, honest nodes come to a common view,
//! whatever liars report.
//!
//! This is liveness, which a search over states cannot show: it is about *all* fair continuations.
//! So the continuation from given views is played out here, in turns, against every choice of the
//! liars. A turn has two parts:
//! - *Rounds.* Every node hears every other node, follows the reports that are a reason, and enters
//!   a view that enough nodes want. Liars may help any node in any round. There are as many rounds
//!   as a laggard needs to come up view by view. That so many fit into one timeout is the
//!   assumption of partial synchrony: timeouts double with each view that is entered.
//! - *Timeouts.* Every node that entered no view in this turn gets a reason of its own, and keeps
//!   it until it enters a view. A node that entered one began to count afresh.
//!
//! Nothing depends on the number of a view, so views are kept relative to the lowest one, and
//! sorted.

use crate::wants::Wants;
use std::collections::HashMap;

/// The number of turns within which a common view must be reached from any explored views.
const TURNS: u8 = 12;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Node {
    view: u8,
    /// The node has a reason of its own to leave the view.
    timed_out: bool,
    /// The node entered the view in this turn.
    entered: bool,
}

type Nodes = Vec<Node>;

/// The results for the constellations that were asked for, so that none is played twice.
pub struct Convergence {
    wants: Wants,
    known: HashMap<Nodes, bool>,
}

impl Convergence {
    /// An instance that has played no constellation yet.
    #[must_use]
    pub fn new(wants: Wants) -> Self {
        Self { wants, known: HashMap::new() }
    }

    /// Whether every play from these views of the honest nodes comes to a common view.
    pub fn is_certain(&mut self, views: &[u8]) -> bool {
        let nodes = views
            .iter()
            .map(|view| Node { view: *view, timed_out: false, entered: false })
            .collect();
        self.play(relative(nodes), TURNS)
    }

    fn play(&mut self, nodes: Nodes, turns: u8) -> bool {
        if common(&nodes) {
            return true;
        }
        if turns == 0 {
            return false;
        }
        if let Some(known) = self.known.get(&nodes) {
            return *known;
        }
        let spread = nodes.iter().map(|node| node.view).max().unwrap_or(0);
        let mut reached = vec![nodes.clone()];
        for _ in 0..spread + 2 {
            reached = reached
                .iter()
                .flat_map(|nodes| self.round(nodes))
                .filter(|nodes| !common(nodes))
                .collect();
            reached.sort_unstable();
            reached.dedup();
        }
        let certain =
            reached.into_iter().all(|next| self.play(relative(timeouts(next)), turns - 1));
        self.known.insert(nodes, certain);
        certain
    }

    /// Every constellation after one round.
    fn round(&self, nodes: &Nodes) -> Vec<Nodes> {
        let reported: Vec<u8> =
            nodes.iter().map(|node| node.view + u8::from(node.timed_out)).collect();
        let options = nodes.iter().enumerate().map(|(index, node)| {
            let peers: Vec<u8> = reported
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .map(|(_, want)| *want)
                .collect();
            if node.timed_out || self.wants.must_follow(&peers, node.view) {
                vec![node.view + 1]
            } else if self.wants.may_follow(&peers, node.view) {
                vec![node.view, node.view + 1]
            } else {
                vec![node.view]
            }
        });
        let mut results = Vec::new();
        for wants in product(options) {
            // No more than the highest honest want can be entered: a quorum holds more members than
            // there are liars.
            let (low, high) = self.wants.enterable(&wants);
            let entered = nodes.iter().map(|node| {
                let mut results = vec![];
                if low <= node.view {
                    results.push(*node);
                }
                results.extend((low.max(node.view + 1)..=high).map(|view| Node {
                    view,
                    timed_out: false,
                    entered: true,
                }));
                results
            });
            results.extend(product(entered).into_iter().map(relative));
        }
        results
    }
}

fn timeouts(mut nodes: Nodes) -> Nodes {
    for node in &mut nodes {
        node.timed_out |= !node.entered;
        node.entered = false;
    }
    nodes
}

fn common(nodes: &Nodes) -> bool {
    nodes.iter().all(|node| node.view == nodes[0].view)
}

fn relative(mut nodes: Nodes) -> Nodes {
    let lowest = nodes.iter().map(|node| node.view).min().unwrap_or(0);
    nodes.iter_mut().for_each(|node| node.view -= lowest);
    nodes.sort_unstable();
    nodes
}

/// Every way to take one option from each list.
fn product<T: Clone>(options: impl Iterator<Item = Vec<T>>) -> Vec<Vec<T>> {
    options.fold(vec![Vec::new()], |taken, next| {
        taken
            .iter()
            .flat_map(|taken| {
                next.iter().map(move |one| [taken.as_slice(), std::slice::from_ref(one)].concat())
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutation::Mutation;

    /// Every constellation of `nodes` honest nodes within four views.
    fn constellations(nodes: usize) -> Vec<Vec<u8>> {
        let mut all = product(std::iter::repeat_n((0..4).collect(), nodes));
        all.retain(|views| views.is_sorted());
        all
    }

    #[test]
    fn committees_of_every_size_come_together() {
        for (members, nodes) in [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5)] {
            let mut convergence = Convergence::new(Wants::new(members, Mutation::None));
            assert!(
                constellations(nodes).iter().all(|views| convergence.is_certain(views)),
                "{members} validators"
            );
        }
    }

    #[test]
    fn without_following_they_do_not() {
        for (members, nodes) in [(4, 3), (5, 4), (6, 5), (7, 5)] {
            let mut convergence = Convergence::new(Wants::new(members, Mutation::NeverFollow));
            assert!(
                constellations(nodes).iter().any(|views| !convergence.is_certain(views)),
                "{members} validators"
            );
        }
    }
}
