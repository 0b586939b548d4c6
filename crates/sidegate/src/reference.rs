//! `sidegate reference`: tables for the docs, made from the code.

use anyhow::Result;
use serde_json::Value;
use sidegate_config::{Config, json_schema};
use sidegate_core::Reason;
use sidegate_telemetry::METRICS;

/// Prints docs/reference.md.
pub(crate) fn reference() -> Result<()> {
    println!("# Reference\n\nMade by `sidegate reference`; a test compares it with the code.\n");
    println!("## Configuration\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |");
    let schema = json_schema::<Config>();
    keys(&schema, &schema, &serde_json::to_value(Config::default())?, "");
    println!("\n## Metrics\n\nScraped from `/metrics` on the admin port.\n\n| metric | labels | meaning |\n| --- | --- | --- |");
    for (name, labels, meaning) in METRICS {
        println!("| `{name}` | {labels} | {meaning} |");
    }
    println!("\n## Reasons\n\nWhy a connection ended: the field `reason` of its record, and the label of `sidegate_connections_total`.\n");
    println!("| reason | meaning | what to do |\n| --- | --- | --- |");
    for reason in Reason::ALL {
        println!("| `{}` | {} | {} |", reason.label(), reason.meaning(), reason.remedy());
    }
    Ok(())
}

/// A row for each key of `schema`, and of what is nested in it.
fn keys(schema: &Value, root: &Value, defaults: &Value, prefix: &str) {
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{key}");
        let target = resolve(property, root);
        let text = property["description"].as_str().or(target["description"].as_str()).unwrap_or_default().replace('\n', " ");
        let default = match &defaults[key] {
            Value::Null | Value::Object(_) => String::new(),
            Value::Array(items) if items.is_empty() => String::new(),
            Value::String(word) => format!("`{word}`"),
            other => format!("`{other}`"),
        };
        println!("| `{path}` | {} | {default} | {text} |", kind(target, root));
        keys(target, root, &defaults[key], &format!("{path}."));
        if target["type"] == "array" || target["items"].is_object() {
            keys(resolve(&target["items"], root), root, &Value::Null, &format!("{path}[]."));
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
