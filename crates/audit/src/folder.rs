//! The files of a log in one folder: the current file, the files before it, and what a crash has left.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use serde::Deserialize;
use sidegate_config::schema::audit::Retain;

use crate::chain::Position;
use crate::event::CheckpointCause;
use crate::key::Hash;
use crate::line::{self, LogLine, Next};

/// Why a folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system refuses.
    #[error("the audit log in {0} can't be written: {1}; see that the folder is there, and is this user's")]
    System(PathBuf, #[source] io::Error),
    /// Another process writes there.
    #[error("another process writes the audit log in {0}; give each sidecar a folder of its own")]
    Taken(PathBuf),
}

/// A log's files: `audit-` and the number of the first record, so that their names sort as they follow each other.
const PREFIX: &str = "audit-";
const SUFFIX: &str = ".jsonl";
/// At most this many bytes that are no part of the log are copied to a side note: more than a crash leaves.
const COPIED: u64 = 64 * 1024 * 1024;

/// The log's files in `folder`, in order. Only regular files count, so that a pipe with such a name does not block the reader.
///
/// # Errors
/// If the folder can't be read.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let digits = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
        let is_ours = digits.is_some_and(|digits| digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()));
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What the previous process has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftBehind {
    /// The name of its last file.
    pub(crate) file: String,
    /// Whether the log was closed.
    pub(crate) closed: bool,
    pub(crate) bytes_cut: u64,
    pub(crate) side_note: Option<String>,
}

/// A file that is not written any more.
///
/// These facts are taken when it ends, or at the start, and not read from the folder later: else anyone who can write there could
/// make us delete files that must stay, and sign that this was correct.
#[derive(Debug, Clone)]
pub(crate) struct FinishedFile {
    pub(crate) name: String,
    pub(crate) last_seq: u64,
    pub(crate) last_hash: Hash,
    bytes: u64,
    ended: SystemTime,
}

/// The folder, locked, and the file that is written.
pub(crate) struct Folder {
    path: PathBuf,
    /// The files before, the oldest first.
    finished: VecDeque<FinishedFile>,
    current: Option<CurrentFile>,
    /// The previous file, until the new one has a record on the disk.
    before: Option<Option<CurrentFile>>,
    /// An empty file that could not be deleted.
    leftover: Option<PathBuf>,
    /// The folder itself, locked as long as we write: a file in it that is the lock could be deleted. It stays open, so that a
    /// name can be synced even if there are no more descriptors.
    names: File,
}

impl Drop for Folder {
    /// A child process that is starting has a copy of each descriptor: only an explicit unlock ends the lock at once.
    fn drop(&mut self) {
        let _ = self.names.unlock();
    }
}

struct CurrentFile {
    name: String,
    /// Where the chain stands where it begins.
    begins: Position,
    file: File,
    len: u64,
    since: Instant,
    /// Part of a record may stand behind `len`, and could not be cut off.
    damaged: bool,
}

