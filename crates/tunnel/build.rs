//! Generates the control frames of the tunnel from their protobuf description.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    println!("cargo:rerun-if-changed={root}");
    let descriptors = protox::compile(["sidegate/tunnel/v1/tunnel.proto"], [root])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
