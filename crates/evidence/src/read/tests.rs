//! Reading what is still written, and what somebody else has written.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sidegate_audit::NewEvent;
use sidegate_audit::key::EpochKey;

use super::*;

/// `count` linked lines, each with its newline, from record `seq` on.
fn lines(seq: u64, count: u64) -> Vec<u8> {
    let (key, mut prev, mut out) = (EpochKey::random().unwrap(), [0; 32], Vec::new());
    for rules in 0..count {
        let (start, event) = (out.len(), NewEvent::PolicyLoaded { rules, files: Vec::new() });
        line::begin(&mut out, seq + rules, std::time::SystemTime::now(), &event).unwrap();
        let hash = line::link(&mut out, start, &prev, &key);
        line::end(&mut out);
        prev = hash.finish(&out[start..out.len() - 1]);
    }
    out
}

struct Log(tempfile::TempDir);

impl Log {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, seq: u64) -> PathBuf {
        self.0.path().join(format!("audit-{seq:020}.jsonl"))
    }

    /// Adds records to the file that begins with record `of`.
    fn add(&self, of: u64, seq: u64, count: u64) {
        let mut file = File::options().append(true).create(true).open(self.file(of)).unwrap();
        file.write_all(&lines(seq, count)).unwrap();
    }
}

/// The numbers of the records, or what is wrong.
fn seen(records: &mut Records<'_>) -> Vec<Result<u64, String>> {
    records.map(|record| record.map(|record| record.seq).map_err(|error| error.to_string())).collect()
}

fn follow(records: &mut Records<'_>, log: &Log) -> Vec<Result<u64, String>> {
    records.look_for_more(log.0.path()).unwrap();
    seen(records)
}

#[test]
fn a_file_that_was_taken_back_does_not_end_the_one_before() {
    let (log, keys) = (Log::new(), AuditorKeys::default());
    log.add(1, 1, 2);
    let mut records = Records::of(log.0.path(), &keys).unwrap();
    assert_eq!(seen(&mut records), [Ok(1), Ok(2)]);
    // It is begun and deleted before it has a line,
    File::create(log.file(3)).unwrap();
    assert_eq!(follow(&mut records, &log), []);
    std::fs::remove_file(log.file(3)).unwrap();
    log.add(1, 3, 1);
    assert_eq!(follow(&mut records, &log), [Ok(3)]);
    // or after that, and maybe can't be deleted;
    for deleted in [true, false] {
        log.add(4, 4, 1);
        assert_eq!(follow(&mut records, &log), [Ok(4)]);
        File::create(log.file(4)).unwrap();
        if deleted {
            std::fs::remove_file(log.file(4)).unwrap();
        }
        assert_eq!(follow(&mut records, &log), []);
    }
    log.add(1, 4, 1);
    log.add(5, 5, 2);
    assert_eq!(follow(&mut records, &log), [Ok(4), Ok(5), Ok(6)]);
}

#[test]
fn what_came_into_a_file_before_the_next_one_is_read_first() {
    let (log, keys) = (Log::new(), AuditorKeys::default());
    log.add(1, 1, 1);
    let mut records = Records::of(log.0.path(), &keys).unwrap();
    assert_eq!(seen(&mut records), [Ok(1)]);
    log.add(1, 2, 1);
    log.add(3, 3, 1);
    assert_eq!(follow(&mut records, &log), [Ok(2), Ok(3)]);
}

#[test]
fn after_a_file_that_can_not_be_read_nothing_is_read_again() {
    let (log, keys) = (Log::new(), AuditorKeys::default());
    log.add(1, 1, 1);
    log.add(2, 2, 1);
    let mut records = Records::of(log.0.path(), &keys).unwrap();
    std::fs::remove_file(log.file(2)).unwrap();
    std::fs::create_dir(log.file(2)).unwrap();
    let [first, second] = &seen(&mut records)[..] else { panic!() };
    assert!(*first == Ok(1) && second.as_ref().unwrap_err().contains("can't be read"));
    std::fs::remove_dir(log.file(2)).unwrap();
    log.add(2, 2, 1);
    log.add(3, 3, 1);
    assert_eq!(follow(&mut records, &log), [Ok(3)]);
    // One that is gone may come again.
    log.add(4, 4, 1);
    records.look_for_more(log.0.path()).unwrap();
    std::fs::remove_file(log.file(4)).unwrap();
    assert_eq!(seen(&mut records).len(), 1);
    log.add(4, 4, 1);
    assert_eq!(follow(&mut records, &log), [Ok(4)]);
}

#[test]
fn a_line_that_is_too_long_is_named_and_the_next_one_is_read() {
    let (log, keys) = (Log::new(), AuditorKeys::default());
    log.add(1, 1, 1);
    let mut file = File::options().append(true).open(log.file(1)).unwrap();
    file.write_all(&[&vec![0; LONGEST + 1][..], b"\n"].concat()).unwrap();
    log.add(1, 2, 1);
    let [Ok(1), Err(why), Ok(2)] = &seen(&mut Records::of(log.0.path(), &keys).unwrap())[..] else { panic!() };
    assert!(why.contains("jsonl:2: is no record: it is longer than"), "{why}");
    let report = crate::verify(log.0.path(), &crate::VerifyInputs::default()).unwrap();
    let found = report.findings.iter().find(|finding| finding.what.contains("it is longer than")).unwrap();
    assert_eq!((found.line, found.seq), (2, Some(2)));
}

#[test]
fn an_error_quotes_nothing_that_a_terminal_obeys() {
    let (log, keys) = (Log::new(), AuditorKeys::default());
    std::fs::write(log.file(1), b"{\"v\":1,\"seq\":1,\"time\":\"t\",\"event\":\"\\u001b]0;x\\u0007\\n\\u202e\"}\n").unwrap();
    let [Err(why)] = &seen(&mut Records::of(log.0.path(), &keys).unwrap())[..] else { panic!() };
    assert!(why.contains("]0;x") && !why.chars().any(sidegate_core::is_control_or_bidi), "{why:?}");
}

#[test]
fn encrypted_lines_that_hold_nothing_are_passed() {
    let (log, folder) = (Log::new(), tempfile::tempdir().unwrap());
    let identity = age::x25519::Identity::generate();
    let key = folder.path().join("key");
    std::fs::write(&key, age::secrecy::ExposeSecret::expose_secret(&identity.to_string())).unwrap();
    let age = STANDARD.encode(age::encrypt(&identity.to_public(), b"").unwrap());
    let line = format!(r#"{{"v":1,"seq":1,"time":"t","event":"log.sealed","records":1,"age":"{age}"}}"#);
    std::fs::write(log.file(1), format!("{line}\n").repeat(2000)).unwrap();
    log.add(1, 2001, 1);
    assert_eq!(seen(&mut Records::of(log.0.path(), &AuditorKeys::load(&key).unwrap()).unwrap()), [Ok(2001)]);
}

#[test]
fn findings_without_end_are_counted() {
    let log = Log::new();
    log.add(1, 1, 1);
    let mut file = File::options().append(true).open(log.file(1)).unwrap();
    file.write_all(&[b'\n'; 5000]).unwrap();
    let report = crate::verify(log.0.path(), &crate::VerifyInputs::default()).unwrap();
    // Each of them, and that the file does not begin as one does.
    assert_eq!((report.findings.len(), report.more_findings), (1000, 4001));
}
