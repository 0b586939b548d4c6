//! What happens to the log on a disk that fails.

use std::path::Path;

use sidegate_core::{CertificateFacts, ConnectionRecord, Peer, RevocationStatus};
use sidegate_telemetry::Metrics;

use super::*;
use sidegate_evidence::{Report, Trust, VerifyInputs, anchors, verify};

struct Disk {
    folder: tempfile::TempDir,
    metrics: Arc<Metrics>,
    state: Arc<LogState>,
}

impl Disk {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::new(&sidegate_config::parse("test.yaml", "profile: development\n").unwrap().telemetry.metrics));
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join("public.pem"), key.public_key_pem()).unwrap();
        Self { folder, state: LogState::new(metrics.clone()), metrics }
    }

    fn log(&self) -> std::path::PathBuf {
        self.folder.path().join("log")
    }

    fn anchors(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("anchors.jsonl")).unwrap()
    }

    /// `more` is YAML of `audit.file`.
    fn writer(&self, more: &str) -> Writer {
        let shown = self.folder.path().display();
        let text = format!(
            "profile: development\naudit:\n  file: {{ folder: \"{shown}/log\"{more} }}\n  anchors: [{{ file: \"{shown}/anchors.jsonl\" }}]\n  \
             checkpoint: {{ key: \"{shown}/key.pem\" }}\n"
        );
        let config = sidegate_config::parse("test.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        let options = AuditOptions {
            config: &config.audit,
            metrics: self.metrics.clone(),
            mark: None,
            identity: IdentityCell::default(),
            otlp: None,
        };
        Writer::open(&options, &self.state).unwrap()
    }

    fn verify(&self) -> Report {
        verify(&self.log(), &VerifyInputs::default()).unwrap()
    }

    /// By the signer's key, and all that was exported.
    fn given(&self) -> VerifyInputs {
        let public_key = Some(Trust::public_key(&self.folder.path().join("public.pem")).unwrap());
        let anchors = Some(anchors(&self.folder.path().join("anchors.jsonl")).unwrap());
        VerifyInputs { trust: Trust { public_key, ..Trust::default() }, anchors, ..VerifyInputs::default() }
    }

    fn is_blocked(&self) -> bool {
        self.state.blocking.load(Ordering::Relaxed) > 0
    }

    fn dropped(&self) -> u64 {
        self.metrics.dropped(DropSource::Audit, Cause::ExportFailed).get()
    }
}

fn take(writer: &mut Writer, count: u64) {
    for rules in 0..count {
        writer.state.waiting.fetch_add(1, Ordering::Relaxed);
        let what = AuditMessageKind::Event(Box::new(Event::PolicyLoaded { rules, files: Vec::new() }));
        writer.take_one(AuditMessage { time: SystemTime::now(), what }, false);
    }
}

fn gaps(log: &Path) -> usize {
    let texts = crate::folder::files(log).unwrap().into_iter().map(|file| std::fs::read_to_string(file).unwrap());
    texts.map(|text| text.matches("\"log.gap\"").count()).sum()
}

#[test]
fn after_a_failed_sync_another_file_says_what_may_be_missing() {
    let disk = Disk::new();
    let mut writer = disk.writer(", onFailure: block-new-connections");
    take(&mut writer, 2);
    assert!(writer.commit() && writer.sync());
    writer.folder.as_mut().unwrap().lose_writes();
    take(&mut writer, 3);
    assert!(writer.commit() && writer.sync());
    take(&mut writer, 1);
    assert!(writer.commit() && !disk.is_blocked());
    writer.close();
    let report = disk.verify();
    assert_eq!((report.files.len(), report.missing, disk.dropped()), (2, 3, 3));
    let [finding] = report.findings.as_slice() else { panic!("{report:#?}") };
    assert!(finding.what.contains("records 4 to 6 are missing before it"), "{finding:?}");
}

