//! Builds the C++ shim against the libtorch that `LIBTORCH` names
//! (`.cargo/config.toml` sets it to `.deps/libtorch`, which `scripts/setup` fills).

use std::path::PathBuf;

const SOURCES: [&str; 6] = [
    "adamw",
    "cuda",
    "foreach",
    "inference",
    "linear",
    "settings",
];

fn main() {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch = PathBuf::from(std::env::var_os("LIBTORCH").unwrap_or_default());
    let include = libtorch.join("include");
    assert!(
        include.join("ATen/ATen.h").is_file(),
        "no libtorch headers at {}: run scripts/setup, or set LIBTORCH to a libtorch 2.11.0 folder",
        include.display()
    );
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        // libtorch's own headers warn; ours are few enough to read.
        .warnings(false)
        // Every function here calls into libtorch once: there is nothing to optimise.
        .opt_level(1)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .files(SOURCES.map(|name| format!("shim/{name}.cpp")))
        .compile("quarry_torch");
    println!(
        "cargo:rustc-link-search=native={}",
        libtorch.join("lib").display()
    );
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
}
