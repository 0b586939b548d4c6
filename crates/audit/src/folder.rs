//! The files of a log in one folder: the one that is written, the ones before it, and what a crash has left.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use serde::Deserialize;
use sidegate_config::schema::audit::Retain;

use crate::chain::Position;
use crate::event::CheckpointCause;
use crate::key::Hash;
use crate::line::Line;

/// Why a folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system refuses.
    #[error("the audit log in {0} can't be written: {1}; see that the folder is there, and is this user's")]
    System(PathBuf, #[source] io::Error),
    /// Somebody else writes there.
    #[error("another process writes the audit log in {0}; give each sidecar a folder of its own")]
    Taken(PathBuf),
}

/// A log's files: `audit-` and the number of the first record, so that their names sort as they follow each other.
const PREFIX: &str = "audit-";
const SUFFIX: &str = ".jsonl";

/// The log's files in `folder`, in order.
///
/// # Errors
/// If the folder can't be read.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let digits = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
        if digits.is_some_and(|digits| digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What the last process has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    /// The name of its last file.
    pub(crate) file: String,
    /// Whether the log was closed.
    pub(crate) closed: bool,
    pub(crate) bytes_cut: u64,
    pub(crate) side_note: Option<String>,
}

/// An old file that is not to stay.
pub(crate) struct Retired {
    path: PathBuf,
    pub(crate) name: String,
    pub(crate) last_seq: u64,
    pub(crate) last_hash: Hash,
}

/// The folder, locked, and the file that is written.
pub(crate) struct Folder {
    path: PathBuf,
    current: Option<Current>,
    /// The one before, as long as the new one has no record on the disk.
    before: Option<Current>,
    /// The folder itself. Open all the time, so that a name can be synced also where no more descriptors are to be had.
    names: File,
    /// Held as long as we write.
    _lock: File,
}

struct Current {
    name: String,
    file: File,
    len: u64,
    since: Instant,
    /// Part of a record may stand behind `len`, and could not be cut off.
    damaged: bool,
}

impl Folder {
    /// Locks the folder and finds where its log ends. What is behind the last whole and linked record is moved to a side
    /// note, so that nothing is lost.
    pub(crate) fn open(path: &Path) -> Result<(Self, Position, Option<Left>), FolderError> {
        let system = |error| FolderError::System(path.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(system)?;
        let lock = create(&path.join("lock"), OpenOptions::new().create(true).write(true).truncate(false)).map_err(system)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::Taken(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(system(error)),
        }
        let names = File::open(path).map_err(system)?;
        let folder = Self { path: path.to_owned(), current: None, before: None, names, _lock: lock };
        let mut files = files(path).map_err(system)?;
        let mut left: Option<Left> = None;
        while let Some(last) = files.pop() {
            let end = end_of(&last).map_err(system)?;
            let now = folder.cut(&last, &end).map_err(system)?;
            let (bytes, note) = left.take().map_or((0, None), |before| (before.bytes_cut, before.side_note));
            let now = Left { bytes_cut: now.bytes_cut + bytes, side_note: now.side_note.or(note), ..now };
            if let Some(position) = end.position {
                return Ok((folder, position, Some(now)));
            }
            left = Some(now);
        }
        Ok((folder, Position::START, left))
    }

    /// Moves what is behind `end` to a side note. A file that has no record at all goes.
    fn cut(&self, file: &Path, end: &End) -> io::Result<Left> {
        let name = name_of(file);
        let mut left = Left { file: name.clone(), closed: end.closed, bytes_cut: end.total - end.good, side_note: None };
        if left.bytes_cut > 0 {
            let text = std::fs::read(file)?;
            let good = usize::try_from(end.good).unwrap_or(usize::MAX).min(text.len());
            let note = format!("{name}.cut-at-{}", end.good);
            let mut out = create(&self.path.join(&note), OpenOptions::new().create(true).write(true).truncate(true))?;
            out.write_all(&text[good..])?;
            out.sync_all()?;
            left.side_note = Some(note);
        }
        if end.position.is_none() {
            std::fs::remove_file(file)?;
        } else if left.bytes_cut > 0 {
            let file = OpenOptions::new().write(true).open(file)?;
            file.set_len(end.good)?;
            file.sync_all()?;
        }
        self.sync_names()?;
        Ok(left)
    }

    /// Begins a new file, whose first record is `seq`; the one before is let go of with that. Returns its name.
    pub(crate) fn begin(&mut self, seq: u64) -> io::Result<String> {
        let name = file_name(seq);
        let path = self.path.join(&name);
        // What an attempt has left that could not be taken back.
        if path.symlink_metadata().is_ok_and(|file| file.len() == 0) {
            std::fs::remove_file(&path)?;
        }
        let file = create(&path, OpenOptions::new().create_new(true).append(true))?;
        if let Err(error) = self.sync_names() {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        self.before = self.current.replace(Current { name: name.clone(), file, len: 0, since: Instant::now(), damaged: false });
        Ok(name)
    }

    /// Takes back [`Folder::begin`] where no record came onto the disk after it: the file before goes on.
    pub(crate) fn go_back(&mut self) {
        if let Some(before) = self.before.take()
            && let Some(empty) = self.current.replace(before)
        {
            // One that can't be deleted is at least empty.
            let _ = empty.file.set_len(0);
            let _ = std::fs::remove_file(self.path.join(empty.name));
        }
    }

    /// Adds whole lines: all of them, or after an error none.
    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Err(io::Error::other("no file has begun")) };
        if current.damaged {
            current.file.set_len(current.len)?;
            current.damaged = false;
        }
        match current.file.write_all(lines) {
            Ok(()) => {
                current.len += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                current.damaged = current.file.set_len(current.len).is_err();
                Err(error)
            }
        }
    }

