//! A terminal for a command.

use std::io::Read;
use std::process::{Command, ExitStatus};

use nix::pty::{OpenptyResult, Winsize, openpty};

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
