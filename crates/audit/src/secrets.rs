//! Records which secret files are opened, as `sidegate-secrets` tells.

use std::sync::Arc;

use sidegate_core::event;
use sidegate_secrets::Access;

use crate::event::Event;
use crate::log::Audit;

/// Records each access to a secret file from now on, and those since the start of the process. Those for which there was no room
/// count as missing.
pub fn follow_secrets(audit: &Arc<Audit>) {
    // The log ends when nobody has it any more.
    let log = Arc::downgrade(audit);
    let dropped = sidegate_secrets::follow(move |access| {
        if let Some(audit) = log.upgrade() {
            record(&audit, access);
        }
    });
    audit.count_missing(dropped);
}

fn record(audit: &Audit, access: Access) {
    let Access { purpose: secret, path, error } = access;
    let place = path.display().to_string();
    match error {
        None => {
            tracing::info!(event = event::SECRET_ACCESSED, purpose = secret, file = place, "a secret was read from a file");
            audit.record(Event::SecretAccessed { secret, place });
        }
        // What needed the secret says so in an event of its own.
        Some(why) => audit.record(Event::SecretRefused { secret, place, why }),
    }
}