    /// Brings what was written onto the disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.current.as_ref().map_or(Ok(()), |current| current.file.sync_data())?;
        self.before = None;
        Ok(())
    }

    /// From now on what is written is dropped, and the sync fails.
    #[cfg(test)]
    pub(crate) fn lose_writes(&mut self) {
        self.current.as_mut().unwrap().file = OpenOptions::new().append(true).open("/dev/null").unwrap();
    }

    /// How large the file is, and since when it is written.
    pub(crate) fn size_and_since(&self) -> (u64, Instant) {
        self.current.as_ref().map_or_else(|| (0, Instant::now()), |current| (current.len, current.since))
    }

    /// The old files that `retain` does not keep, the oldest first.
    pub(crate) fn to_retire(&self, retain: &Retain) -> io::Result<Vec<Retired>> {
        let mut files = files(&self.path)?;
        // An empty one, which could be begun but not taken back, is no link of the chain.
        files.retain(|file| file.metadata().is_ok_and(|file| file.len() > 0));
        let sizes = files.iter().map(|file| Ok(file.metadata()?.len())).collect::<io::Result<Vec<u64>>>()?;
        let mut bytes: u64 = sizes.iter().sum();
        let mut retired = Vec::new();
        for (i, (pair, size)) in files.windows(2).zip(&sizes).enumerate() {
            let [file, next] = pair else { break };
            let too_many = retain.files.is_some_and(|most| files.len() - i > usize::try_from(most).unwrap_or(usize::MAX));
            let too_large = retain.bytes.is_some_and(|most| bytes > most);
            let written = file.metadata()?.modified()?;
            let age = SystemTime::now().duration_since(written).unwrap_or_default();
            let too_old = retain.age.as_ref().is_some_and(|most| age > most.duration());
            if !(too_many || too_large || too_old) {
                break;
            }
            // What follows says how it ended.
            let Some((seq, last_hash)) = first_link(next)? else { break };
            bytes -= size;
            retired.push(Retired { path: file.clone(), name: name_of(file), last_seq: seq - 1, last_hash });
        }
        Ok(retired)
    }

    /// Deletes a file. One that is gone already is no failure.
    pub(crate) fn delete(&self, retired: &Retired) -> io::Result<()> {
        match std::fs::remove_file(&retired.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync_names(),
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        self.names.sync_all()
    }
}

fn file_name(seq: u64) -> String {
    format!("{PREFIX}{seq:020}{SUFFIX}")
}

pub(crate) fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn create(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(0o600).open(path)
}

/// Where a file's whole and linked records end.
struct End {
    /// Behind the last of them; none if there is none.
    position: Option<Position>,
    /// Bytes of them.
    good: u64,
    /// Bytes of the file.
    total: u64,
    /// Whether the last of them closes the log.
    closed: bool,
}

fn end_of(path: &Path) -> io::Result<End> {
    let mut end = End { position: None, good: 0, total: path.metadata()?.len(), closed: false };
    let mut file = BufReader::with_capacity(64 * 1024, File::open(path)?);
    let mut text = Vec::new();
    loop {
        text.clear();
        let read = file.read_until(b'\n', &mut text)? as u64;
        let Some(whole) = text.strip_suffix(b"\n") else { return Ok(end) };
        let Ok((line, head)) = Line::parse(whole) else { return Ok(end) };
        if end.position.is_some_and(|last| (last.seq, last.prev) != (head.seq, line.prev)) {
            return Ok(end);
        }
        end.position = Some(Position { seq: head.seq + head.records, prev: line.hash() });
        end.good += read;
        end.closed = closes(whole);
    }
}

/// Whether a line is the checkpoint with which the log is closed.
fn closes(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Checkpoint {
        event: String,
        cause: Option<CheckpointCause>,
    }
    serde_json::from_slice(line).is_ok_and(|c: Checkpoint| c.event == "log.checkpoint" && c.cause == Some(CheckpointCause::Shutdown))
}

/// The number of a file's first record, and the hash of the one before.
fn first_link(path: &Path) -> io::Result<Option<(u64, Hash)>> {
    let mut text = Vec::new();
    BufReader::new(File::open(path)?).read_until(b'\n', &mut text)?;
    let parsed = text.strip_suffix(b"\n").and_then(|whole| Line::parse(whole).ok());
    Ok(parsed.map(|(line, head)| (head.seq, line.prev)))
}
