//! TLS connections on in-memory pipes: which peers get one, and which are refused and why.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cretoai_control::{
    keys::SecretKey,
    tls::{self, Admit, Expect, client_config, refusal, server_config, subject_public_key_info},
};
use cretoai_types::PublicKey;
use proptest::prelude::*;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ConnectionCommon, Error, HandshakeKind,
    NamedGroup, ProtocolVersion, ServerConnection, SignatureScheme,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    sign::CertifiedKey,
};
use std::sync::Arc;

const ALPN: &[u8] = b"test/1";

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32]).unwrap()
}

fn only(key: &SecretKey) -> Arc<dyn Admit> {
    let key = key.public_key().clone();
    Arc::new(move |shown: &PublicKey| *shown == key)
}

/// Runs a handshake to its end; the error and the side that found it.
fn handshake(
    client: ClientConfig,
    server: rustls::ServerConfig,
) -> Result<(ClientConnection, ServerConnection), (&'static str, Error)> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).map_err(|e| ("client", e))?;
    let mut server = ServerConnection::new(Arc::new(server)).map_err(|e| ("server", e))?;
    for _ in 0..10 {
        let mut wire = vec![];
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().map_err(|e| ("server", e))?;
        }
        let mut wire = vec![];
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(|e| ("client", e))?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn refused(client: ClientConfig, server: rustls::ServerConfig) -> (&'static str, Error) {
    match handshake(client, server) {
        Err(refused) => refused,
        Ok(_) => panic!("a connection was made"),
    }
}

fn assert_post_quantum<D>(connection: &ConnectionCommon<D>) {
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(
        connection.negotiated_key_exchange_group().unwrap().name(),
        NamedGroup::X25519MLKEM768
    );
    assert_eq!(connection.alpn_protocol(), Some(ALPN));
    assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
    let suite = connection.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_256_GCM_SHA384);
}

#[test]
fn two_known_keys_connect_with_post_quantum_everything() {
    let (node, admin) = (key(1), key(2));
    for _ in 0..2 {
        let client = client_config(&admin, Expect::Key(node.public_key().clone()), ALPN).unwrap();
        let server = server_config(&node, only(&admin), ALPN).unwrap();
        let (client, server) = handshake(client, server).unwrap();
        assert_post_quantum(&client);
        assert_post_quantum(&server);
        assert_eq!(
            tls::peer_key(server.peer_certificates().unwrap()).as_ref(),
            Some(admin.public_key())
        );
        assert_eq!(
            tls::peer_key(client.peer_certificates().unwrap()).as_ref(),
            Some(node.public_key())
        );
    }
}

#[test]
fn an_unknown_client_key_is_refused() {
    let (node, admin, stranger) = (key(1), key(2), key(3));
    let client = client_config(&stranger, Expect::Key(node.public_key().clone()), ALPN).unwrap();
    let (side, error) = refused(client, server_config(&node, only(&admin), ALPN).unwrap());
    assert_eq!((side, refusal(&error)), ("server", "unknown_key"));
}

#[test]
fn an_unknown_server_key_is_refused() {
    let (node, admin, stranger) = (key(1), key(2), key(3));
    for expect in [Expect::Key(node.public_key().clone()), Expect::AnyOf(only(&node))] {
        let client = client_config(&admin, expect, ALPN).unwrap();
        let (side, error) = refused(client, server_config(&stranger, only(&admin), ALPN).unwrap());
        assert_eq!((side, refusal(&error)), ("client", "unknown_key"));
    }
    let client = client_config(&admin, Expect::Any, ALPN).unwrap();
    handshake(client, server_config(&stranger, only(&admin), ALPN).unwrap()).unwrap();
}

/// Shows whatever it is told to, signed with whatever it has.
#[derive(Debug)]
struct Impostor(Arc<CertifiedKey>);

impl ResolvesClientCert for Impostor {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
    fn only_raw_public_keys(&self) -> bool {
        true
    }
    fn has_certs(&self) -> bool {
        true
    }
}

