//! The store as the control port sees it: it holds one chain or none, and never changes it.

use crate::{
    handle::{Birth, GenesisRefused},
    storage::Storage,
    sync::lock,
};
use cretoai_types::{Hash, SignedGenesis};
use std::sync::{Arc, Mutex};

/// A node's store, before and after it has a genesis.
pub struct Store {
    storage: Arc<Storage>,
    genesis: Mutex<Option<SignedGenesis>>,
    key: Hash,
}

impl Store {
    /// `key` is the fingerprint of the node's key.
    pub(super) fn new(storage: Storage, genesis: Option<SignedGenesis>, key: Hash) -> Self {
        Self { storage: Arc::new(storage), genesis: Mutex::new(genesis), key }
    }

    pub(super) fn storage(&self) -> Arc<Storage> {
        Arc::clone(&self.storage)
    }
}

impl Birth for Store {
    fn chain_id(&self) -> Option<Hash> {
        self.genesis().map(|signed| signed.genesis.chain_id())
    }

    fn genesis(&self) -> Option<SignedGenesis> {
        lock(&self.genesis).clone()
    }

    fn accept_genesis(&self, genesis: SignedGenesis) -> Result<(), GenesisRefused> {
        let mut held = lock(&self.genesis);
        let offered = genesis.genesis.chain_id();
        match held.as_ref().map(|held| held.genesis.chain_id()) {
            Some(held) if held == offered => Ok(()),
            Some(held) => Err(GenesisRefused::OtherChain { held, offered }),
            None => {
                self.storage
                    .put_genesis(&genesis, self.key)
                    .map_err(|error| GenesisRefused::Storage(error.to_string()))?;
                *held = Some(genesis);
                Ok(())
            }
        }
    }
}
