//! Changes, removals, insertions, repetitions, reorderings and truncations by somebody who has no key.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use sidegate_evidence::{Report, VerifyInputs};

use crate::common::{World, write_lines};

/// A log of several files, and everything to verify it by.
fn world(more: &str) -> (World, Vec<(PathBuf, Vec<String>)>, VerifyInputs) {
    let world = World::new(&format!(", rotate: {{ bytes: 6000 }}{more}"));
    world.write(30);
    let (files, given) = (world.lines(), world.given());
    assert!(files.len() >= 3, "{}", files.len());
    let report = world.verify(&given);
    assert_eq!((report.findings.as_slice(), report.unproven.as_slice()), (&[][..], &[][..]));
    assert_eq!(report.records, report.last_seq);
    assert_eq!((report.proven_until, report.anchored), (report.last_seq, report.last_seq));
    (world, files, given)
}

fn seq_of(line: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap()
}

/// The records of a line: an encrypted one holds those that came together.
fn records_of(line: &str) -> RangeInclusive<u64> {
    let records = serde_json::from_str::<serde_json::Value>(line).unwrap()["records"].as_u64();
    seq_of(line)..=seq_of(line) + records.unwrap_or(1) - 1
}

/// The verdict must be that something is wrong, and near that record.
fn expect(report: &Report, seq: u64, what: &str) {
    expect_within(report, seq..=seq, what);
}

fn expect_within(report: &Report, records: RangeInclusive<u64>, what: &str) {
    let near = |found: u64| (records.start() - 1..=records.end() + 1).contains(&found);
    assert!(report.findings.iter().any(|f| f.seq.is_none_or(near)), "{what}: records {records:?}: {:#?}", report.findings);
}

/// In which part of a line a byte is.
fn part(line: &str, at: usize) -> &'static str {
    let after = |field: &str| line.rfind(&format!("\"{field}\":\"")).is_some_and(|start| at >= start);
    match () {
        () if at >= line.len() - 2 => "end",
        () if after("signature") => "signature",
        () if after("mac") => "mac",
        () if after("prev") => "prev",
        () if at < line.find("\"event\"").unwrap() => "head",
        () => "payload",
    }
}

fn kind(byte: u8) -> &'static str {
    match byte {
        b'0'..=b'9' => "digit",
        b'a'..=b'z' => "lower",
        b'A'..=b'Z' => "upper",
        b'"' => "quote",
        b':' | b',' | b'{' | b'}' | b'[' | b']' => "structure",
        _ => "other",
    }
}

/// Others that may stand there: the next of its kind, another kind, a bit flipped, nothing printable.
fn others(byte: u8) -> Vec<u8> {
    let next = match byte {
        b'9' => b'0',
        b'z' => b'a',
        b'f' => b'a',
        b'Z' => b'A',
        other => other + 1,
    };
    let case = if byte.is_ascii_alphabetic() { byte ^ 0x20 } else { b' ' };
    [next, case, byte ^ 0x80, 0].into_iter().filter(|other| *other != byte).collect()
}

/// Every record, every part of it, every kind of byte in it; the first and last of each.
#[test]
fn a_changed_byte_is_found() {
    let (world, files, given) = world("");
    let mut tried = 0;
    for (file, lines) in &files {
        for (i, line) in lines.iter().enumerate() {
            let mut places: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
            for (at, byte) in line.bytes().enumerate() {
                places.entry((part(line, at), kind(byte))).or_default().push(at);
            }
            let chosen = places.values().flat_map(|all| [all[0], all[all.len() - 1]]);
            let before: usize = lines[..i].iter().map(|line| line.len() + 1).sum();
            for at in chosen {
                let text = std::fs::read(file).unwrap();
                for other in others(text[before + at]).into_iter().take(if tried % 3 == 0 { 4 } else { 1 }) {
                    let mut changed = text.clone();
                    changed[before + at] = other;
                    std::fs::write(file, &changed).unwrap();
                    let what = format!("byte {at} ({}) is {other}", part(line, at));
                    expect(&world.verify(&given), seq_of(line), &what);
                    tried += 1;
                }
                std::fs::write(file, &text).unwrap();
            }
        }
    }
    assert!(tried > 1000, "{tried}");
    assert!(world.verify(&given).is_intact());
}

