//! The members of an epoch, and the pod of each.
//!
//! A node id is given once and never again, while a pod's ordinal is a place: after a validator was
//! replaced, the same place holds another id. So the two are never taken for each other.

use cretoai_types::{Genesis, Hash, NodeId, PublicKey, Quorum, Validators};

/// A validator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    /// Its id on the chain.
    pub id: NodeId,
    /// Its name, which is that of its pod.
    pub name: String,
    /// Its key.
    pub key: PublicKey,
    /// The ordinal of its pod, if it has one.
    pub ordinal: Option<usize>,
}

/// The members of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// The chain.
    pub chain: Hash,
    /// In the order of their ids.
    pub validators: Vec<Validator>,
    /// How many of them a decision needs.
    pub quorum: Quorum,
}

impl Roster {
    /// The members of the first epoch: the pod of member `i` is pod `i`.
    #[must_use]
    pub fn of_genesis(genesis: &Genesis) -> Self {
        let validators = genesis.validators();
        let names: Vec<&str> =
            validators.members.iter().map(|member| member.name.as_str()).collect();
        Self::of_epoch(genesis.chain_id(), &validators, |name| {
            names.iter().position(|known| *known == name)
        })
    }

    /// The members of an epoch. `ordinal` maps a validator's name to the ordinal of its pod.
    #[must_use]
    pub fn of_epoch(
        chain: Hash,
        validators: &Validators,
        ordinal: impl Fn(&str) -> Option<usize>,
    ) -> Self {
        let members = validators.members.iter().map(|member| Validator {
            id: member.id,
            name: member.name.clone(),
            key: member.key.clone(),
            ordinal: ordinal(&member.name),
        });
        Self { chain, validators: members.collect(), quorum: validators.quorum() }
    }

    /// The validator whose pod has this ordinal.
    #[must_use]
    pub fn at(&self, ordinal: usize) -> Option<&Validator> {
        self.validators.iter().find(|validator| validator.ordinal == Some(ordinal))
    }

    /// The id of the validator of this name.
    #[must_use]
    pub fn id_of(&self, name: &str) -> Option<NodeId> {
        self.validators.iter().find(|validator| validator.name == name).map(|found| found.id)
    }
}
