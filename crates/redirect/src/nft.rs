//! Runs `nft`.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use crate::error::RedirectError;

/// The table that does the work.
pub(crate) const TABLE: &str = "sidegate";
/// The table that holds the wanted rules for a comparison. It is dormant and deleted at once.
pub(crate) const VERIFY_TABLE: &str = "sidegate_verify";

/// Loads a script in one transaction: all of it or nothing.
pub(crate) fn load(script: &str) -> Result<(), RedirectError> {
    nft(&["-f", "-"], script).map(drop)
}

/// Which of our two tables exist.
pub(crate) fn has_table(name: &str) -> Result<bool, RedirectError> {
    // Lists all tables, since nft reports a missing one only as prose.
    let wanted = format!("table inet {name}");
    Ok(nft(&["list", "tables"], "")?.lines().any(|line| line.trim() == wanted))
}

/// A table's rules without the values of its counters and the elements of its sets.
pub(crate) fn list(table: &str) -> Result<String, RedirectError> {
    nft(&["-s", "-t", "list", "table", "inet", table], "")
}

/// A table's named counters with their values.
pub(crate) fn list_counters(table: &str) -> Result<String, RedirectError> {
    nft(&["list", "counters", "table", "inet", table], "")
}

/// The script that removes a table, whether it is there or not.
pub(crate) fn clear(table: &str) -> String {
    format!("table inet {table}\ndelete table inet {table}\n")
}

fn nft(arguments: &[&str], input: &str) -> Result<String, RedirectError> {
    let command = || arguments.join(" ");
    let run = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => RedirectError::NftMissing,
        _ => RedirectError::Run { command: command(), source },
    };
    let mut child = Command::new("nft")
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If nft has ended early, its message on stderr says more than our broken pipe.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(run)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(if stderr.contains("Operation not permitted") {
        RedirectError::NotPermitted { command: command(), stderr }
    } else {
        RedirectError::Nft { command: command(), status: output.status.to_string(), stderr }
    })
}
