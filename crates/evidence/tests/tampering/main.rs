//! Whatever is done to a log is found, and named: every record, every kind of byte, every way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod forgery;
mod live;
mod mutation;
mod restart;
