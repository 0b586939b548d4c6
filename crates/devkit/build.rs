//! Compiles the Workload API's proto, with no `protoc` needed.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/spiffe/workload");
    println!("cargo:rerun-if-changed={}", proto.display());
    let files = protox::compile(["workload.proto"], [proto])?;
    tonic_prost_build::configure()
        // These carry keys and tokens: src/authority/workload_api.rs gives them a Debug that does not.
        .skip_debug(["X509SVID", "JWTSVID", "ValidateJWTSVIDRequest"])
        .compile_fds(files)?;
    Ok(())
}
