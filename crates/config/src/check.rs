//! A document against the JSON Schema of its type, all mistakes at once.
//!
//! Understands what `schemars` writes for the types of this workspace: references, objects with
//! known keys, lists, scalars, enumerations of words, nullable values, bounds and our formats.

use serde_json::Value as Json;

use crate::document::{Node, Problems, Value};
use crate::value::check_format;

/// Entries of a list of which the schema says nothing else. Keys of a mapping are bounded where it is read.
const MOST_ITEMS: u64 = 1000;

/// Checks `node` against `schema`; `root` holds the definitions.
pub(crate) fn check(node: &Node, schema: &Json, root: &Json, path: &str, problems: &mut Problems) {
    let schema = resolve(schema, root);
    let nullable = schema.get("anyOf").and_then(Json::as_array);
    if let Some(choices) = nullable {
        let is_null = node.value == Value::Scalar(Json::Null);
        if let Some(choice) = choices.iter().find(|c| (resolve(c, root)["type"] == "null") == is_null) {
            check(node, choice, root, path, problems);
        }
        return;
    }
    if let Some(words) = words(schema) {
        if !matches!(&node.value, Value::Scalar(Json::String(text)) if words.contains(&text.as_str())) {
            problems.push(&node.location, path, format!("{} is not known; use {}", shown(node), list(&words)));
        }
        return;
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        // A word, or a mapping with one key: whichever it is meant to be speaks for itself.
        let attempts = choices.iter().map(|choice| {
            let mut wrong = Problems::default();
            check(node, choice, root, path, &mut wrong);
            wrong
        });
        if let Some(fewest) = attempts.min_by_key(|wrong| wrong.0.len()) {
            problems.0.extend(fewest.0);
        }
        return;
    }
    if let Some(word) = schema["const"].as_str() {
        if node.value != Value::Scalar(Json::String(word.to_owned())) {
            problems.push(&node.location, path, format!("{} is not known; one choice is {word}", shown(node)));
        }
        return;
    }
    match &node.value {
        Value::Map(entries) if allows(schema, "object") => {
            let known = schema.get("properties").and_then(Json::as_object);
            for (key, location, child) in entries {
                let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.and_then(|k| k.get(key)) {
                    Some(property) => check(child, property, root, &at, problems),
                    None if schema["additionalProperties"].is_object() => {
                        check(child, &schema["additionalProperties"], root, &at, problems);
                    }
                    None => {
                        let names: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                        problems.push(location, &at, unknown_key(key, &names));
                    }
                }
            }
            for required in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
                if !entries.iter().any(|(key, _, _)| key == required) {
                    problems.push(&node.location, path, format!("`{required}` is missing; add it"));
                }
            }
        }
        Value::List(items) if allows(schema, "array") => {
            let most = schema["maxItems"].as_u64().unwrap_or(MOST_ITEMS);
            if items.len() as u64 > most {
                problems.push(&node.location, path, format!("has {} entries, {most} are the most", items.len()));
                return;
            }
            for (index, item) in items.iter().enumerate() {
                check(item, &schema["items"], root, &format!("{path}[{index}]"), problems);
            }
        }
        Value::Scalar(Json::String(text)) if allows(schema, "string") => {
            if let Some(Err(message)) = schema["format"].as_str().map(|format| check_format(format, text)) {
                problems.push(&node.location, path, message);
            }
            let length = text.chars().count() as u64;
            if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
                problems.push(&node.location, path, format!("has {length} characters, {most} are the most"));
            }
        }
        // A port or a bare number reads as a number in YAML; where a text with a grammar is wanted, it is one.
        Value::Scalar(Json::Number(number)) if allows(schema, "string") && schema["format"].is_string() => {
            if let Some(Err(message)) = schema["format"].as_str().map(|format| check_format(format, &number.to_string())) {
                problems.push(&node.location, path, message);
            }
        }
        Value::Scalar(Json::Number(number)) if allows(schema, "integer") && number.is_i64() => {
            let value = number.as_i64().unwrap_or(0);
            let low = schema["minimum"].as_i64().unwrap_or(i64::MIN);
            let widest = match schema["format"].as_str() {
                Some("uint8") => i64::from(u8::MAX),
                Some("uint16") => i64::from(u16::MAX),
                Some("uint32") => i64::from(u32::MAX),
                _ => i64::MAX,
            };
            let high = schema["maximum"].as_i64().unwrap_or(widest);
            if value < low {
                problems.push(&node.location, path, format!("{value} is too small; the least is {low}"));
            } else if value > high {
                problems.push(&node.location, path, format!("{value} is too large; the most is {high}"));
            }
        }
        Value::Scalar(Json::Number(number)) if allows(schema, "number") => {
            let value = number.as_f64().unwrap_or(f64::NAN);
            let bound = |name: &str, otherwise| schema[name].as_f64().unwrap_or(otherwise);
            let (low, high) = (bound("minimum", f64::MIN), bound("maximum", f64::MAX));
            if !(low..=high).contains(&value) {
                problems.push(&node.location, path, format!("{value} must be between {low} and {high}"));
            }
        }
        Value::Scalar(Json::Bool(_)) if allows(schema, "boolean") => {}
        Value::Scalar(Json::Null) if allows(schema, "null") => {}
        _ => {
            let secret = |s: &Json| s["format"] == "secret";
            let hidden = secret(schema) || secret(&schema["additionalProperties"]);
            let found = if hidden { kind(node).to_owned() } else { shown(node) };
            problems.push(&node.location, path, format!("expected {}, found {found}", wanted(schema)));
        }
    }
}

