#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::testing::{World, cluster, key};
use k8s_openapi::{ByteString, api::authentication::v1::UserInfo};
use serde_json::json;

fn pod() -> Pod {
    Pod { name: "prod-0".into(), uid: "pod-uid".into(), ..Pod::default() }
}

fn review() -> TokenReviewStatus {
    let extra = [("pod-name", "prod-0"), ("pod-uid", "pod-uid")];
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec!["creto.cretoai.io/uid-1".into()]),
        error: None,
        user: Some(UserInfo {
            username: Some("system:serviceaccount:apps:prod-node".into()),
            extra: Some(
                extra
                    .map(|(key, value)| {
                        (format!("authentication.kubernetes.io/{key}"), vec![value.to_string()])
                    })
                    .into(),
            ),
            ..UserInfo::default()
        }),
    }
}

fn check(review: &TokenReviewStatus) -> Result<(), String> {
    check_token(review, "creto.cretoai.io/uid-1", &cluster(json!({"replicas": 4})), &pod())
}

#[test]
fn only_a_token_of_this_very_pod_for_this_cluster_counts() {
    assert_eq!(check(&review()), Ok(()));
    type Spoil = fn(&mut TokenReviewStatus);
    let bad: [(&str, Spoil); 8] = [
        ("not authenticated", |review| review.authenticated = Some(false)),
        ("no audience", |review| review.audiences = None),
        ("another audience", |review| {
            review.audiences = Some(vec!["https://kubernetes.default.svc".into()])
        }),
        ("no user", |review| review.user = None),
        ("another user", |review| {
            review.user.as_mut().unwrap().username =
                Some("system:serviceaccount:apps:default".into())
        }),
        ("no pod", |review| review.user.as_mut().unwrap().extra = None),
        ("another pod", |review| {
            let extra = review.user.as_mut().unwrap().extra.as_mut().unwrap();
            extra.insert("authentication.kubernetes.io/pod-name".into(), vec!["prod-1".into()]);
        }),
        ("an earlier pod of the name", |review| {
            let extra = review.user.as_mut().unwrap().extra.as_mut().unwrap();
            extra.insert(
                "authentication.kubernetes.io/pod-uid".into(),
                vec!["old".into(), "pod-uid".into()],
            );
        }),
    ];
    for (what, spoil) in bad {
        let mut review = review();
        spoil(&mut review);
        assert!(check(&review).is_err(), "{what}");
    }
}

#[test]
fn what_a_node_says_of_itself_must_be_what_the_api_server_says() {
    let attestation = |name: &str, uid: &str, cluster: &str| Attestation {
        public_key: String::new(),
        pod_name: name.into(),
        pod_uid: uid.into(),
        cluster_uid: cluster.into(),
        proof: String::new(),
        possession: String::new(),
        token: String::new(),
        chain_id: None,
        version: String::new(),
    };
    let check = |name, uid, of| {
        check_claims(&attestation(name, uid, of), &cluster(json!({"replicas": 4})), &pod())
    };
    assert_eq!(check("prod-0", "pod-uid", "uid-1"), Ok(()));
    for (name, uid, of) in [
        ("prod-1", "pod-uid", "uid-1"),
        ("prod-0", "other", "uid-1"),
        ("prod-0", "pod-uid", "uid-2"),
    ] {
        assert!(check(name, uid, of).is_err());
    }
}

#[test]
fn the_admin_key_is_read_or_the_reason_told() {
    let secret = |seed: Option<Vec<u8>>| Secret {
        data: seed.map(|seed| [(SEED_KEY.to_string(), ByteString(seed))].into()),
        ..Secret::default()
    };
    let (found, admin) = read_admin_key(Some(&secret(Some(vec![7; 32]))), "uid-1");
    assert!(
        matches!(found, AdminKey::Present { key: found, made_for: None, owned: false } if found == *key(7).public_key())
    );
    assert!(admin.is_some());
    for bad in [None, Some(vec![7; 31])] {
        assert!(matches!(
            read_admin_key(Some(&secret(bad)), "uid-1"),
            (AdminKey::Unreadable(_), None)
        ));
    }
    assert!(matches!(read_admin_key(None, "uid-1"), (AdminKey::Missing, None)));
    let mut departing = secret(Some(vec![7; 32]));
    departing.metadata.owner_references = Some(vec![
        serde_json::from_value(json!({"apiVersion": "cretoai.io/v1alpha1", "kind": "CretoCluster", "name": "prod", "uid": "uid-0"}))
            .unwrap(),
    ]);
    assert!(matches!(read_admin_key(Some(&departing), "uid-1"), (AdminKey::Departing, None)));
    assert!(matches!(
        read_admin_key(Some(&departing), "uid-0"),
        (AdminKey::Present { owned: true, .. }, Some(_))
    ));
}