impl Folder {
    /// Locks the folder and finds where its log ends. What is behind the last whole and linked record is moved to a side
    /// note, so that nothing is lost; on a full disk it is lost if it `may_lose`, for that must not keep us from starting.
    pub(crate) fn open(path: &Path, may_lose: bool) -> Result<(Self, Position, Option<LeftBehind>), FolderError> {
        let system = |error| FolderError::System(path.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(system)?;
        let names = File::open(path).map_err(system)?;
        match names.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::Taken(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(system(error)),
        }
        let mut folder = Self { path: path.to_owned(), finished: VecDeque::new(), current: None, before: None, leftover: None, names };
        let mut files = files(path).map_err(system)?;
        // A file that was begun but neither used nor removed is no file of the log.
        for empty in files.extract_if(.., |file| file.metadata().is_ok_and(|file| file.len() == 0)) {
            let _ = remove(&empty);
        }
        let mut left: Option<LeftBehind> = None;
        while let Some(last) = files.pop() {
            let end = end_of(&last).map_err(system)?;
            let now = folder.cut(&last, &end, may_lose).map_err(system)?;
            let (bytes, note) = left.take().map_or((0, None), |before| (before.bytes_cut, before.side_note));
            let now = LeftBehind { bytes_cut: now.bytes_cut + bytes, side_note: now.side_note.or(note), ..now };
            if let Some(position) = end.position {
                files.push(last);
                folder.finished = finished(&files, position).map_err(system)?;
                return Ok((folder, position, Some(now)));
            }
            left = Some(now);
        }
        Ok((folder, Position::START, left))
    }

    /// Moves what is behind `end` to a side note. A file that has no record at all goes.
    fn cut(&self, file: &Path, end: &FileEnd, may_lose: bool) -> io::Result<LeftBehind> {
        let name = name_of(file);
        let mut left = LeftBehind { file: name.clone(), closed: end.closed, bytes_cut: end.total - end.good, side_note: None };
        let first = format!("{name}.cut-at-{}", end.good);
        // A rest that is too large to copy, such as a hole of many gigabytes, stays in place, and the file itself becomes the note.
        let becomes_note = end.position.is_none() || left.bytes_cut > COPIED;
        if left.bytes_cut > 0 {
            let noted = self.side_note(&first, |note| match becomes_note {
                true => std::fs::hard_link(file, note),
                false => copy(file, end.good, left.bytes_cut, note),
            });
            left.side_note = match noted {
                Err(error) if may_lose && is_full(&error) && !becomes_note => None,
                noted => Some(noted?),
            };
            self.sync_names()?;
        }
        if end.position.is_none() {
            std::fs::remove_file(file)?;
        } else if left.bytes_cut > 0 && becomes_note {
            let good = self.path.join(format!("{name}.good"));
            remove(&good)?;
            copy(file, 0, end.good, &good)?;
            std::fs::rename(good, file)?;
        } else if left.bytes_cut > 0 {
            let file = OpenOptions::new().write(true).open(file)?;
            file.set_len(end.good)?;
            file.sync_all()?;
        }
        self.sync_names()?;
        Ok(left)
    }

    /// Makes a side note of the name `first`; where that is taken, of the first free name with a number behind it. `make` must
    /// not replace what is there.
    fn side_note(&self, first: &str, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<String> {
        let mut name = first.to_owned();
        let mut number = 1;
        loop {
            match make(&self.path.join(&name)) {
                Ok(()) => return Ok(name),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    number += 1;
                    name = format!("{first}.{number}");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins a new file where the chain stands; the one before is let go of with that. Returns its name.
    pub(crate) fn begin(&mut self, begins: Position) -> io::Result<String> {
        let name = file_name(begins.seq);
        let path = self.path.join(&name);
        self.leftover = self.leftover.take().filter(|leftover| remove(leftover).is_err());
        // A file of another process must not be in the way either.
        if path.symlink_metadata().is_ok_and(|file| file.len() == 0) {
            std::fs::remove_file(&path)?;
        }
        let file = create(&path, OpenOptions::new().create_new(true).append(true))?;
        if let Err(error) = self.sync_names() {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        self.before =
            Some(self.current.replace(CurrentFile { name: name.clone(), begins, file, len: 0, since: Instant::now(), damaged: false }));
        Ok(name)
    }

    /// Takes back [`Folder::begin`] where no record came onto the disk after it: the file before goes on.
    pub(crate) fn go_back(&mut self) {
        if let Some(before) = self.before.take()
            && let Some(empty) = std::mem::replace(&mut self.current, before)
        {
            // A file that can't be deleted is at least truncated.
            let _ = empty.file.set_len(0);
            let path = self.path.join(empty.name);
            self.leftover = remove(&path).is_err().then_some(path);
            let _ = self.sync_names();
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

    /// Syncs the written lines to the disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        current.file.sync_data()?;
        if let Some(Some(before)) = self.before.take() {
            let Position { seq, prev } = current.begins;
            let (bytes, ended) = (before.len, SystemTime::now());
            self.finished.push_back(FinishedFile { name: before.name, last_seq: seq - 1, last_hash: prev, bytes, ended });
        }
        Ok(())
    }

    /// From now on writes are dropped, and the sync fails.
    #[cfg(test)]
    pub(crate) fn lose_writes(&mut self) {
        self.current.as_mut().unwrap().file = OpenOptions::new().append(true).open("/dev/null").unwrap();
    }

    /// Whether no file has begun yet.
    pub(crate) fn is_unbegun(&self) -> bool {
        self.current.is_none()
    }

    /// How large the file is, and since when it is written.
    pub(crate) fn size_and_since(&self) -> (u64, Instant) {
        self.current.as_ref().map_or_else(|| (0, Instant::now()), |current| (current.len, current.since))
    }

    /// The old files that `retain` does not keep, the oldest first.
    pub(crate) fn to_retire(&self, retain: &Retain) -> Vec<FinishedFile> {
        let mut files = self.finished.len() + 1;
        let mut bytes = self.finished.iter().map(|file| file.bytes).sum::<u64>() + self.size_and_since().0;
        let now = SystemTime::now();
        let goes = |file: &&FinishedFile| {
            let too_many = retain.files.is_some_and(|most| files > usize::try_from(most).unwrap_or(usize::MAX));
            let too_large = retain.bytes.is_some_and(|most| bytes > most);
            let age = now.duration_since(file.ended).unwrap_or_default();
            let too_old = retain.age.as_ref().is_some_and(|most| age > most.duration());
            files -= 1;
            bytes -= file.bytes;
            too_many || too_large || too_old
        };
        self.finished.iter().take_while(goes).cloned().collect()
    }

    /// Deletes the oldest file, with its side notes. One that is gone already is no failure.
    pub(crate) fn delete_oldest(&mut self) -> io::Result<()> {
        let Some(oldest) = self.finished.front() else { return Ok(()) };
        let note = format!("{}.cut-at-", oldest.name);
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&note)) {
                remove(&entry.path())?;
            }
        }
        remove(&self.path.join(&oldest.name))?;
        self.finished.pop_front();
        self.sync_names()
    }

    fn sync_names(&self) -> io::Result<()> {
        self.names.sync_all()
    }
}

fn file_name(seq: u64) -> String {
    format!("{PREFIX}{seq:020}{SUFFIX}")
}

/// The name of a file without its folder.
#[must_use]
pub fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn create(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(0o600).open(path)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Deletes a file. One that is gone already is no failure.
fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Brings `most` bytes of a file, from `from` on, into a new one; after an error there is none.
fn copy(file: &Path, from: u64, most: u64, to: &Path) -> io::Result<()> {
    let mut out = create(to, OpenOptions::new().create_new(true).write(true))?;
    let mut source = File::open(file)?;
    let copied = source.seek(SeekFrom::Start(from)).and_then(|_| io::copy(&mut source.take(most), &mut out)).and_then(|_| out.sync_all());
    if copied.is_err() {
        let _ = std::fs::remove_file(to);
    }
    copied
}

/// Where a file's whole and linked records end.
struct FileEnd {
    /// Behind the last of them; none if there is none.
    position: Option<Position>,
    /// Bytes of them.
    good: u64,
    /// Bytes of the file.
    total: u64,
    /// Whether the last of them closes the log.
    closed: bool,
}

fn end_of(path: &Path) -> io::Result<FileEnd> {
    let mut end = FileEnd { position: None, good: 0, total: path.metadata()?.len(), closed: false };
    let mut file = BufReader::with_capacity(64 * 1024, File::open(path)?);
    let (mut text, mut last) = (Vec::new(), Vec::new());
    while line::next(&mut file, &mut text)? == Next::Whole {
        let Ok((line, head)) = LogLine::parse(&text) else { break };
        if end.position.is_some_and(|last| (last.seq, last.prev) != (head.seq, line.prev)) {
            break;
        }
        end.position = Some(Position { seq: head.seq + head.records, prev: line.hash() });
        end.good += text.len() as u64 + 1;
        std::mem::swap(&mut text, &mut last);
    }
    end.closed = closes(&last);
    Ok(end)
}

/// Whether a line is the signed checkpoint that closes the log. Without a signature anyone could have written it.
fn closes(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct ClosingFields {
        event: String,
        cause: Option<CheckpointCause>,
        signature: Option<String>,
    }
    let is_end = |c: ClosingFields| c.event == "log.checkpoint" && c.cause == Some(CheckpointCause::Shutdown) && c.signature.is_some();
    serde_json::from_slice(line).is_ok_and(is_end)
}

/// What the files of earlier runs are, of which the last ends at `end`. Each says in its name and its first record how the one
/// before ended; if one does not, the files before it are never deleted.
fn finished(files: &[PathBuf], end: Position) -> io::Result<VecDeque<FinishedFile>> {
    let mut finished = VecDeque::new();
    for (i, file) in files.iter().enumerate() {
        let link = match files.get(i + 1) {
            Some(next) => first_link(next).ok().flatten().filter(|(seq, _)| *seq > 0 && file_name(*seq) == name_of(next)),
            None => Some((end.seq, end.prev)),
        };
        let Some((seq, last_hash)) = link else {
            finished.clear();
            continue;
        };
        let facts = file.metadata()?;
        finished.push_back(FinishedFile {
            name: name_of(file),
            last_seq: seq - 1,
            last_hash,
            bytes: facts.len(),
            ended: facts.modified()?,
        });
    }
    Ok(finished)
}

/// The number of a file's first record, and the hash of the one before.
fn first_link(path: &Path) -> io::Result<Option<(u64, Hash)>> {
    let mut text = Vec::new();
    let is_whole = line::next(&mut BufReader::new(File::open(path)?), &mut text)? == Next::Whole;
    let parsed = is_whole.then(|| LogLine::parse(&text).ok()).flatten();
    Ok(parsed.map(|(line, head)| (head.seq, line.prev)))
}

#[cfg(test)]
mod tests;
