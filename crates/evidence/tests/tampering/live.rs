//! A log that is in order is never called anything else: not while it is written, and not after old files were deleted.

use std::sync::atomic::{AtomicBool, Ordering};

use sidegate_evidence::{Trust, VerifyInputs, anchors};

use crate::common::{World, event, eventually, write_lines};

fn trust_only(world: &World) -> VerifyInputs {
    VerifyInputs { trust: Trust { public_key: world.given().trust.public_key, ..Trust::default() }, ..VerifyInputs::default() }
}

#[test]
fn the_end_of_the_last_file_may_be_on_its_way() {
    let world = World::new(", rotate: { bytes: 6000 }");
    world.write(30);
    let (given, files) = (trust_only(&world), world.lines());
    let (last, lines) = files.last().unwrap();
    let text = std::fs::read(last).unwrap();
    for left in [1, 20, lines.last().unwrap().len()] {
        std::fs::write(last, &text[..text.len() - 1 - lines.last().unwrap().len() + left]).unwrap();
        let report = world.verify(&given);
        assert_eq!(report.findings, [], "{left}");
        let bytes = if left == 1 { "1 byte".to_owned() } else { format!("{left} bytes") };
        assert!(report.unproven.iter().any(|u| u.contains(&format!("ends in {bytes} of a record"))), "{report:#?}");
    }
    std::fs::write(last, b"").unwrap();
    let report = world.verify(&given);
    assert!(report.is_intact() && report.unproven.iter().any(|u| u.contains("is empty")), "{report:#?}");
    // What is no part of a record will not become one.
    for part in [&b"\0\0\0"[..], b"{\"v\":1,\"seq\":1,"] {
        std::fs::write(last, [text.as_slice(), part].concat()).unwrap();
        assert!(!world.verify(&given).is_intact());
    }
    std::fs::write(last, &text).unwrap();
    // Another file follows.
    let (first, text) = (&files[0].0, std::fs::read(&files[0].0).unwrap());
    for cut in [0, text.len() - 1] {
        std::fs::write(first, &text[..cut]).unwrap();
        assert!(!world.verify(&given).is_intact(), "{cut}");
    }
}

/// Files begin, end and are deleted while it is verified.
#[test]
fn a_log_that_is_written_is_intact_at_any_moment() {
    let world = World::new(", rotate: { bytes: 4096 }, retain: { files: 3 }");
    world.write(1);
    let (given, done) = (trust_only(&world), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let verified = scope.spawn(|| {
            let mut times = 0;
            while !done.load(Ordering::Relaxed) {
                let report = world.verify(&given);
                assert_eq!(report.findings, [], "{report:#?}");
                times += 1;
            }
            times
        });
        let (audit, thread) = world.start();
        for i in 0..200 {
            let before = world.metrics.audit_records().get();
            audit.record(event(i));
            eventually(|| world.metrics.audit_records().get() > before);
        }
        drop(audit);
        thread.join(std::time::Instant::now() + std::time::Duration::from_secs(10));
        done.store(true, Ordering::Relaxed);
        assert!(verified.join().unwrap() > 20);
    });
    assert!(world.verify(&given).first_seq > 100);
}

/// The first file of a run was deleted: the later ones have the same key, which the exported beginning tells.
#[test]
fn the_beginning_of_a_run_is_proved_when_its_file_was_deleted() {
    let world = World::new(", rotate: { bytes: 4096 }, retain: { files: 2 }");
    world.write(60);
    let report = world.verify(&world.given());
    assert_eq!(report.findings, []);
    let [retained] = report.unproven.as_slice() else { panic!("{report:#?}") };
    assert!(retained.contains("as `retain` says"), "{retained}");

    let exported = std::fs::read_to_string(world.path("anchors.jsonl")).unwrap();
    let with = |lines: &[String]| {
        write_lines(&world.path("some.jsonl"), lines);
        world.verify(&VerifyInputs { anchors: Some(anchors(&world.path("some.jsonl")).unwrap()), ..world.given() })
    };
    // The checkpoint at the end of the file that was deleted: the first record that is left is linked to it.
    let before = format!("\"seq\":{},", report.first_seq - 1);
    let last = exported.lines().find(|line| line.contains(&before)).unwrap().to_owned();
    let report = with(std::slice::from_ref(&last));
    assert_eq!((report.findings.as_slice(), report.anchored), (&[][..], report.first_seq - 1));
    // Exported with another key, or another record in its place.
    let opened = exported.lines().next().unwrap().replace("\"sealedKey\":\"YWdl", "\"sealedKey\":\"YWdk");
    assert!(with(std::slice::from_ref(&opened)).findings.iter().any(|f| f.what.contains("with which it was exported")));
    let other = opened.replace("\"seq\":1,", &before);
    assert!(with(&[other]).findings.iter().any(|f| f.what.contains("differs from the record that was exported")));
}
