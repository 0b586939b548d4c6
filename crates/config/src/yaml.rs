//! Writes a configuration as human-readable YAML.

use std::fmt::Write;

use serde_json::Value;

use crate::schema::Config;

impl Config {
    /// The configuration as it is understood, defaults and overrides included, secrets redacted: YAML in block style.
    ///
    /// # Errors
    /// If it can't be serialized.
    pub fn to_yaml(&self) -> serde_json::Result<String> {
        let mut text = String::new();
        block(&serde_json::to_value(self)?, 0, &mut text);
        Ok(text)
    }
}

fn block(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(entries) => {
            for (key, child) in entries {
                let _ = write!(text, "{indent}{key}:");
                nested(child, depth, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                // A mapping begins on the line of its dash.
                let mut inner = String::new();
                block(item, depth + 1, &mut inner);
                match item {
                    Value::Object(_) => {
                        let _ = write!(text, "{indent}- {}", inner.trim_start());
                    }
                    _ => {
                        let _ = writeln!(text, "{indent}- {}", inner.trim());
                    }
                }
            }
        }
        scalar => {
            let _ = writeln!(text, "{indent}{}", plain(scalar));
        }
    }
}

fn nested(child: &Value, depth: usize, text: &mut String) {
    match child {
        Value::Object(entries) if !entries.is_empty() => {
            text.push('\n');
            block(child, depth + 1, text);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            block(child, depth + 1, text);
        }
        scalar => {
            let _ = writeln!(text, " {}", plain(scalar));
        }
    }
}

/// JSON's spelling of a scalar is YAML too.
fn plain(value: &Value) -> String {
    value.to_string()
}
