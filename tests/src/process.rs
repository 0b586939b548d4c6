//! Programs that sidegate has to get along with, as processes of the test.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use crate::wait::eventually;

/// A running program, whose output goes to a file. Dropping it kills it.
pub struct Process {
    /// The process. What `command` had as pipes is here.
    pub child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its standard error goes to `log`. Standard output and input are as the command has them.
    pub fn start(mut command: Command, log: &Path) -> Self {
        command.stderr(std::fs::File::create(log).unwrap());
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, log: log.to_owned() }
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it listens on `address`. Nobody connects for that, so that it sees the test's connections only.
    #[track_caller]
    pub fn wait_listening(&mut self, address: SocketAddr) {
        eventually("the program's listener", || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}\n{}", self.log());
            listening(address).then_some(())
        });
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        eventually("the program's end", || self.child.try_wait().unwrap())
    }

    /// Reads exactly `length` bytes of its standard output.
    pub fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let read = self.child.stdout.as_mut().unwrap().read_exact(&mut bytes);
        read.unwrap_or_else(|e| panic!("{e}\n{}", self.log()));
        bytes
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Whether a socket listens on this IPv4 address, by the kernel's table.
fn listening(address: SocketAddr) -> bool {
    let SocketAddr::V4(v4) = address else { panic!("{address} is not IPv4") };
    let shown = format!("{:08X}:{:04X} 00000000:0000 0A", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&shown)
}
