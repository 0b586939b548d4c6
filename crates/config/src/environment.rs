//! Overrides from the environment: `SIDEGATE__ADMIN__LISTEN=0.0.0.0:15020` sets `admin.listen`.
//!
//! Levels are parted by two underscores; within a level underscores and case do not count, so
//! `SIDEGATE__INBOUND__DEFAULT_MODE` is `inbound.defaultMode`. The value is YAML.

use std::sync::Arc;

use serde_json::Value as Json;

use crate::document::{Location, Node, Problems, Value};

const PREFIX: &str = "SIDEGATE__";

/// Puts the overrides among `variables` into `root`.
pub(crate) fn apply(root: &mut Node, schema: &Json, variables: &[(String, String)], problems: &mut Problems) {
    let mut ours: Vec<&(String, String)> = variables.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    ours.sort();
    for (name, text) in ours {
        let source: Arc<str> = format!("environment variable {name}").into();
        let location = Location { source: source.clone(), line: 0, column: 0 };
        let mut value = match Node::parse(&source, text) {
            // A document that is empty or null is an empty mapping; a value that is, is none.
            Ok(_) if matches!(text.trim(), "" | "~" | "null") => Node { location: location.clone(), value: Value::Scalar(Json::Null) },
            Ok(node) => node,
            Err(_) => Node { location: location.clone(), value: Value::Scalar(Json::String(text.clone())) },
        };
        relocate(&mut value, &location);
        let Some(path) = find_path(&name[PREFIX.len()..], schema) else {
            problems.push(&location, "", "names no key of the configuration; see `sidegate schema`");
            continue;
        };
        set(root, &path, value, &location);
    }
}

fn relocate(node: &mut Node, location: &Location) {
    node.location = location.clone();
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| relocate(item, location)),
        Value::Map(entries) => {
            for (_, key, child) in entries {
                *key = location.clone();
                relocate(child, location);
            }
        }
        Value::Scalar(_) => {}
    }
}

fn find_path(name: &str, root: &Json) -> Option<Vec<String>> {
    let plain = |s: &str| s.replace('_', "").to_lowercase();
    let mut schema = root;
    let mut path = Vec::new();
    for step in name.split("__") {
        if let Some(reference) = schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/")) {
            schema = &root["$defs"][reference];
        }
        let (key, next) = schema["properties"].as_object()?.iter().find(|(key, _)| plain(key) == plain(step))?;
        path.push(key.clone());
        schema = next;
    }
    Some(path)
}

/// Puts `value` at `path`; what is missing on the way is made, at `location`.
pub(crate) fn set(node: &mut Node, path: &[impl AsRef<str>], value: Node, location: &Location) {
    let Some((key, rest)) = path.split_first() else {
        *node = value;
        return;
    };
    if !matches!(node.value, Value::Map(_)) {
        node.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut node.value else { return };
    let key = key.as_ref();
    let index = entries.iter().position(|(k, _, _)| k == key).unwrap_or_else(|| {
        let empty = Node { location: location.clone(), value: Value::Map(Vec::new()) };
        entries.push((key.to_owned(), location.clone(), empty));
        entries.len() - 1
    });
    set(&mut entries[index].2, rest, value, location);
}
