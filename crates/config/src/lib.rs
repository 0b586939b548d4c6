//! The one schema of sidegate's configuration: profiles, defaults, validation.
//!
//! ```text
//! file -> Node, a tree with locations -> check against the JSON Schema -> Config -> validation
//! SIDEGATE__SECTION__KEY  ---^                                           (profiles, contradictions)
//! OTEL_* variables  ---------^
//! ```
//!
//! The schema is the Rust types in [`schema`]. The policy and the embedded authority read their files by the same steps, with
//! [`typed`].
//!
//! ```
//! let config = sidegate_config::parse("sidegate.yaml", "outbound: { listen: 127.0.0.1:15001 }")?;
//! assert!(config.outbound.listen.is_some());
//!
//! let problems = sidegate_config::parse("sidegate.yaml", "outbond: {}").unwrap_err();
//! assert!(problems.to_string().contains("sidegate.yaml:1:"));
//! # Ok::<(), sidegate_config::Problems>(())
//! ```
//!
//! What it guarantees: unknown keys are refused; all mistakes are reported at once, each with file, line, path and how to fix it; no
//! message repeats a value that may be a secret.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod aside;
mod check;
pub mod document;
mod environment;
pub mod file;
mod load;
mod named_paths;
mod otel;
pub mod path_use;
mod paths;
mod reference;
pub mod schema;
mod sound;
mod validate;
pub mod value;
mod watch;
mod yaml;

pub use aside::aside;
pub use check::distance;
pub use document::{Location, Node, Problem, Problems};
pub use load::{Draft, build_each, json_schema, json_schema_of_output, load, parse, parse_with, typed};
pub use named_paths::NamedPath;
pub use otel::{StandardVariable, standard_variables};
pub use path_use::PathUse;
pub use reference::reference;
pub use schema::Config;
pub use watch::FileWatch;
