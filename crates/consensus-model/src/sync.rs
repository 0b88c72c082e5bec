//! The model of view synchronisation: which node wants which view, which reports arrived, and which
//! node enters.
//!
//! Four validators take part. One is a liar that reports anything to any node at any time. A node
//! keeps one want of each peer, the newest that it heard. Its whole state is a view, a want and one
//! want for each peer, whatever liars send.
//!
//! The properties:
//! - Liars alone move no node: a view is entered only when enough honest nodes wanted it or a
//!   higher one, and the first to want it had a reason of its own.
//! - From every state honest nodes come to a common view once messages arrive
//!   ([`crate::convergence`]).
//!
//! A node's own reasons come and go at any time. The nodes differ in nothing, so states that differ
//! by a permutation of them are one.

use crate::convergence::Convergence;
use crate::mutation::Mutation;
use crate::report::Narrate;
use crate::wants::Wants;
use stateright::{Model, Property};
use std::collections::HashSet;

/// Validators.
const MEMBERS: usize = 4;
/// Honest validators.
const NODES: usize = 3;

/// The reports that may still arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reports {
    /// Only the newest, as on an ordered channel.
    Newest,
    /// Every report that was ever sent, in any order. Real channels do less.
    Any,
}

/// The model of view synchronisation.
#[derive(Clone, Debug)]
pub struct SyncModel {
    wants: Wants,
    last: u8,
    reports: Reports,
    reduced: bool,
    /// Constellations from which some play never comes to a common view.
    diverging: HashSet<[u8; NODES]>,
}

/// The views, the wants, and the wants that were heard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct State {
    nodes: [Node; NODES],
    /// The highest view that an honest node wanted for a reason of its own. (Only the property
    /// reads it.)
    reasoned: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
struct Node {
    view: u8,
    want: u8,
    /// Every want that it ever reported, as bits.
    reported: u8,
    /// The want heard last from each honest node.
    heard: [u8; NODES],
}

/// A step of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The node has a reason of its own and wants the next view.
    Suspect(u8),
    /// Other nodes are a reason, and the node wants the next view.
    Follow(u8),
    /// No reason is left, and the node wants the view that it is in.
    Withdraw(u8),
    /// The node hears that another one wants a view.
    Hear {
        /// The node.
        node: u8,
        /// The other node.
        from: u8,
        /// The view that the other node wants or wanted.
        want: u8,
    },
    /// The node enters a view that enough nodes want.
    Enter {
        /// The node.
        node: u8,
        /// The view.
        view: u8,
    },
}

impl SyncModel {
    /// A model with views up to `last`.
    #[must_use]
    pub fn new(last: u8, reports: Reports, mutation: Mutation) -> Self {
        let wants = Wants::new(MEMBERS, mutation);
        let mut convergence = Convergence::new(wants);
        let mut diverging = HashSet::new();
        for middle in 0..=last {
            for highest in middle..=last {
                if !convergence.is_certain(&[0, middle, highest]) {
                    diverging.insert([0, middle, highest]);
                }
            }
        }
        // A search for a counterexample keeps the nodes apart, so that it can name them.
        Self { wants, last, reports, reduced: mutation == Mutation::None, diverging }
    }

    /// The wants that `node` knows, its own among them.
    fn known(state: &State, node: usize) -> [u8; NODES] {
        let mut known = state.nodes[node].heard;
        known[node] = state.nodes[node].want;
        known
    }

    fn peers(state: &State, node: usize) -> Vec<u8> {
        (0..NODES)
            .filter(|other| *other != node)
            .map(|other| state.nodes[node].heard[other])
            .collect()
    }

    /// Whether every view that a node could enter now was wanted, or a higher one was, by at least
    /// `quorum - liars` honest nodes.
    fn wanted_by_enough(&self, state: &State) -> bool {
        (0..NODES)
            .filter(|node| {
                self.wants.enterable(&Self::known(state, *node)).1 > state.nodes[*node].view
            })
            .all(|node| {
                let (_, view) = self.wants.enterable(&Self::known(state, node));
                let wanted =
                    state.nodes.iter().filter(|other| highest(other.reported) >= view).count();
                wanted >= MEMBERS - 2 * self.wants.liars
            })
    }

