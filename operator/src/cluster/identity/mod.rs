//! Which chain the pods of a CretoCluster belong to, decided from what is there and never from
//! memory.
//!
//! Volumes, genesis and admin key share one retention. If all of them are there, a new CretoCluster
//! of the name adopts them and the chain goes on. If some are missing or left over, nothing is done
//! and the sentence names them: an empty chain never takes the place of data.

use crate::cluster::view::{AdminKey, GenesisFound, View};
use cretoai_types::{Hash, SignedGenesis};
use std::sync::Arc;

/// Which chain the pods belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// UID of the CretoCluster that the chain was, or will be, born under.
    pub cluster_uid: String,
    /// Fingerprint of the admin key.
    pub admin_fingerprint: Hash,
    /// The genesis, once the chain is born.
    pub born: Option<Arc<SignedGenesis>>,
    /// The Secret of the admin key is gone: the chain runs on, but we cannot speak to its nodes.
    pub admin_key_lost: Option<String>,
}

/// Why there is no identity to build pods for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// No key was made yet; making one is the next step.
    NoAdminKey,
    /// Parts of an earlier CretoCluster are still being deleted.
    Departing(String),
    /// A person has to decide.
    Refused(Refusal),
}

/// What a person has to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub reason: RefusalReason,
    /// For people: what is missing or left over, by name, and what to do.
    pub message: String,
}

/// Why a person has to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The spec is not one that makes a chain.
    InvalidSpec,
    /// An object of ours would have the name of somebody else's.
    NameTaken,
    /// Parts of an earlier chain are there, but not all.
    PartsMissing,
    /// Parts of an earlier CretoCluster are there that never became a chain.
    LeftOver,
    /// The chain was born, but its genesis is gone.
    GenesisMissing,
    /// The genesis does not verify.
    GenesisInvalid,
    /// The admin key is gone.
    AdminKeyMissing,
    /// The admin key is another than the genesis names.
    AdminKeyWrong,
    /// The retained chain has another number of validators.
    ReplicasDiffer,
    /// Volumes of a chain that is not ours.
    VolumesHoldChain,
}

impl RefusalReason {
    /// As a condition's reason.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidSpec => "InvalidSpec",
            Self::NameTaken => "NameTaken",
            Self::PartsMissing => "PartsMissing",
            Self::LeftOver => "LeftOver",
            Self::GenesisMissing => "GenesisMissing",
            Self::GenesisInvalid => "GenesisInvalid",
            Self::AdminKeyMissing => "AdminKeyMissing",
            Self::AdminKeyWrong => "AdminKeyWrong",
            Self::ReplicasDiffer => "ReplicasDiffer",
            Self::VolumesHoldChain => "VolumesHoldChain",
        }
    }

    /// Whether it is about the keys, so that the condition KeysValid is false.
    #[must_use]
    pub const fn concerns_keys(self) -> bool {
        matches!(
            self,
            Self::GenesisMissing
                | Self::GenesisInvalid
                | Self::AdminKeyMissing
                | Self::AdminKeyWrong
        )
    }
}

fn refuse<T>(reason: RefusalReason, message: String) -> Result<T, Hold> {
    Err(Hold::Refused(Refusal { reason, message }))
}

/// Decides which chain the pods belong to.
///
/// # Errors
/// Why there is none yet, or none at all.
pub fn decide(view: &View) -> Result<Identity, Hold> {
    let names = &view.cluster.names;
    // What we have seen alive is repaired: a part of it that goes does not stop the chain, for
    // example a volume claim that was deleted while its pod runs on.
    let of_ours = |ordinal: &usize| *ordinal < view.cluster.replicas;
    let departing: Vec<String> = [
        (view.admin_key == AdminKey::Departing).then(|| format!("Secret {}", names.admin_key())),
        (view.genesis == GenesisFound::Departing).then(|| format!("ConfigMap {}", names.genesis())),
    ]
    .into_iter()
    .flatten()
    .chain(
        view.volumes
            .iter()
            .filter(|(ordinal, volume)| of_ours(ordinal) && volume.departing)
            .map(|(_, volume)| format!("PersistentVolumeClaim {}", volume.name)),
    )
    .collect();
    if !departing.is_empty() && !view.cluster.status.bootstrapped {
        return Err(Hold::Departing(format!(
            "waits until {} of an earlier CretoCluster of this name is deleted",
            departing.join(", ")
        )));
    }
    match &view.genesis {
        GenesisFound::Departing => Err(Hold::Departing(format!(
            "ConfigMap {} with the genesis is being deleted; it is looked at again once it is gone",
            names.genesis()
        ))),
        GenesisFound::Unreadable(why) => refuse(
            RefusalReason::GenesisInvalid,
            format!(
                "ConfigMap {} holds no valid genesis: {why}; put the original back, nothing else continues this chain",
                names.genesis()
            ),
        ),
        GenesisFound::Present { genesis, .. } => adopt(view, genesis),
        GenesisFound::Missing => begin(view),
    }
}

