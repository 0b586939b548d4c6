//! The one schema of sidegate's configuration: profiles, defaults, validation.
//!
//! The schema is the Rust types in [`schema`]. A file is checked against it as a whole, so that all
//! mistakes are reported at once, each with file, line, path and how to fix it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod aside;
mod check;
pub mod document;
mod environment;
pub mod file;
mod load;
mod otel;
mod paths;
pub mod schema;
mod sound;
mod validate;
pub mod value;
mod watch;

pub use aside::aside;
pub use check::distance;
pub use document::{Location, Node, Problem, Problems};
pub use load::{Draft, build_each, json_schema, json_schema_of_output, load, parse, parse_with, typed};
pub use otel::{StandardVariable, standard_variables};
pub use schema::Config;
pub use watch::FileWatch;
