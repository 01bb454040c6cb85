//! Gives faiss a BLAS of its own, apart from the one inside libtorch.
//!
//! libtorch exports the BLAS and LAPACK functions of MKL, and whichever library the
//! linker meets first serves faiss too. MKL is slow on AMD, and the two would share
//! one set of symbols by chance of link order. So OpenBLAS's static archive is joined
//! into one object in which the functions that faiss calls are *hidden*: faiss binds to
//! them inside the binary, and neither libtorch nor the loader ever sees them.
//! The object is built on OpenMP where Debian's package has it, so that faiss, OpenBLAS
//! and libtorch draw on one pool of threads. See `docs/decisions/0001`.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What faiss calls (`nm -u libfaiss.a`).
const FUNCTIONS: [&str; 15] = [
    "dgemm_", "dgesvd_", "dgetrf_", "dgetri_", "dsyev_", "sgelsd_", "sgemm_", "sgemv_", "sgeqrf_",
    "sgesvd_", "sgetrf_", "sgetri_", "sorgqr_", "ssyev_", "ssyrk_",
];

/// Where distributions keep the static archive, best first.
const ARCHIVES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/openblas-openmp/libopenblas.a",
    "/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.a",
    "/usr/lib/aarch64-linux-gnu/openblas-openmp/libopenblas.a",
    "/usr/lib/aarch64-linux-gnu/openblas-pthread/libopenblas.a",
    "/usr/lib/libopenblas.a",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=blas");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let archive = ARCHIVES
        .iter()
        .map(Path::new)
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!("no static OpenBLAS found: run scripts/setup, or install libopenblas-openmp-dev")
        });
    println!("cargo:rerun-if-changed={}", archive.display());

    let mentions = out.join("mentions.c");
    fs::write(&mentions, mention_as_hidden()).expect("OUT_DIR is writable");
    let objects = cc::Build::new()
        .pic(true)
        .file(mentions)
        .file("blas/gfortran.c")
        .cargo_metadata(false)
        .compile_intermediates();

    let joined = out.join("openblas.o");
    run(Command::new("ld")
        .arg("-r")
        .arg("-o")
        .arg(&joined)
        .args(objects)
        .arg(archive));
    let keep = FUNCTIONS.map(|name| format!("--keep-global-symbol={name}"));
    run(Command::new("objcopy")
        .arg("--strip-debug")
        .args(keep)
        .arg(&joined));
    let library = out.join("libquarry_openblas.a");
    let _ = fs::remove_file(&library);
    run(Command::new("ar").arg("crs").arg(&library).arg(&joined));

    println!("cargo:rustc-link-search=native={}", out.display());
    // Whole: nothing has asked for the functions yet where the linker meets them.
    println!("cargo:rustc-link-lib=static:+whole-archive=quarry_openblas");
}

/// C that mentions every function as hidden: the linker gives a symbol the strictest
/// visibility among all its mentions.
fn mention_as_hidden() -> String {
    let declare =
        |name| format!("extern void {name}(void) __attribute__((visibility(\"hidden\")));\n");
    let declarations: String = FUNCTIONS.map(declare).concat();
    let list = FUNCTIONS.join(", ");
    format!("{declarations}void (*const quarry_openblas[])(void) = {{ {list} }};\n")
}

fn run(command: &mut Command) {
    let program = command.get_program().to_owned();
    let status = command.status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{} failed ({status:?}): install binutils, or see the lines above",
        OsStr::to_string_lossy(&program)
    );
}
