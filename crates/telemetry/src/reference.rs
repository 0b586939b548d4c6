//! The reference of telemetry, made from the code.

use std::fmt::Write;

use sidegate_config::standard_variables;
use sidegate_core::Reason;
use sidegate_core::event::EVENTS;

use crate::attributes::ATTRIBUTES;
use crate::catalog::{INSTRUMENTS, METRIC_ATTRIBUTES};
use crate::resource::RESOURCE;
use crate::spans::SPANS;

/// docs/reference/telemetry.md: every metric, span, attribute, event and reason, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::new();
    let _ = writeln!(text, "# Telemetry reference\n\nMade by `sidegate reference telemetry`; a test compares it with the code.");
    let _ = writeln!(
        text,
        "How to export it: [Export telemetry](../how-to/export-telemetry.md). How it works: [Observability](../explanation/observability.md).\n"
    );
    let _ = writeln!(text, "## Metrics\n\nExported by OTLP under the first name, scraped from `/metrics` under the second.\n");
    let _ = writeln!(text, "| metric | scraped as | kind | unit | attributes | meaning |\n| --- | --- | --- | --- | --- | --- |");
    for i in INSTRUMENTS {
        let (attributes, kind) = (i.attributes.join(", "), i.kind.label());
        let _ = writeln!(text, "| `{}` | `{}` | {kind} | {} | {attributes} | {} |", i.name, i.prometheus_name(), i.unit, i.description);
    }
    let _ = writeln!(
        text,
        "\nWhat their attributes say; in a scrape each dot is an underscore:\n\n| attribute | type | meaning |\n| --- | --- | --- |"
    );
    for (name, kind, meaning) in METRIC_ATTRIBUTES {
        let _ = writeln!(text, "| `{name}` | {kind} | {meaning} |");
    }
    let _ = writeln!(
        text,
        "\n## Spans\n\nOne trace for each connection: its ID is the connection's. The stages that were reached are children.\n"
    );
    let _ = writeln!(text, "| span | kind | meaning |\n| --- | --- | --- |");
    for (name, kind, meaning) in SPANS {
        let _ = writeln!(text, "| `{name}` | {kind} | {meaning} |");
    }
    let _ = writeln!(
        text,
        "\n## Attributes\n\nOf the span of a connection, and of its log record; `sidegate.stage.*` of the latter only, for a span has children.\n"
    );
    let _ = writeln!(text, "| attribute | type | meaning |\n| --- | --- | --- |");
    for (name, kind, meaning) in ATTRIBUTES {
        let _ = writeln!(text, "| `{name}` | {kind} | {meaning} |");
    }
    let _ = writeln!(text, "\n## Resource\n\nThe sidecar that all telemetry is of; scraped as the labels of `target_info`.\n");
    let _ = writeln!(text, "| attribute | value |\n| --- | --- |");
    for (name, meaning) in RESOURCE {
        let _ = writeln!(text, "| `{name}` | {meaning} |");
    }
    let _ = writeln!(text, "\n## Events\n\nThe field `event` of a line on standard error; the event name of a log record.\n");
    let _ = writeln!(text, "| event | meaning |\n| --- | --- |");
    for (name, meaning) in EVENTS {
        let _ = writeln!(text, "| `{name}` | {meaning} |");
    }
    let _ = writeln!(text, "\n## Environment variables\n");
    let _ = writeln!(
        text,
        "OpenTelemetry's standard variables, and the keys that each fills in where the file leaves them out. Words and booleans have"
    );
    let _ = writeln!(
        text,
        "no case. A value that can't be used is a warning, and the variable is ignored. Other `OTEL_*` variables are not looked at.\n"
    );
    let _ = writeln!(text, "| variable | key | value |\n| --- | --- | --- |");
    for variable in standard_variables() {
        let keys: Vec<String> = variable.keys.iter().map(|key| format!("`{key}`")).collect();
        let _ = writeln!(text, "| `{}` | {} | {} |", variable.name, keys.join(", "), variable.value);
    }
    let _ = writeln!(text, "\n## Reasons\n");
    let _ = writeln!(
        text,
        "Why a connection ended: the field `reason` of its record, `sidegate.reason` of metrics, spans and log records. Of handshakes and\nof connections that failed it is `error.type` too.\n"
    );
    let no_failures: Vec<String> = Reason::ALL.iter().filter(|reason| !reason.is_failure()).map(|reason| format!("`{reason}`")).collect();
    let _ = writeln!(text, "No failures are {}; all others are, wherever failures are counted.\n", no_failures.join(", "));
    let _ = writeln!(text, "| reason | stage | meaning | likely cause | what to do |\n| --- | --- | --- | --- | --- |");
    for reason in Reason::ALL {
        let stage = reason.stage().label();
        let _ = writeln!(text, "| `{}` | {stage} | {} | {} | {} |", reason.label(), reason.meaning(), reason.cause(), reason.remedy());
    }
    text
}
