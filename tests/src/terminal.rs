//! A terminal for a command.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};
use rustix::termios::tcsetwinsize;
use sidegate_devkit::harness::eventually;

/// What `command` says on standard output and standard error to a terminal of that width, and its end.
pub fn on_a_terminal(columns: u16, mut command: Command) -> (ExitStatus, String) {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
    let mut child = command.stdout(slave.try_clone().unwrap()).stderr(slave).spawn().unwrap();
    // The terminal ends with the last that holds it.
    drop(command);
    let (mut text, mut master) = (Vec::new(), std::fs::File::from(master));
    let _ = master.read_to_end(&mut text);
    (child.wait().unwrap(), String::from_utf8(text).unwrap().replace("\r\n", "\n"))
}

/// A terminal of 80 by 24 that shows what a command draws, and types. Dropping it kills the command.
pub struct Terminal {
    /// The command: `setsid`, which becomes it.
    pub child: Child,
    keys: File,
    shown: Arc<Mutex<vt100::Parser>>,
    before: Termios,
}

impl Terminal {
    /// Starts `program` with `arguments` and `variables`; it is the first process of the terminal's session.
    pub fn start(program: &OsStr, arguments: &[&OsStr], variables: &[(&str, &str)]) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        let before = tcgetattr(&master).unwrap();
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program).args(arguments).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        command.envs(variables.iter().copied());
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let child = command.spawn().unwrap();
        let keys = File::from(master);
        let shown = Arc::new(Mutex::new(vt100::Parser::new(24, 80, 0)));
        let (mut output, sink) = (keys.try_clone().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                sink.lock().unwrap().process(&buffer[..read]);
            }
        });
        Self { child, keys, shown, before }
    }

    /// Types `keys`.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Changes its size.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.shown.lock().unwrap().screen_mut().set_size(rows, columns);
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keys, size).unwrap();
    }

    /// What it shows.
    pub fn screen(&self) -> String {
        self.shown.lock().unwrap().screen().contents()
    }

    /// Whether anything on it has a colour.
    pub fn is_coloured(&self) -> bool {
        let shown = self.shown.lock().unwrap();
        let (rows, columns) = shown.screen().size();
        let coloured = |row, column| {
            shown
                .screen()
                .cell(row, column)
                .is_some_and(|cell| [cell.fgcolor(), cell.bgcolor()].iter().any(|c| *c != vt100::Color::Default))
        };
        (0..rows).any(|row| (0..columns).any(|column| coloured(row, column)))
    }

    /// Waits until it shows `text`.
    #[track_caller]
    pub fn wait(&self, text: &str) {
        self.wait_for(text, |screen| screen.contains(text));
    }

    /// Waits until what it shows is so.
    #[track_caller]
    pub fn wait_for(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let end = std::time::Instant::now() + sidegate_devkit::harness::DEADLINE;
        while !is_so(&self.screen()) {
            assert!(std::time::Instant::now() < end, "it does not show {what}:\n{}", self.screen());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Waits for the end of the command, after which the terminal has to be as it was before.
    #[track_caller]
    pub fn wait_restored(&mut self) -> ExitStatus {
        let status = eventually("the end of the command", || self.child.try_wait().unwrap());
        eventually("the screen as it was", || {
            let shown = self.shown.lock().unwrap();
            (!shown.screen().alternate_screen() && !shown.screen().hide_cursor()).then_some(())
        });
        assert_eq!(tcgetattr(&self.keys).unwrap(), self.before);
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
