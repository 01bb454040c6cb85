//! What a pass asks of libtorch, counted: a fusion that is lost, padding that creeps in
//! or a gradient that is allocated for every chunk shows here, on any machine.
//!
//! The bounds are what was counted when they were written, and a little: raise one only
//! with a reason, lower it when the code does better.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_model::{Dropout, DualEncoder, PackedBatch, Pooling, Precision, Specials};
use quarry_torch_ext::{Counts, PackedAttention, tally};
use support::{data, options};
use tch::Kind;

const SPECIALS: Specials = Specials { first: 2, last: 3 };
const WIDTH: i64 = 32;

fn model(pooling: Pooling, precision: Precision, trainable: bool) -> DualEncoder {
    let options = options(pooling, precision, trainable);
    DualEncoder::load(&data("bert"), &options).unwrap()
}

/// Sequences of these many tokens, specials included.
fn batch(lengths: &[usize]) -> PackedBatch {
    let contents: Vec<Vec<u32>> = lengths.iter().map(|l| vec![7; l - 2]).collect();
    PackedBatch::new(contents.iter().map(Vec::as_slice), SPECIALS, 38)
}

fn encoding(precision: Precision, lengths: &[usize]) -> Counts {
    let (model, batch) = (model(Pooling::Mean, precision, false), batch(lengths));
    let embed = || tch::no_grad(|| model.query().embed(&batch, None).unwrap());
    let _ = embed();
    tally(embed).unwrap().1
}

fn training(pooling: Pooling, lengths: &[usize]) -> Counts {
    let (model, batch) = (model(pooling, Precision::F32, true), batch(lengths));
    let dropout = Some(Dropout {
        hidden: 0.1,
        attention: 0.0,
    });
    let step = || {
        let vectors = model.query().embed(&batch, dropout).unwrap();
        vectors.square().sum(Kind::Float).backward();
    };
    // The first step allocates the gradients.
    step();
    tally(step).unwrap().1
}

/// States `[1, h]` allocated for each token, between a small and a large batch.
fn states_a_token(few: &Counts, many: &Counts, tokens: i64) -> f64 {
    (many.bytes - few.bytes) as f64 / (tokens * WIDTH * 4) as f64
}

#[test]
fn padding_costs_nothing() {
    // As many tokens, once of equal lengths, once of very different ones.
    let even = encoding(Precision::F32, &[20; 16]);
    let mixed = encoding(Precision::F32, &[4, 36].repeat(8));
    assert!(
        mixed.bytes < even.bytes + even.bytes / 50,
        "{even:?} {mixed:?}"
    );
}

#[test]
fn encoding_keeps_nothing_between_the_operations_of_a_layer() {
    let (few, many) = (
        encoding(Precision::F32, &[32; 4]),
        encoding(Precision::F32, &[32; 40]),
    );
    assert_eq!(few.operations, many.operations);
    assert!(few.operations <= 55 && few.allocations <= 15, "{few:?}");
    // Ids and positions come from lists; nothing else is moved.
    let copied = (many.copied - few.copied) as f64 / (36 * 32 * WIDTH * 4) as f64;
    assert!(copied < 0.2, "{few:?} {many:?}");
    // Words, positions and their norm; what all layers work on, and their result.
    let states = states_a_token(&few, &many, 36 * 32);
    assert!(states < 5.5, "{states}");
}

#[test]
fn in_bf16_neither() {
    if PackedAttention::new(4, WIDTH / 4, Kind::BFloat16).is_err() {
        eprintln!("SKIPPED: no bf16 kernel here");
        return;
    }
    let count = |lengths: &[usize]| encoding(Precision::Bf16, lengths);
    let (few, many) = (count(&[32; 4]), count(&[32; 40]));
    assert_eq!(few.operations, many.operations);
    // By single layers 75 and 32.
    assert!(few.operations <= 62 && few.allocations <= 17, "{few:?}");
    // Half of the size what the layers work on; embeddings, their norm and the pooled states
    // are f32.
    let states = states_a_token(&few, &many, 36 * 32);
    assert!(states < 6.0, "{states}");
}

#[test]
fn training_allocates_no_gradient_of_a_weight() {
    let count = |lengths: &[usize]| training(Pooling::Mean, lengths);
    let (few, many) = (count(&[32; 4]), count(&[32; 40]));
    assert!(few.operations <= 650 && few.allocations <= 170, "{few:?}");
    assert_eq!(few.allocations, many.allocations);
    let copied = (many.copied - few.copied) as f64 / (36 * 32 * WIDTH * 4) as f64;
    // In the backward pass slopes are laid out for the kernels, outside the layers.
    assert!(copied < 3.3, "{few:?} {many:?}");
    // Nine of them are inputs of layers, laid out for the gradients of their weights.
    let states = states_a_token(&few, &many, 36 * 32);
    assert!(states < 80.0, "{states}");
    // Two chunks cost what one costs, twice: nothing follows the size of the tables.
    let two = count(&[36; 60]);
    assert!(two.allocations <= 2 * many.allocations, "{many:?} {two:?}");
}

#[test]
fn cls_pooling_spares_what_it_does_not_read() {
    let [cls, mean] = [Pooling::Cls, Pooling::Mean].map(|pooling| {
        let count = |lengths: &[usize]| training(pooling, lengths);
        states_a_token(&count(&[32; 4]), &count(&[32; 40]), 36 * 32)
    });
    // Of two layers one, and of the other what attention works on: 55 and 79 states.
    assert!(cls < 0.72 * mean, "{cls} {mean}");
}
