//! `sidegate top` on a real terminal.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sidegate_tests::{DEADLINE, Echo, Pair, Sidecar, Terminal, id, read_all, sidegate};

const HOUR: Duration = Duration::from_secs(3600);

fn top(sidecar: &Sidecar, variables: &[(&str, &str)]) -> Terminal {
    let arguments = ["top", "--interval", "100ms", "--socket"].map(OsStr::new);
    Terminal::start(sidegate().as_os_str(), &[&arguments[..], &[sidecar.socket.as_os_str()]].concat(), variables)
}

fn open(pair: &Pair) -> TcpStream {
    let mut tcp = TcpStream::connect(pair.entry).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    tcp.write_all(b"hello").unwrap();
    tcp.read_exact(&mut [0; 5]).unwrap();
    tcp
}

/// The policy denies web; one connection tries.
fn refuse(pair: &Pair) {
    pair.set_policy("rules: []\n");
    pair.api.reason_of("denied_by_default", || drop(TcpStream::connect(pair.entry).map(|mut tcp| read_all(&mut tcp))));
}

#[test]
fn top_shows_who_is_connected_and_why_others_are_refused() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let held = open(&pair);
    let mut terminal = top(&pair.api, &[]);
    for part in [&id("api"), "ready, serving", "1 Connections 1", "DIR PEER", &id("web"), "q quit"] {
        terminal.wait(part);
    }
    terminal.wait_for("an inbound connection", |screen| screen.lines().any(|line| line.starts_with("in ")));
    assert!(terminal.is_coloured());
    // A rate, once bytes flow.
    terminal.wait_for("a rate", |screen| {
        (&held).write_all(&[1; 1000]).unwrap();
        (&held).read_exact(&mut [0; 1000]).unwrap();
        screen.split_whitespace().any(|word| word.ends_with("B/s") && !word.starts_with('0'))
    });
    // All of one connection, and back.
    terminal.press("\r");
    for part in ["connection  ", "rule        web", "transport   mtls", "sidegate cut "] {
        terminal.wait(part);
    }
    terminal.press("\x1b");
    terminal.wait("DIR PEER");
    // A filter that nothing fits, and none.
    terminal.press("/nobody\r");
    terminal.wait("No connection fits the filter.");
    terminal.wait("filter: nobody");
    terminal.press("\x1b");
    terminal.wait(&id("web"));
    terminal.press("ssr");
    terminal.wait("by bytes, reversed");

    // Any size is good for something, and none is too small.
    for (columns, rows) in [(120, 40), (40, 10), (1, 1), (80, 24)] {
        terminal.resize(columns, rows);
        if columns >= 40 {
            terminal.wait_for("the table", |screen| screen.contains("PEER") && screen.contains("FROM") == (columns >= 100));
        }
    }

    // What is refused while it looks, with what to do.
    terminal.press("2");
    terminal.wait("Nothing was refused since this began.");
    refuse(&pair);
    terminal.wait("denied_by_default");
    terminal.press("/denied\r");
    for part in ["filter: denied", "No allow rule covers the connection.", "What to do: ", "2 Refusals "] {
        terminal.wait(part);
    }
    terminal.press("\r");
    for part in ["meaning     No allow rule", "cause       ", "what to do  ", &id("web")] {
        terminal.wait(part);
    }
    terminal.press("3");
    for part in ["identity    ", "expires in ", "bundle      test.sidegate: 1 CA", "source      workload API"] {
        terminal.wait(part);
    }
    terminal.press("\t");
    for part in ["WAITING", "REUSED", "outbound"] {
        terminal.wait(part);
    }
    terminal.press("q");
    assert!(terminal.wait_restored().success());
}

/// However it ends, the terminal is as it was.
#[test]
fn the_terminal_is_given_back() {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, HOUR, "");
    refuse(&pair);
    let mut terminal = top(&pair.api, &[("NO_COLOR", "1")]);
    // What was refused before is known where the sidecar remembers it.
    terminal.press("2");
    terminal.wait("denied_by_default");
    assert!(!terminal.is_coloured());
    terminal.press("\x03");
    assert!(terminal.wait_restored().success());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut terminal = top(&pair.api, &[]);
        terminal.wait("ready, serving");
        kill(Pid::from_raw(i32::try_from(terminal.child.id()).unwrap()), signal).unwrap();
        assert!(terminal.wait_restored().success(), "{signal}");
    }
    // A sidecar that hangs is told of; one that ends is the end.
    let mut terminal = top(&pair.api, &[]);
    terminal.wait("ready, serving");
    pair.api.stop();
    terminal.wait("NO ANSWER for ");
    terminal.wait("no answer: ");
    pair.api.signal(Signal::SIGCONT);
    terminal.wait_for("an answer", |screen| !screen.contains("NO ANSWER"));
    pair.api.kill();
    assert!(terminal.wait_restored().success());
    terminal.wait("the sidecar has ended");
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let output = Command::new(sidegate()).args(["top", "--socket", "/nowhere"]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("needs a terminal") && said.contains("`sidegate connections`"), "{said}");
    assert!(output.stdout.is_empty());
    for (interval, why) in [("50ms", "must be between 100ms and 1h"), ("often", "invalid value 'often'")] {
        let output = Command::new(sidegate()).args(["top", "--interval", interval]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(why), "{said}");
    }
}
