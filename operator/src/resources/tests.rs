#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::{
    cluster::validate::Cluster,
    names::{CLUSTER_UID, CONFIG_HASH},
    testing::{objects, settings},
};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

fn sample() -> Value {
    json!({
        "replicas": 4,
        "image": "registry.example/node:9",
        "resources": { "requests": { "cpu": "1", "memory": "1Gi" }, "limits": { "memory": "2Gi" } },
        "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
            { "matchExpressions": [{ "key": "disk", "operator": "In", "values": ["fast"] }] } ] } } },
        "podTemplate": {
            "labels": { "team": "ledger" },
            "annotations": { "note": "x" },
            "nodeSelector": { "disk": "fast" },
            "tolerations": [{ "key": "dedicated", "operator": "Exists", "effect": "NoSchedule" }],
            "priorityClassName": "high",
            "imagePullSecrets": ["registry"],
        },
        "storage": { "size": "20Gi", "storageClassName": "fast" },
        "tuning": { "cacheSizeMb": 256, "writeBufferMb": 64, "logLevel": "debug" },
        "consensus": { "finalityTimeoutMs": 700, "maxPendingVertices": 5000 },
    })
}

fn get<'a>(objects: &'a BTreeMap<Key, Value>, kind: Kind, name: &str) -> &'a Value {
    &objects[&Key { kind, name: name.to_string() }]
}

/// Every field that we write is one that Kubernetes knows: a misspelt one would be dropped here.
fn round_trip<T: Serialize + DeserializeOwned>(object: &Value) {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(crate::drift::difference(object, &serde_json::to_value(typed).unwrap()), None);
}

#[test]
fn every_field_is_known_to_kubernetes() {
    for spec in [json!({"replicas": 1}), sample()] {
        for (key, object) in objects(spec) {
            match key.kind {
                Kind::ServiceAccount => round_trip::<ServiceAccount>(&object),
                Kind::ConfigMap => round_trip::<ConfigMap>(&object),
                Kind::Service => round_trip::<Service>(&object),
                Kind::NetworkPolicy => round_trip::<NetworkPolicy>(&object),
                Kind::PodDisruptionBudget => round_trip::<PodDisruptionBudget>(&object),
                Kind::StatefulSet => round_trip::<StatefulSet>(&object),
            }
        }
    }
}

#[test]
fn what_is_looked_for_is_what_is_built() {
    let cluster = crate::testing::cluster(sample());
    let built: Vec<Key> = objects(sample()).into_keys().collect();
    assert_eq!(built, keys(&cluster));
}

#[test]
fn every_object_is_owned_labelled_and_sealed() {
    for (key, object) in objects(sample()) {
        assert_eq!(object["metadata"]["namespace"], "apps", "{key}");
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "uid-1", "{key}");
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], MANAGER, "{key}");
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/instance"], "prod", "{key}");
        assert_eq!(wanted_hash(&object).unwrap().len(), 16, "{key}");
        let mut cluster = crate::testing::cluster(sample());
        assert_eq!(owner_of(&object, &cluster), Owner::Ours);
        cluster.uid = "uid-2".into();
        assert_eq!(owner_of(&object, &cluster), Owner::Departing);
    }
}

#[test]
fn an_object_is_ours_only_by_owner_or_label() {
    let cluster = crate::testing::cluster(json!({"replicas": 4}));
    let of = |metadata: Value| owner_of(&json!({ "metadata": metadata }), &cluster);
    let labels =
        |name: &str| json!({"labels": {"app.kubernetes.io/managed-by": MANAGER, CLUSTER: name}});
    assert_eq!(of(json!({})), Owner::Foreign);
    assert_eq!(of(labels("prod")), Owner::Ours);
    assert_eq!(of(labels("another")), Owner::Foreign);
    assert_eq!(of(json!({"labels": {"app.kubernetes.io/managed-by": "Helm"}})), Owner::Foreign);
    assert_eq!(
        of(json!({"ownerReferences": [{"kind": "Deployment", "uid": "x", "controller": true}]})),
        Owner::Foreign
    );
    assert_eq!(
        of(
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [{"uid": "uid-1", "controller": true}]})
        ),
        Owner::Departing
    );
}

