//! `sidegate reference`: tables for the docs, made from the code.

use anyhow::Result;
use serde_json::Value;
use sidegate_config::{Config, json_schema, standard_variables};
use sidegate_core::Reason;
use sidegate_core::event::EVENTS;
use sidegate_telemetry::{ATTRIBUTES, INSTRUMENTS, METRIC_ATTRIBUTES, RESOURCE, SPANS};

use crate::cli::ReferenceOf;
use crate::command_line;

/// Prints one of the generated pages of docs/reference.
pub(crate) fn reference(of: ReferenceOf) -> Result<()> {
    match of {
        ReferenceOf::Config => config(),
        ReferenceOf::Telemetry => {
            telemetry();
            Ok(())
        }
        ReferenceOf::CommandLine => {
            command_line::reference();
            Ok(())
        }
    }
}

fn config() -> Result<()> {
    out!("# Configuration reference\n\nMade by `sidegate reference config`; a test compares it with the code.\n");
    out!("A relative `path` begins at the folder of the configuration file; in a variable of the environment, at the working directory.\n");
    out!("| key | type | default | meaning |\n| --- | --- | --- | --- |");
    let schema = json_schema::<Config>();
    keys(&schema, &schema, &serde_json::to_value(Config::default())?, "");
    Ok(())
}

fn telemetry() {
    out!("# Telemetry reference\n\nMade by `sidegate reference telemetry`; a test compares it with the code.");
    out!(
        "How to export it: [Export telemetry](../how-to/export-telemetry.md). How it works: [Observability](../explanation/observability.md).\n"
    );
    out!("## Metrics\n\nExported by OTLP under the first name, scraped from `/metrics` under the second.\n");
    out!("| metric | scraped as | kind | unit | attributes | meaning |\n| --- | --- | --- | --- | --- | --- |");
    for i in INSTRUMENTS {
        let (attributes, kind) = (i.attributes.join(", "), i.kind.label());
        out!("| `{}` | `{}` | {kind} | {} | {attributes} | {} |", i.name, i.prometheus_name(), i.unit, i.description);
    }
    out!("\nWhat their attributes say; in a scrape each dot is an underscore:\n\n| attribute | type | meaning |\n| --- | --- | --- |");
    for (name, kind, meaning) in METRIC_ATTRIBUTES {
        out!("| `{name}` | {kind} | {meaning} |");
    }
    out!("\n## Spans\n\nOne trace for each connection: its ID is the connection's. The stages that were reached are children.\n");
    out!("| span | kind | meaning |\n| --- | --- | --- |");
    for (name, kind, meaning) in SPANS {
        out!("| `{name}` | {kind} | {meaning} |");
    }
    out!(
        "\n## Attributes\n\nOf the span of a connection, and of its log record; `sidegate.stage.*` of the latter only, for a span has children.\n"
    );
    out!("| attribute | type | meaning |\n| --- | --- | --- |");
    for (name, kind, meaning) in ATTRIBUTES {
        out!("| `{name}` | {kind} | {meaning} |");
    }
    out!("\n## Resource\n\nThe sidecar that all telemetry is of; scraped as the labels of `target_info`.\n");
    out!("| attribute | value |\n| --- | --- |");
    for (name, meaning) in RESOURCE {
        out!("| `{name}` | {meaning} |");
    }
    out!("\n## Events\n\nThe field `event` of a line on standard error; the event name of a log record.\n");
    out!("| event | meaning |\n| --- | --- |");
    for (name, meaning) in EVENTS {
        out!("| `{name}` | {meaning} |");
    }
    out!("\n## Environment variables\n");
    out!("OpenTelemetry's standard variables, and the keys that each fills in where the file leaves them out. Words and booleans have");
    out!("no case. A value that can't be used is a warning, and the variable is ignored. Other `OTEL_*` variables are not looked at.\n");
    out!("| variable | key | value |\n| --- | --- | --- |");
    for variable in standard_variables() {
        let keys: Vec<String> = variable.keys.iter().map(|key| format!("`{key}`")).collect();
        out!("| `{}` | {} | {} |", variable.name, keys.join(", "), variable.value);
    }
    out!("\n## Reasons\n");
    out!(
        "Why a connection ended: the field `reason` of its record, `sidegate.reason` of metrics, spans and log records. Of handshakes and\nof connections that failed it is `error.type` too.\n"
    );
    let no_failures: Vec<String> = Reason::ALL.iter().filter(|reason| !reason.is_failure()).map(|reason| format!("`{reason}`")).collect();
    out!("No failures are {}; all others are, wherever failures are counted.\n", no_failures.join(", "));
    out!("| reason | stage | meaning | likely cause | what to do |\n| --- | --- | --- | --- | --- |");
    for reason in Reason::ALL {
        let stage = reason.stage().label();
        out!("| `{}` | {stage} | {} | {} | {} |", reason.label(), reason.meaning(), reason.cause(), reason.remedy());
    }
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
        out!("| `{path}` | {} | {default} | {text} |", kind(target, root));
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
