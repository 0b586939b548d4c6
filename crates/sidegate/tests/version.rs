//! The binary as it is built: with it, `cargo test --workspace` builds what the end-to-end tests run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

#[test]
fn it_says_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_sidegate")).arg("--version").output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with(concat!("sidegate ", env!("CARGO_PKG_VERSION"), " (")), "{said}");
}
