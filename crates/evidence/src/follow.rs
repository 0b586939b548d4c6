//! Reading a log that is still written.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use crate::decryption::AuditorKeys;
use crate::read::{ReadError, Record, Records};

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Passes each record of the log at `path` to `take`, with `follow` also those that are written from now on, until `take` fails. A
/// record that can't be read goes there as its error: the others are still worth reading.
///
/// # Errors
/// If there is no log, or `take` fails.
pub fn each_record<E: From<ReadError>>(
    path: &Path,
    keys: &AuditorKeys,
    follow: bool,
    mut take: impl FnMut(Result<Record, ReadError>) -> Result<(), E>,
) -> Result<(), E> {
    let mut records = Records::of(path, keys)?;
    loop {
        for record in &mut records {
            match record {
                // `retain` has deleted it since the folder was listed.
                Err(ReadError::File(_, error)) if follow && error.kind() == ErrorKind::NotFound => {}
                record => take(record)?,
            }
        }
        if !follow {
            return Ok(());
        }
        std::thread::sleep(LOOK);
        match records.look_for_more(path) {
            // A folder that is deleted or not begun yet has nothing new.
            Err(ReadError::NoLog(_)) => {}
            Err(ReadError::File(_, error)) if error.kind() == ErrorKind::NotFound => {}
            looked => looked?,
        }
    }
}
