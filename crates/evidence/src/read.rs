//! Reading a log: record after record, decrypted where a key is given. Nothing is verified here, except that a second reading
//! yields the log that was verified.

mod again;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidegate_core::printable;

use self::again::Again;
use crate::decryption::AuditorKeys;
use sidegate_audit::Event;
use sidegate_audit::folder::{self, name_of};
use sidegate_audit::line::{self, LONGEST, Next};

/// A record of the log: a line of its file, or one of those that an encrypted line holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The version of the format: 1.
    pub v: u32,
    /// Its number. Each is one more than the last, over all files.
    pub seq: u64,
    /// When it happened, RFC 3339 in UTC with microseconds.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// SHA-256 of the line before, hexadecimal; zeros in the first. Encrypted records have none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<String>,
    /// HMAC-SHA256 under the epoch's key of the SHA-256 of the line up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Of a checkpoint: the signature of the line up to here, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// Why a log can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no log.
    #[error("{0} holds no audit log: it is a folder with files audit-….jsonl, or one of these files")]
    NoLog(PathBuf),
    /// It is encrypted, and no key fits.
    #[error("{0} is encrypted; give an auditor's key with --identity")]
    Encrypted(PathBuf),
    /// The system refuses.
    #[error("{0} can't be read")]
    File(PathBuf, #[source] io::Error),
    /// A line is not a record.
    #[error("{file}:{line}: is no record: {why}", file = .file.display())]
    Line {
        /// In which file.
        file: PathBuf,
        /// Which line of it.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
}

/// The files of the log at `path`, in order: a folder's, or the one file.
///
/// # Errors
/// If there is none.
pub fn log_files(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let failed = |error| ReadError::File(path.to_owned(), error);
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let files = folder::files(path).map_err(failed)?;
    if files.is_empty() { Err(ReadError::NoLog(path.to_owned())) } else { Ok(files) }
}

/// The records of some files. A line that is no record is an error, and so is a file that can't be read; the next one goes on.
///
/// After the last one there may be more, as the log is written: then the iterator goes on.
pub struct Records<'a> {
    /// The files that follow.
    files: VecDeque<PathBuf>,
    keys: &'a AuditorKeys,
    /// The one that is read.
    open: Option<OpenFile>,
    /// The file before it: the writer continues in it if a new one could not be begun.
    before: Option<OpenFile>,
    /// The file after it that has a line.
    ahead: Option<OpenFile>,
    /// The last file that could not be read.
    failed: Option<PathBuf>,
    /// Records of an encrypted line.
    opened: VecDeque<Record>,
    /// Whether the lines are those that were verified.
    again: Option<Again>,
}

/// A line with its file and number.
struct RawLine {
    file: PathBuf,
    number: u64,
    text: Vec<u8>,
}

/// A file that is read.
struct OpenFile {
    path: PathBuf,
    file: BufReader<File>,
    /// Lines that were read.
    lines: u64,
}

impl OpenFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: BufReader::with_capacity(64 * 1024, File::open(path)?), lines: 0 })
    }

    /// One that is new, and has a line.
    fn with_line(path: &Path) -> io::Result<Option<Self>> {
        let mut open = Self::new(path)?;
        let next = line::next(&mut open.file, &mut Vec::new())?;
        open.file.rewind()?;
        Ok(matches!(next, Next::Whole | Next::TooLong).then_some(open))
    }

    /// The next line; a partial line is not consumed.
    fn next_line(&mut self, text: &mut Vec<u8>) -> io::Result<Next> {
        let next = line::next(&mut self.file, text)?;
        match next {
            Next::Whole => self.lines += 1,
            Next::TooLong => {
                self.lines += 1;
                self.file.skip_until(b'\n')?;
            }
            Next::Part => self.file.seek_relative(-i64::try_from(text.len()).unwrap_or(0))?,
            Next::End => {}
        }
        Ok(next)
    }
}

impl<'a> Records<'a> {
    /// The records of these files, in this order. An encrypted line without a matching key is one record.
    #[must_use]
    pub fn new(files: Vec<PathBuf>, keys: &'a AuditorKeys) -> Self {
        Self { files: files.into(), keys, open: None, before: None, ahead: None, failed: None, opened: VecDeque::new(), again: None }
    }

    /// The records at `path`, a log's folder or one of its files.
    ///
    /// # Errors
    /// If there is none.
    pub fn of(path: &Path, keys: &'a AuditorKeys) -> Result<Self, ReadError> {
        Ok(Self::new(log_files(path)?, keys))
    }

    /// The same, of a log that was verified: from record `first_seq` to `last_seq`, whose line has the hash `last_hash`. What
    /// follows is not read. [`Records::change`] says whether the lines are those that were verified.
    ///
    /// # Errors
    /// If there is none.
    pub fn again(path: &Path, keys: &'a AuditorKeys, first_seq: u64, last_seq: u64, last_hash: &str) -> Result<Self, ReadError> {
        Ok(Self { again: Some(Again::new(first_seq, last_seq, last_hash)), ..Self::of(path, keys)? })
    }

