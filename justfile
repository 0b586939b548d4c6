# What people do often. `just` lists it.
default:
    @just --list

# Two workloads, an intruder, rotation
demo *args:
    cargo run --release -- demo {{args}}

# All tests
test *args:
    cargo test --workspace {{args}}

# What CI runs
ci:
    .ci/run

# Format and lint
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets -- -D warnings

# Rewrite the schemas and the reference that are made from the code
generate:
    UPDATE=1 cargo test --package sidegate-tests --test command_line generated
