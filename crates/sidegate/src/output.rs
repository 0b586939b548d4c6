//! The only way to write to a terminal. Text of peers and files may be part of the output, and must not move the cursor or
//! reorder text. Elsewhere in this crate clippy refuses `println!` and its like.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "this is where they belong")]

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Result;
use serde::Serialize;
use sidegate_core::{folded, printable_json, without_controls};
use sidegate_telemetry::LineFormat;

use crate::style;

/// As `println!`, for commands that continue if standard output can't be written; [`exit_code`] reports the failure.
macro_rules! out {
    ($($text:tt)*) => { $crate::output::print_anyway(&$crate::output::lines(&format!($($text)*))) };
}

/// As `eprintln!`.
macro_rules! err {
    ($($text:tt)*) => { $crate::output::complain(&format!($($text)*)) };
}

/// Writes a line. Fails if the reader has gone, as `head` does.
pub(crate) fn say(line: &str) -> Result<()> {
    print(&without_controls(line))
}

/// Writes text of as many lines as it has, each with a newline at its end.
pub(crate) fn say_lines(text: &str) -> Result<()> {
    text.lines().try_for_each(say)
}

/// As [`say_lines`], with the verdict of each line in colour on a terminal.
pub(crate) fn say_verdicts(text: &str) -> Result<()> {
    let is_coloured = style::is_coloured(&std::io::stdout());
    let shown = |line: &str| if is_coloured { style::verdict(line) } else { line.to_owned() };
    text.lines().try_for_each(|line| print(&shown(&without_controls(line))))
}

/// How wide the terminal on standard output is; none where there is none.
pub(crate) fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|width| *width > 0)
}

/// Writes text whose lines go on below, set in by `indent`, where they would be wider than the terminal. Elsewhere each is one line.
pub(crate) fn say_fitted(text: &str, indent: usize) -> Result<()> {
    let width = width();
    let fitted = |line: &str| width.map_or_else(|| line.to_owned(), |width| folded(line, indent, width));
    text.lines().try_for_each(|line| print(&fitted(&without_controls(line))))
}

/// How lines of events are written to standard error.
pub(crate) fn log_format() -> LineFormat {
    let stderr = std::io::stderr();
    match (stderr.is_terminal(), style::is_coloured(&stderr)) {
        (true, true) => LineFormat::ColouredText,
        (true, false) => LineFormat::Text,
        (false, _) => LineFormat::Json,
    }
}

/// Writes JSON, on one line.
pub(crate) fn say_json(value: &impl Serialize) -> Result<()> {
    print(&printable_json(&serde_json::to_string(value)?))
}

/// Writes JSON, on many lines.
pub(crate) fn say_pretty_json(value: &impl Serialize) -> Result<()> {
    print(&printable_json(&serde_json::to_string_pretty(value)?))
}

/// Writes text that is safe for a terminal already.
pub(crate) fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").map_err(|error| anyhow::Error::msg(Unwritten(error)))
}

/// Writes text, and goes on if that fails.
pub(crate) fn print_anyway(text: &str) {
    if let Err(error) = print(text) {
        failed(&error, 2);
    }
}

/// Standard output could not be written.
#[derive(Debug)]
struct Unwritten(std::io::Error);

impl std::fmt::Display for Unwritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "standard output can't be written: {}", self.0)
    }
}

/// As the shell has it for a program that SIGPIPE ends.
const CLOSED: u8 = 141;
/// The exit code for what could not be written; 0 if all was.
static UNWRITTEN: AtomicU8 = AtomicU8::new(0);

/// Prints an error on standard error and returns `code`. If the reader of standard output has gone, as `head` does, it prints
/// nothing and returns 141.
pub(crate) fn failed(error: &anyhow::Error, code: u8) -> ExitCode {
    let unwritten = error.downcast_ref::<Unwritten>();
    let is_closed = unwritten.is_some_and(|Unwritten(error)| error.kind() == ErrorKind::BrokenPipe);
    let code = if is_closed { CLOSED } else { code };
    // A failure of standard output is reported once.
    let is_told = unwritten.is_some() && UNWRITTEN.swap(code, Ordering::Relaxed) != 0;
    if !is_closed && !is_told {
        // The whole chain on one line: what failed, then why.
        complain(&format!("sidegate: {error:#}"));
    }
    ExitCode::from(code)
}

/// The exit code of a command that would end with `code`.
pub(crate) fn exit_code(code: ExitCode) -> ExitCode {
    match UNWRITTEN.load(Ordering::Relaxed) {
        0 => code,
        unwritten => ExitCode::from(unwritten),
    }
}

/// Prints a problem on standard error. If that is closed, there is nothing left to do.
pub(crate) fn complain(what: &str) {
    let text = lines(what);
    let text = if style::is_coloured(&std::io::stderr()) { style::prefix(&text) } else { text };
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Errors of configurations and policies have many lines.
pub(crate) fn lines(text: &str) -> String {
    text.split('\n').map(without_controls).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_lines_only() {
        assert_eq!(lines("a\u{1b}[2J\n  b\u{202e}"), "a\u{fffd}[2J\n  b\u{fffd}");
    }
}
