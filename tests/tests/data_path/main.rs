//! Connections through two sidecars on loopback: bytes, ends, limits, start and drain.

mod ends;
mod lifecycle;
mod limits;
mod names;
mod permissive;
mod relay;
