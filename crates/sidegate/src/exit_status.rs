//! The exit status of a command that answers a question: 0 if all is well, 1 if there is a finding, 2 if the question can't be answered.

use std::process::ExitCode;

use anyhow::Result;

use crate::output::failed;

/// What a command has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// Nothing to look at.
    Good,
    /// A person has to look at something.
    Finding,
}

impl ExitStatus {
    pub(crate) fn finding_if(finding: bool) -> Self {
        if finding { Self::Finding } else { Self::Good }
    }

    /// The exit code of a command; its error goes to standard error.
    pub(crate) fn exit_code(outcome: Result<Self>) -> ExitCode {
        match outcome {
            Ok(Self::Good) => ExitCode::SUCCESS,
            Ok(Self::Finding) => ExitCode::from(1),
            Err(error) => failed(&error, 2),
        }
    }
}
