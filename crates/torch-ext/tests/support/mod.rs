//! The GPU of the machine, if there is one, and attention as the textbook has it.
#![allow(dead_code)] // Each test file uses a part.

use quarry_torch_ext::load_cuda;
use std::path::Path;
use tch::{Cuda, Device, Tensor};

/// `softmax(Q Kᵀ / √d) V`, sequence after sequence, in the kind of its input.
pub fn textbook(projections: &Tensor, lengths: &[i64], heads: i64) -> Tensor {
    let hidden = projections.size()[1] / 3;
    let width = hidden / heads;
    let parts = projections.split_with_sizes(lengths, 0);
    let contexts: Vec<Tensor> = parts
        .iter()
        .map(|part| {
            let heads_first = part.view([-1, 3, heads, width]).permute([1, 2, 0, 3]);
            let [q, k, v] = [0, 1, 2].map(|i| heads_first.get(i));
            let scores = q.matmul(&k.transpose(1, 2)) / (width as f64).sqrt();
            let context = scores.softmax(-1, None).matmul(&v);
            context.transpose(0, 1).reshape([-1, hidden])
        })
        .collect();
    Tensor::cat(&contexts, 0)
}

/// Loads libtorch_cuda where there is one, and says whether. First thing in every test of a
/// file that also has tests for a GPU: libtorch asks once whether there is CUDA, as when it is
/// seeded, and keeps that answer for the life of the process.
#[allow(clippy::unwrap_used)]
pub fn load_libtorch() -> bool {
    load_cuda().unwrap()
}

/// The first GPU. Without one it says so, and the test is to return.
pub fn gpu() -> Option<Device> {
    let loaded = load_libtorch();
    if loaded && Cuda::is_available() {
        return Some(Device::Cuda(0));
    }
    assert!(
        !(loaded && Path::new("/dev/nvidia0").exists()),
        "this machine has a GPU that libtorch does not see: CUDA_VISIBLE_DEVICES hides it, or a test of this file used libtorch before load_libtorch()"
    );
    eprintln!("SKIPPED: no GPU, or no libtorch_cuda beside this libtorch");
    None
}
