//! Whole passes against an API server in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::{
    nodes::{NodeClient, NodeError},
    testing::{resource, settings},
};
use cretoai_control::{
    api::{Attestation, NodeStatus, Role, encode_base64},
    keys::SecretKey,
};
use cretoai_types::{Genesis, PublicKey, SignedGenesis};
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use std::{collections::BTreeMap, net::SocketAddr, sync::Mutex};

/// Objects by path, and what was asked.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    log: Vec<(Method, String)>,
    /// Paths that hold this are not written.
    refuse: Option<String>,
    /// Paths that hold this are not read.
    unreadable: Option<String>,
    /// What admission makes of an object at a path.
    admission: Option<fn(&str, &mut Value)>,
    version: u64,
}

type Shared = Arc<Mutex<Server>>;

fn answer(status: StatusCode, body: &Value) -> Response<Body> {
    Response::builder().status(status).body(Body::from(serde_json::to_vec(body).unwrap())).unwrap()
}

fn failure(status: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status.as_u16(), "message": message});
    answer(status, &body)
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

impl Server {
    /// Stores an object as an API server does: with a new version if it changed at all, with a
    /// generation that counts changes of anything but metadata and status, and with what admission
    /// and defaults add. What differs from the form in which it was sent must be no drift.
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        if let Some(admission) = self.admission {
            admission(path, &mut object);
        }
        if path.contains("/services/") {
            if object["spec"].get("clusterIP").is_none() {
                object["spec"]["clusterIP"] = json!("10.96.0.1");
            }
            object["spec"]["sessionAffinity"] = json!("None");
        }
        if path.contains("/statefulsets/") {
            object["metadata"]["uid"] = json!("set");
            object["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
        }
        let before = self.objects.get(path).cloned();
        let same_spec = before.as_ref().is_some_and(|before| before["spec"] == object["spec"]);
        if path.contains("/statefulsets/") {
            let generation = before
                .as_ref()
                .and_then(|before| before["metadata"]["generation"].as_u64())
                .unwrap_or_default();
            let generation = if same_spec { generation } else { generation + 1 };
            object["metadata"]["generation"] = json!(generation);
            // The template that the tests' pods were made from has the revision r1.
            let image = &object["spec"]["template"]["spec"];
            let plain = image.get("hostNetwork").is_none() && image.get("envFrom").is_none();
            let revision = if plain { "r1" } else { "edited" };
            object["status"] =
                json!({"observedGeneration": generation, "updateRevision": revision});
        }
        let same = before.as_ref().is_some_and(|before| {
            let mut sent = object.clone();
            sent["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
            sent == *before
        });
        if !same {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }
        self.objects.insert(path.to_string(), object.clone());
        object
    }

    /// Writes other than reviews of tokens and Events, which no object is.
    fn writes(&self) -> Vec<(Method, String)> {
        let read =
            |method: &Method, path: &str| *method == Method::GET || path.ends_with("/tokenreviews");
        self.log.iter().filter(|(method, path)| !read(method, path)).cloned().collect()
    }

    /// A tiny API server: get, list, create, replace, patch, and token reviews that trust tokens
    /// `pod/uid`.
    fn handle(&mut self, method: &Method, path: &str, body: &Value) -> Response<Body> {
        self.log.push((method.clone(), path.to_string()));
        if self.unreadable.as_ref().is_some_and(|unreadable| path.contains(unreadable.as_str())) {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "etcd is away");
        }
        if self
            .refuse
            .as_ref()
            .is_some_and(|refused| path.contains(refused.as_str()) && *method != Method::GET)
        {
            return failure(StatusCode::FORBIDDEN, "Forbidden", "denied by a webhook");
        }
        if path.ends_with("/tokenreviews") {
            let (pod, uid) = body["spec"]["token"].as_str().unwrap().split_once('/').unwrap();
            let user = json!({"username": "system:serviceaccount:apps:prod-node", "extra": {
                "authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [uid]}});
            let status = json!({"authenticated": true, "audiences": body["spec"]["audiences"], "user": user});
            return answer(
                StatusCode::CREATED,
                &json!({"metadata": {}, "spec": body["spec"], "status": status}),
            );
        }
        let collection = self
            .objects
            .keys()
            .any(|key| key.rsplit_once('/').is_some_and(|(folder, _)| folder == path));
        match *method {
            Method::GET => match self.objects.get(path) {
                Some(object) => answer(StatusCode::OK, object),
                None if collection
                    || path.ends_with("/pods")
                    || path.ends_with("/events")
                    || path.ends_with("/persistentvolumeclaims") =>
                {
                    let prefix = format!("{path}/");
                    let items: Vec<&Value> = self
                        .objects
                        .iter()
                        .filter(|(key, _)| key.starts_with(&prefix))
                        .map(|(_, object)| object)
                        .collect();
                    answer(
                        StatusCode::OK,
                        &json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}),
                    )
                }
                None => failure(StatusCode::NOT_FOUND, "NotFound", "not found"),
            },
            Method::POST => {
                let path =
                    format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
                if self.objects.contains_key(&path) {
                    return failure(StatusCode::CONFLICT, "AlreadyExists", "already exists");
                }
                let object = self.store(&path, body.clone());
                answer(StatusCode::CREATED, &object)
            }
            Method::PUT => {
                let Some(before) = self.objects.get(path) else {
                    return failure(StatusCode::NOT_FOUND, "NotFound", "not found");
                };
                let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
                if version(body) != version(before) {
                    return failure(StatusCode::CONFLICT, "Conflict", "it has been modified");
                }
                let object = self.store(path, body.clone());
                answer(StatusCode::OK, &object)
            }
            Method::PATCH => {
                let path = path.trim_end_matches("/status").to_string();
                let Some(mut object) = self.objects.get(&path).cloned() else {
                    return failure(StatusCode::NOT_FOUND, "NotFound", "not found");
                };
                merge(&mut object, body);
                let object = self.store(&path, object);
                answer(StatusCode::OK, &object)
            }
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not here"),
        }
    }
}

fn serve(server: &Shared) -> Client {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let server = Arc::clone(server);
    tokio::spawn(async move {
        while let Some((request, send)) = handle.next_request().await {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let response = server.lock().unwrap().handle(&parts.method, parts.uri.path(), &body);
            send.send_response(response);
        }
    });
    Client::new(service, "default")
}

/// Four nodes that live at 10.0.0.0 to 10.0.0.3.
#[derive(Clone)]
struct Nodes {
    keys: Vec<SecretKey>,
    chains: Arc<Mutex<BTreeMap<usize, String>>>,
    suspected: Arc<Mutex<Vec<String>>>,
    posing_as: Option<usize>,
}

impl Nodes {
    fn new() -> Self {
        Self {
            keys: (0..4).map(|i| crate::testing::key(10 + i)).collect(),
            chains: Arc::default(),
            suspected: Arc::default(),
            posing_as: None,
        }
    }
}

fn ordinal(address: SocketAddr) -> usize {
    let SocketAddr::V4(address) = address else { panic!() };
    usize::from(address.ip().octets()[3])
}

impl crate::nodes::Connector for Nodes {
    fn connect(&self, _admin: &SecretKey) -> Result<Arc<dyn NodeClient>, NodeError> {
        Ok(Arc::new(self.clone()))
    }
}

impl NodeClient for Nodes {
    fn attest(
        &self,
        address: SocketAddr,
        _nonce: [u8; 32],
    ) -> BoxFuture<'_, Result<(PublicKey, Attestation), NodeError>> {
        let ordinal = ordinal(address);
        let token_of = self.posing_as.filter(|_| ordinal == 3).unwrap_or(ordinal);
        let (key, name) = (&self.keys[ordinal], format!("prod-{ordinal}"));
        let attestation = Attestation {
            public_key: encode_base64(key.public_key().as_bytes()),
            pod_name: name.clone(),
            pod_uid: format!("pod-{ordinal}"),
            cluster_uid: "uid-1".into(),
            proof: String::new(),
            possession: encode_base64(
                key.sign(&Genesis::possession_message("uid-1", &name)).as_bytes(),
            ),
            token: format!("prod-{token_of}/pod-{token_of}"),
            chain_id: self.chains.lock().unwrap().get(&ordinal).cloned(),
            version: "0.1.0".into(),
        };
        Box::pin(async move { Ok((key.public_key().clone(), attestation)) })
    }

