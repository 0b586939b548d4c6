//! What the end-to-end tests share: the real binary as sidecars, the embedded authority, pods, and waiting with a
//! deadline. Everything here panics on failure, as tests do.

mod audit_log;
mod authority;
mod collector;
mod envoy;
mod gate;
mod json_schema;
mod net;
mod pair;
mod peers;
mod pod_mesh;
mod process;
mod sidecar;
mod terminal;
mod tunnel_end;
mod tunnel_world;
mod wait;

pub use audit_log::AuditLog;
pub use authority::{Identities, TRUST_DOMAIN, id};
pub use collector::{Attributes, Collector, attributes};
pub use envoy::Envoy;
pub use gate::{Gate, Owner};
pub use json_schema::{problems_by, schema_problems};
pub use net::{Echo, echo_bytes, exchange, free_port, pattern, read_all};
pub use pair::{Pair, client_config, server_config};
pub use peers::{program, require, skipped};
pub use pod_mesh::{PodMesh, PodWorkload};
pub use process::Process;
pub use sidecar::{Sidecar, ask, get, sidegate};
pub use terminal::on_a_terminal;
pub use tunnel_end::{Frame, Heard, Open, Status, TunnelEnd, TunnelServer, goaway, outcome, reset};
pub use tunnel_world::{ByClient, ByServer, assert_reset, assert_reset_at};
pub use wait::{DEADLINE, eventually};
