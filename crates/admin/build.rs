//! Generates the admin API from its protobuf description.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    println!("cargo:rerun-if-changed={root}");
    let descriptors = protox::compile(["sidegate/admin/v1/admin.proto"], [root])?;
    let mut builder = tonic_prost_build::configure()
        .type_attribute(".", "#[derive(serde::Serialize, schemars::JsonSchema)]")
        .message_attribute(".", "#[serde(rename_all = \"camelCase\")]");
    // What there is none of has no key in JSON, as in the access log's record.
    for file in &descriptors.file {
        for message in &file.message_type {
            for field in message.field.iter().filter(|field| field.proto3_optional()) {
                let path = format!(".{}.{}.{}", file.package(), message.name(), field.name());
                builder = builder.field_attribute(path, "#[serde(skip_serializing_if = \"Option::is_none\")]");
            }
        }
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