#[test]
fn the_pods_meet_the_restricted_pod_security_standard() {
    let objects = objects(json!({"replicas": 4}));
    let pod = &get(&objects, Kind::StatefulSet, "prod")["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["runAsUser"], 65532);
    assert_eq!(pod["securityContext"]["fsGroup"], 65532);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for key in
        ["hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers", "ephemeralContainers"]
    {
        assert!(pod.get(key).is_none(), "{key}");
    }
    for container in pod["containers"].as_array().unwrap() {
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
        assert!(security.get("privileged").is_none());
        assert!(
            container["ports"]
                .as_array()
                .unwrap()
                .iter()
                .all(|port| port.get("hostPort").is_none())
        );
    }
    for volume in pod["volumes"].as_array().unwrap() {
        let kinds: Vec<&String> =
            volume.as_object().unwrap().keys().filter(|key| *key != "name").collect();
        assert!(kinds == ["configMap"] || kinds == ["projected"], "{kinds:?}");
    }
}

#[test]
fn the_only_token_is_the_one_for_the_operator() {
    let objects = objects(json!({"replicas": 4}));
    assert_eq!(
        get(&objects, Kind::ServiceAccount, "prod-node")["automountServiceAccountToken"],
        false
    );
    let pod = &get(&objects, Kind::StatefulSet, "prod")["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    let sources = pod["volumes"][1]["projected"]["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 1);
    assert_eq!(sources[0]["serviceAccountToken"]["audience"], "creto.cretoai.io/uid-1");
}

#[test]
fn the_node_is_told_who_it_is() {
    let objects = objects(json!({"replicas": 4}));
    let set = get(&objects, Kind::StatefulSet, "prod");
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let env: BTreeMap<&str, &Value> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["name"].as_str().unwrap(), entry))
        .collect();
    let names: Vec<&str> = env.keys().copied().collect();
    assert_eq!(
        names,
        [
            "CRETO_ADMIN_KEY",
            "CRETO_CLUSTER_UID",
            "CRETO_TOKEN_PATH",
            "POD_NAME",
            "POD_NAMESPACE",
            "POD_UID"
        ]
    );
    assert_eq!(env["CRETO_CLUSTER_UID"]["value"], "uid-1");
    assert_eq!(env["CRETO_ADMIN_KEY"]["value"].as_str().unwrap().len(), 64);
    assert_eq!(env["POD_UID"]["valueFrom"]["fieldRef"]["fieldPath"], "metadata.uid");
    assert_eq!(container["image"], settings().node_image);
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/health", "never the consensus");
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/ready");
    assert_eq!(set["spec"]["podManagementPolicy"], "Parallel");
    assert_eq!(set["spec"]["updateStrategy"]["type"], "OnDelete");
    assert_eq!(
        get(&objects, Kind::Service, "prod-nodes")["spec"]["publishNotReadyAddresses"],
        true
    );
    assert_eq!(get(&objects, Kind::Service, "prod-nodes")["spec"]["clusterIP"], "None");
    assert!(
        get(&objects, Kind::Service, "prod-api")["spec"].get("publishNotReadyAddresses").is_none()
    );
}

#[test]
fn what_the_user_asks_for_arrives() {
    let objects = objects(sample());
    let set = get(&objects, Kind::StatefulSet, "prod");
    let (meta, pod) = (&set["spec"]["template"]["metadata"], &set["spec"]["template"]["spec"]);
    assert_eq!(
        (&meta["labels"]["team"], &meta["annotations"]["note"]),
        (&json!("ledger"), &json!("x"))
    );
    assert_eq!(pod["nodeSelector"]["disk"], "fast");
    assert_eq!(pod["tolerations"][0]["key"], "dedicated");
    assert_eq!(pod["priorityClassName"], "high");
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "registry"}]));
    assert!(pod["affinity"]["nodeAffinity"].is_object());
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "registry.example/node:9");
    assert_eq!(
        container["resources"],
        json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}})
    );
    let claim = &set["spec"]["volumeClaimTemplates"][0];
    assert_eq!(claim["spec"]["storageClassName"], "fast");
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "20Gi");
    assert_eq!(claim["metadata"]["labels"][CLUSTER_UID], "uid-1");
    let toml = get(&objects, Kind::ConfigMap, "prod-config")["data"]["node.toml"].as_str().unwrap();
    for line in [
        "id = \"prod\"",
        "log_level = \"debug\"",
        "finality_timeout_ms = 700",
        "max_pending_vertices = 5000",
        "cache_size_mb = 256",
        "write_buffer_mb = 64",
        "quorum_threshold = 0.67",
        "listen_addr = \"0.0.0.0:9000\"",
        "    \"/dns4/prod-3.prod-nodes.apps.svc/udp/9001/quic\",",
    ] {
        assert!(toml.lines().any(|have| have == line), "{line:?} is not in\n{toml}");
    }
}

#[test]
fn a_change_of_the_configuration_rolls_the_pods() {
    let hash = |spec: Value| {
        get(&objects(spec), Kind::StatefulSet, "prod")["spec"]["template"]["metadata"]["annotations"][CONFIG_HASH]
            .as_str()
            .unwrap()
            .to_string()
    };
    assert_ne!(
        hash(json!({"replicas": 4})),
        hash(json!({"replicas": 4, "tuning": {"logLevel": "debug"}}))
    );
    assert_eq!(hash(json!({"replicas": 4})), hash(json!({"replicas": 4, "image": "other"})));
}

