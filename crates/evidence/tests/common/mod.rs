//! A log in a folder of its own, and by what it is verified.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use age::secrecy::ExposeSecret;
use sidegate_audit::{Audit, AuditOptions, AuditThread, Event, FileDigest, IdentityCell, folder::files};
use sidegate_config::schema::audit::Audit as Config;
use sidegate_core::{CertificateFacts, ConnectionRecord, Direction, Peer, Reason, RevocationStatus};
use sidegate_evidence::{AuditorKeys, Report, Trust, VerifyInputs, anchors, verify};
use sidegate_telemetry::Metrics;

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
}

impl World {
    /// A log that is signed with a key of its own, and whose checkpoints are exported. `more` is YAML of `audit.file`.
    pub(crate) fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(path("public.pem"), key.public_key_pem()).unwrap();
        let auditor = age::x25519::Identity::generate();
        std::fs::write(path("auditor.txt"), format!("# the auditor's\n{}\n", auditor.to_string().expose_secret())).unwrap();
        let shown = folder.path().display();
        let text = format!(
            "profile: development\naudit:\n  file: {{ folder: \"{shown}/log\"{more} }}\n  anchors: [{{ file: \"{shown}/anchors.jsonl\" }}]\n  \
             checkpoint: {{ key: \"{shown}/key.pem\" }}\n  auditors: [{}]\n",
            auditor.to_public()
        );
        let config = sidegate_config::parse("test.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        Self { folder, config: config.audit, metrics: Arc::new(Metrics::new(&config.telemetry.metrics)) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path("log")
    }

    pub(crate) fn start(&self) -> (Audit, AuditThread) {
        Audit::start(&self.options()).unwrap()
    }

    pub(crate) fn options(&self) -> AuditOptions<'_> {
        options(&self.config, &self.metrics)
    }

    /// Writes `count` records, a batch each, and closes the log.
    pub(crate) fn write(&self, count: u64) {
        let (audit, thread) = self.start();
        for i in 0..count {
            let before = self.metrics.audit_records().get();
            if i % 2 == 0 {
                audit.end(&Arc::new(connection(i)), i % 4 == 0);
            } else {
                audit.record(event(i));
            }
            eventually(|| self.metrics.audit_records().get() > before);
        }
        drop(audit);
        thread.join(std::time::Instant::now() + std::time::Duration::from_secs(10));
    }

    /// With everything that there is to verify by.
    pub(crate) fn given(&self) -> VerifyInputs {
        let public_key = Some(Trust::public_key(&self.path("public.pem")).unwrap());
        let keys = AuditorKeys::load(&self.path("auditor.txt")).unwrap();
        VerifyInputs { trust: Trust { public_key, ..Trust::default() }, anchors: Some(anchors(&self.path("anchors.jsonl")).unwrap()), keys }
    }

    pub(crate) fn verify(&self, given: &VerifyInputs) -> Report {
        verify(&self.log(), given).unwrap()
    }

    /// The log's files with their lines.
    pub(crate) fn lines(&self) -> Vec<(PathBuf, Vec<String>)> {
        let read = |file: PathBuf| {
            let lines = std::fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect();
            (file, lines)
        };
        files(&self.log()).unwrap().into_iter().map(read).collect()
    }
}

pub(crate) fn options<'a>(config: &'a Config, metrics: &Arc<Metrics>) -> AuditOptions<'a> {
    AuditOptions { config, metrics: metrics.clone(), mark: None, identity: IdentityCell::default(), otlp: None }
}

pub(crate) fn event(i: u64) -> Event<sidegate_audit::ConnectionFacts> {
    Event::PolicyLoaded { rules: i, files: vec![FileDigest::new("/etc/sidegate/policy.yaml", b"rules")] }
}

pub(crate) fn connection(i: u64) -> ConnectionRecord {
    let mut record = ConnectionRecord::new(Direction::Inbound, ([10, 0, 0, 7], 40_000).into());
    record.peer = Peer::Spiffe {
        id: "spiffe://a.b/web".into(),
        certificate: Arc::new(CertificateFacts::new(b"der", "1".to_owned(), 0, 1)),
        revocation: RevocationStatus::NotChecked,
    };
    record.bytes_up = i;
    record.reason = if i.is_multiple_of(4) { Reason::Closed } else { Reason::Expired };
    record
}

pub(crate) fn eventually(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "it does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn write_lines(file: &Path, lines: &[String]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(file, text).unwrap();
}
