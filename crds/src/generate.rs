//! The CustomResourceDefinition as YAML.

use crate::CretoCluster;
use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

/// The most bytes of a generated file. `kubectl apply` keeps the whole text in an annotation, which
/// may have at most 256 KiB.
pub const MAX_YAML_BYTES: usize = 96 * 1024;

/// Kubernetes' own pattern of quantities.
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

const HEADER: &str = "# Generated from crds/src by `make crds`. Do not edit.\n";

/// The CustomResourceDefinition of CretoCluster.
///
/// Kubernetes' own types in it (affinity, tolerations) come without their descriptions, which
/// `kubectl explain pod.spec` shows: with them the definition would be five times as large.
///
/// # Errors
/// If a type has no JSON form, which the tests exclude.
pub fn crd() -> Result<CustomResourceDefinition> {
    let mut crd =
        serde_json::to_value(CretoCluster::crd()).context("CretoCluster has no JSON form")?;
    let spec = crd
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties")
        .context("the CRD has no spec")?;
    for kubernetes_type in
        ["/affinity", "/topologySpreadConstraints", "/podTemplate/properties/tolerations"]
    {
        let schema = spec
            .pointer_mut(kubernetes_type)
            .with_context(|| format!("the CRD lacks {kubernetes_type}"))?;
        for below in ["properties", "items"] {
            if let Some(below) = schema.get_mut(below) {
                drop_descriptions(below);
            }
        }
    }
    let schema = crd
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
        .context("the CRD has no schema")?;
    narrow(schema);
    serde_json::from_value(crd).context("the CRD does not read back")
}

/// Says in the schema what the types say: the API server does not look at the format int32 and
/// takes any text for a quantity. Without this it would accept what this operator cannot read, or
/// what Kubernetes refuses only later.
fn narrow(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("format").and_then(Value::as_str) == Some("int32") {
                map.entry("minimum").or_insert_with(|| json!(i32::MIN));
                map.entry("maximum").or_insert_with(|| json!(i32::MAX));
            }
            let quantity = map
                .get("description")
                .and_then(Value::as_str)
                .is_some_and(|text| text.starts_with("Quantity is a fixed-point"));
            if quantity {
                map.insert("description".into(), json!("A quantity, such as 500m or 1Gi."));
                map.insert("pattern".into(), json!(QUANTITY));
            }
            map.values_mut().for_each(narrow);
        }
        Value::Array(values) => values.iter_mut().for_each(narrow),
        _ => {}
    }
}

/// Removes the key `description` wherever it is text. A property of that name is an object, and
/// stays.
fn drop_descriptions(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.retain(|key, value| !(key == "description" && value.is_string()));
            map.values_mut().for_each(drop_descriptions);
        }
        Value::Array(values) => values.iter_mut().for_each(drop_descriptions),
        _ => {}
    }
}

/// The YAML for `kubectl apply`.
///
/// # Errors
/// If it is larger than [`MAX_YAML_BYTES`].
pub fn crd_yaml() -> Result<String> {
    to_yaml(&crd()?)
}

/// The YAML for the Helm chart. It is that of [`crd_yaml`] with an annotation by which `helm
/// uninstall` keeps it.
///
/// # Errors
/// If it is larger than [`MAX_YAML_BYTES`], or if Helm would take part of it for a template.
pub fn chart_yaml() -> Result<String> {
    let mut crd = crd()?;
    crd.metadata
        .annotations
        .get_or_insert_default()
        .insert("helm.sh/resource-policy".into(), "keep".into());
    let yaml = to_yaml(&crd)?;
    ensure!(
        !yaml.contains("{{"),
        "the generated YAML holds `{{{{`, which Helm would take for a template"
    );
    Ok(yaml)
}

fn to_yaml(crd: &CustomResourceDefinition) -> Result<String> {
    let value = serde_json::to_value(crd).context("the CRD has no JSON form")?;
    let yaml =
        format!("{HEADER}{}", serde_saphyr::to_string(&value).context("the CRD has no YAML form")?);
    let again: Value =
        serde_saphyr::from_str(&yaml).context("the generated YAML does not parse")?;
    ensure!(json!(again) == value, "the generated YAML reads back as something else");
    ensure!(
        yaml.len() <= MAX_YAML_BYTES,
        "the generated YAML has {} bytes, the bound is {MAX_YAML_BYTES}",
        yaml.len()
    );
    Ok(yaml)
}
