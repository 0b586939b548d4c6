//! Waiting until watched files change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::Watcher;
use tokio::sync::mpsc;

use crate::aside;

/// Related files are written one after the other: they are read when nothing has changed for this long.
const SETTLE: Duration = Duration::from_millis(100);
/// Other files beside the watched ones may change all the time: changes are reported after this time at the latest.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Network file systems send no events, and a directory may not exist yet: files are looked at this often at least.
const POLL: Duration = Duration::from_secs(10);

/// A watch on a set of files and directories. A file is watched through its directory, since a file that is replaced by renaming is
/// another file afterwards. A directory is watched with its entries.
#[derive(Debug)]
pub struct FileWatch {
    changed: mpsc::Receiver<()>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl FileWatch {
    /// Watches `paths`. Where the system can't, the second value says why, and [`FileWatch::changed`] still ends from
    /// time to time.
    #[must_use]
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> (Self, Option<String>) {
        // A capacity of one is enough: a full channel already says that something changed.
        let (events, changed) = mpsc::channel(1);
        match watcher(paths, events) {
            Ok(watcher) => (Self { changed, _watcher: Some(watcher) }, None),
            Err(error) => Self::unwatched(&error),
        }
    }

    /// As [`FileWatch::new`], on a thread of its own, since a network file system may not answer.
    pub async fn aside(paths: Vec<PathBuf>) -> (Self, Option<String>) {
        match aside("watch", move || Self::new(&paths), || {}).await {
            Ok(watch) => watch,
            Err(error) => Self::unwatched(&error),
        }
    }

    fn unwatched(why: &dyn std::fmt::Display) -> (Self, Option<String>) {
        let (_, changed) = mpsc::channel(1);
        let why = format!("files are only looked at every {} s, since they can't be watched: {why}", POLL.as_secs());
        (Self { changed, _watcher: None }, Some(why))
    }

    /// Waits until something may have changed. The caller compares: it may also be nothing.
    pub async fn changed(&mut self) {
        match tokio::time::timeout(POLL, self.changed.recv()).await {
            Ok(Some(())) => {
                let settled = async { while let Ok(Some(())) = tokio::time::timeout(SETTLE, self.changed.recv()).await {} };
                let _ = tokio::time::timeout(SETTLE_TIMEOUT, settled).await;
            }
            Ok(None) => tokio::time::sleep(POLL).await,
            Err(_) => {}
        }
    }
}

fn watcher<'a>(paths: impl IntoIterator<Item = &'a PathBuf>, events: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is an event too; only what may have changed it counts.
        if event.is_ok_and(|e| !e.kind.is_access()) {
            let _ = events.try_send(());
        }
    })?;
    let watched = |path: &'a PathBuf| path.parent().into_iter().chain(path.is_dir().then_some(path.as_path()));
    let mut directories: Vec<&Path> = paths.into_iter().flat_map(watched).collect();
    directories.sort_unstable();
    directories.dedup();
    for directory in directories {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        watcher.watch(directory, notify::RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}
