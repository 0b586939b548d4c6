//! What strangers write never reaches a terminal as they wrote it, by whatever command it is shown.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use sidegate_core::is_control_or_bidi;
use sidegate_tests::{AuditLog, Echo, Pair, Sidecar, echo_bytes, eventually, id, on_a_terminal, sidegate};

const HOUR: Duration = Duration::from_secs(3600);
/// In YAML: moves the cursor, clears the screen, and turns the order of what follows.
const HOSTILE: &str = "\\e[2J\\e]0;x\\a\\x9b1A\\u202e\\u2066hostile";

/// Standard output and error of a command.
fn said(arguments: &[&str]) -> String {
    let output = Command::new(sidegate()).args(arguments).output().unwrap();
    [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat()
}

#[track_caller]
fn harmless(what: &str, text: &str) {
    assert!(text.contains("hostile"), "{what} does not show it: {text:?}");
    let obeyed = text.chars().find(|c| *c != '\n' && is_control_or_bidi(*c));
    assert_eq!(obeyed, None, "{what}: {text:?}");
}

/// A rule's name stands in records, in the log, and in what commands say.
#[test]
fn the_name_of_a_rule_is_shown_harmlessly_everywhere() {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, HOUR, &format!("{}drain: {{ settle: 0s, quiet: 50ms }}\n", AuditLog::config("", "")));
    let policy = format!("rules:\n  - name: \"{HOSTILE}\"\n    action: allow\n    from: {{ spiffeIds: [\"{}\"] }}\n", id("web"));
    pair.set_policy(&policy);
    eventually("the policy", || pair.api.log().contains("sidegate.policy.reloaded").then_some(()));
    let mut held = std::net::TcpStream::connect(pair.entry).unwrap();
    held.write_all(b"x").unwrap();
    held.read_exact(&mut [0]).unwrap();
    for more in [&["connections"][..], &["connections", "--json"]] {
        let (_, out, err) = pair.api.command(more);
        harmless(&more.join(" "), &format!("{out}{err}"));
    }
    drop(held);
    echo_bytes(pair.entry, 100, 1).unwrap();
    pair.api.reason("closed");
    pair.api.signal(Signal::SIGTERM);
    assert!(pair.api.wait_end().success());
    let folder = AuditLog::of(&pair.identities, "api").folder.display().to_string();
    let file = pair.identities.folder().join("api.policy.yaml").display().to_string();
    let from = id("web");
    let explain = ["policy", "explain", "--policy", &file, "--from", &from, "--to", "127.0.0.1:80"];
    let commands: [&[&str]; 4] =
        [&["audit", "show", &folder], &["audit", "show", &folder, "--json"], &explain, &[&explain[..], &["--json"]].concat()];
    for command in commands {
        harmless(&command.join(" "), &said(command));
    }
    // Denies what the first policy allowed, so that the difference names its rule.
    std::fs::write(pair.identities.folder().join("other.yaml"), "rules: []\n").unwrap();
    let other = pair.identities.folder().join("other.yaml").display().to_string();
    harmless("policy replay", &said(&["policy", "replay", "--policy", &other, "--audit", &folder]));
}

/// What a file says, and an answer that is none.
#[test]
fn mistakes_and_agents_are_quoted_harmlessly() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hostile.yaml");
    let name = |path: &Path| path.display().to_string();
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write(&format!("profile: \"{HOSTILE}\"\n"));
    for command in ["check", "run"] {
        harmless(command, &said(&[command, "--config", &name(&file)]));
    }
    harmless("redirect", &said(&["redirect", "show", "--config", &name(&file)]));
    harmless("authority", &said(&["authority", "--config", &name(&file)]));
    write(&format!("rules: [{{ name: \"{HOSTILE}\", action: \"{HOSTILE}\" }}]\n"));
    harmless("policy check", &said(&["policy", "check", "--policy", &name(&file)]));
    // By the name of a file, which is quoted with the error.
    let named = folder.path().join("\u{1b}[2J\u{202e}hostile");
    harmless("an unreadable file", &said(&["check", "--config", &name(&named)]));
    harmless("an unreadable log", &said(&["audit", "verify", &name(&named)]));
    harmless("no sidecar", &said(&["status", "--socket", &name(&named)]));
}