#[test]
fn what_is_not_on_the_disk_is_not_exported() {
    let disk = Disk::new();
    let mut writer = disk.writer(", onFailure: drop-and-count");
    // Neither the file nor another one can be written to the disk.
    writer.folder.as_mut().unwrap().lose_writes();
    let away = disk.folder.path().join("away");
    std::fs::rename(disk.log(), &away).unwrap();
    take(&mut writer, 1);
    let epoch = writer.chain.epoch();
    assert!(!writer.checkpoint(CheckpointCause::Timer));
    assert!(writer.sync_failed && writer.failing.is_some());
    assert_eq!((writer.pending.len(), writer.chain.epoch()), (1, epoch + 1));
    // Nothing to write is no sign that it can be written.
    assert!(writer.commit() && writer.failing.is_some());
    for _ in 0..2 * PENDING {
        assert!(!writer.checkpoint(CheckpointCause::Timer));
    }
    assert_eq!(writer.pending.len(), PENDING);
    std::fs::rename(&away, disk.log()).unwrap();
    writer.rotate_after = Instant::now();
    assert!(writer.sync() && writer.failing.is_none() && writer.pending.is_empty());
    writer.close();
    // The beginning of the run, those that waited, and the last.
    assert_eq!((disk.anchors().lines().count(), disk.verify().missing), (PENDING + 2, 1));
}

#[test]
fn a_refused_sync_is_forgotten_only_after_a_record_is_on_the_disk() {
    let disk = Disk::new();
    let mut writer = disk.writer(", onFailure: block-new-connections");
    writer.failed(&io::Error::other("no space"));
    assert!(writer.commit() && disk.is_blocked());
    take(&mut writer, 1);
    assert!(writer.commit() && !disk.is_blocked());
    writer.close();
}

#[test]
fn lost_records_are_counted_once() {
    let disk = Disk::new();
    let mut writer = disk.writer(", onFailure: drop-and-count");
    for lost in 1..=3 {
        take(&mut writer, 1);
        writer.lose_batch();
        assert_eq!((disk.dropped(), disk.state.missing.load(Ordering::Relaxed)), (lost, lost));
    }
    take(&mut writer, 1);
    writer.close();
    let report = disk.verify();
    assert_eq!((report.findings.as_slice(), report.missing, disk.dropped(), gaps(&disk.log())), (&[][..], 3, 3, 1));
}

#[test]
fn a_rotation_that_fails_refuses_no_connection() {
    let disk = Disk::new();
    let mut writer = disk.writer(", onFailure: block-new-connections");
    let away = disk.folder.path().join("away");
    std::fs::rename(disk.log(), &away).unwrap();
    take(&mut writer, 1);
    writer.rotate();
    take(&mut writer, 1);
    assert!(writer.commit() && !disk.is_blocked());
    std::fs::rename(&away, disk.log()).unwrap();
    writer.rotate();
    writer.close();
    let report = disk.verify();
    assert_eq!((report.findings.as_slice(), report.files.len(), report.missing), (&[][..], 2, 0));
}

#[test]
fn an_empty_file_hinders_neither_a_new_one_nor_retention() {
    let disk = Disk::new();
    let mut writer = disk.writer(", retain: { files: 1 }");
    take(&mut writer, 1);
    assert!(writer.commit());
    // The rotation writes a checkpoint first: one is in the way of the new file, the other between it and the old one.
    for ahead in [0, 1] {
        std::fs::write(disk.log().join(format!("audit-{:020}.jsonl", writer.committed.seq + ahead)), "").unwrap();
    }
    writer.rotate();
    writer.keep_house();
    writer.close();
    let kept: Vec<_> = crate::folder::files(&disk.log()).unwrap().into_iter().filter(|file| file.metadata().unwrap().len() > 0).collect();
    assert_eq!(kept.len(), 1);
}

#[test]
fn no_file_is_deleted_before_the_checkpoint_that_covers_its_retirement_is_on_the_disk() {
    let disk = Disk::new();
    let mut writer = disk.writer(", retain: { files: 1 }");
    let first = crate::folder::files(&disk.log()).unwrap().remove(0);
    assert!(writer.next_file().is_ok());
    writer.folder.as_mut().unwrap().lose_writes();
    writer.retire();
    // The words are lost, but another file goes on.
    assert!(first.exists() && !writer.sync_failed && writer.retire_after.is_some());
    writer.retire();
    assert!(!first.exists());
    writer.close();
}

