//! Reading a log: record after record, decrypted where a key is given. Nothing is verified here.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::folder;
use crate::sealed::AuditorKeys;

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
    /// HMAC-SHA256 under the epoch's key of the line up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Of a checkpoint: the signature of the line up to here, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// Why a log can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is none.
    #[error("{0} holds no audit log: it is a folder with files audit-….jsonl, or one of these files")]
    NoLog(PathBuf),
    /// The system refuses.
    #[error("{0} can't be read")]
    File(PathBuf, #[source] io::Error),
    /// A line is no record.
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

/// The records of some files. A line that is no record is an error, and the next one goes on.
///
/// After the last one there may be more, as the log is written: then the iterator goes on.
pub struct Records<'a> {
    files: VecDeque<PathBuf>,
    keys: &'a AuditorKeys,
    open: Option<(PathBuf, BufReader<File>, u64)>,
    /// Out of an encrypted line.
    opened: VecDeque<Result<Record, ReadError>>,
}

impl<'a> Records<'a> {
    /// Of these files, in this order. What is encrypted stays so without a key that fits: it is one record then.
    #[must_use]
    pub fn new(files: Vec<PathBuf>, keys: &'a AuditorKeys) -> Self {
        Self { files: files.into(), keys, open: None, opened: VecDeque::new() }
    }

    /// The records at `path`, a log's folder or one of its files.
    ///
    /// # Errors
    /// If there is none.
    pub fn of(path: &Path, keys: &'a AuditorKeys) -> Result<Self, ReadError> {
        Ok(Self::new(log_files(path)?, keys))
    }

    /// Looks for files that have come since in the log's folder `path`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn look_for_more(&mut self, path: &Path) -> Result<(), ReadError> {
        let last = self.files.back().cloned().or_else(|| self.open.as_ref().map(|(path, _, _)| path.clone()));
        self.files.extend(log_files(path)?.into_iter().filter(|file| last.as_ref().is_none_or(|last| file > last)));
        Ok(())
    }

    /// The next line. A line without its end is not read: its writer has not come further yet.
    fn line(&mut self) -> Option<Result<(PathBuf, u64, String), ReadError>> {
        loop {
            let (path, file, number) = match &mut self.open {
                Some(open) => open,
                None => {
                    let path = self.files.pop_front()?;
                    match File::open(&path) {
                        Ok(file) => self.open.insert((path, BufReader::new(file), 0)),
                        Err(error) => return Some(Err(ReadError::File(path, error))),
                    }
                }
            };
            let mut text = Vec::new();
            match file.read_until(b'\n', &mut text) {
                Err(error) => {
                    let error = ReadError::File(path.clone(), error);
                    self.open = None;
                    return Some(Err(error));
                }
                Ok(_) if text.last() == Some(&b'\n') => {
                    *number += 1;
                    text.pop();
                    let text = String::from_utf8_lossy(&text).into_owned();
                    return Some(Ok((path.clone(), *number, text)));
                }
                // Another file follows: what is left here will not become a record any more.
                Ok(_) if !self.files.is_empty() => self.open = None,
                Ok(part) => {
                    let back = -i64::try_from(part).unwrap_or(0);
                    return file.seek_relative(back).err().map(|error| Err(ReadError::File(path.clone(), error)));
                }
            }
        }
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(opened) = self.opened.pop_front() {
            return Some(opened);
        }
        let (file, line, text) = match self.line()? {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        let wrong = |why: String| ReadError::Line { file: file.clone(), line, why };
        let record: Record = match serde_json::from_str(&text) {
            Ok(record) => record,
            Err(error) => return Some(Err(wrong(error.to_string()))),
        };
        let Event::LogSealed { age, .. } = &record.event else { return Some(Ok(record)) };
        if self.keys.is_empty() {
            return Some(Ok(record));
        }
        match unseal(age, self.keys) {
            Ok(records) => {
                self.opened = records.into_iter().map(Ok).collect();
                self.next()
            }
            Err(why) => Some(Err(wrong(format!("it can't be decrypted: {why}")))),
        }
    }
}

/// The records that were sealed together.
pub(crate) fn unseal(age: &str, keys: &AuditorKeys) -> Result<Vec<Record>, String> {
    let plain = keys.open(age)?;
    let lines = plain.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|e| e.to_string())).collect()
}
