//! `sidegate completions` and `sidegate man`: what shells and `man` need to know of the command line.

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;

/// Prints the completions for a shell.
pub(crate) fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sidegate", &mut script);
    output::print(String::from_utf8(script)?.trim_end())
}

/// Writes `sidegate.1`, `sidegate-run.1` and so on into `folder`.
pub(crate) fn man_pages(folder: &Path) -> Result<()> {
    clap_mangen::generate_to(Cli::command(), folder).with_context(|| format!("{}: the man pages can't be written", folder.display()))
}
