//! What commands say about files that somebody else may have written: it must not move a terminal's cursor, nor show text in
//! another order than it is in.

use std::io::Write;

use anyhow::{Context, Result};
use serde::Serialize;
use sidegate_core::{is_control_or_bidi, without_controls};

/// Writes a line. Who reads no more, such as `head`, ends it.
pub(crate) fn say(line: &str) -> Result<()> {
    print(&without_controls(line))
}

/// Writes text of as many lines as it has.
pub(crate) fn say_lines(text: &str) -> Result<()> {
    text.lines().try_for_each(say)
}

/// Writes JSON, on one line.
pub(crate) fn say_json(value: &impl Serialize) -> Result<()> {
    print(&escaped(&serde_json::to_string(value)?))
}

/// Writes JSON, on many lines.
pub(crate) fn say_pretty_json(value: &impl Serialize) -> Result<()> {
    print(&escaped(&serde_json::to_string_pretty(value)?))
}

/// Writes text of many lines of which nothing is a stranger's, or is made harmless already.
pub(crate) fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("nobody reads this any more")
}

/// Says on standard error what is wrong.
pub(crate) fn complain(what: &str) {
    eprintln!("{}", lines(what));
}

/// Errors of configurations and policies have many lines.
fn lines(text: &str) -> String {
    text.split('\n').map(without_controls).collect::<Vec<_>>().join("\n")
}

/// JSON in which what a terminal would obey is written `\uXXXX`: the same JSON. `serde_json` does so only below U+0020.
fn escaped(json: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_control_or_bidi(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_says_the_same_without_what_a_terminal_obeys() {
        let value = serde_json::json!({ "a\u{202e}": "\u{1b}\u{9b}2J\u{7f}\u{2067}\n" });
        for text in [serde_json::to_string(&value).unwrap_or_default(), serde_json::to_string_pretty(&value).unwrap_or_default()] {
            let escaped = escaped(&text);
            assert!(!escaped.chars().any(|c| c != '\n' && is_control_or_bidi(c)), "{escaped}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).ok().as_ref(), Some(&value));
        }
    }

    #[test]
    fn an_error_keeps_its_lines_only() {
        assert_eq!(lines("a\u{1b}[2J\n  b\u{202e}"), "a\u{fffd}[2J\n  b\u{fffd}");
    }
}
