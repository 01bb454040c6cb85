//! A training batch shared out among threads gives what one thread gives.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_model::{Dropout, DualEncoder, PackedBatch, Pooling, Precision, Specials};
use std::sync::{Mutex, MutexGuard, PoisonError};
use support::{data, flat, max_difference, options};
use tch::{Kind, Tensor};

const SPECIALS: Specials = Specials { first: 2, last: 3 };

/// The tests set the number of libtorch's threads and seed its generator, both of which
/// the process has once.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 200 texts of 4 to 38 tokens, of which every second is short.
fn texts() -> Vec<Vec<u32>> {
    let text = |i: u32| {
        let tokens = if i.is_multiple_of(2) {
            i % 5
        } else {
            20 + i % 17
        };
        (0..tokens + 2).map(|t| 5 + (i * 31 + t * 7) % 50).collect()
    };
    (0..200).map(text).collect()
}

fn batch(texts: &[Vec<u32>]) -> PackedBatch {
    PackedBatch::new(texts.iter().map(Vec::as_slice), SPECIALS, 38)
}

fn loss(queries: &Tensor, passages: &Tensor) -> Tensor {
    let weights = Tensor::arange(queries.size()[1], (Kind::Float, queries.device())) + 1.0;
    (queries * passages * weights).square().sum(Kind::Float)
}

/// Vectors of queries and passages, and the gradient of every parameter.
fn step(model: &Model, threads: i32, dropout: Option<Dropout>) -> Vec<Vec<f32>> {
    tch::set_num_threads(threads);
    tch::manual_seed(17);
    let texts = texts();
    let (queries, passages) = (batch(&texts[..100]), batch(&texts[100..]));
    let pair = model
        .encoder
        .embed_pair(&queries, &passages, dropout)
        .unwrap();
    let mut found = vec![flat(&pair.queries), flat(&pair.passages)];
    let loss = loss(&pair.queries, &pair.passages);
    // Products in bf16 are not on every processor, those in f32 are.
    if model.precision == Precision::F32 {
        let drawing = dropout.is_some_and(|d| d.attention > 0.0);
        assert_eq!(pair.is_shared_out(), threads > 1 && !drawing);
    }
    pair.backward(&loss).unwrap();
    assert_eq!(tch::get_num_threads(), threads, "the number is put back");
    for parameter in model.encoder.parameters() {
        let mut gradient = parameter.tensor.grad();
        found.push(flat(&gradient));
        let _ = gradient.zero_();
    }
    found
}

fn close(found: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let largest_of = |values: &[f32]| values.iter().fold(0f32, |a, x| a.max(x.abs()));
    // The gradient of a key's bias is nothing but rounding: it is compared with the others.
    let least = expected.iter().map(|v| largest_of(v)).fold(0f32, f32::max) / 100.0;
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let largest = largest_of(expected).max(least);
        let off = max_difference(found, expected);
        assert!(off <= tolerance * largest, "{i}: {off} of {largest}");
    }
}

struct Model {
    encoder: DualEncoder,
    precision: Precision,
}

/// With shared towers and with separate ones, each with its own pooling.
fn models(precision: Precision) -> [Model; 2] {
    let load = |pooling| {
        let options = options(pooling, precision, true);
        let encoder = DualEncoder::load(&data("bert"), &options).unwrap();
        Model { encoder, precision }
    };
    let mut apart = load(Pooling::Mean);
    apart.encoder.untie().unwrap();
    [load(Pooling::Cls), apart]
}

#[test]
fn shared_out_or_not_vectors_and_gradients_are_the_same() {
    let _alone = alone();
    for model in models(Precision::F32) {
        let expected = step(&model, 1, None);
        for threads in [2, 3, 4, 5] {
            close(&step(&model, threads, None), &expected, 2e-5);
        }
    }
    for model in models(Precision::Bf16) {
        close(&step(&model, 2, None), &step(&model, 1, None), 0.03);
    }
}

#[test]
fn the_same_threads_repeat_every_bit() {
    let _alone = alone();
    let dropout = Some(Dropout {
        hidden: 0.1,
        attention: 0.0,
    });
    for precision in [Precision::F32, Precision::Bf16] {
        for model in models(precision) {
            let first = step(&model, 2, dropout);
            for _ in 0..5 {
                assert_eq!(step(&model, 2, dropout), first);
            }
            assert_ne!(step(&model, 2, None), first);
        }
    }
}

#[test]
fn dropout_of_attention_probabilities_works_too() {
    let _alone = alone();
    let dropout = Some(Dropout {
        hidden: 0.1,
        attention: 0.1,
    });
    for model in models(Precision::F32) {
        let first = step(&model, 2, dropout);
        assert!(first.iter().flatten().all(|x| x.is_finite()));
        assert_eq!(step(&model, 2, dropout), first);
    }
}

#[test]
fn gradients_of_several_batches_add_up() {
    let _alone = alone();
    tch::set_num_threads(3);
    for model in models(Precision::F32) {
        let once = step(&model, 3, None);
        let texts = texts();
        let (queries, passages) = (batch(&texts[..100]), batch(&texts[100..]));
        for _ in 0..2 {
            let pair = model.encoder.embed_pair(&queries, &passages, None);
            let pair = pair.unwrap();
            let loss = loss(&pair.queries, &pair.passages);
            pair.backward(&loss).unwrap();
        }
        let parameters = model.encoder.parameters();
        let halves: Vec<_> = parameters
            .iter()
            .map(|p| flat(&(p.tensor.grad() / 2.0)))
            .collect();
        close(&halves, &once[2..], 2e-5);
    }
}

#[test]
fn frozen_tables_and_weights_get_no_gradient() {
    let _alone = alone();
    let [model, _] = models(Precision::F32);
    let frozen = |name: &str| name.starts_with("embeddings") || name.contains("layer.0.output");
    for parameter in model.encoder.parameters() {
        let _ = parameter.tensor.set_requires_grad(!frozen(&parameter.name));
    }
    tch::set_num_threads(2);
    let texts = texts();
    let (queries, passages) = (batch(&texts[..100]), batch(&texts[100..]));
    let pair = model.encoder.embed_pair(&queries, &passages, None);
    let pair = pair.unwrap();
    assert!(pair.is_shared_out());
    let loss = loss(&pair.queries, &pair.passages);
    pair.backward(&loss).unwrap();
    for parameter in model.encoder.parameters() {
        let has = parameter.tensor.grad().defined();
        assert_eq!(has, !frozen(&parameter.name), "{}", parameter.name);
    }
}