fn impostor(shows: Vec<Vec<u8>>, signs_with: &SecretKey, node: &SecretKey) -> ClientConfig {
    let pair = aws_lc_rs_pair(signs_with);
    let signing = aws_lc_rs::default_provider().key_provider.load_private_key(pair).unwrap();
    let shown = shows.into_iter().map(CertificateDer::from).collect();
    let mut config =
        client_config(signs_with, Expect::Key(node.public_key().clone()), ALPN).unwrap();
    config.client_auth_cert_resolver =
        Arc::new(Impostor(Arc::new(CertifiedKey::new(shown, signing))));
    config
}

/// PKCS#8 of a seed (RFC 9881): the fixed head and the 32 bytes.
fn aws_lc_rs_pair(key: &SecretKey) -> PrivateKeyDer<'static> {
    let head = hex::decode("3034020100300b060960864801650304031304228020").unwrap();
    PrivateKeyDer::Pkcs8([head.as_slice(), key.seed()].concat().into())
}

#[test]
fn a_stolen_public_key_without_its_private_key_is_refused() {
    let (node, admin, thief) = (key(1), key(2), key(3));
    let stolen = subject_public_key_info(admin.public_key());
    let (side, error) = refused(
        impostor(vec![stolen], &thief, &node),
        server_config(&node, only(&admin), ALPN).unwrap(),
    );
    assert_eq!((side, refusal(&error)), ("server", "bad_signature"), "{error}");
}

#[test]
fn what_is_not_exactly_one_raw_ml_dsa_87_key_is_refused() {
    let (node, admin) = (key(1), key(2));
    let spki = subject_public_key_info(admin.public_key());
    let mut other_algorithm = spki.clone();
    other_algorithm[16] = 0x12; // ML-DSA-65
    let mut longer = spki.clone();
    longer.push(0);
    for shown in [other_algorithm, longer, spki[..100].to_vec(), vec![]] {
        let (side, error) = refused(
            impostor(vec![shown], &admin, &node),
            server_config(&node, Arc::new(|_: &PublicKey| true), ALPN).unwrap(),
        );
        assert_eq!(side, "server", "{error}");
    }
}

#[test]
fn a_client_without_a_key_is_refused() {
    let (node, admin) = (key(1), key(2));
    let mut client = client_config(&admin, Expect::Key(node.public_key().clone()), ALPN).unwrap();
    #[derive(Debug)]
    struct Nobody;
    impl ResolvesClientCert for Nobody {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            None
        }
        fn only_raw_public_keys(&self) -> bool {
            true
        }
        fn has_certs(&self) -> bool {
            false
        }
    }
    client.client_auth_cert_resolver = Arc::new(Nobody);
    let (side, error) = refused(client, server_config(&node, only(&admin), ALPN).unwrap());
    assert_eq!(side, "server", "{error}");
    assert!(["no_key", "incompatible"].contains(&refusal(&error)), "{error}");
}

#[test]
fn a_classical_only_client_is_refused() {
    let (node, admin) = (key(1), key(2));
    let server = server_config(&node, only(&admin), ALPN).unwrap();
    let ours = client_config(&admin, Expect::Key(node.public_key().clone()), ALPN).unwrap();
    let classical = CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    };
    let mut client = ClientConfig::builder_with_provider(Arc::new(classical))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_cert_resolver(ours.client_auth_cert_resolver.clone());
    client.alpn_protocols = vec![ALPN.to_vec()];
    let (side, error) = refused(client, server);
    assert_eq!((side, refusal(&error)), ("server", "incompatible"), "{error}");
}

#[test]
fn another_protocol_name_is_refused() {
    let (node, admin) = (key(1), key(2));
    let client = client_config(&admin, Expect::Any, b"other/1").unwrap();
    let (side, error) = refused(client, server_config(&node, only(&admin), ALPN).unwrap());
    assert_eq!((side, refusal(&error)), ("server", "other_protocol"), "{error}");
}

#[test]
fn a_key_survives_the_way_through_der() {
    let public = key(9).public_key().clone();
    let der = CertificateDer::from(subject_public_key_info(&public));
    assert_eq!(tls::peer_key(std::slice::from_ref(&der)), Some(public));
    assert_eq!(tls::peer_key(&[]), None);
    assert_eq!(tls::peer_key(&[der.clone(), der]), None);
}

proptest! {
    #[test]
    fn no_bytes_from_outside_make_the_key_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert!(tls::peer_key(&[CertificateDer::from(bytes)]).is_none());
    }
}
