//! A node's identity: an ML-DSA-87 key that is made in the node's own volume and never leaves it,
//! and the note of which chain it has voted in.
//!
//! The rule: key and votes belong together. A key that has voted and finds no votes beside it might
//! sign what contradicts them; such a node refuses to start and says what is missing.

use anyhow::{Context, bail};
use cretoai_control::keys::{KeyError, SecretKey};
use cretoai_types::Hash;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The private key, in the folder `crypto.key_path`.
pub(crate) const KEY_FILE: &str = "identity.key";
const CHAIN_FILE: &str = "chain";

/// The key, and the folder that holds it.
pub struct Identity {
    /// The node's key.
    pub key: SecretKey,
    folder: PathBuf,
}

impl Identity {
    /// Reads the key in `folder`, or makes one there on the first start.
    ///
    /// # Errors
    /// When there is a key that cannot be read, or none can be written; when a chain was noted but
    /// the key is gone.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(KEY_FILE);
        let key = match SecretKey::load(&path) {
            Ok(key) => key,
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                if let Some(chain) = read_chain(folder)? {
                    bail!(
                        "{} is missing, but {} says that this volume's key voted in chain {chain}; put the key back, or \
                         replace this validator",
                        path.display(),
                        folder.join(CHAIN_FILE).display()
                    );
                }
                let key = SecretKey::create(&path)?;
                tracing::info!(fingerprint = %key.public_key().fingerprint(), path = %path.display(), "made this node's identity");
                key
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { key, folder: folder.to_owned() })
    }

    /// Reads the key without ever making one.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(KEY_FILE);
        let key = match SecretKey::load(&path) {
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                bail!(
                    "there is no identity in {} yet; the first `cretoai-node run` makes one",
                    folder.display()
                )
            }
            loaded => loaded?,
        };
        Ok(Self { key, folder: folder.to_owned() })
    }

    /// Before anything opens the database in `db`: a key that has voted needs the one that is there.
    ///
    /// # Errors
    /// When the key has voted in a chain and there is no database; nothing was made then.
    pub fn expect_database(&self, db: &Path) -> anyhow::Result<()> {
        match read_chain(&self.folder)? {
            Some(noted) if !db.join("CURRENT").exists() => bail!(
                "the key in {} voted in chain {noted}, and {} holds no database that remembers its votes (the file CURRENT is \
                 missing); put the database back, or replace this validator by one with a new key",
                self.folder.display(),
                db.display()
            ),
            _ => Ok(()),
        }
    }

    /// Compares the chain noted beside the key with the one in the database, and notes the latter
    /// if nothing is noted yet. Called before the first vote.
    ///
    /// # Errors
    /// When the database is gone or holds another chain than the key has voted in.
    pub fn bind(&self, held: Option<Hash>) -> anyhow::Result<()> {
        let noted = read_chain(&self.folder)?;
        match (noted, held) {
            (None, Some(held)) => write_chain(&self.folder, held),
            (Some(noted), Some(held)) if noted == held => Ok(()),
            (None, None) => Ok(()),
            (Some(noted), None) => bail!(
                "the key in {} voted in chain {noted}, and the database that remembers its votes is empty; put the database \
                 back, or replace this validator by one with a new key",
                self.folder.display()
            ),
            (Some(noted), Some(held)) => bail!(
                "the key in {} voted in chain {noted}, and the database holds chain {held}; give both the same volume",
                self.folder.display()
            ),
        }
    }
}

fn read_chain(folder: &Path) -> anyhow::Result<Option<Hash>> {
    let path = folder.join(CHAIN_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let chain =
                text.trim().parse().with_context(|| format!("{} is damaged", path.display()))?;
            Ok(Some(chain))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

fn write_chain(folder: &Path, chain: Hash) -> anyhow::Result<()> {
    let path = folder.join(CHAIN_FILE);
    let temporary = folder.join("chain.new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        writeln!(file, "{chain}")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_first_start_makes_a_key_and_later_ones_keep_it() {
        let volume = tempfile::tempdir().unwrap();
        let folder = volume.path().join("keys");
        assert!(Identity::read(&folder).is_err());
        let first = Identity::open(&folder).unwrap();
        let again = Identity::open(&folder).unwrap();
        assert_eq!(first.key.public_key(), again.key.public_key());
        assert_eq!(Identity::read(&folder).unwrap().key.public_key(), first.key.public_key());
    }

    #[test]
    fn key_and_votes_are_never_parted_unnoticed() {
        let volume = tempfile::tempdir().unwrap();
        let folder = volume.path().join("keys");
        let identity = Identity::open(&folder).unwrap();
        let (ours, other) = (Hash([1; 32]), Hash([2; 32]));
        identity.bind(None).unwrap();
        let db = volume.path().join("db");
        identity.expect_database(&db).unwrap();
        identity.bind(Some(ours)).unwrap();
        identity.bind(Some(ours)).unwrap();
        let emptied = identity.expect_database(&db).unwrap_err().to_string();
        assert!(emptied.contains("CURRENT") && emptied.contains("replace"), "{emptied}");
        assert!(!db.exists(), "nothing may be made");
        let lost = identity.bind(None).unwrap_err().to_string();
        assert!(lost.contains(&ours.to_string()) && lost.contains("replace"), "{lost}");
        let mixed = identity.bind(Some(other)).unwrap_err().to_string();
        assert!(mixed.contains(&ours.to_string()) && mixed.contains(&other.to_string()), "{mixed}");
        fs::remove_file(folder.join(KEY_FILE)).unwrap();
        let Err(gone) = Identity::open(&folder) else { panic!("a second identity was made") };
        assert!(gone.to_string().contains("put the key back"), "{gone}");
        assert!(!folder.join(KEY_FILE).exists());
    }
}
