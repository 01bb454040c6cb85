//! Compiles the protobuf files in pure Rust, so that no `protoc` is needed.
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=quarry");
    let descriptors = protox::compile(["quarry/v1/quarry.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