/// An agent that answers with what a terminal obeys, in all that shows what it says: readiness, `status`, `wait`, the log.
#[test]
fn what_an_agent_says_is_shown_harmlessly() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        listener.incoming().flatten().for_each(|stream| drop(std::thread::spawn(move || hostile_agent(stream))));
    });
    let config = format!(
        "profile: development\nidentity: {{ sources: [{{ workloadApi: {{ socket: 'unix://{}' }} }}] }}\ninbound: {{ listen: null }}\noutbound: {{ listen: null, listen6: null }}\n",
        socket.display()
    );
    let sidecar = Sidecar::start(folder.path(), "web", &config);
    let (_, ready) = eventually("its words", || sidecar.ask("/readyz").filter(|(_, why)| why.contains("hostile")));
    harmless("/readyz", &ready);
    for arguments in [&["status"][..], &["status", "--json"]] {
        let (_, out, err) = sidecar.command(arguments);
        harmless(&arguments.join(" "), &format!("{out}{err}"));
    }
    harmless("wait", &said(&["wait", "--admin", &sidecar.admin.to_string(), "--timeout", "100ms"]));
    harmless("the log", &sidecar.log());
}

/// An HTTP/2 server that answers every call with a gRPC error whose text a terminal obeys.
fn hostile_agent(mut stream: UnixStream) -> std::io::Result<()> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    // HPACK: `:status: 200` is in its table, the others are literals.
    let mut fields = vec![0x88];
    let text = "%1B%5B2J%C2%9B1A%E2%80%AE%0Ahostile";
    for (name, value) in [("content-type", "application/grpc"), ("grpc-status", "14"), ("grpc-message", text)] {
        fields.push(0);
        for part in [name, value] {
            fields.push(u8::try_from(part.len()).unwrap());
            fields.extend_from_slice(part.as_bytes());
        }
    }
    stream.read_exact(&mut [0; 24])?;
    stream.write_all(&[SETTINGS, SETTINGS_ACK].concat())?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, _, id @ ..] = head;
        stream.read_exact(&mut vec![0; u32::from_be_bytes([0, a, b, c]) as usize])?;
        if kind == 1 {
            // HEADERS, with END_HEADERS and END_STREAM.
            let length = u8::try_from(fields.len()).unwrap();
            stream.write_all(&[&[0, 0, length, 1, 5][..], &id, &fields].concat())?;
        }
    }
}

/// Colours are for eyes: on a terminal, unless somebody wants none, and never in a pipe.
#[test]
fn colours_are_for_terminals_only() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put("good.yaml", "profile: development\n");
    put("doubt.yaml", "profile: development\npolicy: { files: [all.yaml] }\n");
    put("bad.yaml", "profile: x\n");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    put("taken.yaml", &format!("profile: development\nadmin: {{ listen: '{listen}', socket: null }}\n"));
    put("all.yaml", "rules: [{ name: all, action: allow }]\n");
    put("suite.yaml", "expectations: [{ name: a, from: spiffe://a.b/c, to: ':80', expect: deny }]\n");
    let command = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(sidegate());
        command.current_dir(folder.path()).args(arguments).envs(variables.iter().copied());
        if !variables.iter().any(|(name, _)| *name == "NO_COLOR") {
            command.env_remove("NO_COLOR");
        }
        command
    };
    let terminal = ("TERM", "xterm");
    for (arguments, coloured) in [
        (&["check", "--config", "doubt.yaml"][..], "\u{1b}[1;33mwarning:\u{1b}[0m "),
        (&["check", "--config", "bad.yaml"], "\u{1b}[1;31msidegate:\u{1b}[0m "),
        (&["policy", "test", "suite.yaml", "--policy", "all.yaml"], "\u{1b}[1;31mFAILED\u{1b}[0m "),
        // Started in vain: what the log says is coloured, too.
        (&["run", "--config", "taken.yaml"], "\u{1b}[33m WARN\u{1b}[0m"),
        (&["--help"], "\u{1b}["),
    ] {
        let shown = |variables: &[(&str, &str)]| on_a_terminal(120, command(arguments, variables)).1;
        let text = shown(&[terminal]);
        assert!(text.contains(coloured), "{arguments:?}: {text:?}");
        assert!(shown(&[terminal, ("NO_COLOR", "")]).contains(coloured), "an empty NO_COLOR is none");
        let output = command(arguments, &[terminal]).output().unwrap();
        let piped = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        for plain in [shown(&[terminal, ("NO_COLOR", "1")]), shown(&[("TERM", "dumb")]), piped] {
            assert!(!plain.contains('\u{1b}') && !plain.is_empty(), "{arguments:?}: {plain:?}");
        }
    }
}
