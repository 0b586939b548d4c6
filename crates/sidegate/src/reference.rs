//! `sidegate reference`: tables for the docs, made from the code.

use anyhow::Result;
use sidegate_core::Reason;
use sidegate_telemetry::METRICS;

/// Prints docs/reference.md.
pub(crate) fn reference() -> Result<()> {
    println!("# Reference\n");
    println!("Made by `sidegate reference`; a test compares it with the code.\n");
    println!("## Metrics\n\nScraped from `/metrics` on the admin port.\n\n| metric | labels | meaning |\n| --- | --- | --- |");
    for (name, labels, meaning) in METRICS {
        println!("| `{name}` | {labels} | {meaning} |");
    }
    println!("\n## Reasons\n");
    println!("Why a connection ended: the field `reason` of its record, and the label of `sidegate_connections_total`.\n");
    println!("| reason | meaning | what to do |\n| --- | --- | --- |");
    for reason in Reason::ALL {
        println!("| `{}` | {} | {} |", reason.label(), reason.meaning(), reason.remedy());
    }
    Ok(())
}
