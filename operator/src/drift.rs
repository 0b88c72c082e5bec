//! What differs between two forms of an object, named field by field.
//!
//! [`difference`] asks whether everything that we want is there: the API server adds defaults, and
//! others may add labels. [`change`] compares exactly, so that the Event about a repaired edit says
//! what was edited, also if it was an addition.

use crate::quantity;
use serde_json::Value;

/// The first field of `live` that is not as `wanted`, as a sentence, or nothing if all is well.
#[must_use]
pub fn difference(wanted: &Value, live: &Value) -> Option<String> {
    compare("", wanted, live)
}

fn compare(path: &str, wanted: &Value, live: &Value) -> Option<String> {
    match (wanted, live) {
        // The server leaves out what is empty.
        (Value::Null, _) => None,
        (Value::Object(map), Value::Null) if map.is_empty() => None,
        (Value::Array(list), Value::Null) if list.is_empty() => None,
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().find_map(|(key, wanted)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            compare(&path, wanted, live.get(key).unwrap_or(&Value::Null))
        }),
        (Value::Array(wanted), Value::Array(live)) => {
            if wanted.len() != live.len() {
                return Some(format!(
                    "{path} has {} entries instead of {}",
                    live.len(),
                    wanted.len()
                ));
            }
            wanted.iter().zip(live).enumerate().find_map(|(index, (wanted, live))| {
                compare(&format!("{path}[{index}]"), wanted, live)
            })
        }
        (Value::String(wanted), Value::String(live)) if quantity::same(wanted, live) => None,
        (wanted, live) if wanted == live => None,
        (_, Value::Null) => Some(format!("{path} is missing")),
        (wanted, live) => {
            Some(format!("{path} is {} instead of {}", shorten(live), shorten(wanted)))
        }
    }
}

/// The first difference between `before` and `after`, as a sentence about what `before` was: a
/// field that was changed, removed or added.
#[must_use]
pub fn change(before: &Value, after: &Value) -> Option<String> {
    difference(after, before).or_else(|| added("", before, after))
}

/// The first field that is in `before` only.
fn added(path: &str, before: &Value, after: &Value) -> Option<String> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before.iter().find_map(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match after.get(key) {
                Some(below) => added(&path, value, below),
                None if value.is_null() => None,
                None => Some(format!("{path} was added")),
            }
        }),
        (Value::Array(before), Value::Array(after)) => {
            before.iter().zip(after).enumerate().find_map(|(index, (before, after))| {
                added(&format!("{path}[{index}]"), before, after)
            })
        }
        _ => None,
    }
}

fn shorten(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 80 {
        text.chars().take(77).chain("...".chars()).collect()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_server_adds_or_rewrites_is_no_difference() {
        let wanted =
            json!({"spec": {"ports": [{"port": 80}], "size": "1024Mi", "empty": {}, "none": []}});
        let live = json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}], "size": "1Gi", "clusterIP": "10.0.0.1"}, "status": {}});
        assert_eq!(difference(&wanted, &live), None);
    }

    #[test]
    fn an_edit_is_named() {
        let wanted = json!({"spec": {"ports": [{"port": 80}], "replicas": 4}});
        for (live, sentence) in [
            (
                json!({"spec": {"ports": [{"port": 81}], "replicas": 4}}),
                "spec.ports[0].port is 81 instead of 80",
            ),
            (
                json!({"spec": {"ports": [{"port": 80}, {"port": 1}], "replicas": 4}}),
                "spec.ports has 2 entries instead of 1",
            ),
            (json!({"spec": {"ports": [{"port": 80}]}}), "spec.replicas is missing"),
            (json!({}), "spec is missing"),
        ] {
            assert_eq!(difference(&wanted, &live).as_deref(), Some(sentence));
        }
    }

    #[test]
    fn a_false_that_was_removed_is_a_difference() {
        // What Kubernetes takes for a missing field may be true.
        let wanted = json!({"allowPrivilegeEscalation": false});
        let sentence = "allowPrivilegeEscalation is missing";
        assert_eq!(difference(&wanted, &json!({})).as_deref(), Some(sentence));
    }

    #[test]
    fn a_change_names_what_was_added_changed_or_removed() {
        let after = json!({"spec": {"selector": {"a": "b"}, "from": [{"podSelector": {}}]}});
        for (before, sentence) in [
            (
                json!({"spec": {"selector": {"a": "b", "x": "y"}, "from": [{"podSelector": {}}]}}),
                "spec.selector.x was added",
            ),
            (
                json!({"spec": {"selector": {"a": "b"}, "from": [{"podSelector": {}, "namespaceSelector": {}}]}}),
                "spec.from[0].namespaceSelector was added",
            ),
            (
                json!({"spec": {"selector": {"a": "c"}, "from": [{"podSelector": {}}]}}),
                "spec.selector.a is \"c\" instead of \"b\"",
            ),
            (json!({"spec": {"selector": {"a": "b"}}}), "spec.from is missing"),
        ] {
            assert_eq!(change(&before, &after).as_deref(), Some(sentence));
        }
        assert_eq!(change(&after, &after), None);
    }

    #[test]
    fn long_values_are_shortened() {
        let text =
            difference(&json!({"a": "x".repeat(500)}), &json!({"a": "y"})).unwrap_or_default();
        assert!(text.len() < 150, "{text}");
    }
}