/// Who can write to the folder must not bring us to delete what is to stay, nor to sign that it was in order.
#[test]
fn what_somebody_puts_into_the_folder_does_not_decide_what_is_deleted() {
    let disk = Disk::new();
    let mut writer = disk.writer(", retain: { files: 4, age: 1h, bytes: 1048576 }");
    for _ in 0..3 {
        take(&mut writer, 2);
        assert!(writer.commit() && writer.next_file().is_ok());
    }
    let files = crate::folder::files(&disk.log()).unwrap();
    let texts: Vec<_> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    // Old, large, one too many, and how the last one ended for how the first one did.
    let old = std::fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
    let open = |file: &Path| std::fs::OpenOptions::new().write(true).open(file).unwrap();
    open(&files[0]).set_times(old).unwrap();
    open(&files[0]).set_len(1 << 30).unwrap();
    std::fs::write(&files[1], &texts[3]).unwrap();
    std::fs::write(disk.log().join("audit-09000000000000000000.jsonl"), &texts[3]).unwrap();
    writer.retire();
    assert!(files.iter().all(|file| file.exists()));
    // What is deleted after all is told as it was.
    take(&mut writer, 1);
    writer.rotate();
    writer.retire();
    assert!(!files[0].exists() && files[1..].iter().all(|file| file.exists()));
    writer.close();
    let all: String = crate::folder::files(&disk.log()).unwrap().iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let retired = all.lines().find(|line| line.contains("\"log.retired\"")).unwrap();
    assert!(retired.contains("\"lastSeq\":3"), "{retired}");
}

#[test]
fn a_log_that_can_not_be_begun_begins_later_where_losses_are_counted() {
    let disk = Disk::new();
    let mut writer = disk.writer("");
    take(&mut writer, 1);
    assert!(writer.commit());
    let next = disk.log().join(format!("audit-{:020}.jsonl", writer.committed.seq));
    drop(writer);
    std::fs::create_dir(&next).unwrap();
    let mut writer = disk.writer(", onFailure: drop-and-count");
    take(&mut writer, 2);
    assert!(!writer.commit() && writer.failing.is_some());
    std::fs::remove_dir(&next).unwrap();
    writer.rotate_after = Instant::now();
    writer.keep_house();
    assert!(writer.failing.is_none());
    writer.close();
    let report = disk.verify();
    assert_eq!((report.findings.as_slice(), report.missing, report.resumed, report.files.len()), (&[][..], 2, 1, 2));
    // Both runs' beginnings are exported, and the last checkpoint.
    assert_eq!(disk.anchors().lines().count(), 3);
}

#[test]
fn a_gap_is_told_though_nothing_else_happens() {
    let disk = Disk::new();
    let mut writer = disk.writer("");
    take(&mut writer, 3);
    writer.lose_batch();
    assert!(writer.until_next() <= TELL_AGAIN);
    writer.keep_house();
    assert_eq!((gaps(&disk.log()), writer.state.missing.load(Ordering::Relaxed)), (1, 0));
    writer.close();
}

#[test]
fn a_sync_that_fails_at_the_end_begins_no_other_file() {
    let disk = Disk::new();
    let mut writer = disk.writer("");
    take(&mut writer, 2);
    assert!(writer.commit() && writer.sync());
    writer.folder.as_mut().unwrap().lose_writes();
    writer.close();
    let report = disk.verify();
    assert_eq!((report.findings.as_slice(), report.files.len(), report.last_seq), (&[][..], 1, 3));
}

