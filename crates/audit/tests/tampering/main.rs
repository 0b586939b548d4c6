//! Whatever is done to a log is found, and named: every record, every kind of byte, every way.

#[path = "../common/mod.rs"]
mod common;
mod forgery;
mod mutation;