/// Each byte of a checkpoint, the last of the log: nothing comes after it that would vouch for it.
#[test]
fn each_byte_of_the_last_record_counts() {
    let (world, files, given) = world("");
    // Without the exported checkpoint, and without the auditor's key, only its signature protects it.
    let given = VerifyInputs { trust: given.trust, ..VerifyInputs::default() };
    let (file, lines) = files.last().unwrap();
    let text = std::fs::read(file).unwrap();
    let start = text.len() - 1 - lines.last().unwrap().len();
    for at in start..text.len() {
        let mut changed = text.clone();
        changed[at] = others(text[at])[0];
        std::fs::write(file, &changed).unwrap();
        assert!(!world.verify(&given).is_intact(), "byte {}", at - start);
    }
}

#[test]
fn a_record_that_is_dropped_repeated_or_moved_is_found() {
    let (world, files, given) = world("");
    for (file, lines) in &files {
        for i in 0..lines.len() {
            let seq = seq_of(&lines[i]);
            let mut without = lines.clone();
            without.remove(i);
            write_lines(file, &without);
            expect(&world.verify(&given), seq, "dropped");

            let mut twice = lines.clone();
            twice.insert(i, lines[i].clone());
            write_lines(file, &twice);
            expect(&world.verify(&given), seq, "repeated");

            for other in [i + 1, i + 2, lines.len() - 1] {
                if other < lines.len() && other != i {
                    let mut swapped = lines.clone();
                    swapped.swap(i, other);
                    write_lines(file, &swapped);
                    expect(&world.verify(&given), seq, "swapped");
                }
            }
            let mut inserted = lines.clone();
            inserted.insert(i, lines[i].replace("\"seq\":", "\"seq\":1"));
            write_lines(file, &inserted);
            expect(&world.verify(&given), seq, "inserted");
        }
        write_lines(file, lines);
    }
    assert!(world.verify(&given).is_intact());
}

/// At every record, and in the middle of each. Each file's end as well as the log's.
#[test]
fn a_truncation_is_found() {
    let (world, files, given) = world("");
    for (file, lines) in &files {
        let text = std::fs::read(file).unwrap();
        let mut end = 0;
        for line in lines {
            for cut in [end, end + line.len() / 2, end + line.len()] {
                std::fs::write(file, &text[..cut]).unwrap();
                assert!(!world.verify(&given).is_intact(), "{} at {cut}", file.display());
            }
            end += line.len() + 1;
        }
        std::fs::write(file, &text).unwrap();
    }
}

#[test]
fn a_file_that_is_gone_swapped_or_renamed_is_found() {
    let (world, files, given) = world("");
    let aside = world.path("aside");
    for (i, (file, _)) in files.iter().enumerate() {
        std::fs::rename(file, &aside).unwrap();
        assert!(!world.verify(&given).is_intact(), "{} is gone", file.display());
        if let Some((next, _)) = files.get(i + 1) {
            std::fs::rename(next, file).unwrap();
            std::fs::rename(&aside, next).unwrap();
            assert!(!world.verify(&given).is_intact(), "{} is swapped", file.display());
            std::fs::rename(next, &aside).unwrap();
            std::fs::rename(file, next).unwrap();
        }
        let renamed = world.log().join("audit-00000000000000999999.jsonl");
        std::fs::rename(&aside, &renamed).unwrap();
        assert!(!world.verify(&given).is_intact(), "{} is renamed", file.display());
        std::fs::rename(&renamed, file).unwrap();
    }
    assert!(world.verify(&given).is_intact());
}

/// The chain of encrypted records is verified without a key, and what is in them with one.
#[test]
fn an_encrypted_log_is_verified_with_and_without_the_key() {
    let (world, files, given) = world(", encrypt: true");
    assert!(!files.iter().any(|(_, lines)| lines.iter().any(|line| line.contains("spiffe://a.b/web"))), "it is not encrypted");
    let without = VerifyInputs { trust: VerifyInputs::default().trust, anchors: given.anchors.clone(), ..VerifyInputs::default() };
    assert!(world.verify(&without).is_intact());
    for (file, lines) in &files {
        for i in 0..lines.len() {
            let mut changed = lines.clone();
            let at = changed[i].len() * 2 / 3;
            let other = if changed[i].as_bytes()[at] == b'a' { "b" } else { "a" };
            changed[i].replace_range(at..=at, other);
            write_lines(file, &changed);
            expect_within(&world.verify(&without), records_of(&lines[i]), "changed");
            expect_within(&world.verify(&given), records_of(&lines[i]), "changed");
        }
        write_lines(file, lines);
    }
}
