//! faiss's BLAS is inside the binary and seen by nobody else (see `build.rs`).
#![allow(clippy::unwrap_used)]

use std::{env, process::Command};

use faiss::{Index, MetricType, index_factory};
use quarry_index as _; // brings the BLAS with it

/// `nm` over this test's own executable: lines that name a BLAS function of faiss.
fn symbols(flags: &[&str]) -> Vec<String> {
    let output = Command::new("nm")
        .args(flags)
        .arg(env::current_exe().unwrap())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = [
        "sgemm_", "ssyrk_", "sgeqrf_", "sorgqr_", "sgesvd_", "dsyev_",
    ];
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter(|line| names.iter().any(|name| line.ends_with(&format!(" {name}"))))
        .map(str::to_owned)
        .collect()
}

#[test]
fn blas_is_defined_inside_and_absent_from_the_dynamic_symbols() {
    let mut index = index_factory(4, "Flat", MetricType::InnerProduct).unwrap();
    index.add(&[1.0, 0.0, 0.0, 0.0]).unwrap();
    assert_eq!(index.ntotal(), 1);
    assert_eq!(symbols(&["--defined-only"]).len(), 6, "{:?}", symbols(&[]));
    assert_eq!(symbols(&["--dynamic"]), Vec::<String>::new());
}

/// libtorch keeps its own: a product through it must still be right in the same process.
#[test]
fn libtorch_multiplies_beside_it() {
    let a = tch::Tensor::from_slice2(&[[1.0_f32, 2.0], [3.0, 4.0]]);
    assert_eq!(
        a.matmul(&a),
        tch::Tensor::from_slice2(&[[7.0_f32, 10.0], [15.0, 22.0]])
    );
}
