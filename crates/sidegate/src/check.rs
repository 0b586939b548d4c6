//! `sidegate check`.

use anyhow::Result;

use crate::exit_status::ExitStatus;
use crate::output::say_lines;
use crate::{cli, variables};

/// Checks the configuration and the files that it names.
pub(crate) fn check(arguments: &cli::CheckArgs) -> Result<ExitStatus> {
    let report = sidegate_checks::check(&arguments.config.config)?;
    if arguments.print_config {
        say_lines(&report.config.to_yaml()?)?;
    }
    report.findings.iter().for_each(|finding| err!("warning: {finding}"));
    variables::print(&report.variables);
    report.notes.iter().for_each(|note| err!("note: {note}"));
    err!("{}", report.summary);
    Ok(ExitStatus::finding_if(!report.findings.is_empty()))
}
