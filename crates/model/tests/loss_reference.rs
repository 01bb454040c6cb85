//! Losses against sentence-transformers and torch, value and gradient.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_model::loss::{Contrast, info_nce, pairwise_nll};
use support::{data, flat, json, matrix, max_difference};
use tch::Tensor;

fn leaf(values: &[f32], rows: i64) -> Tensor {
    Tensor::from_slice(values)
        .view([rows, -1])
        .set_requires_grad(true)
}

#[test]
fn values_and_gradients_equal_the_reference() {
    let file = json(&data("losses.json"));
    let negatives = file["negatives"].as_i64().unwrap();
    let group = negatives + 1;
    for (name, case) in file["cases"].as_object().unwrap() {
        let queries = leaf(&matrix(&file["queries"]), 6);
        let passages = leaf(&matrix(&file["passages"]), 6 * group);
        let unit = |x: &Tensor| x / x.norm_scalaropt_dim(2.0, [1i64].as_slice(), true);
        let (q, p) = match name.as_str() {
            "cosine" => (unit(&queries), unit(&passages)),
            _ => (queries.shallow_clone(), passages.shallow_clone()),
        };
        let targets = Tensor::arange(6, (tch::Kind::Int64, tch::Device::Cpu)) * group;
        let input = Contrast {
            queries: &q,
            passages: &p,
            targets: &targets,
            masked: None,
            temperature: case["temperature"].as_f64().unwrap(),
        };
        let output = match name.as_str() {
            "pairwise" => pairwise_nll(&input, negatives).unwrap(),
            _ => info_nce(&input).unwrap(),
        };
        output.loss.backward();
        let value = f64::try_from(&output.loss).unwrap();
        assert!(
            (value - case["loss"].as_f64().unwrap()).abs() < 1e-5,
            "{name}: {value}"
        );
        for (tensor, key) in [
            (&queries, "query_gradient"),
            (&passages, "passage_gradient"),
        ] {
            let difference = max_difference(&flat(&tensor.grad()), &matrix(&case[key]));
            assert!(difference < 1e-5, "{name} {key}: {difference}");
        }
    }
}

#[test]
fn a_constant_added_to_every_passage_changes_cosine_but_not_dot() {
    let file = json(&data("losses.json"));
    let queries = leaf(&matrix(&file["queries"]), 6);
    let passages = leaf(&matrix(&file["passages"]), 18);
    let targets = Tensor::arange(6, (tch::Kind::Int64, tch::Device::Cpu)) * 3;
    let loss = |q: &Tensor, p: &Tensor| {
        let input = Contrast {
            queries: q,
            passages: p,
            targets: &targets,
            masked: None,
            temperature: 1.0,
        };
        f64::try_from(info_nce(&input).unwrap().loss).unwrap()
    };
    let unit = |x: &Tensor| x / x.norm_scalaropt_dim(2.0, [1i64].as_slice(), true);
    let shifted = &passages + 0.5;
    assert!((loss(&queries, &passages) - loss(&queries, &shifted)).abs() < 1e-5);
    assert!(
        (loss(&unit(&queries), &unit(&passages)) - loss(&unit(&queries), &unit(&shifted))).abs()
            > 1e-3
    );
}
