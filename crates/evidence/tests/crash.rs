//! A process that writes the log is killed, again and again: the log goes on behind a verified prefix, and says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{World, event, eventually, options};
use sidegate_audit::{Audit, Event};
use sidegate_core::ConnectionId;
use sidegate_evidence::{AuditorKeys, Records, Trust, VerifyInputs};

const KILLS: u64 = 100;

/// No test, but what the test below starts and kills: it writes as fast as it can, for ever.
#[test]
fn writes_until_it_is_killed() {
    let Ok(config) = std::env::var("SIDEGATE_TEST_AUDIT_CONFIG") else { return };
    let config = sidegate_config::parse("test.yaml", &config).unwrap_or_else(|problems| panic!("{problems}"));
    let metrics = std::sync::Arc::new(sidegate_telemetry::Metrics::new(&config.telemetry.metrics));
    let (audit, _thread) = Audit::start(&options(&config.audit, &metrics)).unwrap();
    for i in 0.. {
        // As many as it takes, and not more than are written, so that none is dropped.
        while i > metrics.audit_records().get() + 4000 {
            std::thread::yield_now();
        }
        audit.record(event(i));
    }
}

#[test]
fn a_hundred_kills_in_the_middle_of_writing_cost_no_written_record() {
    let world = World::new(", rotate: { bytes: 500000 }, sync: { records: 500 }");
    let text = serde_json::json!({ "profile": "development", "audit": world.config }).to_string();
    for _ in 0..KILLS {
        let before = size(&world);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writes_until_it_is_killed"])
            .env("SIDEGATE_TEST_AUDIT_CONFIG", &text)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually(|| size(&world) > before + 2000);
        // At any moment of its writing.
        let moment = Instant::now() + Duration::from_micros(fastrand::u64(0..20_000));
        while Instant::now() < moment {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // One that ends in order comes last.
    world.write(1);
    let report = world.verify(&world.given());
    assert_eq!(report.findings, []);
    assert_eq!((report.resumed, report.missing), (KILLS, 0));
    // In each run the records are those that were made first, without a hole.
    let mut runs: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let (mut run, keys) = (0, AuditorKeys::default());
    for record in Records::of(&world.log(), &keys).unwrap() {
        match record.unwrap().event {
            Event::LogResumed { .. } => run += 1,
            Event::PolicyLoaded { rules, .. } => runs.entry(run).or_default().push(rules),
            _ => {}
        }
    }
    for (run, seen) in runs {
        assert_eq!(seen, (0..seen.len() as u64).collect::<Vec<_>>(), "run {run}");
    }
}

/// Bytes of all files of the log; a writer that begins may delete an empty one meanwhile.
fn size(world: &World) -> u64 {
    let files = sidegate_audit::folder::files(&world.log()).unwrap_or_default();
    files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// Wherever the last record is torn: what is left of it is moved aside, and what came before stays.
#[test]
fn a_torn_record_is_moved_aside_whatever_is_left_of_it() {
    for encrypt in [false, true] {
        let world = World::new(&format!(", encrypt: {encrypt}"));
        world.write(3);
        let (file, lines) = world.lines().remove(0);
        let text = std::fs::read(&file).unwrap();
        let last = lines.last().unwrap().len() + 1;
        let start = text.len() - last;
        for left in (0..last).step_by(37).chain([last - 1]) {
            std::fs::write(&file, &text[..start + left]).unwrap();
            world.write(1);
            let report = world.verify(&VerifyInputs { trust: world.given().trust, keys: world.given().keys, ..VerifyInputs::default() });
            assert_eq!((report.findings.as_slice(), report.resumed), (&[][..], 1), "{left} bytes are left");
            let notes: Vec<_> = notes(&world);
            if left == 0 {
                assert!(notes.is_empty());
            } else {
                let [note] = notes.as_slice() else { panic!("{notes:?}") };
                assert_eq!(std::fs::read(note).unwrap(), &text[start..start + left]);
                std::fs::remove_file(note).unwrap();
            }
            // Again from the beginning.
            for (other, _) in world.lines() {
                std::fs::remove_file(other).unwrap();
            }
        }
    }
}

/// What a power failure may leave: a file whose end is zeros.
#[test]
fn zeros_at_the_end_are_moved_aside_too() {
    let world = World::new("");
    world.write(3);
    let (file, _) = world.lines().remove(0);
    let text = std::fs::read(&file).unwrap();
    std::fs::write(&file, [text.as_slice(), &[0; 5000]].concat()).unwrap();
    world.write(1);
    let report = world.verify(&world.given());
    assert_eq!((report.findings.as_slice(), report.resumed), (&[][..], 1));
    assert_eq!(std::fs::read(&notes(&world)[0]).unwrap(), [0; 5000]);
}

fn notes(world: &World) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(world.log()).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.display().to_string().contains(".cut-at-")).collect()
}

/// Another process in the same folder would break the chain.
#[test]
fn a_folder_has_one_writer() {
    let world = World::new("");
    let (audit, thread) = world.start();
    let error = Audit::start(&world.options()).unwrap_err().to_string();
    assert!(error.contains("another process writes the audit log"), "{error}");
    drop(audit);
    thread.join(std::time::Instant::now() + std::time::Duration::from_secs(10));
    world.write(1);
    assert!(world.verify(&world.given()).is_intact());
}

/// A restart in order is no crash, and its chain is one.
#[test]
fn a_log_goes_on_after_a_restart() {
    let world = World::new("");
    for _ in 0..3 {
        world.write(5);
    }
    let report = world.verify(&world.given());
    assert_eq!((report.findings.as_slice(), report.unproven.as_slice(), report.resumed), (&[][..], &[][..], 0));
    assert_eq!((report.files.len(), report.authenticated), (3, report.records));
}

/// Old files go, and the log says which; one that goes otherwise is missed.
#[test]
fn retention_deletes_what_the_log_names() {
    let world = World::new(", rotate: { bytes: 4096 }, retain: { files: 2 }");
    world.write(60);
    let files = world.lines();
    assert_eq!(files.len(), 2);
    let report = world.verify(&VerifyInputs { trust: Trust::default(), ..world.given() });
    assert_eq!(report.findings, []);
    assert!(report.first_seq > 1 && report.unproven.iter().any(|u| u.contains("as `retain` says")), "{report:#?}");
    // Killed right after it has deleted a file: a signature covers what it says of that.
    let (file, lines) = &files[1];
    let retired = lines.iter().rposition(|line| line.contains("\"log.retired\"")).unwrap();
    assert!(lines[retired + 1].contains("\"cause\":\"retention\""), "{}", lines[retired + 1]);
    common::write_lines(file, &lines[..retired + 2]);
    let report = world.verify(&VerifyInputs { trust: world.given().trust, ..VerifyInputs::default() });
    assert_eq!((report.findings.as_slice(), report.proven_until), (&[][..], report.last_seq));
    assert!(report.unproven.iter().any(|u| u.contains("as `retain` says")), "{report:#?}");
    std::fs::remove_file(&files[0].0).unwrap();
    let report = world.verify(&world.given());
    assert!(report.findings.iter().any(|f| f.what.contains("no record says that they were deleted")), "{report:#?}");
}

/// The same name at both ends is what `join` lives on; a record must keep it.
#[test]
fn a_connection_is_told_as_it_was() {
    let world = World::new("");
    let (audit, thread) = world.start();
    let record = common::connection(4);
    let id: ConnectionId = record.connection_id;
    let before = world.metrics.audit_records().get();
    audit.admit(&record).unwrap();
    eventually(|| world.metrics.audit_records().get() > before);
    audit.end(&std::sync::Arc::new(record), true);
    drop(audit);
    thread.join(std::time::Instant::now() + std::time::Duration::from_secs(10));
    let keys = AuditorKeys::default();
    let events: Vec<Event> = Records::of(&world.log(), &keys).unwrap().map(|r| r.unwrap().event).collect();
    let admitted = events.iter().find_map(|e| if let Event::ConnectionAdmitted { connection } = e { Some(connection) } else { None });
    let ended =
        events.iter().find_map(|e| if let Event::ConnectionEnded { connection, admitted: false } = e { Some(connection) } else { None });
    let (admitted, ended) = (admitted.unwrap(), ended.unwrap());
    assert_eq!((&admitted.connection_id, &ended.connection_id), (&id.to_string(), &id.to_string()));
    assert_eq!((admitted.reason.as_deref(), ended.reason.as_deref()), (None, Some("closed")));
    assert_eq!((admitted.bytes_up, ended.bytes_up), (None, Some(4)));
}
