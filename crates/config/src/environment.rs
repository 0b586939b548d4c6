//! Overrides from the environment: `SIDEGATE__ADMIN__LISTEN=0.0.0.0:15020` sets `admin.listen`.
//!
//! Levels are parted by two underscores; within a level underscores and case do not count, so
//! `SIDEGATE__INBOUND__DEFAULT_MODE` is `inbound.defaultMode`. The value is YAML.

use std::sync::Arc;

use serde_json::Value as Json;

use crate::document::{Node, Place, Problems, Value};

const PREFIX: &str = "SIDEGATE__";

/// Puts the overrides among `variables` into `root`.
pub(crate) fn apply(root: &mut Node, schema: &Json, variables: &[(String, String)], problems: &mut Problems) {
    let mut ours: Vec<&(String, String)> = variables.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    ours.sort();
    for (name, text) in ours {
        let source: Arc<str> = format!("environment variable {name}").into();
        let place = Place { source: source.clone(), line: 0, column: 0 };
        let mut value = match Node::parse(&source, text) {
            // A document that is empty or null is an empty mapping; a value that is, is none.
            Ok(_) if matches!(text.trim(), "" | "~" | "null") => Node { place: place.clone(), value: Value::Scalar(Json::Null) },
            Ok(node) => node,
            Err(_) => Node { place: place.clone(), value: Value::Scalar(Json::String(text.clone())) },
        };
        re_place(&mut value, &place);
        let Some(path) = find_path(&name[PREFIX.len()..], schema) else {
            problems.push(&place, "", "names no key of the configuration; see `sidegate schema`");
            continue;
        };
        set(root, &path, value, &place);
    }
}

fn re_place(node: &mut Node, place: &Place) {
    node.place = place.clone();
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| re_place(item, place)),
        Value::Map(entries) => {
            for (_, key, child) in entries {
                *key = place.clone();
                re_place(child, place);
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

/// Puts `value` at `path`; what is missing on the way is made, at `place`.
pub(crate) fn set(node: &mut Node, path: &[impl AsRef<str>], value: Node, place: &Place) {
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
        let empty = Node { place: place.clone(), value: Value::Map(Vec::new()) };
        entries.push((key.to_owned(), place.clone(), empty));
        entries.len() - 1
    });
    set(&mut entries[index].2, rest, value, place);
}
