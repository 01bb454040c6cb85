//! The encoder on a GPU against the same on the processor: f32 by libtorch's operations,
//! bf16 by flash attention, forward and backward, and many batches under way at once.
#![allow(clippy::unwrap_used)]

mod support;

use half::f16;
use quarry_model::{Dropout, DualEncoder, LoadOptions, PackedBatch, Pooling, Precision, Specials};
use quarry_torch_ext::load_cuda;
use std::ops::ControlFlow;
use std::path::Path;
use support::{FAMILIES, data, expected, flat, max_difference, min_cosine};
use tch::{Cuda, Device, Kind};

/// The first GPU. First thing in every test here: libtorch asks once whether there is CUDA, and
/// keeps that answer for the life of the process.
fn gpu() -> Option<Device> {
    let loaded = load_cuda().unwrap();
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

fn options(device: Device, pooling: Pooling, precision: Precision, trainable: bool) -> LoadOptions {
    LoadOptions {
        device,
        precision,
        pooling: Some(pooling),
        trainable,
        ..LoadOptions::default()
    }
}

#[test]
fn vectors_equal_transformers() {
    let Some(gpu) = gpu() else { return };
    for family in FAMILIES {
        let expected = expected(family);
        for (pooling, key) in [(Pooling::Cls, "cls"), (Pooling::Mean, "mean")] {
            let found = |precision| {
                let options = options(gpu, pooling, precision, false);
                let model = DualEncoder::load(&data(family), &options).unwrap();
                let vectors = model.query().embed(&expected.batch(), None).unwrap();
                (flat(&vectors.to_device(Device::Cpu)), model.dim())
            };
            let (f32, dim) = found(Precision::F32);
            let difference = max_difference(&f32, &expected.vectors(key));
            assert!(difference <= 1e-4, "{family} {key}: {difference}");
            let (bf16, _) = found(Precision::Bf16);
            let cosine = min_cosine(&bf16, &expected.vectors(key), dim as usize);
            assert!(cosine >= 0.999, "{family} {key} in bf16: {cosine}");
        }
    }
}

#[test]
fn gradients_point_where_the_processors_do() {
    let Some(gpu) = gpu() else { return };
    for family in FAMILIES {
        let expected = expected(family);
        for pooling in [Pooling::Cls, Pooling::Mean] {
            let gradients = |device, precision| {
                let options = options(device, pooling, precision, true);
                let model = DualEncoder::load(&data(family), &options).unwrap();
                let vectors = model.query().embed(&expected.batch(), None).unwrap();
                (&vectors * &vectors).sum(Kind::Float).backward();
                let parameters = model.parameters();
                let gradient = |p: &quarry_model::Parameter| {
                    let gradient = p.tensor.grad();
                    gradient
                        .defined()
                        .then(|| flat(&gradient.to_device(Device::Cpu)))
                };
                parameters.iter().filter_map(gradient).collect::<Vec<_>>()
            };
            let here = gradients(Device::Cpu, Precision::F32).concat();
            for (precision, floor) in [(Precision::F32, 0.999_99), (Precision::Bf16, 0.99)] {
                let there = gradients(gpu, precision).concat();
                let cosine = min_cosine(&there, &here, here.len());
                assert!(
                    cosine >= floor,
                    "{family} {pooling:?} {precision:?}: {cosine}"
                );
            }
        }
    }
}

/// Lengths from 2 to 254 tokens in many small batches: each is received while the next
/// one runs, and none may arrive in another's place.
#[test]
fn many_batches_under_way_arrive_where_they_belong() {
    let (Some(gpu), Some(dir)) = (gpu(), support::minilm()) else {
        return;
    };
    let contents: Vec<Vec<u32>> = (0..300u32)
        .map(|i| {
            (0..(i * 37) % 253)
                .map(|j| 2000 + (i * 31 + j * 7) % 20_000)
                .collect()
        })
        .collect();
    let contents: Vec<&[u32]> = contents.iter().map(Vec::as_slice).collect();
    let specials = Specials {
        first: 101,
        last: 102,
    };
    let vectors = |device, precision, budget| {
        let options = LoadOptions {
            device,
            precision,
            ..LoadOptions::default()
        };
        let model = DualEncoder::load(&dir, &options).unwrap();
        let encoder = model.passage();
        encoder
            .encode(&contents, specials, 256, budget, &mut |_| {})
            .unwrap()
    };
    let here = vectors(Device::Cpu, Precision::F32, 1024);
    for (precision, floor) in [(Precision::F32, 0.999_99), (Precision::Bf16, 0.999)] {
        for budget in [300, 4096, 100_000] {
            let cosine = min_cosine(&vectors(gpu, precision, budget), &here, 384);
            assert!(cosine >= floor, "{precision:?}, budget {budget}: {cosine}");
        }
    }
}

#[test]
fn vectors_in_fp16_are_the_others_rounded() {
    let Some(gpu) = gpu() else { return };
    let expected = expected("bert");
    let contents: Vec<&[u32]> = expected.contents.iter().map(Vec::as_slice).collect();
    for precision in [Precision::F32, Precision::Bf16] {
        let options = options(gpu, Pooling::Mean, precision, false);
        let model = DualEncoder::load(&data("bert"), &options).unwrap();
        let (encoder, width) = (model.query(), model.dim() as usize);
        let whole = encoder.encode(&contents, expected.specials, 38, 20, &mut |_| {});
        let whole = whole.unwrap();
        let mut halves = vec![f32::NAN; whole.len()];
        let mut take = |places: &[usize], vectors: &[f16]| {
            let rows: Vec<f32> = vectors.iter().map(|x| x.to_f32()).collect();
            for (&place, row) in places.iter().zip(rows.chunks_exact(width)) {
                halves[place * width..][..width].copy_from_slice(row);
            }
            ControlFlow::Continue(())
        };
        let outcome = encoder.encode_half(&contents, expected.specials, 38, 20, &mut take);
        outcome.unwrap();
        let difference = max_difference(&halves, &whole);
        assert!(difference <= 4e-3, "{precision:?}: {difference}");
    }
}

#[test]
fn dropout_repeats_by_seed() {
    let Some(gpu) = gpu() else { return };
    let expected = expected("bert");
    let options = options(gpu, Pooling::Mean, Precision::Bf16, true);
    let model = DualEncoder::load(&data("bert"), &options).unwrap();
    let batch: PackedBatch = expected.batch();
    let dropout = Dropout {
        hidden: 0.1,
        attention: 0.1,
    };
    let drawn = |seed| {
        tch::manual_seed(seed);
        model.query().embed(&batch, Some(dropout)).unwrap()
    };
    assert!(drawn(1).equal(&drawn(1)));
    assert!(!drawn(1).equal(&drawn(2)));
}
