//! Keys and signatures as the protocol sees them: ML-DSA-87 (FIPS 204) bytes. The caller supplies
//! the computation through [`Signer`] and [`Verifier`], so that this crate needs no cryptographic
//! library.

use crate::Hash;
use borsh::{BorshDeserialize, BorshSerialize};
use std::fmt;

macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $size:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Box<[u8; $size]>);

        impl $name {
            /// The number of bytes.
            pub const SIZE: usize = $size;

            /// Copies exactly [`Self::SIZE`] bytes; `None` for any other length.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(Box::new(bytes.try_into().ok()?)))
            }

            /// The raw bytes, as FIPS 204 encodes them.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_slice()
            }
        }

        impl BorshSerialize for $name {
            fn serialize<W: std::io::Write>(&self, writer: &mut W) -> std::io::Result<()> {
                writer.write_all(self.as_bytes())
            }
        }

        impl BorshDeserialize for $name {
            fn deserialize_reader<R: std::io::Read>(reader: &mut R) -> std::io::Result<Self> {
                let mut bytes = Box::new([0; $size]);
                reader.read_exact(bytes.as_mut_slice())?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), Hash::of_bytes(self.as_bytes()))
            }
        }
    };
}

fixed_bytes!(
    /// An ML-DSA-87 public key.
    PublicKey,
    2592
);
fixed_bytes!(
    /// An ML-DSA-87 signature. Signing is randomised, so signatures must not be compared or hashed
    /// into an id.
    Signature,
    4627
);

impl PublicKey {
    /// The BLAKE3 hash of the key's bytes. It names the key in configuration and status.
    #[must_use]
    pub fn fingerprint(&self) -> Hash {
        Hash::of_bytes(self.as_bytes())
    }
}

/// Checks signatures.
pub trait Verifier: Send + Sync {
    /// Whether `signature` is a signature by `key` over `message`.
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool;
}

/// Signs with one key.
pub trait Signer: Send + Sync {
    /// The public key that verifies this signer's signatures.
    fn public_key(&self) -> &PublicKey;
    /// A signature over `message`.
    fn sign(&self, message: &[u8]) -> Signature;
}
