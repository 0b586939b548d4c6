//! The latest finished connections, for a person who looks now.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use sidegate_core::ConnectionRecord;

/// As many of each kind are remembered.
const KEPT: usize = 64;

/// The latest connections with a handshake, and the latest that failed. The telemetry thread adds to them.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<RecentConnections>);

/// The latest finished connections of each kind, the newest first.
#[derive(Debug, Clone, Default)]
pub struct RecentConnections {
    /// With a handshake of their own that was completed.
    pub handshakes: VecDeque<Arc<ConnectionRecord>>,
    /// Refused, or failed for another reason.
    pub refusals: VecDeque<Arc<ConnectionRecord>>,
}

impl Recent {
    pub(crate) fn add(&self, record: &Arc<ConnectionRecord>) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if record.tls.is_some() && record.stages.handshake.is_some() {
            push(&mut recent.handshakes, record);
        }
        if !record.is_success() {
            push(&mut recent.refusals, record);
        }
    }

    pub(crate) fn all(&self) -> RecentConnections {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn push(kept: &mut VecDeque<Arc<ConnectionRecord>>, record: &Arc<ConnectionRecord>) {
    kept.truncate(KEPT - 1);
    kept.push_front(record.clone());
}

#[cfg(test)]
mod tests {
    use sidegate_core::{Direction, Reason};

    use super::*;

    #[test]
    fn only_the_newest_are_remembered() {
        let recent = Recent::default();
        for port in 1..=200 {
            let mut record = ConnectionRecord::new(Direction::Inbound, ([127, 0, 0, 1], port).into());
            record.reason = if port % 2 == 0 { Reason::DeniedByDefault } else { Reason::Closed };
            recent.add(&Arc::new(record));
        }
        let all = recent.all();
        assert_eq!((all.refusals.len(), all.handshakes.len()), (KEPT, 0));
        assert_eq!(all.refusals[0].downstream.to_string(), "127.0.0.1:200");
        assert_eq!(all.refusals[KEPT - 1].downstream.to_string(), "127.0.0.1:74");
    }
}