#[test]
fn the_operators_labels_win() {
    let mut cluster: Cluster = crate::testing::cluster(json!({"replicas": 4}));
    cluster.spec.pod_template.labels.insert("app.kubernetes.io/name".into(), "evil".into());
    let identity = Identity {
        cluster_uid: "u".into(),
        admin_fingerprint: Hash::ZERO,
        born: None,
        admin_key_lost: None,
    };
    let settings = settings();
    let blueprint = Blueprint {
        cluster: &cluster,
        identity: &identity,
        settings: &settings,
        running_image: Some("running:1"),
        claim_size: Some("1Gi"),
    };
    let set = all(&blueprint)
        .into_iter()
        .find(|wanted| wanted.key.kind == Kind::StatefulSet)
        .unwrap()
        .object;
    assert_eq!(
        set["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"],
        "cretoai-node"
    );
    assert_eq!(
        set["spec"]["template"]["spec"]["containers"][0]["image"], "running:1",
        "an upgrade of the operator changes no image"
    );
    assert_eq!(
        set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"], "1Gi",
        "Kubernetes lets nobody change it"
    );
}

#[test]
fn a_drain_leaves_a_quorum() {
    for (replicas, stay) in [(1, 1), (3, 3), (4, 3), (5, 4), (7, 5), (31, 21)] {
        let objects = objects(json!({ "replicas": replicas }));
        assert_eq!(
            get(&objects, Kind::PodDisruptionBudget, "prod")["spec"]["minAvailable"],
            stay,
            "{replicas}"
        );
    }
}

#[test]
fn the_threshold_in_node_toml_means_the_quorum_for_every_size() {
    for n in (1..=31_u32).filter(|n| *n != 2) {
        let q = cretoai_types::Quorum::new(n as usize, cretoai_types::FaultModel::Byzantine).q;
        assert_eq!(
            (config::QUORUM_THRESHOLD * f64::from(n)).ceil(),
            f64::from(u32::try_from(q).unwrap()),
            "{n}"
        );
    }
}

