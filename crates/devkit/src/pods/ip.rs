//! Running `ip`.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use super::error::PodError;

/// Runs many `ip` commands in one process, in the network namespace of the calling thread.
pub(crate) fn batch(pod: &str, script: &str) -> Result<(), PodError> {
    let start = |source: io::Error| PodError::Start { program: "ip".to_owned(), source };
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If ip has given up already, what it says on stderr tells more than our broken pipe.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(());
    }
    Err(PodError::Ip {
        pod: pod.to_owned(),
        script: script.trim_end().to_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
