# Frequent commands. `just` lists them.
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

# Build the book into target/book/docs, with what it links to beside it; needs mdbook
book:
    mdbook build
    cp -r deploy proto target/book/

# Rewrite the schemas and the reference that are made from the code
generate:
    UPDATE=1 cargo test --package sidegate-tests --test command_line generated
