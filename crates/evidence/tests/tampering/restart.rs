//! Forgeries behind which the real writer goes on: its signatures must not vouch for them.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use sidegate_evidence::{LogVerdict, Report, VerifyInputs, anchors};

use crate::common::{World, event, eventually, write_lines};

fn hash(line: &str) -> String {
    digest(&SHA256, line.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// A record that is linked to the last of `lines`, by somebody who has no key.
fn append(lines: &mut Vec<String>, event: &str) {
    let last: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    let (seq, prev, mac) = (last["seq"].as_u64().unwrap() + 1, hash(lines.last().unwrap()), "0".repeat(64));
    lines.push(format!(r#"{{"v":1,"seq":{seq},"time":"2026-01-31T08:00:00.000000Z",{event},"prev":"{prev}","mac":"{mac}"}}"#));
}

fn trust_only(world: &World) -> VerifyInputs {
    VerifyInputs { trust: world.given().trust, ..VerifyInputs::default() }
}

fn verdict(report: &Report) -> LogVerdict {
    report.verdict(SystemTime::now(), Duration::from_secs(3600))
}

fn says(report: &Report, what: &str) -> bool {
    report.unproven.iter().any(|unproven| unproven.contains(what))
}

/// What was exported, but only the beginnings of runs.
fn exported_beginnings(world: &World) -> VerifyInputs {
    let exported = std::fs::read_to_string(world.path("anchors.jsonl")).unwrap();
    let lines: Vec<String> = exported.lines().filter(|line| line.contains("log.opened")).map(str::to_owned).collect();
    write_lines(&world.path("beginnings.jsonl"), &lines);
    VerifyInputs { anchors: Some(anchors(&world.path("beginnings.jsonl")).unwrap()), ..world.given() }
}

#[test]
fn a_restart_does_not_vouch_for_a_forged_tail() {
    let world = World::new("");
    world.write(4);
    world.write(8);
    let (file, mut lines) = world.lines().remove(1);
    let first: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    let first = first["seq"].as_u64().unwrap();
    lines.truncate(4);
    append(&mut lines, r#""event":"policy.loaded","rules":666,"files":[]"#);
    append(&mut lines, r#""event":"policy.loaded","rules":667,"files":[]"#);
    write_lines(&file, &lines);
    world.write(3);
    let report = world.verify(&trust_only(&world));
    // Nothing contradicts it, and the new run has signed what follows, but not this.
    assert_eq!((report.findings.as_slice(), report.proven_until), (&[][..], report.last_seq));
    assert_eq!((report.unvouched.as_slice(), report.unsigned_tail.as_ref()), (&[first..=first + 5][..], None));
    let proved = [1..=first - 1, first + 6..=report.last_seq];
    assert_eq!((report.proved.as_slice(), report.unproved.as_slice()), (&proved[..], &[first..=first + 5][..]));
    assert_eq!((verdict(&report), report.open_tail.as_ref()), (LogVerdict::PartlyProved, None));
    // What was exported says the same without a signature: the checkpoints of the later run don't vouch for it either.
    let exported = world.verify(&VerifyInputs { anchors: world.given().anchors, ..VerifyInputs::default() });
    assert!(exported.findings.iter().any(|f| f.what.contains("differs from the record that was exported")), "{exported:#?}");
    assert!(says(&report, &format!("records {first} to {} were written by a run that ended without", first + 5)), "{report:#?}");
    // An auditor sees it.
    let report = world.verify(&VerifyInputs { keys: world.given().keys, ..trust_only(&world) });
    assert_eq!(report.findings.iter().filter(|f| f.what.contains("MAC does not fit")).count(), 2, "{report:#?}");
}

/// A process that was killed has left the same; MACs prove it, if the run's key is known to be its own.
#[test]
fn macs_vouch_for_a_run_that_was_killed() {
    let world = World::new("");
    world.write(8);
    let (file, mut lines) = world.lines().remove(0);
    lines.truncate(5);
    write_lines(&file, &lines);
    world.write(3);
    let keys_only = VerifyInputs { keys: world.given().keys, ..trust_only(&world) };
    for given in [trust_only(&world), keys_only] {
        let report = world.verify(&given);
        assert_eq!((report.findings.as_slice(), report.unvouched.as_slice()), (&[][..], &[1..=5][..]));
    }
    let report = world.verify(&exported_beginnings(&world));
    assert_eq!((report.findings.as_slice(), report.unvouched.as_slice()), (&[][..], &[][..]));
    assert_eq!((report.proved.as_slice(), verdict(&report)), (&[1..=report.last_seq][..], LogVerdict::Proved));
    assert!(!says(&report, "without a signed checkpoint"), "{report:#?}");
}

#[test]
fn a_forged_log_retired_excuses_no_missing_file() {
    let world = World::new(", rotate: { bytes: 6000 }");
    world.write(30);
    let files = world.lines();
    let second: serde_json::Value = serde_json::from_str(&files[1].1[0]).unwrap();
    let (last, hash) = (second["seq"].as_u64().unwrap() - 1, second["prev"].as_str().unwrap());
    let (file, mut lines) = files.last().unwrap().clone();
    let name = files[0].0.file_name().unwrap().display().to_string();
    append(&mut lines, &format!(r#""event":"log.retired","file":"{name}","lastSeq":{last},"lastHash":"{hash}""#));
    write_lines(&file, &lines);
    std::fs::remove_file(&files[0].0).unwrap();
    let found = |what: &str| {
        let report = world.verify(&trust_only(&world));
        assert!(report.findings.iter().any(|f| f.what.contains(what)), "{what}: {report:#?}");
    };
    found("that they were deleted says only record");
    found("the log was closed before it");
    // Nor in a log that was not closed.
    let which = lines.len() - 2;
    let mut open: Vec<String> = lines[..which].to_vec();
    append(&mut open, &format!(r#""event":"log.retired","file":"{name}","lastSeq":{last},"lastHash":"{hash}""#));
    write_lines(&file, &open);
    found("that they were deleted says only record");
    // Nor if another run has gone on behind it.
    world.write(2);
    found("that they were deleted says only record");
}

/// Who can write to the files, and no more, can't make a process that was killed look like one that ended in order.
#[test]
fn an_end_without_a_signature_closes_no_log() {
    let world = World::new("");
    world.write(8);
    let (file, mut lines) = world.lines().remove(0);
    let checkpoint: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!(checkpoint["cause"], "shutdown");
    let run = checkpoint["run"].as_str().unwrap();
    lines.truncate(5);
    append(&mut lines, &format!(r#""event":"log.checkpoint","run":"{run}","epoch":0,"cause":"shutdown","signer":null"#));
    write_lines(&file, &lines);
    world.write(3);
    let report = world.verify(&trust_only(&world));
    assert_eq!((report.resumed, report.findings.as_slice()), (1, &[][..]), "{report:#?}");
    assert_eq!(report.unvouched, [1..=6]);
}

/// Keys are derived one by one: what a file says must not keep an auditor busy for years.
#[test]
fn an_epoch_that_no_log_can_have_is_found_and_costs_nothing() {
    let world = World::new("");
    world.write(2);
    let (file, lines) = world.lines().remove(0);
    let given = world.given();
    let mut forged = lines.clone();
    forged[0] = lines[0].replace("\"epoch\":0", "\"epoch\":18446744073709551615");
    assert_ne!(forged[0], lines[0]);
    write_lines(&file, &forged);
    let report = world.verify(&given);
    assert!(report.findings.iter().any(|f| f.seq == Some(1) && f.what.contains("can't begin with record 1")), "{report:#?}");
    // Nor with a number that would allow it.
    forged[0] = forged[0].replace("\"seq\":1,", "\"seq\":18446744073709551615,");
    write_lines(&file, &forged);
    let report = world.verify(&given);
    assert!(!report.is_intact() && report.authenticated == 0, "{report:#?}");
}

/// What is proved on both sides of it: the run that was killed, and the end of the last one, are told as they are.
#[test]
fn the_records_that_nothing_proves_are_named() {
    let world = World::new("");
    for kept in [5, 4] {
        world.write(8);
        let (file, mut lines) = world.lines().pop().unwrap();
        lines.truncate(kept);
        write_lines(&file, &lines);
    }
    let report = world.verify(&trust_only(&world));
    assert_eq!((report.unvouched.as_slice(), report.unsigned_tail.clone()), (&[1..=5][..], Some(6..=9)));
    assert_eq!(report.unproven_records(), [1..=9]);
    assert_eq!((report.proved.as_slice(), report.unproved.as_slice()), (&[][..], &[1..=9][..]));
    assert!(says(&report, "records 6 to 9 come after the last checkpoint"), "{report:#?}");
    world.write(8);
    let (_, lines) = world.lines().pop().unwrap();
    assert!(lines.last().unwrap().contains("log.checkpoint"));
    assert_eq!(world.verify(&trust_only(&world)).unproven_records(), [1..=9]);
    // An auditor who has the exported beginnings knows better.
    let report = world.verify(&exported_beginnings(&world));
    assert_eq!((report.findings.as_slice(), report.unproven_records().as_slice()), (&[][..], &[][..]));
    let (file, lines) = world.lines().pop().unwrap();
    write_lines(&file, &lines[..lines.len() - 1]);
    let report = world.verify(&exported_beginnings(&world));
    assert_eq!(report.unproven_records(), []);
    assert!(!says(&report, "come after the last checkpoint"), "{report:#?}");
}

/// A live log is proved up to its last checkpoint, whichever proof is given; what follows is young, or it is in doubt.
#[test]
fn the_end_of_a_log_that_is_still_written_is_told_from_a_log_in_doubt() {
    let world = World::new("");
    world.write(4);
    let (audit, thread) = world.start();
    eventually(|| std::fs::read_to_string(world.path("anchors.jsonl")).is_ok_and(|text| text.matches("log.opened").count() == 2));
    let before = world.metrics.audit_records().get();
    audit.record(event(1));
    eventually(|| world.metrics.audit_records().get() > before);
    let exported = VerifyInputs { anchors: world.given().anchors, ..VerifyInputs::default() };
    for (given, first) in [(trust_only(&world), 7), (exported, 8)] {
        let report = world.verify(&given);
        let tail = report.open_tail.as_ref().map(|tail| (tail.first, tail.last));
        assert_eq!((tail, report.unproved.as_slice()), (Some((first, 8)), &[first..=8][..]), "{report:#?}");
        assert_eq!(verdict(&report), LogVerdict::Proved);
        let later = SystemTime::now() + Duration::from_secs(7200);
        assert_eq!(report.verdict(later, Duration::from_secs(3600)), LogVerdict::PartlyProved);
    }
    drop(audit);
    thread.join(std::time::Instant::now() + Duration::from_secs(10));
    // The last checkpoint covers it.
    let report = world.verify(&trust_only(&world));
    assert_eq!((verdict(&report), report.unproved.as_slice()), (LogVerdict::Proved, &[][..]));
}

/// An auditor's public key is no secret: what is sealed to it proves nothing by itself, nor does anybody's signature.
#[test]
fn an_auditors_key_alone_proves_nothing() {
    let world = World::new("");
    world.write(8);
    for given in [VerifyInputs::default(), VerifyInputs { keys: world.given().keys, ..VerifyInputs::default() }] {
        let report = world.verify(&given);
        assert_eq!((report.findings.as_slice(), report.proved.as_slice()), (&[][..], &[][..]));
        assert_eq!(verdict(&report), LogVerdict::NothingProved);
    }
    let exported = VerifyInputs { anchors: world.given().anchors, ..VerifyInputs::default() };
    for given in [trust_only(&world), exported] {
        let report = world.verify(&given);
        assert_eq!((report.proved.as_slice(), verdict(&report)), (&[1..=report.last_seq][..], LogVerdict::Proved));
    }
}
