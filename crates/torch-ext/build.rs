//! Builds the C++ shim against the libtorch that `LIBTORCH` names
//! (`.cargo/config.toml` sets it to `.deps/libtorch`, which `scripts/setup` fills).

use std::path::PathBuf;

const SOURCES: [&str; 17] = [
    "adamw",
    "attention",
    "cuda",
    "flash",
    "foreach",
    "inference",
    "lamb",
    "layers",
    "linear",
    "norm",
    "residual",
    "settings",
    "tally",
    "trained_embeddings",
    "trained_feed_forward",
    "trained_linear",
    "transfer",
];

/// What computes: the compiler must see loops it may turn into vector code.
const KERNELS: [&str; 8] = [
    "attention_kernel",
    "gelu_kernel",
    "layers_kernel",
    "norm_kernel",
    "pack_kernel",
    "residual_kernel",
    "sums_kernel",
    "weight_gradient_kernel",
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
    let build = || {
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            // libtorch's own headers warn; ours are few enough to read.
            .warnings(false)
            .flag("-fopenmp")
            .include(&include)
            .include(include.join("torch/csrc/api/include"))
            // libtorch was built with both: classes have other members without.
            .define("NDEBUG", None)
            .define("_GLIBCXX_USE_CXX11_ABI", "1");
        build
    };
    let paths = |names: &[&str]| -> Vec<String> {
        names
            .iter()
            .map(|name| format!("shim/{name}.cpp"))
            .collect()
    };
    // The shim first: it calls the kernels, and the linker reads from left to right.
    build()
        // Every function here calls into libtorch once: there is nothing to optimise.
        .opt_level(1)
        .files(paths(&SOURCES))
        .compile("quarry_torch");
    build()
        .opt_level(3)
        // No result depends on these; they keep loops from being vectorised.
        .flag("-fno-trapping-math")
        .flag("-fno-math-errno")
        // Vectors are passed between functions that become one.
        .flag("-Wno-psabi")
        .files(paths(&KERNELS))
        .compile("quarry_kernels");
    println!(
        "cargo:rustc-link-search=native={}",
        libtorch.join("lib").display()
    );
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    // The one that libtorch brings is found first when a program starts.
    println!("cargo:rustc-link-lib=gomp");
}
