//! `sidegate demo` in each of its modes, and that nothing of it stays behind.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill, killpg};
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
    let request = text.split("One request, as api's sidecar traced it").nth(1).unwrap().split("The intruder").next().unwrap();
    assert!(!request.contains("FAILED"), "a request that was answered is shown as a failure\n{text}");
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

/// Who gets Ctrl-C.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Gets {
    /// The demo's process group, as from a terminal.
    Group,
    /// The demo alone, as from a supervisor.
    Demo,
}

/// How far the demo is when it comes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// The process has begun, and would hear of it.
    Begun,
    /// It has made its folder.
    Folder,
    /// A sidecar runs.
    Sidecar,
    /// All are ready, and there is traffic.
    Traffic,
    /// All is shown, and it keeps running.
    Kept,
}

/// Processes of the demo that uses `folder`, by their command lines.
fn processes(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    let all = all.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    all.filter(|line| line.contains(folder.to_str().unwrap())).collect()
}

/// Whether a process has a handler for SIGINT. Before, the signal ends it; or does nothing, if who has started these tests ignores it.
fn catches_interrupts(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
    caught.is_some_and(|signals| signals & (1 << (Signal::SIGINT as u32 - 1)) != 0)
}

/// What the machine has of namespaces with names and of tables.
fn traces() -> (Vec<String>, String) {
    let named =
        std::fs::read_dir("/run/netns").map_or_else(|_| Vec::new(), |all| all.map(|e| format!("{:?}", e.unwrap().file_name())).collect());
    let tables = Command::new("nft").args(["list", "tables"]).output().map_or_else(|_| Vec::new(), |output| output.stdout);
    (named, String::from_utf8(tables).unwrap())
}

/// Ctrl-C at some moment: a quick end, and no process, file, namespace or table left.
fn interrupt(mode: &str, user: Option<u32>, gets: Gets, moment: Moment) {
    let what = format!("{mode}, {gets:?}, {moment:?}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let before = traces();
    let output = folder.path().with_extension("output");
    let mut command = Command::new(sidegate());
    command.args(["demo", "--keep", "--time", if moment == Moment::Kept { "4s" } else { "60s" }, "--mode", mode]);
    command.env("TMPDIR", folder.path()).current_dir(folder.path()).process_group(0);
    command.stdout(std::fs::File::create(&output).unwrap()).stderr(std::fs::File::create(output.with_extension("errors")).unwrap());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let mut child = command.spawn().unwrap();
    let said = || std::fs::read_to_string(&output).unwrap();
    eventually(&what, || {
        assert_eq!(
            child.try_wait().unwrap(),
            None,
            "{what}: {}{}",
            said(),
            std::fs::read_to_string(output.with_extension("errors")).unwrap()
        );
        let come = match moment {
            Moment::Begun => catches_interrupts(child.id()),
            Moment::Folder => std::fs::read_dir(folder.path()).unwrap().next().is_some(),
            Moment::Sidecar => !processes(folder.path()).is_empty(),
            Moment::Traffic => said().contains("Three sidecars are ready"),
            Moment::Kept => said().contains("Ctrl-C ends it"),
        };
        come.then_some(())
    });
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    if gets == Gets::Group {
        killpg(pid, Signal::SIGINT).unwrap()
    } else {
        kill(pid, Signal::SIGINT).unwrap()
    }
    let status = eventually(&format!("the end: {what}"), || child.try_wait().unwrap());
    assert_eq!(status.success(), moment == Moment::Kept, "it did not show what it should: {what}");
    eventually(&format!("the sidecars' end: {what}"), || processes(folder.path()).is_empty().then_some(()));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "{what}: {left:?}");
    assert_eq!(traces(), before, "{what}");
    let errors = std::fs::read_to_string(output.with_extension("errors")).unwrap();
    assert!(["", "sidegate: interrupted\n"].contains(&errors.as_str()), "{what}: {errors}");
    for file in [&output, &output.with_extension("errors")] {
        std::fs::remove_file(file).unwrap();
    }
}

fn interrupt_at_each_moment(mode: &str, user: Option<u32>) {
    for moment in [Moment::Begun, Moment::Folder, Moment::Sidecar, Moment::Traffic, Moment::Kept] {
        for gets in [Gets::Group, Gets::Demo] {
            interrupt(mode, user, gets, moment);
        }
    }
}

#[test]
fn an_interrupt_leaves_nothing_behind_on_loopback() {
    interrupt_at_each_moment("loopback", None);
}

#[test]
fn an_interrupt_leaves_nothing_behind_as_root() {
    if require() {
        interrupt_at_each_moment("root", None);
    }
}

#[test]
fn an_interrupt_leaves_nothing_behind_in_a_user_namespace() {
    if !require() {
        return;
    }
    if std::fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone").is_ok_and(|n| n.trim() == "0") {
        return skipped("this kernel allows no user namespaces without root");
    }
    interrupt_at_each_moment("userns", nix::unistd::geteuid().is_root().then_some(65534));
}