/// There is a genesis: the chain goes on, if all its parts are there.
fn adopt(view: &View, genesis: &Arc<SignedGenesis>) -> Result<Identity, Hold> {
    let names = &view.cluster.names;
    let content = &genesis.genesis;
    let chain = content.chain_id().to_string();
    // A cluster that we have seen alive is repaired; one that we have not is adopted whole or not
    // at all.
    let seen_alive = view.cluster.status.bootstrapped
        && view.cluster.status.chain_id.as_deref() == Some(chain.as_str());
    if content.members.len() != view.cluster.replicas {
        return refuse(
            RefusalReason::ReplicasDiffer,
            format!(
                "spec.replicas is {}, but the retained chain {chain} has {} validators; set spec.replicas to {}",
                view.cluster.replicas,
                content.members.len(),
                content.members.len()
            ),
        );
    }
    if let Some((expected, found)) = view
        .cluster
        .pods()
        .zip(&content.members)
        .find(|(pod, member)| **pod != member.name)
        .map(|(pod, member)| (pod, &member.name))
    {
        return refuse(
            RefusalReason::GenesisInvalid,
            format!(
                "ConfigMap {} names validator {found} where {expected} belongs: it is another cluster's genesis; put the original back",
                names.genesis()
            ),
        );
    }
    let foreign: Vec<&str> = member_volumes(view)
        .filter(|volume| volume.cluster_uid.as_deref() != Some(content.cluster_uid.as_str()))
        .map(|volume| volume.name.as_str())
        .collect();
    if !foreign.is_empty() && !seen_alive {
        return refuse(
            RefusalReason::PartsMissing,
            format!(
                "PersistentVolumeClaim {} is not of the retained chain {chain}; put the original volumes back",
                foreign.join(", ")
            ),
        );
    }
    let missing: Vec<String> = (0..view.cluster.replicas)
        .filter(|ordinal| !view.volumes.contains_key(ordinal))
        .map(|ordinal| names.volume(ordinal))
        .collect();
    if !missing.is_empty() && !seen_alive {
        return refuse(
            RefusalReason::PartsMissing,
            format!(
                "ConfigMap {} holds the genesis of chain {chain}, but PersistentVolumeClaim {} is missing; put the volumes back, or delete ConfigMap {}, Secret {} and the remaining volumes to begin a new, empty chain",
                names.genesis(),
                missing.join(", "),
                names.genesis(),
                names.admin_key()
            ),
        );
    }
    let admin_key_lost = match &view.admin_key {
        AdminKey::Present { key, .. } if *key == content.admin_key => None,
        AdminKey::Present { key, .. } => {
            return refuse(
                RefusalReason::AdminKeyWrong,
                format!(
                    "Secret {} holds admin key {}, but the genesis of chain {chain} names {}; put the original Secret back",
                    names.admin_key(),
                    key.fingerprint(),
                    content.admin_key.fingerprint()
                ),
            );
        }
        other => {
            let what = match other {
                AdminKey::Unreadable(why) => why.as_str(),
                AdminKey::Departing => "it is being deleted",
                _ => "it is missing",
            };
            let message = format!(
                "Secret {} with the admin key of chain {chain} cannot be used: {what}; the chain runs on, but its nodes answer nobody else; put the Secret back from a backup, no new key is made",
                names.admin_key()
            );
            if !seen_alive {
                return refuse(RefusalReason::AdminKeyMissing, message);
            }
            Some(message)
        }
    };
    Ok(Identity {
        cluster_uid: content.cluster_uid.clone(),
        admin_fingerprint: content.admin_key.fingerprint(),
        born: Some(Arc::clone(genesis)),
        admin_key_lost,
    })
}

fn member_volumes(view: &View) -> impl Iterator<Item = &crate::cluster::view::Volume> {
    view.volumes
        .iter()
        .filter(|(ordinal, _)| **ordinal < view.cluster.replicas)
        .map(|(_, volume)| volume)
}

/// There is no genesis: a chain may be born, if nothing of an earlier one is there.
fn begin(view: &View) -> Result<Identity, Hold> {
    let names = &view.cluster.names;
    let uid = &view.cluster.uid;
    if view.cluster.status.bootstrapped {
        return refuse(
            RefusalReason::GenesisMissing,
            format!(
                "ConfigMap {} with the genesis of chain {} is gone; put it back from a backup, no second chain is born under this name",
                names.genesis(),
                view.cluster.status.chain_id.as_deref().unwrap_or("(unknown)")
            ),
        );
    }
    let mut left_over: Vec<String> = member_volumes(view)
        .filter(|volume| volume.cluster_uid.as_deref() != Some(uid))
        .map(|volume| format!("PersistentVolumeClaim {}", volume.name))
        .collect();
    let admin = match &view.admin_key {
        AdminKey::Present { key, made_for, .. } if made_for.as_deref() == Some(uid) => {
            Some(key.fingerprint())
        }
        AdminKey::Missing | AdminKey::Departing => None,
        AdminKey::Present { .. } | AdminKey::Unreadable(_) => {
            left_over.push(format!("Secret {}", names.admin_key()));
            None
        }
    };
    if !left_over.is_empty() {
        return refuse(
            RefusalReason::LeftOver,
            format!(
                "{} of an earlier CretoCluster of this name is left over, but ConfigMap {} with its genesis is missing; put the ConfigMap back to continue that chain, or delete what is left over to begin a new, empty one",
                left_over.join(", "),
                names.genesis()
            ),
        );
    }
    for (ordinal, report) in &view.reports {
        if let crate::cluster::view::Report::Attested(crate::cluster::view::Attested {
            chain_id: Some(chain),
            ..
        }) = report
        {
            return refuse(
                RefusalReason::VolumesHoldChain,
                format!(
                    "the volume {} holds chain {chain}, but ConfigMap {} with its genesis is missing; put the ConfigMap back to continue that chain, or delete the volumes to begin a new, empty one",
                    names.volume(*ordinal),
                    names.genesis()
                ),
            );
        }
    }
    let admin_fingerprint = admin.ok_or(Hold::NoAdminKey)?;
    Ok(Identity { cluster_uid: uid.clone(), admin_fingerprint, born: None, admin_key_lost: None })
}

#[cfg(test)]
mod tests;
