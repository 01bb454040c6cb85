//! Exact search on a GPU against the processor's: the same rows, ties and all.
#![allow(clippy::unwrap_used)]

use half::f16;
use quarry_index::{ExactIndex, Hit, Part, Search};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use tch::{Cuda, Device};

const DIM: usize = 64;

/// The first GPU. First thing in every test here: libtorch asks once whether there is CUDA, and
/// keeps that answer for the life of the process.
fn gpu() -> Option<Device> {
    let loaded = quarry_torch_ext::load_cuda().unwrap();
    if loaded && Cuda::is_available() {
        return Some(Device::Cuda(0));
    }
    assert!(
        !(loaded && Path::new("/dev/nvidia0").exists()),
        "this machine has a GPU that libtorch does not see: CUDA_VISIBLE_DEVICES hides it, or a test of this file used libtorch before gpu()"
    );
    eprintln!("SKIPPED: no GPU, or no libtorch_cuda beside this libtorch");
    None
}

/// Whole numbers: every product is exact, so scores tie often and bits must agree.
#[test]
fn hits_equal_the_processors() {
    let Some(gpu) = gpu() else { return };
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut numbers = |count: usize| -> Vec<f32> {
        (0..count)
            .map(|_| f32::from(random.random_range(-2i8..=2)))
            .collect()
    };
    let part = |first, values: Vec<f32>| {
        let values: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
        Part::new(first, DIM, values).unwrap()
    };
    // The first part is more than one of a GPU's tiles.
    let parts = vec![
        part(10, numbers(300_000 * DIM)),
        part(400_000, numbers(777 * DIM)),
    ];
    let queries = numbers(1_500 * DIM);
    let hits = |device, k| -> Vec<Vec<Hit>> {
        let index = ExactIndex::new(parts.clone(), device).unwrap();
        index.search(&queries, k).unwrap()
    };
    for k in [1, 100] {
        assert_eq!(hits(gpu, k), hits(Device::Cpu, k), "k {k}");
    }
}
