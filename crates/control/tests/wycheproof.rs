//! Project Wycheproof's vectors for ML-DSA-87, through our own types. See `vectors/README.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cretoai_control::keys::{MlDsa87, SecretKey};
use cretoai_types::{PublicKey, Signature, Verifier};
use serde_json::Value;
use std::{io::BufReader, path::Path};

fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut json = Vec::new();
    lzma_rs::xz_decompress(&mut BufReader::new(file), &mut json).unwrap();
    serde_json::from_slice(&json).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn has_context(case: &Value) -> bool {
    case["ctx"].as_str().is_some_and(|c| !c.is_empty())
}

/// A key or a signature of a wrong size does not even become a value of our types.
fn accepts(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    match (PublicKey::from_slice(key), Signature::from_slice(signature)) {
        (Some(key), Some(signature)) => MlDsa87.verify(&key, message, &signature),
        _ => false,
    }
}

#[test]
fn every_signature_is_judged_as_wycheproof_says() {
    let file = vectors("mldsa_87_verify_test.json.xz");
    let (mut valid, mut invalid) = (0, 0);
    for group in file["testGroups"].as_array().unwrap() {
        let key = bytes(&group["publicKey"]);
        for case in group["tests"].as_array().unwrap().iter().filter(|c| !has_context(c)) {
            let expected = case["result"] == "valid";
            let got = accepts(&key, &bytes(&case["msg"]), &bytes(&case["sig"]));
            assert_eq!(got, expected, "case {}: {}", case["tcId"], case["comment"]);
            if expected { valid += 1 } else { invalid += 1 }
        }
    }
    assert_eq!((valid, invalid), (69, 165));
}

#[test]
fn a_seed_gives_the_key_that_wycheproof_names_and_that_key_signs() {
    let file = vectors("mldsa_87_sign_seed_test.json.xz");
    let mut keys = 0;
    for group in file["testGroups"].as_array().unwrap() {
        let cases = group["tests"].as_array().unwrap();
        let Ok(seed) = <[u8; 32]>::try_from(bytes(&group["privateSeed"])) else {
            assert!(
                cases.iter().all(|c| c["result"] == "invalid"),
                "a seed that is not 32 bytes is invalid"
            );
            continue;
        };
        let secret = SecretKey::from_seed(&seed).unwrap();
        assert_eq!(
            hex::encode(secret.public_key().as_bytes()),
            group["publicKey"].as_str().unwrap()
        );
        keys += 1;
        for case in cases
            .iter()
            .filter(|c| !has_context(c) && c["result"] == "valid" && c["msg"].is_string())
        {
            let message = bytes(&case["msg"]);
            assert!(
                accepts(secret.public_key().as_bytes(), &message, &bytes(&case["sig"])),
                "case {}",
                case["tcId"]
            );
            let ours = secret.sign(&message);
            assert!(MlDsa87.verify(secret.public_key(), &message, &ours), "case {}", case["tcId"]);
        }
    }
    assert!(keys >= 30, "only {keys} keys were checked");
}
