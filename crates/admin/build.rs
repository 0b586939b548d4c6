//! Generates the admin API from its protobuf description.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    println!("cargo:rerun-if-changed={root}");
    let descriptors = protox::compile(["sidegate/admin/v1/admin.proto"], [root])?;
    tonic_prost_build::configure()
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .message_attribute(".", "#[serde(rename_all = \"camelCase\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
