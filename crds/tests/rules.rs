//! The CEL rules of the CRD, run without a cluster on the generated schema. The API server runs
//! them again in the e2e.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use cretoai_crds::{CretoCluster, CretoClusterSpec, crd, crd_yaml};
use kube_cel::Validator;
use serde_json::{Value, json};

fn schema() -> Value {
    let crd = serde_json::to_value(crd().unwrap()).unwrap();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
}

/// A cluster as the API server sees it after its defaults were filled in.
fn cluster(name: &str, spec: Value) -> Value {
    let spec: CretoClusterSpec = serde_json::from_value(spec).unwrap();
    serde_json::to_value(CretoCluster::new(name, spec)).unwrap()
}

fn refusal(new: &Value, old: Option<&Value>) -> Option<String> {
    Validator::new().validate(&schema(), new, old).err().map(|errors| format!("{errors}"))
}

#[track_caller]
fn refused(new: &Value, old: Option<&Value>, words: &[&str]) {
    let message = refusal(new, old).expect("must be refused");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn the_least_that_a_user_types_is_accepted() {
    for replicas in [1, 3, 4, 5, 6, 7, 31] {
        assert_eq!(
            refusal(&cluster("prod", json!({"replicas": replicas})), None),
            None,
            "{replicas}"
        );
    }
}

#[test]
fn counts_without_meaning_are_refused_with_the_fix() {
    for replicas in [-1, 0, 2, 32, 1_000_000] {
        refused(&cluster("prod", json!({"replicas": replicas})), None, &["spec.replicas", "set 4"]);
    }
}

#[test]
fn names_that_do_not_fit_are_refused() {
    refused(&cluster(&"a".repeat(10_000), json!({"replicas": 4})), None, &["metadata.name", "40"]);
    refused(&cluster(&"a".repeat(41), json!({"replicas": 4})), None, &["metadata.name", "40"]);
    refused(&cluster("1st", json!({"replicas": 4})), None, &["metadata.name", "letter"]);
    refused(&cluster("a.b", json!({"replicas": 4})), None, &["metadata.name", "letter"]);
    assert_eq!(refusal(&cluster(&"a".repeat(40), json!({"replicas": 4})), None), None);
}

#[test]
fn storage_grows_and_never_shrinks() {
    let with = |size: &str| cluster("prod", json!({"replicas": 4, "storage": {"size": size}}));
    assert_eq!(refusal(&with("20Gi"), Some(&with("10Gi"))), None);
    assert_eq!(refusal(&with("10240Mi"), Some(&with("10Gi"))), None);
    refused(&with("9Gi"), Some(&with("10Gi")), &["spec.storage.size", "10Gi or more"]);
    refused(&with("10G"), Some(&with("10Gi")), &["spec.storage.size", "10Gi or more"]);
    for size in ["much", "0", "-1Gi"] {
        refused(&with(size), None, &["spec.storage.size", "10Gi"]);
    }
}

#[test]
fn the_storage_class_is_immutable_also_when_added_or_removed() {
    let with = |class: Option<&str>| {
        cluster(
            "prod",
            json!({"replicas": 4, "storage": {"size": "1Gi", "storageClassName": class}}),
        )
    };
    for (old, new) in [(Some("fast"), Some("slow")), (Some("fast"), None), (None, Some("slow"))] {
        refused(&with(new), Some(&with(old)), &["spec.storage.storageClassName", "immutable"]);
    }
    assert_eq!(refusal(&with(Some("fast")), Some(&with(Some("fast")))), None);
    assert_eq!(refusal(&with(None), Some(&with(None))), None);
}

#[test]
fn replicas_change_before_birth_and_never_after() {
    let with = |replicas: i32, bootstrapped: Option<bool>| {
        let mut cluster = cluster("prod", json!({"replicas": replicas}));
        if let Some(bootstrapped) = bootstrapped {
            cluster["status"] = json!({"bootstrapped": bootstrapped});
        }
        cluster
    };
    for born in [None, Some(false)] {
        assert_eq!(refusal(&with(7, born), Some(&with(4, born))), None);
    }
    refused(
        &with(7, Some(true)),
        Some(&with(4, Some(true))),
        &["spec.replicas", "immutable", "status.members"],
    );
    assert_eq!(refusal(&with(4, Some(true)), Some(&with(4, Some(true)))), None);
}

#[test]
fn labels_of_the_operator_are_not_overridden() {
    for map in ["labels", "annotations"] {
        refused(
            &cluster(
                "prod",
                json!({"replicas": 4, "podTemplate": {map: {"app.kubernetes.io/name": "x"}}}),
            ),
            None,
            &["spec.podTemplate", map, "prefix of your own"],
        );
        assert_eq!(
            refusal(
                &cluster("prod", json!({"replicas": 4, "podTemplate": {map: {"team": "x"}}})),
                None
            ),
            None
        );
    }
}

/// The API server bounds the estimated cost of a rule by the bounds of what it looks at.
#[test]
fn everything_of_ours_is_bounded() {
    fn walk(path: &str, schema: &Value, found: &mut Vec<String>) {
        let has = |key: &str| schema.get(key).is_some();
        match schema["type"].as_str() {
            Some("string") if !has("maxLength") && !has("enum") && !has("format") => {
                found.push(path.to_string())
            }
            Some("array") if !has("maxItems") => found.push(path.to_string()),
            Some("object") if has("additionalProperties") && !has("maxProperties") => {
                found.push(path.to_string())
            }
            _ => {}
        }
        if let Some(properties) = schema["properties"].as_object() {
            for (name, below) in properties {
                walk(&format!("{path}.{name}"), below, found);
            }
        }
        if has("items") {
            walk(&format!("{path}[]"), &schema["items"], found);
        }
    }
    let mut found = Vec::new();
    walk("spec", &schema()["properties"]["spec"], &mut found);
    found.retain(|path| {
        ["spec.affinity", "spec.topologySpreadConstraints[]", "spec.podTemplate.tolerations[]"]
            .iter()
            .all(|k8s| !path.starts_with(k8s))
    });
    assert_eq!(found, Vec::<String>::new(), "unbounded");
}

/// Every schema below `schema`, with its path.
fn every<'a>(path: &str, schema: &'a Value, found: &mut Vec<(String, &'a Value)>) {
    found.push((path.to_string(), schema));
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        every(&format!("{path}.{name}"), below, found);
    }
    for (key, sign) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema.get(key).is_some_and(Value::is_object) {
            every(&format!("{path}{sign}"), &schema[key], found);
        }
    }
}

