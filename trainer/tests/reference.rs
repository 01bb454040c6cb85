//! Against trusted values: transformers' schedules, torch's AdamW, LAMB by hand, and
//! an independent implementation of the batches (scripts/reference/trainer_fixtures.py).
#![allow(clippy::unwrap_used)]

use quarry_model::Parameter;
use quarry_recipe::{Optimizer as Kind, Recipe, Schedule, Train};
use quarry_trainer::batches::{Batches, Judgements, Mined};
use quarry_trainer::optimizer::Optimizer;
use quarry_trainer::schedule::LearningRate;
use serde_json::Value;
use tch::Tensor;

fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap() as f32)
        .collect()
}

fn rows(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn learning_rates_equal_transformers() {
    let fixture = fixture("schedules");
    for case in fixture["cases"].as_array().unwrap() {
        let shape: Schedule = serde_json::from_value(case["shape"].clone()).unwrap();
        let total = case["total"].as_u64().unwrap();
        let ratio = case["warmup_ratio"].as_f64().unwrap();
        let rate = LearningRate::new(fixture["peak"].as_f64().unwrap(), shape, ratio, total);
        for (step, expected) in case["rates"].as_array().unwrap().iter().enumerate() {
            let (found, expected) = (rate.at(step as u64), expected.as_f64().unwrap());
            assert!(
                (found - expected).abs() < 1e-18,
                "{case}: step {step} has {found}"
            );
        }
    }
}

fn parameter(name: &str, values: &[f32], shape: &[i64]) -> Parameter {
    let tensor = Tensor::from_slice(values)
        .view(shape)
        .set_requires_grad(true);
    Parameter {
        name: name.to_owned(),
        decay: shape.len() > 1,
        tensor,
    }
}

/// Gives `parameter` this gradient, by differentiating `Σ parameter × gradient`.
fn set_gradient(parameter: &Tensor, gradient: &[f32]) {
    let gradient = Tensor::from_slice(gradient).view_as(parameter);
    (parameter * gradient).sum(tch::Kind::Float).backward();
}

fn assert_close(found: &Tensor, expected: &[f32]) {
    let found = Vec::<f32>::try_from(found.detach().view(-1)).unwrap();
    for (f, e) in found.iter().zip(expected) {
        assert!(
            (f - e).abs() <= 1e-6 * e.abs().max(1.0),
            "{found:?} is not {expected:?}"
        );
    }
}

#[test]
fn adamw_equals_torch_with_decay_groups_and_clipping() {
    let fixture = fixture("adamw");
    let train = Train {
        weight_decay: 0.1,
        beta2: 0.98,
        epsilon: 1e-6,
        clip_norm: 1.0,
        ..Train::default()
    };
    let weight = parameter("weight", &floats(&fixture["start"][0]), &[3, 2]);
    let bias = parameter("bias", &floats(&fixture["start"][1]), &[2]);
    let tensors = [weight.tensor.shallow_clone(), bias.tensor.shallow_clone()];
    let mut optimizer = Optimizer::new(vec![weight, bias], &train);
    for step in fixture["steps"].as_array().unwrap() {
        optimizer.drop_gradients().unwrap();
        for (at, tensor) in tensors.iter().enumerate() {
            set_gradient(tensor, &floats(&step["grads"][at]));
        }
        let norm = optimizer.clip_gradients().unwrap();
        assert!(
            (norm - step["norm"].as_f64().unwrap()).abs() < 1e-6,
            "norm {norm}"
        );
        optimizer.step(1e-2).unwrap();
        for (at, tensor) in tensors.iter().enumerate() {
            assert_close(tensor, &floats(&step["params"][at]));
        }
    }
}

/// methods §0: u = [3.1621777, 0], trust = 1.5811888.
#[test]
fn lamb_takes_the_hand_computed_first_step() {
    let train = Train {
        optimizer: Kind::Lamb,
        epsilon: 1e-6,
        weight_decay: 0.0,
        clip_norm: 0.0,
        ..Train::default()
    };
    let weight = parameter("weight", &[3.0, 4.0], &[1, 2]);
    let tensor = weight.tensor.shallow_clone();
    let mut optimizer = Optimizer::new(vec![weight], &train);
    set_gradient(&tensor, &[1.0, 0.0]);
    assert_eq!(optimizer.clip_gradients().unwrap(), 1.0);
    optimizer.step(0.01).unwrap();
    assert_close(&tensor, &[2.95, 4.0]);
    // A zero weight has no trust ratio: it moves by the plain update.
    let zero = parameter("zero", &[0.0], &[1]);
    let tensor = zero.tensor.shallow_clone();
    let mut optimizer = Optimizer::new(vec![zero], &train);
    set_gradient(&tensor, &[1.0]);
    optimizer.step(0.01).unwrap();
    assert_close(&tensor, &[-0.031_621_777]);
}

#[test]
fn optimizer_state_round_trips_and_foreign_state_is_refused() {
    let train = Train::default();
    let weight = parameter("weight", &[1.0, -2.0], &[1, 2]);
    let tensor = weight.tensor.shallow_clone();
    let mut optimizer = Optimizer::new(vec![weight], &train);
    set_gradient(&tensor, &[0.5, 0.25]);
    optimizer.step(0.1).unwrap();
    let state = || optimizer.snapshot().unwrap().wait().unwrap();
    let mut fresh = Optimizer::new(vec![parameter("weight", &[1.0, -2.0], &[1, 2])], &train);
    fresh.restore(state()).unwrap();
    let restored = fresh.snapshot().unwrap().wait().unwrap();
    for ((name, a), (_, b)) in state().iter().zip(&restored) {
        assert!(a.equal(b), "{name}");
    }
    let mut other = Optimizer::new(vec![parameter("bias", &[1.0], &[1])], &train);
    assert!(
        other
            .restore(state())
            .unwrap_err()
            .to_string()
            .contains("exp_avg.bias")
    );
    let mut wide = Optimizer::new(vec![parameter("weight", &[1.0], &[1, 1])], &train);
    assert!(wide.restore(state()).is_err());
}

struct Table {
    positives: Vec<Vec<u32>>,
    mined: Vec<Vec<u32>>,
}

impl Judgements for Table {
    fn positives(&self, query: u32) -> Vec<u32> {
        self.positives[query as usize].clone()
    }

    fn text_hash(&self, row: u32) -> u64 {
        u64::from(row)
    }
}

impl Mined for Table {
    fn negatives(&self, query: u32) -> &[u32] {
        &self.mined[query as usize]
    }
}

#[test]
fn batches_equal_the_independent_implementation() {
    let fixture = fixture("batches");
    let lists = |key: &str| fixture[key].as_array().unwrap().iter().map(rows).collect();
    let table = Table {
        positives: lists("positives"),
        mined: lists("mined"),
    };
    let mut recipe = Recipe {
        seed: fixture["seed"].as_u64().unwrap(),
        ..Recipe::default()
    };
    recipe.train.batch_size = fixture["batch_size"].as_u64().unwrap() as usize;
    recipe.train.negatives = fixture["negatives"].as_u64().unwrap() as usize;
    let mut batches = Batches::new(&recipe, table.positives.len()).unwrap();
    for (step, expected) in fixture["steps"].as_array().unwrap().iter().enumerate() {
        let batch = batches.batch(step as u64, &table, &table).unwrap();
        let columns = &batch.micros[0];
        let row = |column: &i64| columns.passages[*column as usize];
        let found: Vec<Vec<u32>> = columns
            .queries
            .iter()
            .zip(columns.passage_of.chunks(1 + recipe.train.negatives))
            .map(|(query, group)| {
                std::iter::once(*query)
                    .chain(group.iter().map(row))
                    .collect()
            })
            .collect();
        let expected: Vec<Vec<u32>> = expected.as_array().unwrap().iter().map(rows).collect();
        assert_eq!(found, expected, "step {step}");
    }
}
