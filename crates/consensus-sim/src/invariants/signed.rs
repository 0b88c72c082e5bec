//! What honest nodes sign: never two things that contradict each other, nothing below the view that
//! they entered, nothing before it is durable, and nothing while they are no validators.

use super::{Broken, Checks, Slot, rule};
use crate::{crypto::SimVerifier, disk::Disk};
use cretoai_consensus::{
    Message,
    engine::{Role, Write},
};
use cretoai_types::{
    Ballot, Checkpoint, Domain, Epoch, Hash, NewView, NodeId, Phase, Proposal, Sequence, Tip, View,
    ViewChange, Vote,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What honest nodes said so far.
#[derive(Default)]
pub(super) struct Signed {
    /// (epoch, voter, COMMIT or not, view, sequence) to digest.
    votes: HashMap<(Epoch, NodeId, bool, View, Sequence), Hash>,
    /// The newest COMMIT: sequence and view.
    committed: BTreeMap<(Epoch, NodeId), (Sequence, View)>,
    /// The view that each entered.
    entered: BTreeMap<(Epoch, NodeId), View>,
    view_changes: HashMap<(Epoch, NodeId, View), ViewChange>,
    new_views: HashMap<(Epoch, View), NewView>,
    checkpoints: HashMap<(Epoch, NodeId, Sequence), Hash>,
    /// The vertex of each slot.
    slots: HashMap<Slot, Hash>,
    /// What each node acknowledged last in a lane since it started.
    acknowledged: HashMap<(NodeId, Epoch, NodeId), Tip>,
    /// Tips that somebody proposed, or that a certificate names.
    named: HashMap<(Epoch, NodeId), BTreeSet<Tip>>,
}

impl Checks {
    /// Something of an honest node became durable: it will stand by it, whatever it sent.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn durable(&mut self, node: NodeId, write: &Write, disk: &Disk) -> Result<(), Broken> {
        match write {
            Write::Vote { vote, proposed } => {
                self.voted(node, vote.ballot)?;
                let named = proposed.iter().flat_map(|(proposal, _)| &proposal.cut);
                let authors = self
                    .epochs
                    .get(&vote.ballot.epoch)
                    .map(|v| v.ids().collect::<Vec<_>>())
                    .unwrap_or_default();
                for (author, tip) in authors.into_iter().zip(named) {
                    let held = disk.holds_tip(author, *tip);
                    rule!(
                        held,
                        "data: node {node} voted for a cut whose lane {author} it does not hold up to {}",
                        tip.height
                    );
                }
            }
            Write::Vertex(vertex) if vertex.header().author == node => {
                self.sealed((vertex.header().epoch, node, vertex.header().height), vertex.id())?;
            }
            Write::Prepared(prepared) => {
                let certificate = &prepared.certificate;
                let valid = self
                    .epochs
                    .get(&certificate.epoch)
                    .map(|set| certificate.verify(self.chain_id, set, &SimVerifier));
                rule!(
                    valid == Some(Ok(())),
                    "certificate: node {node} keeps a prepared certificate that proves nothing: {valid:?}"
                );
            }
            Write::NewView(new_view) => self.new_view_is_right(node, new_view)?,
            Write::Stable(certificate) | Write::Epoch { certificate, .. } => {
                let state = &certificate.state;
                let valid = self
                    .epochs
                    .get(&state.epoch)
                    .map(|set| certificate.verify(self.chain_id, set, &SimVerifier));
                rule!(
                    valid == Some(Ok(())),
                    "certificate: node {node} holds {} for stable, which proves nothing: {valid:?}",
                    state.sequence
                );
                let executed = disk.newest() >= state.sequence;
                rule!(
                    executed,
                    "checkpoint: node {node} closed {} before it had executed it",
                    state.sequence
                );
                let right =
                    self.chain_hash_at(state.sequence).is_none_or(|hash| hash == state.chain_hash);
                rule!(
                    right,
                    "certificate: node {node} closed {} on a chain that is not executed",
                    state.sequence
                );
            }
            _ => {}
        }
        Ok(())
    }

    /// After what rests on it was sent: the views that became durable.
    pub fn entered(&mut self, node: NodeId, write: &Write) {
        if let Write::ViewChange(change) = write {
            self.enter(node, change.head.epoch, change.head.view);
        }
    }

    fn enter(&mut self, node: NodeId, epoch: Epoch, view: View) {
        let entered = self.signed.entered.entry((epoch, node)).or_default();
        *entered = (*entered).max(view);
    }

    /// Only validators sign.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn may_sign(
        &self,
        node: NodeId,
        before: Role,
        after: Role,
        writes: &[Write],
    ) -> Result<(), Broken> {
        if before == Role::Validator || after == Role::Validator {
            return Ok(());
        }
        for write in writes {
            let signs = match write {
                Write::Vote { vote, .. } => vote.ballot.voter == node,
                Write::Vertex(vertex) => vertex.header().author == node && self.slot_is_new(vertex),
                Write::ViewChange(_) | Write::Checkpoint(_) => true,
                _ => false,
            };
            rule!(!signs, "standing: node {node} signs and is {after:?}");
        }
        Ok(())
    }

    /// Vertices of its own lane that a node fetches back are not signed anew. What it sealed while
    /// its volume was in doubt was not noted.
    fn slot_is_new(&self, vertex: &cretoai_types::CheckedVertex) -> bool {
        let header = vertex.header();
        if !self.is_honest(header.author, header.epoch) {
            return false;
        }
        self.signed.slots.get(&(header.epoch, header.author, header.height)) != Some(&vertex.id())
    }

    /// An honest node sends a message: it contradicts nothing that it said before, and what it says
    /// rests on its disk.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn sent(&mut self, node: NodeId, message: &Message, disk: &Disk) -> Result<(), Broken> {
        match message {
            Message::PrePrepare { vote, .. } | Message::Vote(vote) if vote.ballot.voter == node => {
                self.sent_vote(node, vote, disk)?
            }
            Message::Acknowledge { epoch, tips } => self.acknowledged(node, *epoch, tips, disk)?,
            Message::Status(status) => {
                self.acknowledged(node, status.epoch, &status.acknowledged, disk)?;
                let known = status.executed == Sequence(0)
                    || disk.chain_hash(status.executed) == Some(status.chain_hash);
                rule!(
                    known,
                    "status: node {node} reports sequence {} that is not on its disk",
                    status.executed
                );
            }
            Message::Vertex(vertex) if vertex.header.author == node => {
                let (epoch, height) = (vertex.header.epoch, vertex.header.height);
                let id = vertex.header.id(&Domain { chain_id: self.chain_id, epoch });
                self.sealed((epoch, node, height), id)?;
                rule!(
                    disk.holds_tip(node, Tip { height, id }),
                    "durability: node {node} sent vertex {height} before it was durable"
                );
                let mark = disk.mark();
                rule!(
                    (mark.epoch, mark.height) >= (epoch, height),
                    "durability: node {node} sent vertex {height} without a mark"
                );
            }
            Message::ViewChange(change) if change.head.node == node => {
                self.sent_view_change(node, change, disk)?
            }
            Message::NewView(new_view) => self.sent_new_view(node, new_view, disk)?,
            Message::Checkpoint(checkpoint) => self.sent_checkpoint(node, checkpoint, disk)?,
            Message::Records { epoch, records, proof } => {
                let valid = self
                    .epochs
                    .get(epoch)
                    .map(|set| proof.verify(self.chain_id, set, &SimVerifier));
                let about =
                    records.last().map(|last| last.proposal.sequence) == Some(proof.sequence());
                rule!(
                    about && valid == Some(Ok(())),
                    "certificate: node {node} gives a proof of records that proves nothing: {valid:?}"
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn sent_vote(&mut self, node: NodeId, vote: &Vote, disk: &Disk) -> Result<(), Broken> {
        let ballot = vote.ballot;
        self.voted(node, ballot)?;
        rule!(
            disk.holds_vote(vote),
            "durability: node {node} sent {ballot:?} before it was durable"
        );
        let mark = disk.mark();
        let marked = (mark.epoch, mark.vote)
            >= (ballot.epoch, Some((ballot.view, ballot.sequence, ballot.phase)));
        rule!(marked, "durability: node {node} sent {ballot:?} without a mark");
        if ballot.phase == Phase::Commit {
            rule!(
                disk.holds_prepared_of(vote),
                "durability: node {node} sent {ballot:?} before its certificate was durable"
            );
        }
        self.follows_choice(node, &ballot, disk)?;
        let signed_by = self
            .epochs
            .get(&ballot.epoch)
            .is_some_and(|set| vote.verifies(self.chain_id, set, &SimVerifier));
        rule!(
            signed_by,
            "standing: node {node} signed {ballot:?} with a key that is no validator's"
        );
        Ok(())
    }

    /// What NEW-VIEW chose is what is voted for.
    fn follows_choice(&self, node: NodeId, ballot: &Ballot, disk: &Disk) -> Result<(), Broken> {
        let of_view = |new_view: &&std::sync::Arc<NewView>| {
            (new_view.epoch, new_view.view) == (ballot.epoch, ballot.view)
        };
        let Some(choice) = disk.new_view().filter(of_view).and_then(|new_view| new_view.choice())
        else {
            return Ok(());
        };
        let chosen = choice.prepared.filter(|_| choice.executed.next() == ballot.sequence);
        let follows = chosen.is_none_or(|(_, digest)| digest == ballot.digest);
        rule!(
            follows,
            "views: node {node} voted in view {} for another digest than NEW-VIEW chose",
            ballot.view
        );
        Ok(())
    }

    fn voted(&mut self, node: NodeId, ballot: Ballot) -> Result<(), Broken> {
        let Ballot { epoch, phase, view, sequence, digest, .. } = ballot;
        let commit = phase == Phase::Commit;
        let signed = &mut self.signed;
        let is_new = !signed.votes.contains_key(&(epoch, node, commit, view, sequence));
        let known = *signed.votes.entry((epoch, node, commit, view, sequence)).or_insert(digest);
        rule!(
            known == digest,
            "votes: honest node {node} voted {known:?} and {digest:?} in {phase:?} of sequence {sequence} in view {view}"
        );
        if is_new {
            let entered = signed.entered.get(&(epoch, node)).copied().unwrap_or_default();
            rule!(
                view >= entered,
                "views: node {node} voted in view {view} after it entered {entered}"
            );
            let end = self.openings.get(&epoch.next()).map(|opening| opening.sequence);
            rule!(
                end.is_none_or(|end| sequence <= end),
                "epochs: node {node} voted for {sequence} in epoch {epoch}, which ended at {end:?}"
            );
        }
        if commit {
            let prepared = self.signed.votes.get(&(epoch, node, false, view, sequence));
            rule!(
                prepared == Some(&digest),
                "votes: node {node} committed {digest:?} in sequence {sequence} and prepared {prepared:?}"
            );
            self.commits
                .entry((epoch, sequence, digest))
                .or_default()
                .entry(view)
                .or_default()
                .insert(node);
            let newest = self.signed.committed.entry((epoch, node)).or_default();
            *newest = (*newest).max((sequence, view));
        }
        Ok(())
    }

    fn sealed(&mut self, slot: Slot, id: Hash) -> Result<(), Broken> {
        let known = *self.signed.slots.entry(slot).or_insert(id);
        rule!(known == id, "fork: honest node {} made two vertices of height {}", slot.1, slot.2);
        Ok(())
    }

    fn acknowledged(
        &mut self,
        node: NodeId,
        epoch: Epoch,
        tips: &[Tip],
        disk: &Disk,
    ) -> Result<(), Broken> {
        let Some(validators) = self.epochs.get(&epoch) else {
            return Err(format!("epochs: node {node} is in epoch {epoch}, which nothing opened"));
        };
        for (author, tip) in validators.ids().zip(tips) {
            let held = disk.holds_tip(author, *tip);
            rule!(
                held,
                "durability: node {node} acknowledged lane {author} up to {} before it was durable",
                tip.height
            );
            let last = self.signed.acknowledged.insert((node, epoch, author), *tip).unwrap_or(*tip);
            if !disk.descends(author, *tip, last) {
                // Another branch: only what was named takes the place of what was held first.
                let beside = |named: &Tip| {
                    !disk.descends(author, last, *named) && !disk.descends(author, *named, last)
                };
                let is_named = self
                    .signed
                    .named
                    .get(&(epoch, author))
                    .is_some_and(|named| named.iter().any(beside));
                rule!(
                    is_named,
                    "fork: node {node} acknowledged {last:?} of lane {author}, and then {tip:?}"
                );
            }
        }
        Ok(())
    }

    /// A process has started: of a lane that forked it may hold another branch first.
    pub fn started(&mut self, node: NodeId) {
        self.signed.acknowledged.retain(|(who, ..), _| *who != node);
    }

    /// Somebody sends something that names tips.
    pub fn names(&mut self, message: &Message) {
        let (epoch, proposals): (Epoch, Vec<&Proposal>) = match message {
            Message::PrePrepare { proposal, vote } => (vote.ballot.epoch, vec![proposal]),
            Message::NewView(new_view) => (
                new_view.epoch,
                new_view.prepared.iter().map(|prepared| &prepared.proposal).collect(),
            ),
            Message::ViewChange(change) => (
                change.head.epoch,
                change.prepared.iter().map(|prepared| &prepared.proposal).collect(),
            ),
            Message::Records { epoch, records, .. } => {
                (*epoch, records.iter().map(|record| &record.proposal).collect())
            }
            _ => return,
        };
        let Some(validators) = self.epochs.get(&epoch) else { return };
        for proposal in proposals {
            for (author, tip) in validators.ids().zip(&proposal.cut) {
                self.signed.named.entry((epoch, author)).or_default().insert(*tip);
            }
        }
    }

    /// What an honest leader proposes afresh is held by so many nodes that one of them is honest
    /// and stays.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn is_backed(
        &self,
        node: NodeId,
        proposal: &Proposal,
        ballot: &Ballot,
        holders: impl Fn(NodeId, Tip) -> usize,
    ) -> Result<(), Broken> {
        let Some(validators) =
            self.epochs.get(&ballot.epoch).filter(|_| proposal.origin_view == ballot.view)
        else {
            return Ok(());
        };
        let (w, liars) = (validators.quorum().w, self.liars(validators));
        for (author, tip) in validators.ids().zip(&proposal.cut) {
            let advances = self.tips.get(&author) != Some(tip);
            let backed = !advances || holders(author, *tip) + liars >= w;
            rule!(
                backed,
                "backing: leader {node} proposed lane {author} up to {}, which fewer than {w} hold",
                tip.height
            );
        }
        Ok(())
    }

    fn sent_view_change(
        &mut self,
        node: NodeId,
        change: &ViewChange,
        disk: &Disk,
    ) -> Result<(), Broken> {
        let head = &change.head;
        let (epoch, view) = (head.epoch, head.view);
        let durable = disk
            .view_change()
            .is_some_and(|known| (known.head.epoch, known.head.view) >= (epoch, view))
            || disk.epoch() > epoch;
        rule!(durable, "durability: node {node} sent VIEW-CHANGE {view} before it was durable");
        let mark = disk.mark();
        rule!(
            (mark.epoch, mark.view) >= (epoch, view),
            "durability: node {node} sent VIEW-CHANGE {view} without a mark"
        );
        let known =
            self.signed.view_changes.entry((epoch, node, view)).or_insert_with(|| change.clone());
        rule!(known == change, "views: honest node {node} sent two VIEW-CHANGEs for view {view}");
        if let Some((sequence, committed)) = self.signed.committed.get(&(epoch, node)) {
            let shown = head.executed >= *sequence
                || (head.executed.next() == *sequence
                    && head.prepared.is_some_and(|(view, _)| view >= *committed))
                || *committed >= view;
            rule!(
                shown,
                "views: VIEW-CHANGE {view} of honest node {node} conceals its COMMIT of {sequence} in view {committed}"
            );
        }
        let (Some(set), Some(opening)) = (self.epochs.get(&epoch), self.openings.get(&epoch))
        else {
            return Ok(());
        };
        rule!(
            change.verify(self.chain_id, set, *opening, &SimVerifier),
            "certificate: VIEW-CHANGE {view} of honest node {node} proves nothing"
        );
        self.enter(node, epoch, view);
        Ok(())
    }

    /// A NEW-VIEW that an honest node acts on, whoever made it.
    fn new_view_is_right(&self, node: NodeId, new_view: &NewView) -> Result<(), Broken> {
        let (Some(set), Some(opening)) =
            (self.epochs.get(&new_view.epoch), self.openings.get(&new_view.epoch))
        else {
            return Ok(());
        };
        let choice = new_view.verify(self.chain_id, set, *opening, &SimVerifier);
        rule!(
            choice.is_some(),
            "views: node {node} acts on a NEW-VIEW of {} that is wrong",
            new_view.view
        );
        Ok(())
    }

    fn sent_new_view(
        &mut self,
        node: NodeId,
        new_view: &NewView,
        disk: &Disk,
    ) -> Result<(), Broken> {
        let (epoch, view) = (new_view.epoch, new_view.view);
        let durable =
            disk.new_view().is_some_and(|known| (known.epoch, known.view) >= (epoch, view))
                || disk.epoch() > epoch;
        rule!(durable, "durability: node {node} sent NEW-VIEW {view} before it was durable");
        self.new_view_is_right(node, new_view)?;
        if self.epochs.get(&epoch).map(|set| set.leader(view)) == Some(node) {
            let entered = self.signed.entered.get(&(epoch, node)).copied().unwrap_or_default();
            rule!(
                view >= entered,
                "views: node {node} began view {view} after it entered {entered}"
            );
            let known =
                self.signed.new_views.entry((epoch, view)).or_insert_with(|| new_view.clone());
            rule!(known == new_view, "views: honest leader {node} began view {view} twice");
        }
        Ok(())
    }

    fn sent_checkpoint(
        &mut self,
        node: NodeId,
        checkpoint: &Checkpoint,
        disk: &Disk,
    ) -> Result<(), Broken> {
        let state = &checkpoint.state;
        let durable = disk.checkpoint().is_some_and(|known| known.state.sequence >= state.sequence);
        rule!(
            durable,
            "durability: node {node} sent checkpoint {} before it was durable",
            state.sequence
        );
        let mark = disk.mark();
        rule!(
            (mark.epoch, mark.checkpoint) >= (state.epoch, state.sequence),
            "durability: node {node} sent checkpoint {} without a mark",
            state.sequence
        );
        let known = *self
            .signed
            .checkpoints
            .entry((state.epoch, node, state.sequence))
            .or_insert(state.root);
        rule!(
            known == state.root,
            "state: honest node {node} signed two states of {}",
            state.sequence
        );
        let right = self.chain_hash_at(state.sequence).is_none_or(|hash| hash == state.chain_hash);
        rule!(
            right,
            "state: honest node {node} signed a chain hash of {} that is not the chain's",
            state.sequence
        );
        Ok(())
    }
}
