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
use std::{collections::BTreeMap, net::SocketAddr};

/// Objects by path, and what was asked.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    log: Vec<(Method, String)>,
    refuse: Option<String>,
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
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

impl Server {
    /// A tiny API server: get, list, create, patch, delete, and token reviews that trust tokens
    /// `pod/uid`.
    fn handle(&mut self, method: &Method, path: &str, body: &Value) -> Response<Body> {
        self.log.push((method.clone(), path.to_string()));
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
                self.objects.insert(path, body.clone());
                answer(StatusCode::CREATED, body)
            }
            Method::PATCH => {
                let path = path.trim_end_matches("/status").to_string();
                let object =
                    self.objects.entry(path.clone()).or_insert_with(|| json!({"metadata": {}}));
                merge(object, body);
                if path.contains("/statefulsets/") {
                    object["metadata"]["uid"] = json!("set");
                    object["metadata"]["generation"] = json!(1);
                    object["status"] = json!({"observedGeneration": 1, "updateRevision": "r1"});
                }
                let object = object.clone();
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
            "status": {"phase": "Running", "podIP": format!("10.0.0.{ordinal}")},
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
    Arc::new(Context::new(
        client,
        settings(),
        Arc::new(nodes.clone()),
        reporter,
        Metrics::new().unwrap(),
    ))
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
        assert!(server.objects[SECRET]["metadata"].get("ownerReferences").is_none(), "retained");
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
        (1, 1),
        "made once, and nothing created besides"
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

#[tokio::test]
async fn what_applies_is_forced_under_our_name() {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let server = tokio::spawn(async move {
        let (request, send) = handle.next_request().await.unwrap();
        assert_eq!(request.method(), Method::PATCH);
        assert_eq!(request.uri().path(), "/api/v1/namespaces/apps/services/prod-api");
        let query = request.uri().query().unwrap();
        assert!(
            query.contains("force=true") && query.contains("fieldManager=creto-operator"),
            "{query}"
        );
        assert_eq!(request.headers()["content-type"], "application/apply-patch+yaml");
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let mut object: Value = serde_json::from_slice(&bytes).unwrap();
        // Somebody else's entry of a list survives a server-side apply.
        object["spec"]["ports"].as_array_mut().unwrap().push(json!({"name": "evil", "port": 1}));
        send.send_response(answer(StatusCode::OK, &object));
        let (request, send) = handle.next_request().await.unwrap();
        assert_eq!(request.headers()["content-type"], "application/merge-patch+json");
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let object: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(object["spec"]["ports"].as_array().unwrap().len(), 1, "the list as a whole");
        send.send_response(answer(StatusCode::OK, &object));
    });
    let client = Client::new(service, "default");
    let mut world = crate::testing::World::new(json!({"replicas": 4}));
    world.take(&Step::CreateAdminKey);
    let seen = Observation { view: world.view(), admin: None, nodes: None };
    let plan = world.plan();
    let step = plan.steps.iter().find(|step| matches!(step, Step::Apply { wanted, .. } if wanted.key.name == "prod-api" && wanted.key.kind == crate::resources::Kind::Service));
    assert_eq!(apply::apply(&client, &seen, step.unwrap()).await.unwrap(), None);
    server.await.unwrap();
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