    fn put_genesis(
        &self,
        address: SocketAddr,
        _expect: PublicKey,
        genesis: Arc<SignedGenesis>,
    ) -> BoxFuture<'_, Result<(), NodeError>> {
        self.chains
            .lock()
            .unwrap()
            .insert(ordinal(address), genesis.genesis.chain_id().to_string());
        Box::pin(async { Ok(()) })
    }

    fn status(
        &self,
        address: SocketAddr,
        _expect: PublicKey,
    ) -> BoxFuture<'_, Result<NodeStatus, NodeError>> {
        let ordinal = ordinal(address);
        let mut status = crate::testing::report(&format!("prod-{ordinal}"), 5, "h");
        status.chain_id = self.chains.lock().unwrap().get(&ordinal).cloned();
        status.role = if status.chain_id.is_some() { Role::Validator } else { Role::Waiting };
        status.ready = status.chain_id.is_some();
        status.suspected.clone_from(&self.suspected.lock().unwrap());
        Box::pin(async move { Ok(status) })
    }
}

const CLUSTER: &str = "/apis/cretoai.io/v1alpha1/namespaces/apps/cretoclusters/prod";
const SECRET: &str = "/api/v1/namespaces/apps/secrets/prod-admin-key";
const GENESIS: &str = "/api/v1/namespaces/apps/configmaps/prod-genesis";
const API: &str = "/api/v1/namespaces/apps/services/prod-api";

