//! `sidegate reference`: pages for the docs, made from the code.

use anyhow::Result;

use crate::cli::ReferenceOf;
use crate::command_line;

/// Prints one of the generated pages of docs/reference.
pub(crate) fn reference(of: ReferenceOf) -> Result<()> {
    match of {
        ReferenceOf::Config => out!("{}", sidegate_config::reference()?.trim_end()),
        ReferenceOf::Telemetry => out!("{}", sidegate_telemetry::reference().trim_end()),
        ReferenceOf::CommandLine => command_line::reference(),
    }
    Ok(())
}
