//! The command line, `sidegate demo`, and what is checked without a running mesh: configuration, docs, what is deployed.

mod architecture;
mod configuration;
mod demo;
mod deploy;
mod docs;
mod pipes;
mod policy_commands;
mod secret_files;
mod terminal;
