//! Signatures that cost a hash: BLAKE3 keyed with what names the key, padded to the size of the
//! real ones. Anyone could forge them; the simulated attackers only sign with their own keys, as
//! nobody can forge the real ones.

use cretoai_types::{
    FaultModel, Genesis, GenesisMember, Hash, Parameters, PublicKey, Signature, Signer, Verifier,
};

const TAG: usize = 32;

/// A key that signs for the price of a hash.
#[derive(Clone, Debug)]
pub struct SimKey {
    public: PublicKey,
}

impl SimKey {
    /// The key of that name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut bytes = [0_u8; PublicKey::SIZE];
        bytes[..TAG].copy_from_slice(blake3::hash(name.as_bytes()).as_bytes());
        Self { public: PublicKey(Box::new(bytes)) }
    }
}

fn tag(key: &PublicKey, message: &[u8]) -> [u8; TAG] {
    let mut secret = [0; TAG];
    secret.copy_from_slice(&key.as_bytes()[..TAG]);
    *blake3::keyed_hash(&secret, message).as_bytes()
}

impl Signer for SimKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = Box::new([0_u8; Signature::SIZE]);
        bytes[..TAG].copy_from_slice(&tag(&self.public, message));
        Signature(bytes)
    }
}

/// Checks what [`SimKey`] signs.
#[derive(Clone, Copy, Debug)]
pub struct SimVerifier;

impl Verifier for SimVerifier {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        signature.as_bytes()[..TAG] == tag(key, message)
    }
}

/// The key of a machine. It gets another generation when it rotates or is replaced.
#[must_use]
pub fn member_key(machine: usize, generation: u32) -> SimKey {
    SimKey::new(&format!("member {machine} generation {generation}"))
}

/// The key of the admin.
#[must_use]
pub fn admin_key(generation: u32) -> SimKey {
    SimKey::new(&format!("admin generation {generation}"))
}

/// A genesis for `n` members.
#[must_use]
pub fn genesis(
    n: usize,
    fault_model: FaultModel,
    parameters: Parameters,
    created_ms: u64,
) -> Genesis {
    let uid = "6ad1f6a5-simulated";
    let members = (0..n)
        .map(|index| {
            let key = member_key(index, 0);
            let name = member_name(index);
            let proof = key.sign(&Genesis::possession_message(uid, &name));
            GenesisMember { name, key: key.public_key().clone(), proof }
        })
        .collect();
    Genesis {
        cluster_uid: uid.into(),
        admin_key: admin_key(0).public_key().clone(),
        members,
        fault_model,
        parameters,
        created_ms,
    }
}

/// What people call a machine.
#[must_use]
pub fn member_name(machine: usize) -> String {
    format!("sim-{machine}")
}

/// A hash of nothing in particular.
#[must_use]
pub fn nonsense(seed: u64) -> Hash {
    Hash::of_bytes(&seed.to_le_bytes())
}
