//! What a machine may lack. What is absent is said aloud; where everything has to be there, it is a failure.

use std::path::PathBuf;
use std::process::Command;

use sidegate_devkit::pods::{Support, nft_support, support};

/// Set in CI, which installs everything: there nothing may be skipped.
const REQUIRE: &str = "SIDEGATE_REQUIRE_PEERS";

/// Says that the running test is skipped; fails where that is not allowed.
pub fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os(REQUIRE).is_none(), "{name} may not be skipped here, but: {why}");
    eprintln!("SKIPPED {name}: {why}");
}

/// Whether pods with kernel rules can be made; if not, the test is skipped.
pub fn require() -> bool {
    for what in [support(), nft_support()] {
        if let Support::NotPossible(why) = what {
            skipped(&why);
            return false;
        }
    }
    true
}

/// A program on PATH, or in the variable `SIDEGATE_TEST_NAME`.
pub fn program(name: &str) -> Option<PathBuf> {
    let variable = format!("SIDEGATE_TEST_{}", name.to_uppercase().replace('-', "_"));
    if let Some(path) = std::env::var_os(&variable) {
        return Some(path.into());
    }
    let output = Command::new("sh").args(["-c", &format!("command -v {name}")]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!path.is_empty()).then(|| path.into())
}