/// The API server accepts any integer where the schema has no bounds, whatever its format says, and
/// an operator that reads 32 bits cannot read it.
#[test]
fn every_int32_of_the_whole_schema_is_bounded() {
    let (schema, mut found) = (schema(), Vec::new());
    every("", &schema, &mut found);
    let numbers: Vec<_> = found.iter().filter(|(_, schema)| schema["format"] == "int32").collect();
    assert!(numbers.iter().any(|(path, _)| path.ends_with("maxSkew")), "{numbers:?}");
    assert!(numbers.iter().any(|(path, _)| path.ends_with("weight")), "{numbers:?}");
    for (path, schema) in numbers {
        for (bound, limit) in [("minimum", i32::MIN), ("maximum", i32::MAX)] {
            let value = schema[bound].as_f64().unwrap_or_else(|| panic!("{path} has no {bound}"));
            let beyond = if bound == "minimum" {
                value < f64::from(limit)
            } else {
                value > f64::from(limit)
            };
            assert!(!beyond, "{path}: {bound} {value} does not fit 32 bits");
        }
    }
    // No text is without a form that the API server checks.
    let quantities: Vec<_> =
        found.iter().filter(|(_, schema)| schema["x-kubernetes-int-or-string"] == true).collect();
    assert!(quantities.len() >= 2, "{quantities:?}");
    for (path, schema) in quantities {
        assert!(schema["pattern"].is_string(), "{path} takes any text for a quantity");
    }
}

#[test]
fn every_field_of_the_spec_has_a_description_and_no_other_kind_of_field_exists() {
    let schema = schema();
    let spec = &schema["properties"]["spec"]["properties"];
    let names: Vec<&str> = spec.as_object().unwrap().keys().map(String::as_str).collect();
    let documented = [
        "affinity",
        "consensus",
        "image",
        "imagePullPolicy",
        "paused",
        "podTemplate",
        "replicas",
        "resources",
        "storage",
        "topologySpreadConstraints",
        "tuning",
    ];
    assert_eq!(names, documented);
    for name in names {
        assert!(spec[name]["description"].is_string(), "{name}");
    }
    assert!(
        !serde_json::to_string(&schema).unwrap().contains("x-kubernetes-preserve-unknown-fields")
    );
}

#[test]
fn the_sample_is_valid() {
    let text = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../config/samples/cretocluster.yaml"
    ))
    .unwrap();
    let sample: CretoCluster = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(refusal(&serde_json::to_value(sample).unwrap(), None), None);
}

#[test]
fn the_generated_yaml_is_committed() {
    for (path, fresh) in [
        ("crds/yaml/cretoclusters.yaml", crd_yaml().unwrap()),
        ("charts/creto-crds/templates/cretoclusters.yaml", cretoai_crds::chart_yaml().unwrap()),
    ] {
        let committed =
            std::fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR")))
                .unwrap_or_default();
        assert!(committed == fresh, "{path} is stale; run `make crds`");
    }
}
