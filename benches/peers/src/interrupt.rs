//! Ctrl-C: the rig's folder goes, and with the rig's process everything that it has started.

use std::path::PathBuf;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// Waits for such signals on a thread of its own. They are handled and not blocked, for a program that is started would
/// inherit that they are blocked.
#[allow(clippy::disallowed_methods, reason = "the main thread may be anywhere; the folder is gone, and the kernel ends what was started")]
pub(crate) fn watch(folder: PathBuf) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        });
        let _ = std::fs::remove_dir_all(&folder);
        eprintln!("interrupted");
        std::process::exit(130);
    })?;
    Ok(())
}
