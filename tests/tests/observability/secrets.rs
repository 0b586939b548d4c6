//! Each secret file that is opened is on record, and nothing of what it holds.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use sidegate_tests::{AuditLog, Identities, Sidecar, eventually};

const SVID_KEY: &str = "private key of our X.509-SVID";
const AUDIT_KEY: &str = "key that signs checkpoints of this log";
const CLIENT_KEY: &str = "client key towards the collector at localhost";

/// By renaming, so that nobody reads half of it.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// The records of accesses to `secret` so far.
fn of_secret(log: &AuditLog, secret: &str) -> Vec<Value> {
    log.records().into_iter().filter(|record| record["secret"] == secret).collect()
}

/// What of a PEM file must be nowhere: each of its lines, and its digest.
fn marks(pem: &str) -> Vec<String> {
    let lines = pem.lines().filter(|line| !line.starts_with("-----") && line.len() >= 16).map(str::to_owned);
    lines.chain([sidegate_audit::hex::sha256_hex(pem.as_bytes()), "PRIVATE KEY".to_owned()]).collect()
}

#[test]
fn each_secret_file_that_is_opened_is_on_record() {
    let identities = Identities::start(&["web"], Duration::from_secs(3600));
    let (certificate, key, bundle) = identities.files("web");
    let path = |name: &str| identities.folder().join(name);
    let signing = rcgen::KeyPair::generate().unwrap();
    put(&path("audit.key.pem"), &signing.serialize_pem());
    std::fs::write(path("audit.pub.pem"), signing.public_key_pem()).unwrap();
    let client = rcgen::KeyPair::generate().unwrap();
    let client_certificate = rcgen::CertificateParams::default().self_signed(&client).unwrap();
    std::fs::write(path("client.pem"), client_certificate.pem()).unwrap();
    put(&path("client.key.pem"), &client.serialize_pem());
    let mut secrets = vec![std::fs::read_to_string(&key).unwrap(), signing.serialize_pem(), client.serialize_pem()];
    let config = format!(
        "profile: development\n\
         identity: {{ sources: [{{ files: {{ certificate: {}, key: {}, bundle: {} }} }}] }}\n\
         inbound: {{ listen: null }}\noutbound: {{ listen: null, listen6: null }}\n\
         audit: {{ file: {{ folder: web.audit }}, checkpoint: {{ interval: 200ms, key: audit.key.pem }} }}\n\
         telemetry: {{ otlp: {{ endpoint: 'https://localhost:1', tls: {{ certificate: client.pem, key: client.key.pem }} }}, metrics: {{ interval: 100ms }} }}\n\
         drain: {{ settle: 0s, quiet: 50ms }}\n",
        certificate.display(),
        key.display(),
        bundle.display(),
    );
    let mut sidecar = Sidecar::start(identities.folder(), "web", &config);
    sidecar.wait_ready();
    let log = AuditLog::of(&identities, "web");
    for (secret, file) in [(SVID_KEY, &key), (AUDIT_KEY, &path("audit.key.pem")), (CLIENT_KEY, &path("client.key.pem"))] {
        let record = log.record(secret, |record| record["secret"] == secret);
        assert_eq!((&record["event"], &record["place"]), (&"secret.accessed".into(), &file.display().to_string().into()));
    }
    // The first of them was opened before there was a log.
    let order: Vec<Value> = log.records().into_iter().map(|record| record["event"].clone()).collect();
    assert_eq!(order[..2], ["log.opened", "process.started"]);

    // Its files are read again, and the key is the same.
    let good = std::fs::read_to_string(&bundle).unwrap();
    put(&bundle, "no bundle");
    log.record("a refusal", |record| record["event"] == "identity.refused");
    put(&bundle, &good);
    eventually("the source to recover", || sidecar.log().contains("sidegate.identity.source_recovered").then_some(()));
    assert_eq!(of_secret(&log, SVID_KEY).len(), 1);

    // It is gone, which is said once, and is replaced.
    std::fs::remove_file(&key).unwrap();
    let gone = log.record("the loss", |record| record["event"] == "secret.refused");
    assert_eq!((&gone["secret"], &gone["place"]), (&SVID_KEY.into(), &key.display().to_string().into()));
    assert!(gone["why"].as_str().unwrap().contains("No such file"), "{gone}");
    identities.files("web");
    secrets.push(std::fs::read_to_string(&key).unwrap());
    log.record("the next SVID", |record| record["event"] == "identity.rotated");
    let events: Vec<Value> = of_secret(&log, SVID_KEY).into_iter().map(|record| record["event"].clone()).collect();
    assert_eq!(events, ["secret.accessed", "secret.refused", "secret.accessed"]);
    // The collector's configuration is made again with each request that fails, of the same key.
    assert_eq!((of_secret(&log, CLIENT_KEY).len(), of_secret(&log, AUDIT_KEY).len()), (1, 1));

    sidecar.signal(Signal::SIGTERM);
    assert!(sidecar.wait_end().success());
    assert_eq!(sidecar.log().matches("sidegate.secret.accessed").count(), 4, "{}", sidecar.log());
    let folder = log.folder.display().to_string();
    let (status, shown, err) = AuditLog::command(&["show", &folder, "--event", "secret"]);
    assert_eq!((status, err.as_str()), (0, ""));
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(&format!("{SVID_KEY}, from {}", key.display())), "{shown}");
    assert!(words.contains(&format!("{SVID_KEY}: {} can't be read: No such file", key.display())), "{shown}");
    let proof = ["--public-key", &path("audit.pub.pem").display().to_string()];
    let (status, verdict, err) = AuditLog::command(&[&["verify", &folder], &proof[..]].concat());
    assert!(status == 0 && verdict.starts_with("PROVED: "), "{verdict}{err}");
    let (status, report, err) = AuditLog::command(&[&["report", &folder, "--format", "json"], &proof[..]].concat());
    assert!(status == 0 && report.contains("secret refused"), "{report}{err}");

    let files = sidegate_audit::folder::files(&log.folder).unwrap();
    let mut told: Vec<(String, String)> =
        files.iter().map(|file| (file.display().to_string(), std::fs::read_to_string(file).unwrap())).collect();
    told.extend([("the sidecar's log".to_owned(), sidecar.log()), ("show".to_owned(), shown), ("report".to_owned(), report)]);
    for (place, text) in told {
        for mark in secrets.iter().flat_map(|pem| marks(pem)) {
            assert!(!text.contains(&mark), "{mark} is in {place}");
        }
    }
}

/// A key that is no file is refused before anything is read of it.
#[test]
fn a_secret_that_is_no_file_is_on_record_too() {
    let identities = Identities::start(&["web"], Duration::from_secs(3600));
    let (certificate, _, bundle) = identities.files("web");
    let config = format!(
        "profile: development\n\
         identity: {{ sources: [{{ files: {{ certificate: {}, key: /dev/zero, bundle: {} }} }}] }}\n\
         inbound: {{ listen: null }}\noutbound: {{ listen: null, listen6: null }}\n{}",
        certificate.display(),
        bundle.display(),
        AuditLog::config("", "")
    );
    let _sidecar = Sidecar::start(identities.folder(), "web", &config);
    let log = AuditLog::of(&identities, "web");
    let refused = log.record("the refusal", |record| record["event"] == "secret.refused");
    assert_eq!((&refused["place"], &refused["why"]), (&"/dev/zero".into(), &"it is no regular file".into()));
}
