//! What all identity sources share: their rules, the state that they publish, and how a failure changes it. Each source is a module
//! beside this one (`workload_api.rs`, `files.rs`); `ConfiguredSource` in `manager.rs` has them all.

use std::sync::Arc;

use sidegate_config::schema;
use sidegate_core::{event, printable};
use tokio::sync::watch;

use crate::material::{Material, unix_now};

/// How one source is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    /// What it is, such as `workload API unix:///run/spire/agent.sock`.
    pub name: String,
    /// Whether its last message was usable material.
    pub healthy: bool,
    /// Whether its last material was refused.
    pub refuses: bool,
    /// What it said last, human-readable.
    pub message: String,
}

/// What a source publishes.
#[derive(Debug, Clone)]
pub(crate) struct SourceState {
    pub(crate) material: Option<Arc<Material>>,
    pub(crate) status: SourceStatus,
    pub(crate) refused: u64,
}

/// The effect of a source's failure on its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It does not answer; its last good material stays.
    Keep,
    /// Its new material can't be used; its last good material stays.
    Refuse,
    /// Its material is not used any more.
    Withdraw,
}

/// The configuration that all sources share.
#[derive(Debug, Clone)]
pub(crate) struct SourceRules {
    pub(crate) select: schema::Select,
    pub(crate) grace: std::time::Duration,
    pub(crate) refuse_development: bool,
}

impl SourceStatus {
    fn heal(&mut self, message: String) {
        (self.healthy, self.refuses, self.message) = (true, false, message);
    }
}

impl SourceState {
    /// Publishes material. Equal material only marks the source healthy; it is no rotation.
    pub(crate) fn publish(sender: &watch::Sender<Self>, material: Arc<Material>) {
        let (same, was_healthy) = {
            let state = sender.borrow();
            (state.material.as_ref().is_some_and(|old| old.is_same(&material)), state.status.healthy)
        };
        let message = format!("serves {}", material.svid.id);
        if same {
            if !was_healthy {
                tracing::info!(event = event::SOURCE_RECOVERED, source = %sender.borrow().status.name, "it answers again, with what is in use already");
                sender.send_modify(|state| {
                    state.status.heal(message);
                });
            }
            return;
        }
        for left_out in &material.left_out {
            tracing::warn!(event = event::IDENTITY_CA_LEFT_OUT, "a CA certificate is left out: {left_out}");
        }
        let svid = &material.svid;
        let left = svid.remaining(unix_now()).as_secs();
        tracing::info!(event = event::IDENTITY_RECEIVED, spiffe_id = %svid.id, serial = %svid.serial, expires_in_s = left, bundles = material.bundles.len(), "SVID received");
        sender.send_modify(|state| {
            state.material = Some(material);
            state.status.heal(message);
        });
    }

    /// Publishes a failure.
    pub(crate) fn trouble(sender: &watch::Sender<Self>, message: &str, effect: Effect) {
        // The message may come from an agent and be of any length.
        let message = printable(message);
        let withdraw = effect == Effect::Withdraw;
        let repeated = {
            let state = sender.borrow();
            state.status.message == message && !(withdraw && state.material.is_some())
        };
        if repeated {
            return;
        }
        tracing::warn!(event = event::SOURCE_TROUBLE, source = %sender.borrow().status.name, withdrawn = withdraw, "{message}");
        sender.send_modify(|state| {
            if withdraw {
                state.material = None;
            }
            match effect {
                Effect::Keep => {}
                Effect::Refuse => (state.refused, state.status.refuses) = (state.refused + 1, true),
                Effect::Withdraw => state.status.refuses = false,
            }
            state.status.healthy = false;
            state.status.message = message;
        });
    }
}
