//! Generates the directory's messages, and those of xDS that carry them, from their protobuf descriptions.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    println!("cargo:rerun-if-changed={root}");
    let files = ["sidegate/directory/v1/directory.proto", "envoy/service/discovery/v3/discovery.proto"];
    tonic_prost_build::configure().codec_path("crate::codec::ShortMessages").compile_fds(protox::compile(files, [root])?)?;
    Ok(())
}
