//! ML-DSA-87 keys (FIPS 204, computed by AWS-LC) and the file that holds one.
//!
//! The rule: a private key is made where it is used and never overwritten. [`SecretKey::create`]
//! refuses an existing file. A damaged file is an error, because reading it could silently give
//! another identity.

use aws_lc_rs::{
    rand,
    signature::{KeyPair, ML_DSA_87, ML_DSA_87_SIGNING, PqdsaKeyPair, UnparsedPublicKey},
};
use cretoai_types::{PublicKey, Signature, Signer, Verifier};
use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use zeroize::Zeroizing;

/// The first bytes of a key file. The 32-byte seed follows, then the 32-byte fingerprint of its
/// public key.
const FILE_TAG: &[u8; 16] = b"creto-mldsa87-v1";
const SEED: usize = 32;
const FINGERPRINT: usize = 32;
const FILE_SIZE: usize = FILE_TAG.len() + SEED + FINGERPRINT;

/// Why a key could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// AWS-LC refused. A caller can correct nothing.
    #[error(
        "AWS-LC could not make an ML-DSA-87 key ({0}); check the CPU and the memory of this machine"
    )]
    Crypto(&'static str),
    /// The file or its folder cannot be read or written.
    #[error(
        "key file {path}: {action} failed: {source}; give the process read and write access to the folder"
    )]
    File {
        /// The key file.
        path: PathBuf,
        /// The action that failed.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The file exists already.
    #[error(
        "key file {0} exists already and is never overwritten; use it, or move it away if this is to be another identity"
    )]
    Exists(PathBuf),
    /// The file is not a key file or was damaged.
    #[error(
        "key file {path} is damaged: {reason}; put the intact file back, or replace this validator by a new one"
    )]
    Damaged {
        /// The key file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// Other users may read the file.
    #[error(
        "key file {path} has mode {mode:o}, so that others may read it; run `chmod 600 {path}`"
    )]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// An ML-DSA-87 private key. It is cheap to clone, and printing it shows only the fingerprint of
/// its public key.
#[derive(Clone)]
pub struct SecretKey(Arc<Inner>);

struct Inner {
    seed: Zeroizing<[u8; SEED]>,
    pair: PqdsaKeyPair,
    public: PublicKey,
}

