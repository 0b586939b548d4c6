//! `sidegate demo` in each of its modes, and that nothing of it stays behind.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sidegate_tests::{Process, eventually, require, sidegate, skipped};

fn demo(mode: &str, user: Option<u32>) -> (Output, PathBuf) {
    let folder = tempfile::tempdir().unwrap().keep();
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut command = Command::new(sidegate());
    command.args(["demo", "--time", "4s", "--mode", mode]).env("TMPDIR", &folder).current_dir(&folder);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    (command.output().unwrap(), folder)
}

fn judge((output, folder): (Output, PathBuf)) {
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    for part in [
        ", 0 errors",
        "unbroken",
        "X25519MLKEM768",
        "denied_by_default",
        "plaintext_refused",
        "allowed by web-may-call-api (api.policy.yaml:2)",
        "One request, as api's sidecar traced it",
        "    handshake      +",
        "FAILED: No allow rule covers the connection.",
        "the metrics                  the collector has ",
        "The audit log of api, by the trust bundle and its SPIFFE ID\n  PROVED",
        "checkpoints are signed by spiffe://demo.sidegate/",
        "Where to look next",
    ] {
        assert!(text.contains(part), "{part} is missing\n{text}\n{errors}");
    }
    assert!(std::fs::read_dir(&folder).unwrap().next().is_none(), "files stay behind");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn as_root_in_pods() {
    if require() {
        judge(demo("root", None));
    }
}

#[test]
fn without_root_in_a_user_namespace() {
    if !nix::unistd::geteuid().is_root() {
        judge(demo("userns", None));
        return;
    }
    if !require() {
        return;
    }
    if std::fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone").is_ok_and(|n| n.trim() == "0") {
        return skipped("this kernel allows no user namespaces without root");
    }
    judge(demo("userns", Some(65534)));
}

#[test]
fn on_loopback_without_any_privilege() {
    judge(demo("loopback", nix::unistd::geteuid().is_root().then_some(65533)));
}

/// Policy on the audit log of a real run: what was seen is suggested, decides the same, and another policy would not.
#[test]
fn policy_is_suggested_and_replayed_on_the_audit_log_of_the_demo() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    let mut command = Command::new(sidegate());
    command.args(["demo", "--keep", "--time", "4s", "--mode", "loopback"]).env("TMPDIR", folder.path());
    command.stdout(std::fs::File::create(&output).unwrap());
    let mut demo = Process::start(command, &folder.path().join("log"));
    let shown = || std::fs::read_to_string(&output).unwrap();
    eventually("the end of the show", || shown().contains("Ctrl-C ends it").then_some(()));
    // As it is told to type.
    let typed = |what: &str| {
        let shown = shown();
        let line = shown.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {shown}"));
        let words: Vec<&str> = line.split(" #").next().unwrap().split_whitespace().skip(1).collect();
        run(&words)
    };
    let (status, verdict) = typed("audit verify");
    assert_eq!((status, verdict.starts_with("PROVED")), (Some(0), true), "{verdict}");
    let (_, joined) = typed("audit join");
    assert!(joined.contains("spiffe://demo.sidegate/web"), "{joined}");
    let (status, suggested) = typed("policy suggest");
    assert_eq!(status, Some(0), "{suggested}");
    assert!(
        suggested.contains("- \"spiffe://demo.sidegate/web\"") && !suggested.contains("- \"spiffe://demo.sidegate/intruder\""),
        "{suggested}"
    );
    let log = shown().lines().find_map(|line| line.split_once("policy suggest --audit ")).unwrap().1.trim().to_owned();
    let policy = folder.path().join("policy.yaml");
    let replay = |rules: &str| {
        std::fs::write(&policy, rules).unwrap();
        run(&["policy", "replay", "--audit", &log, "--policy", policy.to_str().unwrap()])
    };
    let (status, same) = replay(&suggested);
    assert_eq!((status, same.contains("0 of ") && same.contains("would be decided differently")), (Some(0), true), "{same}");
    let (status, other) = replay("rules: []\n");
    assert_eq!((status, other.contains("would be decided differently")), (Some(1), true), "{other}");
    kill(Pid::from_raw(i32::try_from(demo.child.id()).unwrap()), Signal::SIGINT).unwrap();
    demo.wait_end();
}

fn run(words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(sidegate()).args(words).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// Ctrl-C in the midst of it: an end that says so, no process and no file left.
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(sidegate())
        .args(["demo", "--keep", "--time", "60s", "--mode", "loopback"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let sidecars = eventually("three sidecars", || {
        let running = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().into_string().ok()?.parse::<i32>().ok());
        let ours: Vec<i32> = running
            .filter(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/stat"))
                    .is_ok_and(|s| s.rsplit(") ").next().unwrap().split(' ').nth(1) == Some(&child.id().to_string()))
            })
            .collect();
        (ours.len() == 3).then_some(ours)
    });
    let _ = children;
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = eventually("the end", || child.try_wait().unwrap());
    assert!(!status.success(), "it did not show what it should");
    for pid in sidecars {
        eventually("the sidecar's end", || kill(Pid::from_raw(pid), None).is_err().then_some(()));
    }
}
