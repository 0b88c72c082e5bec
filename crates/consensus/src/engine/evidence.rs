//! Pairs of objects that contradict each other, on their way into a vertex. What they prove is
//! judged when it is executed.

use super::{Engine, MAX_ITEMS_WAITING, ViolationKind};
use cretoai_types::{
    CheckedVertex, Evidence, Item, MAX_ITEMS, SignedHeader, Vertex, mutants::mutant,
};
use std::sync::Arc;

impl Engine {
    /// Somebody contradicted himself: counts it, and has it sealed if it can still count on the
    /// chain.
    pub(super) fn accuse(&mut self, evidence: Evidence) {
        let Some(offence) = evidence.offence() else { return };
        self.violation(offence.accused, ViolationKind::Equivocation);
        if self.state.could_count(&self.validators, &evidence).is_some() {
            self.take_item(Item::Evidence(Box::new(evidence)));
        }
    }

    /// Keeps a system item until it can be sealed. One of each offence; what there is no room for
    /// is dropped.
    pub(super) fn take_item(&mut self, item: Item) {
        let known = self.items.iter().any(|known| match (known, &item) {
            (Item::Evidence(a), Item::Evidence(b)) => a.offence() == b.offence(),
            (a, b) => a == b,
        });
        if known {
            return;
        }
        match &item {
            // The admin's order goes first; one waits at a time.
            Item::Reconfig(_) => {
                self.items.retain(|item| matches!(item, Item::Evidence(_)));
                self.items.push_front(item);
            }
            Item::Evidence(evidence) => {
                let sealed =
                    evidence.offence().is_none_or(|offence| self.sealed.contains(&offence));
                if !sealed && self.items.len() < MAX_ITEMS_WAITING {
                    self.items.push_back(item);
                }
            }
        }
    }

    /// Evidence that was counted meanwhile need not be sealed again.
    pub(super) fn drop_needless_items(&mut self) {
        let (state, validators) = (&self.state, &self.validators);
        self.items.retain(|item| match item {
            Item::Evidence(evidence) => state.could_count(validators, evidence).is_some(),
            Item::Reconfig(order) => {
                order.reconfig.epoch == validators.epoch
                    && order.reconfig.valid_until_ms >= state.time_ms
            }
        });
    }

    /// The next items for a vertex.
    pub(super) fn items_to_seal(&mut self) -> Vec<Item> {
        let count = self.items.len().min(MAX_ITEMS);
        let items: Vec<Item> = self.items.drain(..count).collect();
        for item in &items {
            if let Item::Evidence(evidence) = item {
                self.sealed.extend(evidence.offence());
            }
        }
        items
    }

    /// Of this node's own items in an executed sequence those beyond what is judged: they are
    /// sealed again.
    pub(super) fn take_back_void_items(&mut self, vertices: &[Arc<CheckedVertex>]) {
        let own = self.own_id();
        let of_own = vertices.iter().filter(|vertex| Some(vertex.header().author) == own);
        let items: Vec<Item> = of_own.flat_map(|vertex| vertex.vertex().items.clone()).collect();
        for item in &items {
            if let Item::Evidence(evidence) = item {
                self.sealed.retain(|offence| Some(*offence) != evidence.offence());
            }
        }
        items.into_iter().skip(MAX_ITEMS).for_each(|item| self.take_item(item));
    }

    /// Two vertices of one slot.
    pub(super) fn accuse_of_fork(
        &mut self,
        first: &Arc<CheckedVertex>,
        second: &Arc<CheckedVertex>,
    ) {
        let signed = |vertex: &CheckedVertex| {
            Box::new(SignedHeader {
                header: vertex.header().clone(),
                signature: vertex.vertex().signature.clone(),
            })
        };
        self.accuse(Evidence::Fork(signed(first), signed(second)));
    }

    /// Broken on purpose: a vertex is refused for an item that this node finds bad now.
    pub(super) fn refuses_for_items(&self, vertex: &Vertex) -> bool {
        mutant!(ItemsJudgedOnArrival)
            && vertex.items.iter().any(|item| match item {
                Item::Evidence(evidence) => {
                    self.state.could_count(&self.validators, evidence).is_none()
                }
                Item::Reconfig(order) => self
                    .state
                    .judge_reconfig(
                        order,
                        self.chain_id,
                        &self.validators,
                        self.state.time_ms,
                        &*self.verifier,
                    )
                    .is_err(),
            })
    }
}