fn begin() -> (Shared, CretoCluster) {
    let resource = resource(json!({"replicas": 4}));
    let server = Shared::default();
    server.lock().unwrap().objects.insert(CLUSTER.into(), serde_json::to_value(&resource).unwrap());
    (server, resource)
}

fn start_pods(server: &Shared) {
    let mut server = server.lock().unwrap();
    for ordinal in 0..4 {
        let labels =
            json!({"controller-revision-hash": "r1", "app.kubernetes.io/instance": "prod"});
        let pod = json!({
            "metadata": {"name": format!("prod-{ordinal}"), "uid": format!("pod-{ordinal}"), "labels": labels,
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "prod", "uid": "set", "controller": true}]},
            "status": {
                "phase": "Running",
                "podIP": format!("10.0.0.{ordinal}"),
                "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
                ],
            },
        });
        let claim = json!({
            "metadata": {"name": format!("data-prod-{ordinal}"), "labels": {"cretoai.io/cluster-uid": "uid-1"}},
            "spec": {"resources": {"requests": {"storage": "10Gi"}}},
        });
        server.objects.insert(format!("/api/v1/namespaces/apps/pods/prod-{ordinal}"), pod);
        server.objects.insert(
            format!("/api/v1/namespaces/apps/persistentvolumeclaims/data-prod-{ordinal}"),
            claim,
        );
    }
}

fn context(server: &Shared, nodes: &Nodes) -> Arc<Context> {
    let client = serve(server);
    let reporter = Reporter { controller: MANAGER.into(), instance: None };
    let metrics = Metrics::new().unwrap();
    let health = Health::new(metrics.clone());
    Arc::new(Context::new(client, settings(), Arc::new(nodes.clone()), reporter, metrics, health))
}

fn events(server: &Shared) -> Vec<String> {
    let server = server.lock().unwrap();
    let events = server.objects.iter().filter(|(path, _)| path.contains("/events/"));
    events
        .map(|(_, event)| {
            format!("{}: {}", event["reason"].as_str().unwrap(), event["note"].as_str().unwrap())
        })
        .collect()
}

