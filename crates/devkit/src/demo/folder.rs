//! The demo's files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::workload::Workload;

/// The demo's files; a sidecar of another user must be able to read them. Removed when dropped.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::Builder::new().prefix("sidegate-demo.").tempdir().context("no temporary folder can be made")?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(Self(folder))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves the files where they are.
    pub(super) fn keep(self) -> PathBuf {
        self.0.keep()
    }

    /// A file of a workload: its name and `suffix`.
    fn file(&self, workload: Workload, suffix: &str) -> PathBuf {
        self.path().join(format!("{}.{suffix}", workload.name()))
    }

    /// The copy of sidegate that the sidecars run.
    pub(super) fn program(&self) -> PathBuf {
        self.path().join("sidegate")
    }

    /// The Workload API's socket of a workload.
    pub(super) fn workload_api(&self, workload: Workload) -> PathBuf {
        self.file(workload, "sock")
    }

    /// A sidecar's configuration.
    pub(super) fn config(&self, workload: Workload) -> PathBuf {
        self.file(workload, "yaml")
    }

    /// A sidecar's policy.
    pub(super) fn policy(&self, workload: Workload) -> PathBuf {
        self.file(workload, "policy.yaml")
    }

    /// What a sidecar logs.
    pub(super) fn log(&self, workload: Workload) -> PathBuf {
        self.file(workload, "log")
    }

    /// The folder in which a sidecar makes its own files; its user's.
    pub(super) fn run(&self, workload: Workload) -> PathBuf {
        self.file(workload, "run")
    }

    /// A sidecar's admin socket.
    pub(super) fn admin_socket(&self, workload: Workload) -> PathBuf {
        self.run(workload).join("admin.sock")
    }

    /// A sidecar's audit log.
    pub(super) fn audit_log(&self, workload: Workload) -> PathBuf {
        self.run(workload).join("audit")
    }

    /// The trust bundle by which audit logs are verified.
    pub(super) fn bundle(&self) -> PathBuf {
        self.path().join("bundle.pem")
    }

    /// The collector's socket.
    pub(super) fn collector(&self) -> PathBuf {
        self.path().join("collector.sock")
    }
}
