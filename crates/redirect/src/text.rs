//! Builds a text for nft.

use std::fmt::{self, Write};

/// A text that grows by indented lines.
#[derive(Default)]
pub(crate) struct Text {
    pub(crate) text: String,
    depth: usize,
}

impl Text {
    pub(crate) fn open(&mut self, header: impl fmt::Display) {
        if self.text.ends_with("}\n") {
            self.text.push('\n');
        }
        self.line(format_args!("{header} {{"));
        self.depth += 1;
    }

    pub(crate) fn close(&mut self) {
        self.depth -= 1;
        self.line("}");
    }

    pub(crate) fn note(&mut self, comment: &str) {
        self.line(format_args!("# {comment}"));
    }

    /// Writes nothing without a condition, since a rule without one would match everything.
    pub(crate) fn accept_any(&mut self, comment: &str, conditions: &[String]) {
        if !conditions.is_empty() {
            self.note(comment);
        }
        for condition in conditions {
            self.line(format_args!("{condition} accept"));
        }
    }

    pub(crate) fn line(&mut self, line: impl fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:1$}{line}", "", 4 * self.depth);
    }
}
