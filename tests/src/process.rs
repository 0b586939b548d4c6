//! Programs that sidegate has to get along with, as processes of the test.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use sidegate_devkit::harness::eventually;

/// A running program, whose output goes to a file. Dropping it kills it.
pub struct Process {
    /// The process. If `command` had a pipe for standard input, it is here.
    pub child: Child,
    /// What it has written to standard output, if that is a pipe, and nobody has taken yet.
    output: Arc<Mutex<Vec<u8>>>,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its standard error goes to `log`. Standard output and input are as the command has them.
    pub fn start(mut command: Command, log: &Path) -> Self {
        command.stderr(std::fs::File::create(log).unwrap());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let output = Arc::new(Mutex::new(Vec::new()));
        if let Some(mut stdout) = child.stdout.take() {
            let output = output.clone();
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = stdout.read(&mut buffer) {
                    output.lock().unwrap().extend_from_slice(&buffer[..read]);
                }
            });
        }
        Self { child, output, log: log.to_owned() }
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

    /// Takes the first `length` bytes of its standard output, when they have come.
    #[track_caller]
    pub fn read(&mut self, length: usize) -> Vec<u8> {
        let take = || {
            let mut output = self.output.lock().unwrap();
            (output.len() >= length).then(|| output.drain(..length).collect())
        };
        eventually(&format!("{length} bytes of output"), take)
    }

    /// Takes all the rest of its standard output, when it has ended.
    #[track_caller]
    pub fn read_rest(&mut self) -> Vec<u8> {
        // The thread that reads lets go of its half at the end.
        eventually("the end of its output", || (Arc::strong_count(&self.output) == 1).then_some(()));
        std::mem::take(&mut *self.output.lock().unwrap())
    }

    /// Waits until its standard output, since it was last taken, has `text`.
    #[track_caller]
    pub fn wait_output(&self, text: &str) {
        let has = || self.output.lock().unwrap().windows(text.len()).any(|window| window == text.as_bytes());
        eventually(&format!("`{text}` in its output"), || has().then_some(()));
    }

    /// Waits until its standard error has `text`.
    #[track_caller]
    pub fn wait_log(&self, text: &str) {
        eventually(&format!("`{text}` in {}", self.log.display()), || self.log().contains(text).then_some(()));
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
