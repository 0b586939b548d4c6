//! Counts the instructions of the hot paths with callgrind, which noise cannot touch, and compares them with what is kept in
//! `counts.txt`.
//!
//! `cargo run --profile instructions -p sidegate-instructions -- check` fails where a path takes 5 % more than is kept;
//! `-- update` keeps what it counts. Only the steps count, not what sets a path up. valgrind shows programs a processor of its own, so
//! the counts are no times; and they change with the compiler, after which they have to be updated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that can't go on has failed")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use sidegate_instructions::PATHS;

/// More than this above what is kept is a failure.
const MORE: f64 = 1.05;
/// Less than this is worth keeping.
const LESS: f64 = 0.95;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["path", name, times] => path(name, times.parse().unwrap()),
        ["check"] => check(),
        ["update"] => update(),
        _ => {
            eprintln!("usage: sidegate-instructions check | update");
            ExitCode::FAILURE
        }
    }
}

/// Does one path: what callgrind runs.
fn path(name: &str, times: u64) -> ExitCode {
    let (_, set_up, _) = PATHS.iter().find(|(known, ..)| *known == name).unwrap();
    let mut step = set_up();
    // What only the first time does is no cost of a path.
    step();
    counted_steps(&mut step, times);
    ExitCode::SUCCESS
}

/// What callgrind counts, which finds it by its name.
#[inline(never)]
fn counted_steps(step: &mut dyn FnMut(), times: u64) {
    (0..times).for_each(|_| step());
}

/// Instructions of one time.
fn count(name: &str, times: u64) -> u64 {
    let run = || -> u64 {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted_steps*"])
            .arg(std::env::current_exe().unwrap())
            .args(["path", name, &times.to_string()])
            .output()
            .expect("valgrind can't be run: is it installed?");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {text}");
        let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
        collected.unwrap_or_else(|| panic!("{name}: callgrind says nothing of a count: {text}"))
    };
    // Only the generator of random numbers takes now more, now less: it gathers entropy by timing the processor.
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(run);
        let other = run();
        (one.join().unwrap(), other)
    });
    one.min(other) / times
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("counts.txt")
}

fn kept() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(file()).unwrap_or_default();
    let line = |line: &str| line.split_once('\t').map(|(count, name)| (name.to_owned(), count.parse().unwrap()));
    text.lines().filter_map(line).collect()
}

fn check() -> ExitCode {
    let kept = kept();
    let mut failed = false;
    for (name, _, times) in PATHS {
        let (now, before) = (count(name, *times), kept.get(*name).copied().unwrap_or(0));
        let ratio = now as f64 / before as f64;
        let verdict = if before == 0 {
            "not kept: run with `update`"
        } else if ratio > MORE {
            "more than is allowed; if it has to be, run with `update` and say why in the commit"
        } else if ratio < LESS {
            "less: run with `update`, so that it stays so"
        } else {
            "as kept"
        };
        failed |= before == 0 || ratio > MORE;
        println!("{now:>12} {before:>12} {ratio:>6.3}  {name}: {verdict}");
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn update() -> ExitCode {
    let lines = PATHS.iter().map(|(name, _, times)| format!("{}\t{name}\n", count(name, *times)));
    let text: String = lines.inspect(|line| print!("{line}")).collect();
    std::fs::write(file(), text).unwrap();
    ExitCode::SUCCESS
}