fn creations(server: &Shared, folder: &str) -> usize {
    server
        .lock()
        .unwrap()
        .log
        .iter()
        .filter(|(method, path)| *method == Method::POST && path.ends_with(folder))
        .count()
}

#[tokio::test]
async fn from_apply_to_a_live_chain_and_back_from_a_hand_edit() {
    let (server, resource) = begin();
    let (nodes, resource) = (Nodes::new(), Arc::new(resource));
    let context = context(&server, &nodes);
    reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    {
        let server = server.lock().unwrap();
        assert_eq!(server.objects[SECRET]["immutable"], true);
        assert!(server.objects.contains_key("/apis/apps/v1/namespaces/apps/statefulsets/prod"));
        assert!(!server.objects.contains_key(GENESIS));
        let status = &server.objects[CLUSTER]["status"];
        assert_eq!(status["bootstrapped"], false);
        assert!(status["summary"]["status"].as_str().unwrap().contains("prod-0"), "{status}");
    }
    start_pods(&server);
    for _ in 0..2 {
        reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    }
    {
        let server = server.lock().unwrap();
        let status = &server.objects[CLUSTER]["status"];
        assert_eq!(status["summary"]["nodes"], "4/4", "{status}");
        assert_eq!(status["bootstrapped"], true);
        assert_eq!(status["sequence"], 5);
        assert_eq!(server.objects[GENESIS]["immutable"], true);
    }
    assert_eq!(
        (creations(&server, "/secrets"), creations(&server, "/configmaps")),
        (1, 2),
        "admin key, node.toml and genesis: made once"
    );
    let told = events(&server).join("\n");
    assert!(
        told.contains("AdminKeyCreated")
            && told.contains("GenesisCreated")
            && told.contains("QuorumAvailable"),
        "{told}"
    );

    server.lock().unwrap().objects.get_mut(API).unwrap()["spec"]["ports"][0]["port"] = json!(81);
    reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    assert_eq!(server.lock().unwrap().objects[API]["spec"]["ports"][0]["port"], 8080);
    let told = events(&server).join("\n");
    assert!(told.contains("DriftRepaired: Service prod-api was edited by hand (spec.ports[0].port is 81 instead of 8080)"), "{told}");
}

#[tokio::test]
async fn a_suspected_member_is_told_once() {
    let (server, resource) = begin();
    let (nodes, resource) = (Nodes::new(), Arc::new(resource));
    let context = context(&server, &nodes);
    reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    start_pods(&server);
    for _ in 0..2 {
        reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    }
    assert!(!events(&server).join("\n").contains("MemberSuspected"));
    nodes.suspected.lock().unwrap().push("prod-2".into());
    for _ in 0..3 {
        reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    }
    let told: Vec<String> = events(&server)
        .into_iter()
        .filter(|event| event.starts_with("MemberSuspected: prod-2 "))
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(server.lock().unwrap().objects[CLUSTER]["status"]["summary"]["suspected"], "prod-2");
}

#[tokio::test]
async fn a_pod_that_shows_the_token_of_another_never_becomes_a_validator() {
    let (server, resource) = begin();
    let nodes = Nodes { posing_as: Some(2), ..Nodes::new() };
    let (context, resource) = (context(&server, &nodes), Arc::new(resource));
    reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    start_pods(&server);
    for _ in 0..3 {
        reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    }
    let server = server.lock().unwrap();
    assert!(!server.objects.contains_key(GENESIS));
    let told = server.objects[CLUSTER]["status"]["summary"]["status"].as_str().unwrap();
    assert!(told.contains("prod-3") && told.contains("pod-name"), "{told}");
}

