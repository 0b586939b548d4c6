//! `sidegate-cni` in real network namespaces, with real rules, as runtimes call it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod api_server;
mod calls;
mod cnitool;
mod install;
mod node;
mod trouble;
