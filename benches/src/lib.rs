//! Micro benchmarks of what a connection costs: `cargo bench --package sidegate-benches`.
