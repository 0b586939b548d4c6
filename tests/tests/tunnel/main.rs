//! Tunnels between two sidecars, and between a sidecar and a hand-made end.

mod changes;
mod clients;
mod foul_clients;
mod foul_servers;
mod fuzz;
mod pairs;
mod resets;
mod servers;
mod warm;