/// Turns numbers into texts where the schema wants a text with a grammar, so that `ports: [8080]` works.
pub(crate) fn coerce(json: &mut Json, schema: &Json, root: &Json) {
    let schema = resolve(schema, root);
    if let Some(choices) = schema.get("anyOf").and_then(Json::as_array) {
        if let Some(choice) = choices.iter().find(|c| resolve(c, root)["type"] != "null") {
            coerce(json, choice, root);
        }
        return;
    }
    match json {
        Json::Object(entries) => {
            for (key, child) in entries {
                let known = &schema["properties"][key.as_str()];
                coerce(child, if known.is_null() { &schema["additionalProperties"] } else { known }, root);
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| coerce(item, &schema["items"], root)),
        Json::Number(number) if allows(schema, "string") && schema["format"].is_string() => *json = Json::String(number.to_string()),
        _ => {}
    }
}

pub(crate) fn resolve<'a>(schema: &'a Json, root: &'a Json) -> &'a Json {
    match schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/")) {
        Some(name) => &root["$defs"][name],
        None => schema,
    }
}

fn allows(schema: &Json, kind: &str) -> bool {
    match &schema["type"] {
        Json::String(one) => one == kind,
        Json::Array(some) => some.iter().any(|s| s == kind),
        _ => false,
    }
}

fn words(schema: &Json) -> Option<Vec<&str>> {
    if let Some(words) = schema["enum"].as_array() {
        return Some(words.iter().filter_map(Json::as_str).collect());
    }
    let choices = schema["oneOf"].as_array()?;
    choices.iter().map(|c| c["const"].as_str()).collect()
}

fn wanted(schema: &Json) -> String {
    let name = |kind: &str| match kind {
        "object" => "a mapping (key: value)",
        "array" => "a list (- item)",
        "string" => "a text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        _ => "nothing",
    };
    match &schema["type"] {
        Json::String(one) => name(one).to_owned(),
        Json::Array(some) => some.iter().filter_map(Json::as_str).filter(|k| *k != "null").map(name).collect::<Vec<_>>().join(" or "),
        _ => "another value".to_owned(),
    }
}

/// What a value is, without showing it.
fn kind(node: &Node) -> &'static str {
    match &node.value {
        Value::Map(_) => "a mapping",
        Value::List(_) => "a list",
        Value::Scalar(Json::Null) => "nothing",
        Value::Scalar(_) => "another value",
    }
}

fn shown(node: &Node) -> String {
    match &node.value {
        Value::Map(_) | Value::List(_) | Value::Scalar(Json::Null) => kind(node).to_owned(),
        Value::Scalar(Json::String(text)) => format!("`{}`", text.chars().take(60).collect::<String>()),
        Value::Scalar(other) => format!("`{other}`"),
    }
}

fn list(words: &[&str]) -> String {
    words.join(", ")
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    match meant(key, known) {
        Some(name) => format!("unknown key; did you mean `{name}`?"),
        None => format!("unknown key; known here: {}", list(known)),
    }
}

/// The key that an unknown one is most likely meant to be.
pub(crate) fn meant<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let (steps, name) = known.iter().map(|name| (distance(key, name), *name)).min()?;
    (steps <= 2.max(key.len() / 3)).then_some(name)
}

/// How far a word is from another: Levenshtein distance, case not counted.
#[must_use]
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
