//! Steps judged on the device: they train as others do, a step that is not finite changes
//! nothing, and nothing waits. The processor can judge so too, so this runs everywhere;
//! with a GPU it is compared with the processor. Every test loads libtorch's CUDA half first.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_model::{DualEncoder, LoadOptions, PackedBatch, Precision, Specials};
use quarry_recipe::{Loss, Optimizer, Recipe};
use quarry_testkit::{WordCollection, write_plain_model};
use quarry_trainer::batches::Columns;
use quarry_trainer::loader::MicroBatch;
use quarry_trainer::step::{Learner, NotFinite};
use support::turn;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

const SPECIALS: Specials = Specials { first: 2, last: 3 };
/// A word that only damaged batches use.
const POISON: u32 = 30;

fn model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_plain_model(folder.path(), WordCollection::vocabulary(), 7);
    folder
}

fn learner(folder: &TempDir, device: Device, precision: Precision, recipe: &Recipe) -> Learner {
    let options = LoadOptions {
        device,
        precision,
        trainable: true,
        ..LoadOptions::default()
    };
    let encoder = DualEncoder::load(folder.path(), &options).unwrap();
    Learner::new(encoder, recipe, device)
}

fn recipe(optimizer: Optimizer, loss: Loss) -> Recipe {
    let mut recipe = Recipe::default();
    recipe.train.optimizer = optimizer;
    recipe.train.loss = loss;
    recipe.train.negatives = 1;
    recipe.train.clip_norm = 0.5;
    // Large, so that a gradient of rounding errors alone moves nothing: Adam would make a
    // whole step of it.
    recipe.train.epsilon = 1e-2;
    recipe.train.dropout.hidden = 0.0;
    recipe.train.dropout.attention = 0.0;
    recipe
}

/// Three queries, each with its positive and one negative; the words move with `step`.
fn micro(step: u32, damaged: bool) -> MicroBatch {
    let word = |i: u32| 5 + (i * 7 + step * 3) % 20;
    let first = if damaged { POISON } else { word(0) };
    let queries = [vec![first, word(1)], vec![word(2)], vec![word(3), word(4)]];
    let passages: Vec<Vec<u32>> = (0..6)
        .map(|i| (0..=i).map(|j| word(i * 5 + j)).collect())
        .collect();
    let pack = |rows: &[Vec<u32>]| PackedBatch::new(rows.iter().map(Vec::as_slice), SPECIALS, 16);
    MicroBatch {
        queries: pack(&queries),
        passages: pack(&passages),
        columns: Columns {
            queries: vec![0, 1, 2],
            passages: (0..6).collect(),
            passage_of: (0..6).collect(),
            targets: vec![0, 2, 4],
            masked: (0..18).map(|at| at == 3).collect(),
            pairs: 15,
            false_negatives: 1,
        },
    }
}

fn weights(learner: &Learner) -> Vec<Vec<f32>> {
    masters(learner.encoder())
}

fn masters(encoder: &DualEncoder) -> Vec<Vec<f32>> {
    let flat = |t: &Tensor| t.detach().to_device(Device::Cpu).contiguous().view(-1);
    let parameters = encoder.parameters();
    let values = |t: &Tensor| Vec::<f32>::try_from(flat(t)).unwrap();
    parameters.iter().map(|p| values(&p.tensor)).collect()
}

fn moments(learner: &Learner) -> Vec<Vec<f32>> {
    let snapshot = learner.optimizer().snapshot().unwrap();
    flat(&snapshot.wait().unwrap())
}

fn flat(state: &[(String, Tensor)]) -> Vec<Vec<f32>> {
    let values = |t: &Tensor| Vec::<f32>::try_from(t.view(-1)).unwrap();
    state.iter().map(|(_, t)| values(t)).collect()
}

