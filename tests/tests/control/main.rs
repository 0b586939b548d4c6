//! What the control plane takes in while connections are open: identities, policy, revocation, files.

mod explain;
mod files;
mod identity;
mod outage;
mod policy;
mod reevaluation;
mod rotation;
mod systemd;
