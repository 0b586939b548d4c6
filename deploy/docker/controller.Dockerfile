# What a cluster needs beside the sidecars: the injector as an admission webhook, and the CNI plugin with its installer.
# From the repository's root:
#   docker build --file deploy/docker/controller.Dockerfile --tag sidegate-controller:0.1.0 .
FROM docker.io/library/rust:1.95.0-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package sidegate-kube --bin sidegate-controller
# Without shared libraries: the plugin runs on nodes, whatever C library they have. With --target, or build scripts would be static, too.
RUN RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$(uname -m)-unknown-linux-gnu" \
        --package sidegate-kube --bin sidegate-cni \
    && mv "target/$(uname -m)-unknown-linux-gnu/release/sidegate-cni" target/release/

# They call no other program here. On a node the plugin calls the node's nft.
FROM docker.io/library/debian:bookworm-slim
COPY --from=build /source/target/release/sidegate-controller /source/target/release/sidegate-cni /usr/local/bin/
# Not the sidecar's user. The installer of the CNI plugin runs as root.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/sidegate-controller"]
CMD ["run"]
