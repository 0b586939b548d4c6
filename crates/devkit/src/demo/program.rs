//! The program that is shown, and what the demo uses it for besides the sidecars.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use super::folder::Folder;
use crate::pods::Pod;

/// sidegate.
pub(super) struct Program(PathBuf);

impl Program {
    /// A copy of `program` that every user may run: a checkout often lies in a home that others can't enter.
    pub(super) fn copy(program: &Path, folder: &Folder) -> Result<Self> {
        let copy = folder.program();
        std::fs::copy(program, &copy).context("the binary can't be copied")?;
        Ok(Self(copy))
    }

    /// Applies the kernel rules of this configuration in `pod`.
    pub(super) fn redirect(&self, pod: &Pod, config: &Path) -> Result<()> {
        let mut command = self.command(&["redirect", "apply", "--config"]);
        command.arg(config);
        let output = pod.spawn_process(command)?.wait_with_output().context("the kernel rules can't be applied")?;
        if !output.status.success() {
            bail!("the kernel rules can't be applied:\n{}", text(&output.stderr));
        }
        Ok(())
    }

    /// Verifies an audit log by a trust bundle and the SPIFFE ID of its signer. Whether nothing contradicts it, and the report.
    pub(super) fn verify_audit(&self, log: &Path, bundle: &Path, signer: &str) -> Result<(bool, String)> {
        // What the sidecar has not signed yet is no finding.
        let mut command = self.command(&["audit", "verify", "--allow-unproved", "--signer", signer, "--bundle"]);
        command.arg(bundle).arg(log);
        let Output { status, stdout, stderr } = command.output().context("the audit log can't be verified")?;
        if stdout.is_empty() {
            bail!("the audit log can't be verified:\n{}", text(&stderr));
        }
        Ok((status.success(), text(&stdout)))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        // Ctrl-C is for the demo alone, which waits for its end.
        command.args(arguments).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}
