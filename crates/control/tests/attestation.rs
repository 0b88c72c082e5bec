//! The client against a small server of port 9000's shape: what it believes and what it does not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cretoai_control::{
    api::{
        ATTEST_PATH, AttestRequest, Attestation, AttestationError, CONTROL_ALPN, GENESIS_PATH,
        Problem, attest_message, encode_base64,
    },
    client::{ControlClient, ControlError},
    keys::{MlDsa87, SecretKey},
    tls::server_config,
};
use cretoai_types::{FaultModel, Genesis, GenesisMember, Parameters, PublicKey, SignedGenesis};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32]).unwrap()
}

fn attestation(node: &SecretKey, nonce: &[u8; 32]) -> Attestation {
    Attestation {
        public_key: encode_base64(node.public_key().as_bytes()),
        pod_name: "prod-0".into(),
        pod_uid: "uid-0".into(),
        cluster_uid: "cluster".into(),
        proof: encode_base64(node.sign(&attest_message(nonce, "cluster", "uid-0")).as_bytes()),
        possession: encode_base64(
            node.sign(&Genesis::possession_message("cluster", "prod-0")).as_bytes(),
        ),
        token: "secret-token".into(),
        chain_id: None,
        version: "0".into(),
    }
}

type Alteration = fn(&mut Attestation);

/// A node that attests itself, altered by `alter`, and answers PUT genesis with 409.
async fn node(node: SecretKey, admin: &SecretKey, alter: Alteration) -> SocketAddr {
    let admitted = admin.public_key().clone();
    let config =
        server_config(&node, Arc::new(move |k: &PublicKey| *k == admitted), CONTROL_ALPN).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(tcp).await else { continue };
            let node = node.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let node = node.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let (status, body) = if path == ATTEST_PATH {
                        let question: AttestRequest = serde_json::from_slice(&body).unwrap();
                        let nonce = hex::decode(question.nonce).unwrap().try_into().unwrap();
                        let mut answer = attestation(&node, &nonce);
                        alter(&mut answer);
                        (StatusCode::OK, serde_json::to_vec(&answer).unwrap())
                    } else {
                        assert_eq!(path, GENESIS_PATH);
                        SignedGenesis::decode(&body).unwrap().verify(&MlDsa87).unwrap();
                        let problem =
                            Problem::new(409, "other_chain", None, "a and b".into(), None);
                        (StatusCode::CONFLICT, serde_json::to_vec(&problem).unwrap())
                    };
                    Ok::<_, Infallible>(
                        Response::builder()
                            .status(status)
                            .body(Full::new(Bytes::from(body)))
                            .unwrap(),
                    )
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

#[tokio::test]
async fn an_honest_node_is_believed_and_its_refusals_are_told() {
    let (admin, honest) = (key(1), key(2));
    let address = node(honest.clone(), &admin, |_| {}).await;
    let client = ControlClient::new(&admin).unwrap();
    let (public, answer) = client.attest(address, &[5; 32]).await.unwrap();
    assert_eq!(public, *honest.public_key());
    assert_eq!(answer.pod_name, "prod-0");
    assert!(!format!("{answer:?}").contains("secret-token"));

    let proof = answer.possession_signature().unwrap();
    let genesis = Genesis {
        cluster_uid: "cluster".into(),
        admin_key: admin.public_key().clone(),
        members: vec![GenesisMember { name: "prod-0".into(), key: public.clone(), proof }],
        fault_model: FaultModel::Byzantine,
        parameters: Parameters::default(),
        created_ms: 1,
    };
    let signature = admin.sign(&genesis.signing_message());
    let genesis = SignedGenesis { genesis, signature };
    match client.put_genesis(address, &public, &genesis).await {
        Err(ControlError::Refused { status: StatusCode::CONFLICT, code, message, .. }) => {
            assert_eq!((code.as_str(), message.as_str()), ("other_chain", "a and b"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_that_says_something_unproven_is_not_believed() {
    let admin = key(1);
    let alterations: [(Alteration, AttestationError); 7] = [
        (
            |a| a.public_key = encode_base64(key(9).public_key().as_bytes()),
            AttestationError::OtherKey,
        ),
        (|a| a.public_key = "?".into(), AttestationError::Encoding("publicKey")),
        (|a| a.pod_uid = "uid-1".into(), AttestationError::Proof),
        (|a| a.cluster_uid = "clustr".into(), AttestationError::Proof),
        (|a| a.proof = attestation(&key(2), &[6; 32]).proof, AttestationError::Proof),
        (|a| a.possession = "AA==".into(), AttestationError::Encoding("possession")),
        (|a| a.pod_name = "prod-1".into(), AttestationError::Possession),
    ];
    let client = ControlClient::new(&admin).unwrap();
    for (alter, expected) in alterations {
        let address = node(key(2), &admin, alter).await;
        match client.attest(address, &[5; 32]).await {
            Err(ControlError::Attestation { source, .. }) => assert_eq!(source, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn neither_a_stranger_nor_an_unexpected_node_gets_an_answer() {
    let (admin, honest, stranger) = (key(1), key(2), key(3));
    let address = node(honest.clone(), &admin, |_| {}).await;
    let refused =
        ControlClient::new(&stranger).unwrap().attest(address, &[5; 32]).await.unwrap_err();
    assert!(matches!(refused, ControlError::Handshake { .. }), "{refused}");
    let refused = ControlClient::new(&admin)
        .unwrap()
        .status(address, stranger.public_key())
        .await
        .unwrap_err();
    assert!(matches!(refused, ControlError::Handshake { .. }), "{refused}");
}

#[tokio::test]
async fn a_closed_port_and_a_silent_one_are_told_apart() {
    let client = ControlClient::new(&key(1)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = client.attest(address, &[0; 32]).await.unwrap_err();
    assert!(matches!(silent, ControlError::Timeout { .. }), "{silent}");
    drop(listener);
    let closed = client.attest(address, &[0; 32]).await.unwrap_err();
    assert!(matches!(closed, ControlError::Connect { .. }), "{closed}");
}

#[test]
fn the_attested_message_is_unambiguous() {
    assert_ne!(attest_message(&[0; 32], "ab", "c"), attest_message(&[0; 32], "a", "bc"));
    assert_ne!(attest_message(&[0; 32], "a", "b"), attest_message(&[1; 32], "a", "b"));
}
