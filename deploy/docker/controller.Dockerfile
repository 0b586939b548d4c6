# The controller: the injector as an admission webhook, and offline. From the repository's root:
#   docker build --file deploy/docker/controller.Dockerfile --tag sidegate-controller:0.1.0 .
FROM docker.io/library/rust:1.95.0-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package sidegate-kube --bin sidegate-controller

# It calls no other program, and connects to nothing.
FROM docker.io/library/debian:bookworm-slim
COPY --from=build /source/target/release/sidegate-controller /usr/local/bin/sidegate-controller
# Not the sidecar's user.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/sidegate-controller"]
CMD ["run"]