/// What was exported last of what `retain` has deleted may be the beginning of a run that was killed at once.
#[test]
fn a_log_may_begin_behind_the_exported_beginning_of_a_run() {
    let disk = Disk::new();
    let retain = ", retain: { files: 1 }";
    disk.writer(retain).close();
    drop(disk.writer(retain));
    let end = Instant::now() + Duration::from_secs(20);
    while disk.anchors().lines().count() < 3 {
        assert!(Instant::now() < end, "{}", disk.anchors());
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut writer = disk.writer(retain);
    assert!(writer.checkpoint(CheckpointCause::Timer));
    writer.keep_house();
    writer.close();
    let report = verify(&disk.log(), &disk.given()).unwrap();
    assert_eq!((report.findings.as_slice(), report.files.len(), report.first_seq), (&[][..], 1, 4));
    assert_eq!(report.verdict(SystemTime::now(), Duration::ZERO), sidegate_evidence::LogVerdict::Proved, "{report:#?}");
}

#[test]
fn one_file_of_a_log_may_be_compared_with_all_that_was_exported() {
    let disk = Disk::new();
    disk.writer("").close();
    disk.writer("").close();
    let first = crate::folder::files(&disk.log()).unwrap().remove(0);
    let report = verify(&first, &disk.given()).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(report.proved, [report.first_seq..=report.last_seq]);
    assert!(report.unproven.iter().any(|what| what.starts_with("2 exported records come after this file")), "{report:#?}");
}

/// Another connection may have the same ID: what counts is which connection of ours it is. What its end does not say is said before.
#[test]
fn a_connection_that_ends_at_once_is_one_record() {
    let disk = Disk::new();
    let mut writer = disk.writer("");
    let record = || ConnectionRecord::new(sidegate_core::Direction::Inbound, ([10, 0, 0, 7], 40_000).into());
    let admitted = |record: &ConnectionRecord| AuditMessageKind::Admitted(Box::new(Admitted::new(record)));
    let (short, refused, mut retried, mut long) = (record(), record(), record(), record());
    long.connection_id = short.connection_id;
    retried.peer = Peer::Spiffe {
        id: "spiffe://a.b/web".into(),
        certificate: Arc::new(CertificateFacts::new(b"der", "1".to_owned(), 0, 1)),
        revocation: RevocationStatus::NotChecked,
    };
    let first_try = admitted(&retried);
    retried.peer = Peer::Unknown;
    let messages = [
        admitted(&long),
        admitted(&short),
        AuditMessageKind::Ended(Arc::new(short), true),
        AuditMessageKind::Ended(Arc::new(refused), false),
        first_try,
        AuditMessageKind::Ended(Arc::new(retried), true),
    ];
    let now = SystemTime::now();
    let mut together: Vec<_> = messages.into_iter().map(|what| AuditMessage { time: now, what }).collect();
    // It lasted.
    together.push(AuditMessage { time: now + SHORT, what: AuditMessageKind::Ended(Arc::new(long), true) });
    writer.state.waiting.fetch_add(together.len(), Ordering::Relaxed);
    writer.take(&mut together);
    assert_eq!((together.len(), writer.state.waiting.load(Ordering::Relaxed)), (0, 0));
    writer.close();
    let keys = sidegate_evidence::AuditorKeys::default();
    let events = sidegate_evidence::Records::of(&disk.log(), &keys).unwrap().map(|record| record.unwrap().event);
    let told: Vec<_> = events
        .filter(|event| event.connection().is_some())
        .map(|event| (event.name(), serde_json::to_value(&event).unwrap()["admitted"] == true))
        .collect();
    let [admitted, ended, refused] = ["connection.admitted", "connection.ended", "connection.refused"];
    assert_eq!(told, [(admitted, false), (ended, true), (refused, false), (admitted, false), (ended, false), (ended, false)]);
}

/// What came last, before the disk had room again, comes behind the first record.
#[test]
fn a_log_that_is_begun_at_its_end_begins_in_order() {
    let disk = Disk::new();
    let next = disk.log().join(format!("audit-{:020}.jsonl", 1));
    std::fs::create_dir_all(&next).unwrap();
    let mut writer = disk.writer(", onFailure: drop-and-count");
    std::fs::remove_dir(&next).unwrap();
    take(&mut writer, 2);
    disk.state.close(Instant::now() + Duration::from_secs(4));
    writer.close();
    let report = disk.verify();
    assert_eq!((report.findings.as_slice(), report.missing, report.first_seq), (&[][..], 2, 1));
    assert!(disk.anchors().lines().next().unwrap().contains("log.opened"));
}
