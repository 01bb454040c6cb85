//! The kernels with one vector of sixteen numbers and with two of eight: the same bits.
//! A processor runs only one of the two (`shim/lanes.h`), so that what is wrong with the
//! other would not show on it; here both are compiled for the processor at hand.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

/// What a program of `tests/widths` prints at least: a line a kernel, kind and shape.
const FEWEST_RESULTS: usize = 100;

fn kernels() -> Vec<PathBuf> {
    let shim = std::fs::read_dir(Path::new(CRATE).join("shim")).unwrap();
    let mut all: Vec<PathBuf> = shim.map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.to_str().unwrap().ends_with("_kernel.cpp"));
    all.sort();
    all
}

/// Compiles the program with one kind of vectors, with the flags of `build.rs`: what is
/// multiplied and added in one rounding depends on them.
fn compile(vectors: &str, program: &Path) -> Child {
    let libtorch = Path::new(env!("LIBTORCH"));
    let library = libtorch.join("lib");
    let compiler = std::env::var("CXX").unwrap_or("c++".to_owned());
    Command::new(&compiler)
        .args(["-std=c++17", "-O3", "-march=native", "-fopenmp"])
        .args(["-fno-trapping-math", "-fno-math-errno", "-Wno-psabi", "-w"])
        .args(["-DNDEBUG", "-D_GLIBCXX_USE_CXX11_ABI=1"])
        .arg(format!("-DQUARRY_VECTORS={vectors}"))
        .arg("-I")
        .arg(libtorch.join("include"))
        .arg(Path::new(CRATE).join("tests/widths/main.cpp"))
        .args(kernels())
        .arg("-o")
        .arg(program)
        .arg("-L")
        .arg(&library)
        .args(["-ltorch_cpu", "-lc10"])
        .arg(format!("-Wl,-rpath,{}", library.display()))
        .spawn()
        .unwrap_or_else(|error| panic!("{compiler} does not start ({error}): run scripts/setup"))
}

fn output_of(program: &Path) -> String {
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success(), "{}", program.display());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn kernels_do_not_depend_on_the_width_of_vectors() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let programs = ["Sixteen", "Eights"].map(|vectors| {
        let program = folder.join(format!("widths-{vectors}"));
        (compile(vectors, &program), program)
    });
    let [wide, narrow] = programs.map(|(mut compiler, program)| {
        assert!(compiler.wait().unwrap().success(), "{}", program.display());
        output_of(&program)
    });
    let (columns, wide) = wide.split_once('\n').unwrap();
    assert_eq!(columns, "64 columns", "not built with vectors of sixteen");
    let (columns, narrow) = narrow.split_once('\n').unwrap();
    assert_eq!(columns, "32 columns", "not built with vectors of eight");
    let (wide, narrow): (Vec<_>, Vec<_>) = (wide.lines().collect(), narrow.lines().collect());
    assert!(wide.len() >= FEWEST_RESULTS, "{} results", wide.len());
    assert_eq!(wide, narrow);
}
