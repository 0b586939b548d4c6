//! Workloads in pods, whose traffic the kernel's rules redirect to real sidecars.

mod app_probes;
mod directory;
mod no_plaintext;
mod ports;
mod reach;
mod tunnels;