#[tokio::test]
async fn a_step_that_fails_is_told_and_the_others_are_done() {
    let (server, resource) = begin();
    server.lock().unwrap().refuse = Some("/services/".into());
    let (context, resource) = (context(&server, &Nodes::new()), Arc::new(resource));
    reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    let server = server.lock().unwrap();
    assert!(server.objects.contains_key("/apis/apps/v1/namespaces/apps/statefulsets/prod"));
    let conditions = server.objects[CLUSTER]["status"]["conditions"].as_array().unwrap();
    let progressing =
        conditions.iter().find(|condition| condition["type"] == "Progressing").unwrap();
    assert_eq!(progressing["reason"], "ReconcileFailed");
    let message = progressing["message"].as_str().unwrap();
    assert!(
        message.contains("Service prod-api") && message.contains("denied by a webhook"),
        "{message}"
    );
}

/// A chain that is born and settled.
async fn settled() -> (Shared, Nodes, Arc<CretoCluster>, Arc<Context>) {
    let (server, resource) = begin();
    let (nodes, resource) = (Nodes::new(), Arc::new(resource));
    let context = context(&server, &nodes);
    reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    start_pods(&server);
    for _ in 0..3 {
        reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    }
    assert_eq!(server.lock().unwrap().objects[CLUSTER]["status"]["summary"]["nodes"], "4/4");
    server.lock().unwrap().log.clear();
    (server, nodes, resource, context)
}

const SET: &str = "/apis/apps/v1/namespaces/apps/statefulsets/prod";
const POLICY: &str = "/apis/networking.k8s.io/v1/namespaces/apps/networkpolicies/prod-api";
const BUDGET: &str = "/apis/policy/v1/namespaces/apps/poddisruptionbudgets/prod";

#[tokio::test]
async fn ten_passes_over_a_quiet_cluster_write_nothing() {
    let (server, _, resource, context) = settled().await;
    for _ in 0..10 {
        reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    }
    assert_eq!(server.lock().unwrap().writes(), []);
}

#[tokio::test]
async fn an_operator_that_was_started_again_writes_nothing_either() {
    let (server, nodes, resource, _) = settled().await;
    let fresh = context(&server, &nodes);
    for _ in 0..3 {
        reconcile(Arc::clone(&resource), Arc::clone(&fresh)).await.unwrap();
    }
    assert_eq!(server.lock().unwrap().writes(), []);
}

#[tokio::test]
async fn what_was_added_by_hand_is_put_back_with_an_event() {
    for (path, pointer, value, sentence) in [
        (API, "/spec/selector/x", json!("y"), "spec.selector.x was added"),
        (
            POLICY,
            "/spec/ingress/0/from/0/namespaceSelector",
            json!({}),
            "spec.ingress[0].from[0].namespaceSelector was added",
        ),
        (
            BUDGET,
            "/spec/selector/matchLabels/x",
            json!("y"),
            "spec.selector.matchLabels.x was added",
        ),
        (
            SET,
            "/spec/template/spec/hostNetwork",
            json!(true),
            "spec.template.spec.hostNetwork was added",
        ),
    ] {
        let (server, _, resource, context) = settled().await;
        let before = server.lock().unwrap().objects[path].clone();
        {
            let mut server = server.lock().unwrap();
            let mut object = before.clone();
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            object.pointer_mut(parent).unwrap()[field] = value;
            server.store(path, object);
            // The controller of StatefulSets has seen it, and would roll it out.
        }
        reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
        {
            let server = server.lock().unwrap();
            assert_eq!(server.objects[path]["spec"], before["spec"], "{pointer}");
            assert!(
                server.log.iter().all(|(method, path)| *method != Method::DELETE
                    && !path.ends_with("/eviction")),
                "an edit by hand is never rolled out: {pointer}"
            );
        }
        let told = events(&server).join("\n");
        assert!(told.contains("DriftRepaired") && told.contains(sentence), "{sentence}: {told}");
    }
}

