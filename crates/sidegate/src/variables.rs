//! Warnings about `OTEL_*` variables that can't be used.
//!
//! A module of its own: by its name the fold lets each warning pass, of which there is at most one for each variable.

use sidegate_config::Problems;
use sidegate_core::event;

/// Logs each warning.
pub(crate) fn log(warnings: &Problems) {
    warnings.0.iter().for_each(|warning| tracing::warn!(event = event::CONFIG_VARIABLE, "{warning}"));
}

/// Prints each warning, for a person.
pub(crate) fn print(warnings: &Problems) {
    warnings.0.iter().for_each(|warning| err!("warning: {warning}"));
}
