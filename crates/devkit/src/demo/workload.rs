//! Who takes part.

pub(super) const TRUST_DOMAIN: &str = "demo.sidegate";

/// A workload that has a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    Web,
    Api,
    Intruder,
}

pub(super) const WORKLOADS: [Workload; 3] = [Workload::Api, Workload::Web, Workload::Intruder];

impl Workload {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Api => "api",
            Self::Intruder => "intruder",
        }
    }

    pub(super) fn spiffe_id(self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/{}", self.name())
    }
}