    fn reasoned(&self, state: &State) -> bool {
        state
            .nodes
            .iter()
            .all(|node| node.view <= state.reasoned && highest(node.reported) <= state.reasoned)
    }

    fn converges(&self, state: &State) -> bool {
        let mut views = state.nodes.map(|node| node.view);
        views.sort_unstable();
        !self.diverging.contains(&views.map(|view| view - views[0]))
    }
}

const fn highest(set: u8) -> u8 {
    7u8.saturating_sub(set.leading_zeros() as u8)
}

/// The least of the states that differ by a permutation of the nodes.
fn representative(state: &State) -> State {
    const ORDERS: [[usize; NODES]; 6] =
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let permuted = ORDERS.map(|order| {
        let nodes = order.map(|node| Node {
            heard: order.map(|other| state.nodes[node].heard[other]),
            ..state.nodes[node]
        });
        State { nodes, reasoned: state.reasoned }
    });
    permuted.into_iter().min().unwrap_or(*state)
}

impl Model for SyncModel {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State { nodes: [Node { reported: 1, ..Node::default() }; NODES], reasoned: 0 }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        for (index, node) in state.nodes.iter().enumerate() {
            let name = index as u8;
            if node.want == node.view && node.view < self.last {
                actions.push(Step::Suspect(name));
                if self.wants.may_follow(&Self::peers(state, index), node.view) {
                    actions.push(Step::Follow(name));
                }
            }
            if node.want > node.view {
                actions.push(Step::Withdraw(name));
            }
            for (from, other) in state.nodes.iter().enumerate().filter(|(from, _)| *from != index) {
                let sent = match self.reports {
                    Reports::Newest => 1 << other.want,
                    Reports::Any => other.reported,
                };
                let news =
                    (0..8).filter(|want| sent & (1 << want) != 0 && *want != node.heard[from]);
                actions.extend(news.map(|want| Step::Hear { node: name, from: from as u8, want }));
            }
            let (low, high) = self.wants.enterable(&Self::known(state, index));
            actions.extend(
                (low.max(node.view + 1)..=high.min(self.last))
                    .map(|view| Step::Enter { node: name, view }),
            );
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = *state;
        let want = |node: &mut Node, want: u8| {
            node.want = want;
            node.reported |= 1 << want;
        };
        match step {
            Step::Suspect(node) => {
                let node = &mut next.nodes[usize::from(node)];
                want(node, node.view + 1);
                next.reasoned = next.reasoned.max(node.want);
            }
            Step::Follow(node) => {
                let node = &mut next.nodes[usize::from(node)];
                want(node, node.view + 1);
            }
            Step::Withdraw(node) => {
                let node = &mut next.nodes[usize::from(node)];
                want(node, node.view);
            }
            Step::Hear { node, from, want } => {
                next.nodes[usize::from(node)].heard[usize::from(from)] = want
            }
            Step::Enter { node, view } => {
                let node = &mut next.nodes[usize::from(node)];
                node.view = view;
                want(node, view);
            }
        }
        Some(if self.reduced { representative(&next) } else { next })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always(
                "a view is entered only if enough honest nodes wanted it",
                Self::wanted_by_enough,
            ),
            Property::<Self>::always(
                "the first to want a view had a reason of its own",
                Self::reasoned,
            ),
            Property::<Self>::always("a common view can be reached", Self::converges),
        ]
    }
}

impl Narrate for SyncModel {
    fn narrate(&self, state: &State, step: &Step) -> String {
        let view = |node: u8| state.nodes[usize::from(node)].view;
        match *step {
            Step::Suspect(node) => {
                format!("{node} has a reason of its own and wants view {}", view(node) + 1)
            }
            Step::Follow(node) => {
                format!("{node} follows the reports and wants view {}", view(node) + 1)
            }
            Step::Withdraw(node) => {
                format!("{node} has no reason left and wants view {}", view(node))
            }
            Step::Hear { node, from, want } => {
                format!("{node} hears that {from} wants view {want}")
            }
            Step::Enter { node, view } => format!("{node} enters view {view}"),
        }
    }
}
