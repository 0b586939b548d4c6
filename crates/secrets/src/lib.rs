//! The only opener of files that hold secrets, so that none is read unseen.
//!
//! ```text
//! who needs a key -> open -> what it holds, erased when dropped
//!                      |
//!                      +--> Access: what for, which file, whether it worked -> the audit log
//!                                   (kept until the audit log is there)
//! ```
//!
//! ```
//! let folder = tempfile::tempdir()?;
//! let file = folder.path().join("key.pem");
//! std::fs::write(&file, "-----BEGIN PRIVATE KEY-----")?;
//!
//! let (sender, accesses) = std::sync::mpsc::channel();
//! let dropped = sidegate_secrets::follow(move |access| drop(sender.send(access)));
//! assert_eq!(dropped, 0);
//!
//! let key = sidegate_secrets::open("key of the example", &file)?;
//! assert!(key.starts_with(b"-----BEGIN"));
//! assert_eq!(accesses.recv()?.purpose, "key of the example");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it guarantees: only a regular file is read, and no more than [`SMALL`] bytes of it; what was read is erased when it is dropped, also
//! after an error; an [`Access`] holds nothing of the secret, not even a digest; a secret that is read again and again is told of
//! once, until it holds something else or fails in another way; what can't be kept until somebody follows is counted.
//!
//! There is one list for the process, as there is one audit log: a caller can't choose to be unseen. A test of the workspace finds code that
//! reads a secret without this crate.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod journal;

use std::io;
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use sidegate_config::file::{SMALL, read_into};
use zeroize::Zeroizing;

pub use journal::Access;
use journal::Journal;

static JOURNAL: LazyLock<Mutex<Journal>> = LazyLock::new(Mutex::default);

/// What the secret file at `path` holds. `purpose` says what for, as the audit log has it: `client key towards collector.example`.
///
/// # Errors
/// If it can't be read, is no regular file, or has more than [`SMALL`] bytes. The error holds nothing of the file.
pub fn open(purpose: &str, path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let outcome = read_into(path, SMALL, &mut bytes);
    let told = journal().add(purpose, path, outcome.as_ref().map(|()| bytes.as_slice()));
    // Without the lock: what a follower does is its own affair.
    if let Some((follower, access)) = told {
        follower(access);
    }
    outcome.map(|()| bytes)
}

/// Has `follower` told of each access from now on, and first of those before. It must not wait, and takes the place of an earlier
/// follower. Returns how many accesses there were for which there was no room.
pub fn follow(follower: impl Fn(Access) + Send + Sync + 'static) -> u64 {
    let (follower, before, dropped) = journal().follow(follower);
    before.into_iter().for_each(|access| follower(access));
    dropped
}

fn journal() -> MutexGuard<'static, Journal> {
    JOURNAL.lock().unwrap_or_else(PoisonError::into_inner)
}
