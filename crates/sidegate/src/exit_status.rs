//! How a command ends that answers a question: 0 if all is well, 1 if there is something to look at, 2 if it can't be answered.

use std::process::ExitCode;

use anyhow::Result;

use crate::output::failed;

/// What a command has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// Nothing to look at.
    Good,
    /// Something that a person has to look at.
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