#[test]
fn only_a_genesis_that_its_admin_signed_is_read() {
    let world = World::alive(4);
    let genesis = world.genesis.as_ref().unwrap().0.as_ref().clone();
    let config_map = |bytes: Vec<u8>| ConfigMap {
        binary_data: Some([(GENESIS_KEY.to_string(), ByteString(bytes))].into()),
        ..ConfigMap::default()
    };
    assert!(matches!(
        read_genesis(Some(&config_map(genesis.encode())), "u"),
        GenesisFound::Present { owned: false, .. }
    ));
    let mut forged = genesis.clone();
    forged.genesis.created_ms += 1;
    assert!(matches!(
        read_genesis(Some(&config_map(forged.encode())), "u"),
        GenesisFound::Unreadable(_)
    ));
    let mut truncated = genesis.encode();
    truncated.pop();
    assert!(matches!(read_genesis(Some(&config_map(truncated)), "u"), GenesisFound::Unreadable(_)));
    assert!(matches!(read_genesis(Some(&ConfigMap::default()), "u"), GenesisFound::Unreadable(_)));
    assert_eq!(read_genesis(None, "u"), GenesisFound::Missing);
}

#[test]
fn only_pods_of_the_live_stateful_set_count() {
    let cluster = cluster(json!({"replicas": 4}));
    let made = |name: &str, owner: &str| -> KubePod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": "u", "labels": {"controller-revision-hash": "r"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "prod", "uid": owner, "controller": true}]},
            "status": {"phase": "Running", "podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap()
    };
    let (ordinal, pod) = read_pod(&made("prod-2", "set"), &cluster, Some("set")).unwrap();
    assert_eq!(
        (ordinal, pod.ready, pod.revision.as_deref(), pod.ip),
        (2, true, Some("r"), Some([10, 0, 0, 7].into()))
    );
    assert!(read_pod(&made("prod-2", "older"), &cluster, Some("set")).is_none());
    assert!(read_pod(&made("prod-2", "set"), &cluster, None).is_none());
    assert!(read_pod(&made("prod-x", "set"), &cluster, Some("set")).is_none());
}

#[test]
fn what_is_wrong_with_a_pod_is_told_in_a_sentence() {
    let pod = |status: serde_json::Value| -> KubePod {
        serde_json::from_value(json!({"metadata": {"name": "prod-0"}, "status": status})).unwrap()
    };
    let waiting = pod(
        json!({"containerStatuses": [{"name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}, "lastState": {"terminated": {"exitCode": 137}}}]}),
    );
    let told = trouble(&waiting).unwrap();
    assert!(
        told.contains("CrashLoopBackOff")
            && told.contains("137")
            && told.contains("kubectl logs prod-0"),
        "{told}"
    );
    let creating = pod(
        json!({"containerStatuses": [{"name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ContainerCreating"}}}]}),
    );
    assert_eq!(trouble(&creating), None);
    let pending = pod(
        json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]}),
    );
    assert!(trouble(&pending).unwrap().contains("0/1 nodes"));
}

#[test]
fn the_newest_event_tells_why_no_pod_is_created() {
    let event = |reason: &str, message: &str, time: &str| -> KubeEvent {
        serde_json::from_value(serde_json::json!({
            "metadata": {}, "involvedObject": {}, "reason": reason, "message": message,
            "lastTimestamp": time,
        }))
        .unwrap()
    };
    let quota = "create Pod prod-2 failed: exceeded quota: pods=3";
    let refused = event("FailedCreate", quota, "2026-01-01T00:00:02Z");
    let made = |time| event("SuccessfulCreate", "create Pod prod-1 successful", time);
    let claim = |time| event("SuccessfulCreate", "create Claim data-prod-2 successful", time);
    assert_eq!(newest_refusal(&[]), None);
    let before = [made("2026-01-01T00:00:01Z"), refused.clone(), claim("2026-01-01T00:00:03Z")];
    assert_eq!(newest_refusal(&before).as_deref(), Some(quota));
    assert_eq!(newest_refusal(&[refused, made("2026-01-01T00:00:03Z")]), None, "the cause is gone");
}
