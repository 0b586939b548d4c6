//! The chain: numbers records, links each to the last, authenticates it, and signs checkpoints.

use std::time::SystemTime;

use crate::event::NewEvent;
use crate::key::{EpochKey, Hash};
use crate::line;
use crate::signing::SigningKey;

/// Where the chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// The number that the next record gets.
    pub(crate) seq: u64,
    /// The hash of the last line; zeros before the first.
    pub(crate) prev: Hash,
}

impl Position {
    /// Before the first record.
    pub(crate) const START: Self = Self { seq: 1, prev: [0; 32] };
}

/// Makes chained lines of events.
pub(crate) struct Chain {
    position: Position,
    key: EpochKey,
}

impl Chain {
    /// A chain that continues at `position`.
    pub(crate) fn new(position: Position, key: EpochKey) -> Self {
        Self { position, key }
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Goes back to a position, if the lines after it could not be written.
    pub(crate) fn go_back(&mut self, position: Position) {
        self.position = position;
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.key.epoch()
    }

    /// Ends the epoch; its key is erased.
    pub(crate) fn ratchet(&mut self) -> bool {
        self.key.ratchet()
    }

    /// Adds a line to `out` that holds `records` records, signed if it is a checkpoint.
    ///
    /// # Errors
    /// If the event can't be written as JSON, or can't be signed. Then nothing is added.
    pub(crate) fn append(
        &mut self,
        out: &mut Vec<u8>,
        time: SystemTime,
        event: &NewEvent,
        records: u64,
        signer: Option<&SigningKey>,
    ) -> Result<(), String> {
        let start = out.len();
        let result = line::begin(out, self.position.seq, time, event).map_err(|e| e.to_string()).and_then(|()| {
            let hash = line::link(out, start, &self.position.prev, &self.key);
            if let Some(signer) = signer {
                let signature = signer.sign(&line::to_sign(&out[start..]))?;
                line::sign(out, &signature);
            }
            line::end(out);
            Ok(hash.finish(&out[start..out.len() - 1]))
        });
        match result {
            Ok(prev) => {
                self.position = Position { seq: self.position.seq + records, prev };
                Ok(())
            }
            Err(why) => {
                out.truncate(start);
                Err(why)
            }
        }
    }
}
