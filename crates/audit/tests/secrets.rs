//! Secret files that are opened before there is a log. A process of its own, since the list of them is the process's.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use sidegate_audit::{Audit, AuditOptions, IdentityCell, follow_secrets};
use sidegate_telemetry::Metrics;

#[test]
fn what_was_opened_before_the_log_is_in_it_and_what_had_no_room_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("key"), "a secret").unwrap();
    for i in 0..70 {
        sidegate_secrets::open(&format!("key {i}"), &path("key")).unwrap();
    }
    let text = format!("audit: {{ file: {{ folder: '{}' }} }}", path("log").display());
    let config = sidegate_config::parse("sidegate.yaml", &text).unwrap();
    let metrics = Arc::new(Metrics::new(&config.telemetry.metrics));
    let options = AuditOptions { config: &config.audit, metrics, mark: None, identity: IdentityCell::default(), otlp: None };
    let (audit, thread) = Audit::start(&options).unwrap();
    let audit = Arc::new(audit);
    follow_secrets(&audit);
    sidegate_secrets::open("later", &path("key")).unwrap();
    sidegate_secrets::open("later", &path("key")).unwrap();
    sidegate_secrets::open("later", &path("none")).unwrap_err();
    // What follows does not keep the log open.
    drop(audit);
    thread.join(Instant::now() + Duration::from_secs(30));
    sidegate_secrets::open("too late", &path("key")).unwrap();

    let files = sidegate_audit::folder::files(&path("log")).unwrap();
    let log: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let count = |part: &str| log.matches(part).count();
    assert_eq!((count("\"secret.accessed\""), count("\"secret.refused\"")), (64 + 1, 1), "{log}");
    assert_eq!((count("\"secret\":\"key 0\""), count("\"secret\":\"key 63\""), count("\"secret\":\"key 64\"")), (1, 1, 0));
    assert_eq!((count("\"missing\":6"), count("a secret"), count("too late")), (1, 0, 0), "{log}");
}