fn bits(lists: &[Vec<f32>]) -> Vec<u32> {
    lists.iter().flatten().map(|x| x.to_bits()).collect()
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

const KINDS: [(Optimizer, Loss); 3] = [
    (Optimizer::AdamW, Loss::InfoNce),
    (Optimizer::AdamW, Loss::Pairwise),
    (Optimizer::Lamb, Loss::InfoNce),
];

#[test]
fn steps_judged_late_train_as_others_do() {
    support::load_libtorch();
    let _turn = turn();
    let folder = model();
    for (optimizer, loss) in KINDS {
        let recipe = recipe(optimizer, loss);
        let start = || learner(&folder, Device::Cpu, Precision::F32, &recipe);
        let (mut prompt, mut late) = (start(), start().reporting_late(true));
        let mut before = None;
        let mut found = Vec::new();
        for step in 0..6 {
            let micros = [micro(step, false)];
            let begun = late.begin(u64::from(step), &micros, 1e-3).unwrap();
            assert!(begun.is_late());
            // Read one step behind, as the training loop does.
            found.extend(before.replace(begun).map(|begun| begun.finish().unwrap()));
        }
        found.extend(before.map(|begun| begun.finish().unwrap()));
        let mut clipped = false;
        // Both round in another order, and steps of 1e-3 carry that on.
        for (step, found) in (0..6).zip(&found) {
            let expected = prompt
                .step(u64::from(step), &[micro(step, false)], 1e-3)
                .unwrap();
            clipped |= expected.grad_norm > recipe.train.clip_norm;
            for (found, expected) in [
                (found.loss, expected.loss),
                (found.grad_norm, expected.grad_norm),
            ] {
                assert!(
                    (found - expected).abs() < 1e-4 * expected.max(1.0),
                    "{optimizer:?} {loss:?} step {step}: {found} is not {expected}"
                );
            }
            assert_eq!(found.masked_fraction, expected.masked_fraction);
        }
        assert!(clipped, "nothing was clipped, so clipping was not compared");
        let parameters = late.encoder().parameters();
        let names = parameters.iter().map(|p| p.name.as_str());
        for ((name, late), prompt) in names.zip(weights(&late)).zip(weights(&prompt)) {
            // A softmax does not feel a constant added to all keys' scores: the gradient of
            // this bias is rounding errors alone, and LAMB scales them to a whole step.
            let noise = name.ends_with("attention.self.key.bias");
            let difference = largest_difference(&[late], &[prompt]);
            assert!(
                noise || difference < 1e-4,
                "{optimizer:?} {loss:?} {name}: {difference}"
            );
        }
    }
}

#[test]
fn a_step_that_is_not_finite_and_all_after_it_change_nothing() {
    support::load_libtorch();
    let _turn = turn();
    let folder = model();
    for (optimizer, loss) in KINDS {
        let recipe = recipe(optimizer, loss);
        let mut learner =
            learner(&folder, Device::Cpu, Precision::F32, &recipe).reporting_late(true);
        poison(&learner);
        let first = learner.begin(0, &[micro(0, false)], 1e-3).unwrap();
        let (weights_before, moments_before) = (weights(&learner), moments(&learner));
        let bad = learner.begin(1, &[micro(1, true)], 1e-3).unwrap();
        let after = learner.begin(2, &[micro(2, false)], 1e-3).unwrap();
        assert_eq!(
            bits(&weights(&learner)),
            bits(&weights_before),
            "{optimizer:?}"
        );
        assert_eq!(
            bits(&moments(&learner)),
            bits(&moments_before),
            "{optimizer:?}"
        );
        assert!(first.finish().is_ok());
        let error = bad.finish().unwrap_err();
        let error = error.downcast_ref::<NotFinite>().unwrap();
        assert_eq!((error.step, error.what), (1, "loss"));
        assert!(error.value.is_nan());
        // Its own numbers are sound; who stops at the error never asks for them.
        assert!(after.finish().is_ok());
    }
}

/// Makes the vector of one word NaN.
fn poison(learner: &Learner) {
    let _no_grad = tch::no_grad_guard();
    let parameters = learner.encoder().parameters();
    let words = parameters
        .iter()
        .find(|p| p.name.contains("word_embeddings"))
        .unwrap();
    let _ = words.tensor.get(i64::from(POISON)).fill_(f64::NAN);
}

#[test]
fn a_gpu_trains_as_the_processor_does() {
    let Some(gpu) = support::gpu() else { return };
    let _turn = turn();
    let folder = model();
    for (optimizer, loss) in KINDS {
        for (precision, tolerance) in [(Precision::F32, 1e-3), (Precision::Bf16, 5e-2)] {
            let recipe = recipe(optimizer, loss);
            let mut here = learner(&folder, Device::Cpu, Precision::F32, &recipe);
            let mut there = learner(&folder, gpu, precision, &recipe);
            let begun: Vec<_> = (0..6)
                .map(|step| there.begin(u64::from(step), &[micro(step, false)], 1e-3))
                .collect();
            for (step, begun) in (0..6).zip(begun) {
                let begun = begun.unwrap();
                assert!(begun.is_late());
                let found = begun.finish().unwrap();
                let expected = here
                    .step(u64::from(step), &[micro(step, false)], 1e-3)
                    .unwrap();
                assert!(
                    (found.loss - expected.loss).abs() < tolerance * expected.loss.max(1.0),
                    "{optimizer:?} {loss:?} {precision:?} step {step}: {} is not {}",
                    found.loss,
                    expected.loss
                );
            }
        }
    }
}

#[test]
fn a_gpu_refuses_a_step_that_is_not_finite() {
    let Some(gpu) = support::gpu() else { return };
    let _turn = turn();
    let folder = model();
    for optimizer in [Optimizer::AdamW, Optimizer::Lamb] {
        let recipe = recipe(optimizer, Loss::InfoNce);
        let mut learner = learner(&folder, gpu, Precision::Bf16, &recipe);
        poison(&learner);
        let _ = learner.step(0, &[micro(0, false)], 1e-3).unwrap();
        let before = bits(&weights(&learner));
        let error = learner.step(1, &[micro(1, true)], 1e-3).unwrap_err();
        assert_eq!(error.downcast_ref::<NotFinite>().unwrap().step, 1);
        assert_eq!(bits(&weights(&learner)), before, "{optimizer:?}");
        assert_eq!(learner.encoder().parameters()[0].tensor.kind(), Kind::Float);
    }
}

/// What a checkpoint takes: no later step reaches it, though only another thread waits for it.
fn a_copy_is_of_the_step_it_was_begun_after(device: Device) {
    let _turn = turn();
    let folder = model();
    let recipe = recipe(Optimizer::AdamW, Loss::InfoNce);
    let mut learner = learner(&folder, device, Precision::F32, &recipe);
    let _ = learner.step(0, &[micro(0, false)], 1e-3).unwrap();
    let (weights_then, moments_then) = (weights(&learner), moments(&learner));
    let copy = learner.encoder().begin_copy().unwrap();
    let state = learner.optimizer().snapshot().unwrap();
    let _ = learner.step(1, &[micro(1, false)], 1e-3).unwrap();
    assert_ne!(weights(&learner), weights_then);
    assert_ne!(moments(&learner), moments_then);
    let saved = tempfile::tempdir().unwrap();
    let path = saved.path().to_owned();
    let waiting = std::thread::spawn(move || {
        copy.save(&path).unwrap();
        state.wait().unwrap()
    });
    let state = waiting.join().unwrap();
    let written = DualEncoder::load(saved.path(), &LoadOptions::default()).unwrap();
    assert_eq!(masters(&written), weights_then);
    assert_eq!(flat(&state), moments_then);
}

#[test]
fn a_copy_is_of_its_own_step() {
    support::load_libtorch();
    a_copy_is_of_the_step_it_was_begun_after(Device::Cpu);
}

#[test]
fn a_copy_from_a_gpu_is_of_its_own_step() {
    let Some(gpu) = support::gpu() else { return };
    a_copy_is_of_the_step_it_was_begun_after(gpu);
}
