//! The SPIFFE Workload API as generated from `proto/spiffe/workload/workload.proto`: messages, client, server.
//!
//! SPIFFE_Workload_API.md, sections 3, 5 and 6. The optional WIT-SVID profile (section 7) is absent, which callers see
//! as `Unimplemented`.

use std::fmt;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod generated {
    tonic::include_proto!("_");
}

pub use generated::*;

/// The metadata that every call has to carry with the value `true`
/// (SPIFFE_Workload_Endpoint.md, section 3).
pub const SECURITY_HEADER: &str = "workload.spiffe.io";

// The three messages that hold a secret say everything but the secret.

impl fmt::Debug for X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svid").field("spiffe_id", &self.spiffe_id).field("hint", &self.hint).finish_non_exhaustive()
    }
}

impl fmt::Debug for Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid").field("spiffe_id", &self.spiffe_id).field("hint", &self.hint).finish_non_exhaustive()
    }
}

impl fmt::Debug for ValidateJwtsvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateJwtsvidRequest").field("audience", &self.audience).finish_non_exhaustive()
    }
}