impl SecretKey {
    /// Makes a new key from the system's randomness.
    ///
    /// # Errors
    /// [`KeyError::Crypto`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; SEED]);
        rand::fill(seed.as_mut_slice()).map_err(|_| KeyError::Crypto("no randomness"))?;
        Self::from_seed(&seed)
    }

    /// The key that belongs to this seed (FIPS 204, ML-DSA.KeyGen_internal).
    ///
    /// # Errors
    /// [`KeyError::Crypto`].
    pub fn from_seed(seed: &[u8; SEED]) -> Result<Self, KeyError> {
        let pair = PqdsaKeyPair::from_seed(&ML_DSA_87_SIGNING, seed)
            .map_err(|_| KeyError::Crypto("seed refused"))?;
        let public = PublicKey::from_slice(pair.public_key().as_ref())
            .ok_or(KeyError::Crypto("public key of an unexpected size"))?;
        Ok(Self(Arc::new(Inner { seed: Zeroizing::new(*seed), pair, public })))
    }

    /// The seed of this key, which is the secret itself.
    #[must_use]
    pub fn seed(&self) -> &[u8; SEED] {
        &self.0.seed
    }

    /// The public key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.0.public
    }

    /// Signs `message` with an empty context (hedged: two signatures of one message differ).
    ///
    /// # Panics
    /// If AWS-LC cannot sign, which it does not do for a key that it made, short of exhausted
    /// memory. A validator that cannot sign has nothing better to do than to stop.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = Box::new([0; Signature::SIZE]);
        match self.0.pair.sign(message, bytes.as_mut_slice()) {
            Ok(Signature::SIZE) => Signature(bytes),
            #[allow(clippy::panic)]
            _ => panic!("AWS-LC could not sign with {self:?}"),
        }
    }

    /// Reads a key file that [`SecretKey::create`] wrote.
    ///
    /// # Errors
    /// [`KeyError::File`] (with `io::ErrorKind::NotFound` if there is none), [`KeyError::Exposed`]
    /// if its mode lets everybody read it, [`KeyError::Damaged`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let failed =
            |action| move |source| KeyError::File { path: path.to_owned(), action, source };
        let damaged = |reason: String| KeyError::Damaged { path: path.to_owned(), reason };
        let file = File::open(path).map_err(failed("opening"))?;
        let mode =
            file.metadata().map_err(failed("reading its mode"))?.permissions().mode() & 0o777;
        // A group may be allowed to read: Kubernetes sets that with fsGroup when it mounts the
        // volume.
        if mode & 0o007 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_SIZE + 1));
        file.take(FILE_SIZE as u64 + 1).read_to_end(&mut bytes).map_err(failed("reading"))?;
        if bytes.len() != FILE_SIZE {
            return Err(damaged(format!("it must have {FILE_SIZE} bytes and has {}", bytes.len())));
        }
        let (tag, rest) = bytes.split_at(FILE_TAG.len());
        let (seed, fingerprint) = rest.split_at(SEED);
        let seed: Zeroizing<[u8; SEED]> =
            Zeroizing::new(seed.try_into().map_err(|_| damaged("its seed is cut off".into()))?);
        if tag != FILE_TAG {
            return Err(damaged(format!(
                "it does not begin with {:?}",
                String::from_utf8_lossy(FILE_TAG)
            )));
        }
        let key = Self::from_seed(&seed)?;
        if fingerprint != key.public_key().fingerprint().0 {
            return Err(damaged(
                "its seed does not give the key whose fingerprint stands beside it".into(),
            ));
        }
        Ok(key)
    }

    /// Makes a new key and writes it to `path`, mode 0600, durably: a temporary file, fsync, link
    /// to its name, fsync of the folder. The folder is made if it is missing.
    ///
    /// # Errors
    /// [`KeyError::Exists`] if there is a file of that name, whatever it holds; [`KeyError::File`];
    /// [`KeyError::Crypto`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let key = Self::generate()?;
        let failed =
            |action| move |source| KeyError::File { path: path.to_owned(), action, source };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(failed("making its folder"))?;
        if path.symlink_metadata().is_ok() {
            return Err(KeyError::Exists(path.to_owned()));
        }
        let mut suffix = [0; 8];
        rand::fill(&mut suffix).map_err(|_| KeyError::Crypto("no randomness"))?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", hex::encode(suffix)));
        let temporary = PathBuf::from(temporary);
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(FILE_TAG)?;
            file.write_all(key.seed())?;
            file.write_all(&key.public_key().fingerprint().0)?;
            file.sync_all()?;
            // A link, unlike a rename, fails if the name has been taken in the meantime.
            std::fs::hard_link(&temporary, path)
        })();
        let removed = std::fs::remove_file(&temporary);
        written.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists(path.to_owned()),
            _ => failed("writing")(source),
        })?;
        removed.map_err(failed("removing its temporary copy"))?;
        File::open(folder).and_then(|f| f.sync_all()).map_err(failed("making its name durable"))?;
        Ok(key)
    }

    /// PKCS#8 v1 of this key, for TLS.
    pub(crate) fn pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let document = self.0.pair.to_pkcs8v1().map_err(|_| KeyError::Crypto("PKCS#8 encoding"))?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }
}

impl Signer for SecretKey {
    fn public_key(&self) -> &PublicKey {
        SecretKey::public_key(self)
    }

    fn sign(&self, message: &[u8]) -> Signature {
        SecretKey::sign(self, message)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.0.public.fingerprint())
    }
}

/// Verifies ML-DSA-87 signatures (FIPS 204, empty context).
#[derive(Clone, Copy, Debug, Default)]
pub struct MlDsa87;

impl Verifier for MlDsa87 {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ML_DSA_87, key.as_bytes())
            .verify(message, signature.as_bytes())
            .is_ok()
    }
}
