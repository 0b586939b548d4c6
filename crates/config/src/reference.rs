//! The reference of the configuration, made from the code.

use std::fmt::Write;

use serde_json::Value;

use crate::load::json_schema;
use crate::schema::Config;

/// docs/reference/configuration.md: every key of the configuration, in Markdown.
///
/// # Errors
/// If the default configuration can't be serialized.
pub fn reference() -> serde_json::Result<String> {
    let mut text = String::new();
    let _ = writeln!(text, "# Configuration reference\n\nMade by `sidegate reference config`; a test compares it with the code.\n");
    let _ = writeln!(
        text,
        "A relative `path` begins at the folder of the configuration file; in a variable of the environment, at the working directory.\n"
    );
    let _ = writeln!(text, "| key | type | default | meaning |\n| --- | --- | --- | --- |");
    let schema = json_schema::<Config>();
    keys(&mut text, &schema, &schema, &serde_json::to_value(Config::default())?, "");
    Ok(text)
}

/// A row for each key of `schema`, and of what is nested in it.
fn keys(text: &mut String, schema: &Value, root: &Value, defaults: &Value, prefix: &str) {
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{key}");
        let target = resolve(property, root);
        let meaning = property["description"].as_str().or(target["description"].as_str()).unwrap_or_default().replace('\n', " ");
        let default = match &defaults[key] {
            Value::Null | Value::Object(_) => String::new(),
            Value::Array(items) if items.is_empty() => String::new(),
            Value::String(word) => format!("`{word}`"),
            other => format!("`{other}`"),
        };
        let _ = writeln!(text, "| `{path}` | {} | {default} | {meaning} |", kind(target, root));
        keys(text, target, root, &defaults[key], &format!("{path}."));
        if target["type"] == "array" || target["items"].is_object() {
            keys(text, resolve(&target["items"], root), root, &Value::Null, &format!("{path}[]."));
        }
    }
}

/// Through references and optional values.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let inner = schema["anyOf"].as_array().and_then(|choices| choices.iter().find(|c| c["type"] != "null")).unwrap_or(schema);
    inner["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/")).map_or(inner, |name| &root["$defs"][name])
}

fn kind(schema: &Value, root: &Value) -> String {
    if let Some(choices) = schema["oneOf"].as_array() {
        let words: Vec<String> = choices.iter().filter_map(|c| c["const"].as_str()).map(|w| format!("`{w}`")).collect();
        return words.join(", ");
    }
    let named = |name: &str| match (name, schema["format"].as_str()) {
        ("string", Some(format)) => format.to_owned(),
        ("array", _) => format!("list of {}", kind(resolve(&schema["items"], root), root)),
        ("object", _) => "section".to_owned(),
        (name, _) => name.to_owned(),
    };
    match &schema["type"] {
        Value::String(name) => named(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|n| *n != "null").map_or_else(String::new, named),
        _ => String::new(),
    }
}