#[tokio::test]
async fn an_edit_of_the_template_is_never_rolled_out_although_it_cannot_be_put_back() {
    let (server, _, resource, context) = settled().await;
    {
        let mut server = server.lock().unwrap();
        let mut set = server.objects[SET].clone();
        set["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
        server.store(SET, set);
        server.refuse = Some("/statefulsets/".into());
    }
    for _ in 0..3 {
        reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    }
    let server = server.lock().unwrap();
    assert_eq!(server.objects[SET]["status"]["updateRevision"], "edited");
    let disturbed = server
        .log
        .iter()
        .any(|(method, path)| *method == Method::DELETE || path.ends_with("/eviction"));
    assert!(!disturbed, "{:?}", server.log);
}

#[tokio::test]
async fn what_admission_makes_of_our_objects_stays_and_wedges_nothing() {
    fn mirror(path: &str, object: &mut Value) {
        if path.contains("/statefulsets/") {
            object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("mirror/node:1");
            object["spec"]["template"]["spec"]["tolerations"] = json!([{"key": "injected"}]);
        }
    }
    let (server, resource) = begin();
    server.lock().unwrap().admission = Some(mirror);
    let (nodes, resource) = (Nodes::new(), Arc::new(resource));
    let context = context(&server, &nodes);
    reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    start_pods(&server);
    for _ in 0..3 {
        reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    }
    let told = events(&server);
    let about = |reason: &str| told.iter().filter(|event| event.starts_with(reason)).count();
    assert_eq!((about("ChangedOnAdmission"), about("DriftRepaired")), (1, 0), "{told:?}");
    {
        let mut server = server.lock().unwrap();
        assert!(server.objects.contains_key(GENESIS), "the chain is born all the same");
        server.log.clear();
    }
    for _ in 0..5 {
        reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    }
    assert_eq!(server.lock().unwrap().writes(), []);
}

#[tokio::test]
async fn a_write_in_between_is_no_failure() {
    let (server, _, resource, context) = settled().await;
    let key =
        crate::resources::Key { kind: crate::resources::Kind::Service, name: "prod-api".into() };
    let live = server.lock().unwrap().objects[API].clone();
    let mut world = crate::testing::World::new(json!({"replicas": 4}));
    world.take(&Step::CreateAdminKey);
    let plan = world.plan();
    let step = plan
        .steps
        .iter()
        .find(|step| matches!(step, Step::Apply { wanted, .. } if wanted.key == key))
        .unwrap();
    let mut view = world.view();
    let mut stale = live;
    stale["metadata"]["resourceVersion"] = json!("0");
    view.live.insert(key, stale);
    let seen = Observation { view, admin: None, nodes: None };
    assert_eq!(apply::apply(&context.client, &seen, step).await.unwrap(), None);
    let puts =
        server.lock().unwrap().log.iter().filter(|(method, _)| *method == Method::PUT).count();
    assert_eq!(puts, 2, "refused once as older, then done");
    drop(resource);
}

#[tokio::test]
async fn a_cluster_that_cannot_be_read_is_told_so_by_field_and_costs_only_itself() {
    let (server, resource) = begin();
    {
        let mut server = server.lock().unwrap();
        let object = server.objects.get_mut(CLUSTER).unwrap();
        object["spec"]["topologySpreadConstraints"] = json!([{
            "maxSkew": 3_000_000_000_u64, "topologyKey": "x", "whenUnsatisfiable": "DoNotSchedule",
        }]);
        object["metadata"]["generation"] = json!(7);
    }
    // What the watch makes of it.
    let text = server.lock().unwrap().objects[CLUSTER].to_string();
    let guarded: kube::core::DeserializeGuard<CretoCluster> = serde_json::from_str(&text).unwrap();
    assert!(guarded.0.is_err());
    let context = context(&server, &Nodes::new());
    for _ in 0..3 {
        reconcile(Arc::new(guarded.clone()), Arc::clone(&context)).await.unwrap();
    }
    let told = events(&server);
    assert_eq!(told.iter().filter(|event| event.starts_with("InvalidSpec")).count(), 1, "{told:?}");
    let server = server.lock().unwrap();
    let conditions = server.objects[CLUSTER]["status"]["conditions"].as_array().unwrap();
    let degraded = conditions.iter().find(|one| one["type"] == "Degraded").unwrap();
    let message = degraded["message"].as_str().unwrap();
    assert_eq!(degraded["reason"], "InvalidSpec");
    assert!(
        message.contains("spec.topologySpreadConstraints[0].maxSkew")
            && message.contains("3000000000"),
        "{message}"
    );
    let writes = server.writes();
    assert!(
        writes.iter().all(|(_, path)| path.contains("/cretoclusters/") || path.contains("/events")),
        "{writes:?}"
    );
    assert_eq!(writes.iter().filter(|(_, path)| path.ends_with("/status")).count(), 1);
    drop(resource);
}

#[tokio::test]
async fn a_look_that_fails_is_no_news_about_the_chain() {
    let (server, _, resource, context) = settled().await;
    server.lock().unwrap().unreadable = Some("/services/".into());
    assert!(reconcile(Arc::clone(&resource), Arc::clone(&context)).await.is_err());
    {
        let server = server.lock().unwrap();
        let status = &server.objects[CLUSTER]["status"];
        let of = |kind: &str| {
            let conditions = status["conditions"].as_array().unwrap();
            conditions.iter().find(|one| one["type"] == kind).unwrap().clone()
        };
        assert_eq!(of("Ready")["status"], "True", "{status}");
        assert_eq!(of("QuorumAvailable")["status"], "True");
        assert_eq!(of("Progressing")["reason"], "ReconcileFailed");
        assert!(of("Progressing")["message"].as_str().unwrap().contains("etcd is away"));
        assert_eq!(status["summary"]["nodes"], "4/4");
    }
    let told = events(&server).join("\n");
    assert!(!told.contains("QuorumLost"), "{told}");
}

#[tokio::test]
async fn a_chain_that_never_was_leaves_nothing_behind_and_one_that_is_keeps_its_data() {
    let (server, resource) = begin();
    let (nodes, resource) = (Nodes::new(), Arc::new(resource));
    let context = context(&server, &nodes);
    const CLAIM: &str = "/api/v1/namespaces/apps/persistentvolumeclaims/data-prod-0";
    let owners = |path: &str| {
        let server = server.lock().unwrap();
        server.objects[path]["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len)
    };
    let silent = Nodes { posing_as: Some(2), ..nodes.clone() };
    let unborn = self::context(&server, &silent);
    reconcile(Arc::clone(&resource), Arc::clone(&unborn)).await.unwrap();
    assert_eq!(owners(SECRET), 1);
    start_pods(&server);
    reconcile(Arc::clone(&resource), unborn).await.unwrap();
    assert_eq!((owners(SECRET), owners(CLAIM)), (1, 1), "until birth they go with it");
    for _ in 0..3 {
        reconcile(Arc::clone(&resource), Arc::clone(&context)).await.unwrap();
    }
    assert_eq!((owners(SECRET), owners(GENESIS), owners(CLAIM)), (0, 0, 0), "Retain");
    // No node had the genesis before its volume was released.
    let server = server.lock().unwrap();
    assert_eq!(server.objects[CLUSTER]["status"]["bootstrapped"], true);
}

#[tokio::test]
async fn a_pause_that_comes_during_a_pass_counts() {
    let (server, _, resource, context) = settled().await;
    // The pods are of an older template: the next pass would replace one.
    {
        let mut server = server.lock().unwrap();
        for ordinal in 0..4 {
            let path = format!("/api/v1/namespaces/apps/pods/prod-{ordinal}");
            server.objects.get_mut(&path).unwrap()["metadata"]["labels"]["controller-revision-hash"] =
                json!("r0");
        }
    }
    let place = Place::of(&resource.metadata);
    let Found::Here(read) = find(&context.client, &place).await.unwrap() else { panic!() };
    let cluster = Cluster::new(&read).unwrap();
    let seen = observe(&context.client, context.connector.as_ref(), cluster).await.unwrap();
    let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap();
    let plan = plan(&seen.view, &context.settings, now_ms);
    assert!(plan.steps.iter().any(|step| matches!(step, Step::ReplacePod { .. })), "{plan:?}");
    {
        let mut server = server.lock().unwrap();
        let object = server.objects.get_mut(CLUSTER).unwrap();
        object["spec"]["paused"] = json!(true);
        object["metadata"]["generation"] = json!(2);
        server.log.clear();
    }
    take_steps(&context, &place, &seen, &plan).await.unwrap();
    assert_eq!(server.lock().unwrap().writes(), []);
}

#[tokio::test]
async fn a_deleted_resource_is_left_alone() {
    let (server, mut resource) = begin();
    resource.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
    server.lock().unwrap().objects.insert(CLUSTER.into(), serde_json::to_value(&resource).unwrap());
    let context = context(&server, &Nodes::new());
    reconcile(Arc::new(resource), context).await.unwrap();
    assert!(server.lock().unwrap().log.iter().all(|(method, _)| *method == Method::GET));
}

/// Takes prod-1 away and returns what the API server was asked, and what came of it.
async fn take_away(
    how: crate::cluster::plan::Removal,
    status: StatusCode,
    reason: &'static str,
) -> (Method, String, Value, Result<Option<Notice>, apply::StepError>) {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let server = tokio::spawn(async move {
        let (request, send) = handle.next_request().await.unwrap();
        let (parts, body) = request.into_parts();
        let body = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        if status.is_success() {
            let done = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"});
            send.send_response(answer(status, &done));
        } else {
            send.send_response(failure(status, reason, "it would violate the disruption budget"));
        }
        (parts.method, parts.uri.path().to_string(), body)
    });
    let client = Client::new(service, "default");
    let world = crate::testing::World::new(json!({"replicas": 4}));
    let seen = Observation { view: world.view(), admin: None, nodes: None };
    let (pod, uid) = ("prod-1".to_string(), "pod-1".to_string());
    let step = Step::ReplacePod { ordinal: 1, pod, uid, how };
    let result = apply::apply(&client, &seen, &step).await;
    let (method, path, body) = server.await.unwrap();
    (method, path, body, result)
}

#[tokio::test]
async fn a_ready_pod_is_evicted_with_its_uid_as_a_precondition() {
    use crate::cluster::plan::Removal;
    let (method, path, body, result) = take_away(Removal::Evict, StatusCode::CREATED, "").await;
    assert_eq!(
        (method, path.as_str()),
        (Method::POST, "/api/v1/namespaces/apps/pods/prod-1/eviction")
    );
    assert_eq!(body["deleteOptions"]["preconditions"]["uid"], "pod-1", "{body}");
    assert_eq!(body["metadata"]["name"], "prod-1");
    assert_eq!(result.unwrap().unwrap().reason, "PodReplaced");

    let (method, path, body, result) = take_away(Removal::Delete, StatusCode::OK, "").await;
    assert_eq!((method, path.as_str()), (Method::DELETE, "/api/v1/namespaces/apps/pods/prod-1"));
    assert_eq!(body["preconditions"]["uid"], "pod-1", "{body}");
    assert!(result.is_ok());
}

#[tokio::test]
async fn an_eviction_that_the_disruption_budget_forbids_is_no_failure() {
    use crate::cluster::plan::Removal;
    let (.., result) =
        take_away(Removal::Evict, StatusCode::TOO_MANY_REQUESTS, "TooManyRequests").await;
    let error = result.unwrap_err();
    assert!(matches!(error, apply::StepError::Fenced { .. }), "{error}");
    assert!(
        error.to_string().contains("prod-1") && error.to_string().contains("budget"),
        "{error}"
    );
    let (.., result) = take_away(Removal::Evict, StatusCode::CONFLICT, "Conflict").await;
    assert_eq!(result.unwrap(), None, "another pod of this name by now");
}
