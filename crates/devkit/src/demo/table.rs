//! The demo's table: a line for each handshake.

use serde_json::Value;

use super::output::Output;
use super::sidecar::Seen;

const HEAD: [&str; 11] = ["at", "direction", "peer", "TLS", "group", "cipher", "resumed", "dial", "shake", "verify", "decision"];

/// Lines of connections that went well, where not all are shown.
const SAMPLE: usize = 10;

/// Prints `records`: all, or those that did not go well and a sample of the others.
pub(super) fn print(output: Output, records: &[Seen], all: bool) {
    let (mut good, mut left_out) = (0, 0);
    let mut rows: Vec<Vec<String>> = vec![HEAD.iter().map(|h| (*h).to_owned()).collect()];
    for seen in records {
        if seen.text("/reason") == "closed" && !all {
            good += 1;
            if good > SAMPLE {
                left_out += 1;
                continue;
            }
        }
        rows.push(row(seen));
    }
    let widths: Vec<usize> = (0..HEAD.len()).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    output.show("Handshakes as the sidecars recorded them (stages in µs)");
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        output.show(format!("  {}", cells.join("  ").trim_end()));
    }
    if left_out > 0 {
        output.show(format!("  … and {left_out} more that were allowed and closed in order (--all shows them)"));
    }
}

fn row(seen: &Seen) -> Vec<String> {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let micros = |stage: &str| {
        seen.record.pointer(&format!("/stages/{stage}Micros")).and_then(Value::as_u64).map_or("-".to_owned(), |n| n.to_string())
    };
    let resumed = match seen.record.pointer("/tls/resumed") {
        Some(Value::Bool(true)) => "yes",
        Some(_) => "no",
        None => "-",
    };
    vec![
        seen.workload.name().to_owned(),
        seen.text("/direction").to_owned(),
        or_dash(seen.text("/peerId")),
        or_dash(seen.text("/tls/version")),
        or_dash(seen.text("/tls/group")),
        or_dash(seen.text("/tls/cipher")),
        resumed.to_owned(),
        micros("dial"),
        micros("handshake"),
        micros("verify"),
        decision(seen),
    ]
}

fn decision(seen: &Seen) -> String {
    let rule = seen.text("/decision/rule");
    // The folder of a policy file is the demo's own; its name is enough here.
    let rule = match (rule.find('('), rule.rfind('/')) {
        (Some(open), Some(slash)) if open < slash => format!("{}{}", &rule[..=open], &rule[slash + 1..]),
        _ => rule.to_owned(),
    };
    let verdict = match seen.record.pointer("/decision/allowed") {
        Some(Value::Bool(true)) => format!("allowed by {rule}"),
        Some(_) => format!("DENIED by {rule}"),
        None => "refused".to_owned(),
    };
    match seen.text("/reason") {
        "closed" => verdict,
        reason => format!("{verdict}: {reason}"),
    }
}
