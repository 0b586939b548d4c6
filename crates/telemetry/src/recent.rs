//! The latest finished connections, for a person who looks now.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use sidegate_core::{ConnectionRecord, Reason};

/// This number of handshakes is remembered.
const HANDSHAKES: usize = 64;
/// This number of refusals of each reason is remembered: a flood of one reason hides no other.
const REFUSALS: usize = 8;

/// The latest connections with a handshake, and the latest that failed. The telemetry thread adds to them.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Rings>);

/// Each ring has the newest first.
#[derive(Debug, Default)]
struct Rings {
    handshakes: VecDeque<Arc<ConnectionRecord>>,
    /// With the number of the refusal, which orders them across reasons.
    refusals: HashMap<Reason, VecDeque<(u64, Arc<ConnectionRecord>)>>,
    refused: u64,
}

/// The latest finished connections of each kind, the newest first.
#[derive(Debug, Clone, Default)]
pub struct RecentConnections {
    /// With a handshake of their own that was completed.
    pub handshakes: Vec<Arc<ConnectionRecord>>,
    /// Refused, or failed for another reason: the latest few of each reason.
    pub refusals: Vec<Arc<ConnectionRecord>>,
}

impl Recent {
    pub(crate) fn add(&self, record: &Arc<ConnectionRecord>) {
        let mut rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Rings { handshakes, refusals, refused } = &mut *rings;
        if record.tls.is_some() && record.stages.handshake.is_some() {
            push(handshakes, HANDSHAKES, record.clone());
        }
        if !record.is_success() {
            *refused += 1;
            push(refusals.entry(record.reason).or_default(), REFUSALS, (*refused, record.clone()));
        }
    }

    pub(crate) fn all(&self) -> RecentConnections {
        let rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut refusals: Vec<_> = rings.refusals.values().flatten().cloned().collect();
        refusals.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        RecentConnections {
            handshakes: rings.handshakes.iter().cloned().collect(),
            refusals: refusals.into_iter().map(|(_, record)| record).collect(),
        }
    }
}

fn push<T>(ring: &mut VecDeque<T>, most: usize, newest: T) {
    ring.truncate(most - 1);
    ring.push_front(newest);
}

#[cfg(test)]
mod tests {
    use sidegate_core::Direction;

    use super::*;

    #[test]
    fn the_newest_of_each_reason_are_remembered() {
        let recent = Recent::default();
        let add = |reason: Reason, port: u16| {
            let mut record = ConnectionRecord::new(Direction::Inbound, ([127, 0, 0, 1], port).into());
            record.reason = reason;
            recent.add(&Arc::new(record));
        };
        add(Reason::OwnPort, 1);
        for port in 1..=200 {
            add(if port % 2 == 0 { Reason::DeniedByDefault } else { Reason::Closed }, port);
        }
        add(Reason::OwnPort, 2);
        let all = recent.all();
        let ports: Vec<u16> = all.refusals.iter().map(|record| record.downstream.port()).collect();
        assert_eq!((ports, all.handshakes.len()), (vec![2, 200, 198, 196, 194, 192, 190, 188, 186, 1], 0));
        for reason in Reason::ALL.iter().cycle().take(Reason::ALL.len() * 20) {
            add(*reason, 3);
        }
        let failures = Reason::ALL.iter().filter(|reason| reason.is_failure()).count();
        assert_eq!(recent.all().refusals.len(), failures * REFUSALS);
    }
}
