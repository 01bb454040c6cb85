//! The GPU of the machine, if there is one, and attention as the textbook has it.
#![allow(dead_code)] // Each test file uses a part.

use quarry_torch_ext::load_cuda;
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

/// The first GPU. Without one it says so, and the test is to return.
#[allow(clippy::unwrap_used)]
pub fn gpu() -> Option<Device> {
    if load_cuda().unwrap() && Cuda::is_available() {
        return Some(Device::Cuda(0));
    }
    eprintln!("SKIPPED: no GPU, or no libtorch_cuda beside this libtorch");
    None
}
