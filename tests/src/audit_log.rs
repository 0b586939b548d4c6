//! A sidecar's audit log: its configuration, and the commands that read it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sidegate_devkit::harness::{Identities, TRUST_DOMAIN, eventually, id, sidegate};

/// The log of one sidecar of a test.
pub struct AuditLog {
    /// Its folder.
    pub folder: PathBuf,
    anchors: PathBuf,
    bundle: PathBuf,
    signer: String,
}

impl AuditLog {
    /// Configuration for every sidecar of a test; `of_file` and `more` are YAML inside `audit.file` and `audit`.
    pub fn config(of_file: &str, more: &str) -> String {
        format!(
            "audit: {{ file: {{ folder: \"{{folder}}/{{name}}.audit\"{of_file} }}, anchors: [{{ file: \"{{folder}}/{{name}}.anchors\" }}], checkpoint: {{ interval: 200ms }}{more} }}\n"
        )
    }

    /// The log of the workload and sidecar `name`.
    pub fn of(identities: &Identities, name: &str) -> Self {
        let path = |suffix: &str| identities.folder().join(format!("{name}.{suffix}"));
        std::fs::write(path("trusted.pem"), identities.authority.bundle_pem(TRUST_DOMAIN).unwrap()).unwrap();
        Self { folder: path("audit"), anchors: path("anchors"), bundle: path("trusted.pem"), signer: id(name) }
    }

    /// Runs `sidegate audit` with these arguments: exit status, standard output, standard error.
    pub fn command(arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = Command::new(sidegate()).arg("audit").args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    /// `sidegate audit verify --json` of a copy at `folder`, with all that there is to verify by.
    pub fn verify_at(&self, folder: &Path) -> (i32, Value) {
        let folder = folder.display().to_string();
        let (status, out, err) = self.with_proof(&["verify", &folder, "--json"]);
        (status, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}")))
    }

    /// Runs `sidegate audit` with these arguments and all that there is to verify by.
    pub fn with_proof(&self, arguments: &[&str]) -> (i32, String, String) {
        let (bundle, anchors) = (self.bundle.display().to_string(), self.anchors.display().to_string());
        Self::command(&[arguments, &["--bundle", &bundle, "--signer", &self.signer, "--anchor", &anchors]].concat())
    }

    /// Verifies the log, which must be proved.
    #[track_caller]
    pub fn proved(&self) -> Value {
        let (status, report) = self.verify_at(&self.folder);
        assert_eq!((status, &report["verdict"]), (0, &"proved".into()), "{report:#}");
        report
    }

    /// All records so far, of whole lines.
    pub fn records(&self) -> Vec<Value> {
        let mut records = Vec::new();
        for file in sidegate_audit::folder::files(&self.folder).unwrap_or_default() {
            let text = std::fs::read_to_string(file).unwrap();
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            records.extend(whole.map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"))));
        }
        records
    }

    /// Waits for a record.
    #[track_caller]
    pub fn record(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("the audit record: {what}"), || self.records().into_iter().find(|record| fits(record)))
    }
}