    /// The file and line at which the log is not the one that was verified; line 0 where it ends too early. It is known when all
    /// records have been read.
    #[must_use]
    pub fn change(&self) -> Option<(String, u64)> {
        self.again.as_ref()?.change()
    }

    /// Looks for new files in the log's folder `path`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn look_for_more(&mut self, path: &Path) -> Result<(), ReadError> {
        let open = self.ahead.as_ref().or(self.open.as_ref()).map(|open| &open.path);
        let last = open.max(self.failed.as_ref());
        self.files = log_files(path)?.into_iter().filter(|file| last.is_none_or(|last| file > last)).collect();
        Ok(())
    }

    /// The next line. A partial line is not read: its writer has not finished it yet.
    fn line(&mut self) -> Option<Result<RawLine, ReadError>> {
        let mut text = Vec::new();
        loop {
            let Some(open) = &mut self.open else {
                let path = self.files.pop_front()?;
                match OpenFile::new(&path) {
                    Ok(open) => self.open = Some(open),
                    Err(error) => return Some(Err(self.give_up(path, error))),
                }
                continue;
            };
            match open.next_line(&mut text) {
                Ok(Next::Whole) => return Some(Ok(RawLine { file: open.path.clone(), number: open.lines, text })),
                Ok(Next::TooLong) => {
                    let why = format!("it is longer than {LONGEST} bytes");
                    return Some(Err(ReadError::Line { file: open.path.clone(), line: open.lines, why }));
                }
                // The file was removed again, or has no line yet.
                Ok(Next::Part | Next::End) if open.file.get_ref().metadata().is_ok_and(|file| file.len() == 0) => {
                    self.open = self.before.take();
                    if self.open.is_none() && self.files.is_empty() {
                        return None;
                    }
                }
                Ok(Next::Part | Next::End) => {
                    // Lines that came into this file before the next one was begun have been read by now.
                    if let Some(ahead) = self.ahead.take() {
                        self.before = self.open.replace(ahead);
                    } else if let Err(error) = self.look_ahead() {
                        return Some(Err(error));
                    } else if self.ahead.is_none() {
                        return None;
                    }
                }
                Err(error) => {
                    let path = open.path.clone();
                    (self.open, self.before) = (None, None);
                    return Some(Err(self.give_up(path, error)));
                }
            }
        }
    }

    /// Opens the first of the further files that has a line. The writer may remove a file without one.
    fn look_ahead(&mut self) -> Result<(), ReadError> {
        let Some((mut at, mut open)) = self.first_with_line(self.files.len())? else { return Ok(()) };
        // One before it may have got its first line meanwhile. Now that a later one has lines, it gets no more.
        if let Some(earlier) = self.first_with_line(at)? {
            (at, open) = earlier;
        }
        self.files.drain(..=at);
        self.ahead = Some(open);
        Ok(())
    }

    /// The first of the next `count` files that has a line, with its index.
    fn first_with_line(&mut self, count: usize) -> Result<Option<(usize, OpenFile)>, ReadError> {
        for at in 0..count {
            match OpenFile::with_line(&self.files[at]) {
                Ok(Some(open)) => return Ok(Some((at, open))),
                Ok(None) => {}
                Err(error) => {
                    let path = self.files.remove(at).unwrap_or_default();
                    return Err(self.give_up(path, error));
                }
            }
        }
        Ok(None)
    }

    /// A file that can't be read is not tried again; one that is gone may come again.
    fn give_up(&mut self, path: PathBuf, error: io::Error) -> ReadError {
        if error.kind() != io::ErrorKind::NotFound {
            self.failed = self.failed.take().max(Some(path.clone()));
        }
        ReadError::File(path, error)
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(opened) = self.opened.pop_front() {
                return Some(Ok(opened));
            }
            if self.again.as_ref().is_some_and(Again::is_done) {
                return None;
            }
            let line = self.line()?;
            if let Some(again) = &mut self.again {
                match &line {
                    Ok(line) => again.line(name_of(&line.file), line.number, Some(&line.text)),
                    Err(ReadError::Line { file, line, .. }) => again.line(name_of(file), *line, None),
                    // A line that can't be read is missing in the chain.
                    Err(_) => {}
                }
            }
            let RawLine { file, number, text } = match line {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            let wrong = |why: String| Some(Err(ReadError::Line { file: file.clone(), line: number, why }));
            let record: Record = match serde_json::from_str(&String::from_utf8_lossy(&text)) {
                Ok(record) => record,
                // The error may quote the line.
                Err(error) => return wrong(printable(&error.to_string())),
            };
            let Event::LogSealed { age, .. } = &record.event else { return Some(Ok(record)) };
            if self.keys.is_empty() {
                return Some(Ok(record));
            }
            match unseal(age, self.keys) {
                // It may hold no records: then the next line is read.
                Ok(records) => self.opened = records.into(),
                Err(why) => return wrong(format!("it can't be decrypted: {why}")),
            }
        }
    }
}

/// The records of one encrypted line.
pub(crate) fn unseal(age: &str, keys: &AuditorKeys) -> Result<Vec<Record>, String> {
    let plain = keys.open(age)?;
    let lines = plain.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|e| e.to_string())).collect()
}

#[cfg(test)]
mod tests;