#[test]
fn every_port_has_one_policy_and_nothing_else_comes_in() {
    let objects = objects(json!({"replicas": 4}));
    let policy =
        |suffix: &str| &get(&objects, Kind::NetworkPolicy, &format!("prod-{suffix}"))["spec"];
    for (suffix, port, protocol) in [
        ("api", 8080, "TCP"),
        ("control", 9000, "TCP"),
        ("metrics", 9090, "TCP"),
        ("peers", 9001, "UDP"),
    ] {
        let spec = policy(suffix);
        assert_eq!(spec["policyTypes"], json!(["Ingress"]));
        assert_eq!(spec["ingress"][0]["ports"], json!([{"port": port, "protocol": protocol}]));
        assert_eq!(spec["podSelector"]["matchLabels"][CLUSTER], "prod");
    }
    let operator = &policy("control")["ingress"][0]["from"];
    assert_eq!(operator.as_array().unwrap().len(), 1);
    assert_eq!(
        operator[0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
        "creto-system"
    );
    assert_eq!(operator[0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"], MANAGER);
    let peers = &policy("peers")["ingress"][0]["from"];
    assert_eq!(
        peers,
        &json!([{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "cretoai-node", CLUSTER: "prod"}}}])
    );
}

#[test]
fn volumes_never_go_with_the_stateful_set() {
    for policy in ["Retain", "Delete"] {
        let objects = objects(json!({"replicas": 4, "storage": {"retentionPolicy": policy}}));
        assert_eq!(
            get(&objects, Kind::StatefulSet, "prod")["spec"]["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
            "{policy}"
        );
    }
}

#[test]
fn no_gitops_tool_takes_what_is_retained_for_its_own() {
    let objects = objects(json!({"replicas": 4}));
    let set = &get(&objects, Kind::StatefulSet, "prod")["spec"];
    let claim = &set["volumeClaimTemplates"][0]["metadata"];
    // The StatefulSet controller puts its selector on the claims.
    for labels in [&claim["labels"], &set["selector"]["matchLabels"]] {
        assert!(labels.get("app.kubernetes.io/instance").is_none(), "{labels}");
        assert_eq!(labels[CLUSTER], "prod");
    }
    assert_eq!(claim["annotations"]["argocd.argoproj.io/sync-options"], "Prune=false,Delete=false");
}

/// What an API server makes of an object: defaults are filled in.
fn admitted(kind: Kind, object: &Value) -> Value {
    let mut live = object.clone();
    if kind == Kind::Service {
        live["spec"]["clusterIP"] = json!("10.0.0.1");
        live["spec"]["sessionAffinity"] = json!("None");
    }
    live["metadata"]["uid"] = json!("x");
    live["metadata"]["annotations"][ADMITTED] = json!(admitted_hash(kind, &live));
    live
}

#[test]
fn what_was_added_is_seen_as_well_as_what_was_changed_or_removed() {
    let edits: [(Kind, &str, &str, Value); 12] = [
        (Kind::Service, "prod-api", "/spec/selector/x", json!("y")),
        (Kind::Service, "prod-api", "/spec/publishNotReadyAddresses", json!(true)),
        (Kind::Service, "prod-api", "/spec/externalIPs", json!(["192.0.2.1"])),
        (Kind::NetworkPolicy, "prod-api", "/spec/ingress/0/from/0/namespaceSelector", json!({})),
        (Kind::NetworkPolicy, "prod-peers", "/spec/ingress/0/ports/0/endPort", json!(9999)),
        (Kind::PodDisruptionBudget, "prod", "/spec/selector/matchLabels/x", json!("y")),
        (Kind::ConfigMap, "prod-config", "/data/more", json!("x")),
        (Kind::StatefulSet, "prod", "/spec/template/spec/hostNetwork", json!(true)),
        (Kind::StatefulSet, "prod", "/spec/template/spec/containers/0/envFrom", json!([{}])),
        (Kind::StatefulSet, "prod", "/spec/template/spec/containers/0/image", json!("busybox")),
        (
            Kind::StatefulSet,
            "prod",
            "/spec/template/spec/containers/0/securityContext/allowPrivilegeEscalation",
            Value::Null,
        ),
        (Kind::ServiceAccount, "prod-node", "/automountServiceAccountToken", json!(true)),
    ];
    let objects = objects(json!({"replicas": 4}));
    for (kind, name, pointer, value) in edits {
        let wanted = Wanted {
            key: Key { kind, name: name.into() },
            object: get(&objects, kind, name).clone(),
        };
        let live = admitted(kind, &wanted.object);
        assert!(as_wanted(&wanted, &live), "{name}");
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let mut edit = live.clone();
        let parent = edit.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            assert!(parent.remove(field).is_some(), "{pointer}");
        } else {
            parent.insert(field.into(), value);
        }
        assert!(!as_wanted(&wanted, &edit) && edited(&wanted, &edit), "{pointer}");
        // What replaces it is the wish again, with what the server gave.
        let back = replacement(&wanted, &edit);
        assert_eq!(back.pointer(pointer), wanted.object.pointer(pointer), "{pointer}");
        assert_eq!(back["spec"]["clusterIP"], live["spec"]["clusterIP"]);
    }
}

#[test]
fn what_others_may_add_is_no_edit_and_stays() {
    let objects = objects(json!({"replicas": 4}));
    let wanted = |kind, name: &str| Wanted {
        key: Key { kind, name: name.into() },
        object: get(&objects, kind, name).clone(),
    };
    let service = wanted(Kind::Service, "prod-api");
    let mut live = admitted(Kind::Service, &service.object);
    live["metadata"]["labels"]["team"] = json!("ledger");
    live["metadata"]["annotations"]["note"] = json!("x");
    live["metadata"]["finalizers"] = json!(["example.com/x"]);
    live["metadata"]["resourceVersion"] = json!("7");
    live["status"] = json!({"loadBalancer": {}});
    assert!(as_wanted(&service, &live));
    let back = replacement(&service, &live);
    for pointer in [
        "/metadata/labels/team",
        "/metadata/annotations/note",
        "/metadata/finalizers",
        "/metadata/resourceVersion",
    ] {
        assert_eq!(back.pointer(pointer), live.pointer(pointer), "{pointer}");
    }
    let account = wanted(Kind::ServiceAccount, "prod-node");
    let mut live = admitted(Kind::ServiceAccount, &account.object);
    live["secrets"] = json!([{"name": "made-by-openshift"}]);
    assert!(as_wanted(&account, &live));
    assert_eq!(replacement(&account, &live)["secrets"], live["secrets"]);
    // Labels of ours and owners are ours.
    let mut live = admitted(Kind::Service, &service.object);
    live["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("me");
    assert!(!as_wanted(&service, &live));
    let mut live = admitted(Kind::Service, &service.object);
    live["metadata"]["ownerReferences"] = json!([]);
    assert!(!as_wanted(&service, &live));
}

#[test]
fn constraints_without_a_selector_spread_our_pods() {
    let constraint =
        json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
    let objects = objects(json!({"replicas": 4, "topologySpreadConstraints": [constraint]}));
    let spread = &get(&objects, Kind::StatefulSet, "prod")["spec"]["template"]["spec"]["topologySpreadConstraints"];
    assert_eq!(spread[0]["labelSelector"]["matchLabels"][CLUSTER], "prod");
}
