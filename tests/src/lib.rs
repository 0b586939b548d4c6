//! What the end-to-end tests share besides devkit's harness: pods with sidecars, foreign peers, hand-made ends of tunnels, the audit
//! log. Everything here panics on failure, as tests do.

mod api_server;
mod audit_log;
mod chromium;
mod envoy;
mod gate;
mod json_schema;
mod material;
mod peers;
mod pod_mesh;
mod process;
mod terminal;
mod tunnel_end;
mod tunnel_world;

pub use api_server::ApiServer;
pub use audit_log::AuditLog;
pub use chromium::Chromium;
pub use envoy::Envoy;
pub use gate::{Gate, Owner};
pub use json_schema::{problems_by, schema_problems};
pub use material::material;
pub use peers::{program, require, skipped};
pub use pod_mesh::{PodMesh, PodWorkload};
pub use process::Process;
pub use sidegate_devkit::harness::*;
pub use terminal::{Terminal, on_a_terminal};
pub use tunnel_end::{Frame, Heard, Open, Status, TunnelEnd, TunnelServer, goaway, outcome, reset};
pub use tunnel_world::{ByClient, ByServer, assert_reset, assert_reset_at};
