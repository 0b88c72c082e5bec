//! The key file: made once, private, never overwritten, and recognised when damaged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cretoai_control::keys::{KeyError, MlDsa87, SecretKey};
use cretoai_types::Verifier;
use std::{fs, io, os::unix::fs::PermissionsExt};

#[test]
fn a_key_is_created_private_and_reads_back_as_the_same_identity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys/identity.key");
    let made = SecretKey::create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let read = SecretKey::load(&path).unwrap();
    assert_eq!(read.public_key(), made.public_key());
    assert!(MlDsa87.verify(made.public_key(), b"message", &read.sign(b"message")));
    let names: Vec<_> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["identity.key"], "no temporary copy is left");
}

#[test]
fn an_existing_file_is_never_overwritten_whatever_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity.key");
    fs::write(&path, b"something else").unwrap();
    assert!(matches!(SecretKey::create(&path), Err(KeyError::Exists(_))));
    assert_eq!(fs::read(&path).unwrap(), b"something else");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    // Nor is a dangling link followed to make a key somewhere else.
    let link = folder.path().join("link.key");
    std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).unwrap();
    assert!(matches!(SecretKey::create(&link), Err(KeyError::Exists(_))));
}

#[test]
fn of_two_that_create_at_once_one_wins_and_the_file_is_the_winners() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        let makers: Vec<_> = (0..4)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || SecretKey::create(path).ok())
            })
            .collect();
        let made: Vec<_> = makers.into_iter().filter_map(|t| t.join().unwrap()).collect();
        assert_eq!(made.len(), 1);
        assert_eq!(SecretKey::load(&path).unwrap().public_key(), made[0].public_key());
    }
}

#[test]
fn a_damaged_cut_or_exposed_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity.key");
    SecretKey::create(&path).unwrap();
    let good = fs::read(&path).unwrap();
    for position in 0..good.len() {
        let mut bad = good.clone();
        bad[position] ^= 1;
        fs::write(&path, &bad).unwrap();
        let error = SecretKey::load(&path).unwrap_err();
        assert!(matches!(error, KeyError::Damaged { .. }), "byte {position}: {error}");
        assert!(error.to_string().contains("identity.key"));
    }
    for length in [0, 1, good.len() - 1, good.len() + 1] {
        let mut bad = good.clone();
        bad.resize(length, 0);
        fs::write(&path, &bad).unwrap();
        assert!(matches!(SecretKey::load(&path), Err(KeyError::Damaged { .. })), "{length} bytes");
    }
    fs::write(&path, &good).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = SecretKey::load(&path).unwrap_err().to_string();
    assert!(error.contains("644") && error.contains("chmod 600"), "{error}");
}

#[test]
fn a_missing_file_is_told_apart_from_an_unreadable_one() {
    let folder = tempfile::tempdir().unwrap();
    match SecretKey::load(folder.path().join("none.key")) {
        Err(KeyError::File { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::NotFound),
        other => panic!("{other:?}"),
    }
}

#[test]
fn printing_a_key_shows_no_secret() {
    let key = SecretKey::from_seed(&[7; 32]).unwrap();
    let shown = format!("{key:?}");
    assert!(shown.contains(&key.public_key().fingerprint().to_string()));
    assert!(!shown.contains(&hex::encode([7; 32])));
}
