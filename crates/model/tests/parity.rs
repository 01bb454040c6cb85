//! Tiny encoders of every family against transformers' own outputs and gradients.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_model::{Dropout, DualEncoder, PackedBatch, Pooling, Precision};
use std::sync::{Mutex, MutexGuard, PoisonError};
use support::{FAMILIES, data, expected, flat, load, max_difference, min_cosine, options};
use tch::{Kind, Tensor};

/// libtorch's generator is the whole process's: tests with dropout take turns.
fn generator() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn vectors_equal_transformers() {
    for family in FAMILIES {
        let expected = expected(family);
        for (pooling, key) in [(Pooling::Cls, "cls"), (Pooling::Mean, "mean")] {
            let found = load(family, pooling)
                .query()
                .embed(&expected.batch(), None)
                .unwrap();
            let difference = max_difference(&flat(&found), &expected.vectors(key));
            assert!(difference <= 1e-5, "{family} {key}: {difference}");
        }
    }
}

/// Dropout of attention probabilities, here so rare that none is dropped, takes the way
/// of libtorch's own operations, as do processors without the packed kernel.
#[test]
fn vectors_equal_transformers_without_the_packed_kernel_too() {
    let _alone = generator();
    let never = Dropout {
        hidden: 0.0,
        attention: 1e-9,
    };
    for family in FAMILIES {
        let expected = expected(family);
        let options = options(Pooling::Mean, Precision::F32, true);
        let model = DualEncoder::load(&data(family), &options).unwrap();
        let found = model.query().embed(&expected.batch(), Some(never)).unwrap();
        let difference = max_difference(&flat(&found), &expected.vectors("mean"));
        assert!(difference <= 1e-5, "{family}: {difference}");
    }
}

#[test]
fn gradients_equal_transformers() {
    for family in FAMILIES {
        let expected = expected(family);
        for (pooling, key) in [(Pooling::Cls, "cls"), (Pooling::Mean, "mean")] {
            let options = options(pooling, Precision::F32, true);
            let model = DualEncoder::load(&data(family), &options).unwrap();
            let vectors = model.query().embed(&expected.batch(), None).unwrap();
            let loss = weighted_square(&vectors);
            let value = f64::try_from(&loss).unwrap();
            let wanted = expected.json["loss"][key].as_f64().unwrap();
            assert!((value - wanted).abs() < 1e-4, "{family} {key}: {value}");
            loss.backward();
            let norms = &expected.json["gradient_norms"][key];
            assert_eq!(
                model.parameters().len(),
                norms.as_object().unwrap().len(),
                "{family} {key}: the pooler gets no gradient, all else does"
            );
            for parameter in model.parameters() {
                let found = f64::try_from(parameter.tensor.grad().norm()).unwrap();
                let name = in_file(family, &parameter.name);
                let wanted = norms[&name].as_f64().unwrap();
                // A key bias moves every score of a row alike: its gradient is rounding noise.
                let tolerance = 2e-4 * wanted + 1e-5;
                assert!(
                    (found - wanted).abs() <= tolerance,
                    "{family} {key} {name}: {found} is not {wanted}"
                );
            }
        }
    }
}

/// The fixture's loss: Σ over rows r, columns c of v² (c − 16) (r + 1) / 100.
fn weighted_square(vectors: &Tensor) -> Tensor {
    let (rows, width) = vectors.size2().unwrap();
    let options = (Kind::Float, tch::Device::Cpu);
    let columns = Tensor::arange(width, options) - width as f64 / 2.0;
    let weights = (Tensor::arange(rows, options) + 1.0).unsqueeze(1) * columns / 100.0;
    (vectors.square() * weights).sum(Kind::Float)
}

fn in_file(family: &str, name: &str) -> String {
    if family != "distilbert" {
        return name.to_owned();
    }
    [
        ("encoder.layer", "transformer.layer"),
        ("attention.self.query", "attention.q_lin"),
        ("attention.self.key", "attention.k_lin"),
        ("attention.self.value", "attention.v_lin"),
        ("attention.output.dense", "attention.out_lin"),
        ("attention.output.LayerNorm", "sa_layer_norm"),
        ("intermediate.dense", "ffn.lin1"),
        ("output.dense", "ffn.lin2"),
        ("output.LayerNorm", "output_layer_norm"),
    ]
    .iter()
    .fold(name.to_owned(), |n, (bert, distil)| n.replace(bert, distil))
}

#[test]
fn a_vector_does_not_depend_on_its_batch() {
    let expected = expected("roberta");
    let model = load("roberta", Pooling::Mean);
    let together = flat(&model.query().embed(&expected.batch(), None).unwrap());
    for (row, content) in expected.contents.iter().enumerate() {
        let alone = PackedBatch::new([content.as_slice()], expected.specials, 38);
        let alone = flat(&model.query().embed(&alone, None).unwrap());
        let difference = max_difference(&alone, &together[row * 32..][..32]);
        assert!(difference < 1e-5, "row {row}: {difference}");
    }
}

#[test]
fn encode_follows_the_input_order_whatever_the_budget() {
    let expected = expected("bert");
    let model = load("bert", Pooling::Mean);
    let mut contents: Vec<&[u32]> = expected.contents.iter().map(Vec::as_slice).collect();
    let encode = |contents: &[&[u32]], budget: usize| {
        let mut heard = Vec::new();
        let rows = model
            .query()
            .encode(contents, expected.specials, 38, budget, &mut |done| {
                heard.push(done)
            })
            .unwrap();
        assert_eq!(heard.last(), Some(&contents.len()));
        rows
    };
    let wanted = expected.vectors("mean");
    for budget in [1, 20, 1024] {
        assert!(max_difference(&encode(&contents, budget), &wanted) <= 1e-5);
    }
    assert_eq!(encode(&contents, 20), encode(&contents, 20));
    contents.reverse();
    let reversed: Vec<f32> = wanted.chunks(32).rev().flatten().copied().collect();
    assert!(max_difference(&encode(&contents, 20), &reversed) <= 1e-5);
}

#[test]
fn encoding_gives_the_same_bits_on_any_number_of_threads() {
    let expected = expected("bert");
    let contents: Vec<&[u32]> = expected.contents.iter().map(Vec::as_slice).collect();
    let before = tch::get_num_threads();
    for trainable in [false, true] {
        let options = options(Pooling::Mean, Precision::F32, trainable);
        let model = DualEncoder::load(&data("bert"), &options).unwrap();
        let encode = |threads: i32, contents: &[&[u32]]| {
            tch::set_num_threads(threads);
            let encoder = model.query();
            encoder.encode(contents, expected.specials, 38, 20, &mut |_| {})
        };
        let alone = encode(1, &contents).unwrap();
        for threads in [2, 3, 64] {
            assert_eq!(
                encode(threads, &contents).unwrap(),
                alone,
                "{threads} threads"
            );
        }
        // The failure of one thread's batch is told, and ends the others.
        let strange = [999_999];
        let mut damaged = contents.clone();
        damaged[1] = &strange;
        for threads in [1, 3] {
            let refused = encode(threads, &damaged).unwrap_err().to_string();
            assert!(refused.contains("999999"), "{refused}");
        }
    }
    tch::set_num_threads(before);
}

#[test]
fn bf16_stays_close_to_f32() {
    for family in FAMILIES {
        let expected = expected(family);
        let wanted = expected.vectors("mean");
        for trainable in [false, true] {
            let options = options(Pooling::Mean, Precision::Bf16, trainable);
            let model = DualEncoder::load(&data(family), &options).unwrap();
            let found = model.query().embed(&expected.batch(), None).unwrap();
            assert_eq!(found.kind(), Kind::Float);
            let cosine = min_cosine(&flat(&found), &wanted, 32);
            assert!(cosine >= 0.9995, "{family} trainable {trainable}: {cosine}");
        }
    }
}

#[test]
fn bf16_gradients_reach_the_f32_masters() {
    let expected = expected("bert");
    let gradients = |precision| {
        let options = options(Pooling::Mean, precision, true);
        let model = DualEncoder::load(&data("bert"), &options).unwrap();
        weighted_square(&model.query().embed(&expected.batch(), None).unwrap()).backward();
        let parameters = model.parameters();
        let all: Vec<f32> = parameters
            .iter()
            .flat_map(|p| flat(&p.tensor.grad()))
            .collect();
        assert!(
            parameters
                .iter()
                .all(|p| p.tensor.grad().kind() == Kind::Float)
        );
        all
    };
    let (exact, rounded) = (gradients(Precision::F32), gradients(Precision::Bf16));
    assert!(min_cosine(&exact, &rounded, exact.len()) > 0.999);
}

#[test]
fn dropout_follows_the_seed_and_is_off_without_it() {
    let expected = expected("bert");
    let _alone = generator();
    let options = options(Pooling::Mean, Precision::F32, true);
    let model = DualEncoder::load(&data("bert"), &options).unwrap();
    let embed = |seed: i64, dropout| {
        tch::manual_seed(seed);
        flat(&model.query().embed(&expected.batch(), dropout).unwrap())
    };
    for (hidden, attention) in [(0.1, 0.0), (0.0, 0.1), (0.1, 0.1)] {
        let dropout = Some(Dropout { hidden, attention });
        assert_eq!(embed(1, dropout), embed(1, dropout));
        assert!(max_difference(&embed(1, dropout), &embed(2, dropout)) > 1e-3);
    }
    assert_eq!(embed(1, None), embed(2, None));
}

#[test]
fn a_frozen_encoder_refuses_dropout() {
    let batch = expected("bert").batch();
    let model = load("bert", Pooling::Mean);
    let embed = |hidden, attention| {
        let dropout = Some(Dropout { hidden, attention });
        model.query().embed(&batch, dropout)
    };
    for (hidden, attention) in [(0.1, 0.0), (0.0, 1e-9)] {
        let reason = embed(hidden, attention).unwrap_err().to_string();
        assert!(reason.contains("trainable"), "{reason}");
    }
    assert!(embed(0.0, 0.0).is_ok());
}

#[test]
fn gradients_flow_through_every_dropout() {
    let _alone = generator();
    let expected = expected("bert");
    for precision in [Precision::F32, Precision::Bf16] {
        let options = options(Pooling::Mean, precision, true);
        let model = DualEncoder::load(&data("bert"), &options).unwrap();
        let dropout = Some(Dropout {
            hidden: 0.2,
            attention: 0.2,
        });
        weighted_square(&model.query().embed(&expected.batch(), dropout).unwrap()).backward();
        for parameter in model.parameters() {
            let norm = f64::try_from(parameter.tensor.grad().norm()).unwrap();
            assert!(
                norm.is_finite() && norm > 0.0,
                "{precision:?} {}: {norm}",
                parameter.name
            );
        }
    }
}

#[test]
fn finite_differences_agree_with_autograd() {
    let expected = expected("distilbert");
    let options = options(Pooling::Mean, Precision::F32, true);
    let model = DualEncoder::load(&data("distilbert"), &options).unwrap();
    let loss = || weighted_square(&model.query().embed(&expected.batch(), None).unwrap());
    loss().backward();
    for parameter in model.parameters() {
        // Along the gradient itself the slope is its norm.
        let gradient = parameter.tensor.grad();
        let norm = f64::try_from(gradient.norm()).unwrap();
        if norm < 1e-3 {
            continue;
        }
        let step = 1e-2 / norm.max(1.0);
        let direction = &gradient / norm;
        let at = |sign: f64| {
            let _no_grad = tch::no_grad_guard();
            let mut tensor = parameter.tensor.shallow_clone();
            let _ = tensor.g_add_(&(&direction * (sign * step)));
            let value = f64::try_from(loss()).unwrap();
            let _ = tensor.g_sub_(&(&direction * (sign * step)));
            value
        };
        let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
        assert!(
            (slope - norm).abs() < 2e-2 * norm + 2e-3,
            "{}: {slope} is not {norm}",
            parameter.name
        );
    }
}

#[test]
fn separate_towers_start_equal_and_move_apart() {
    let expected = expected("bert");
    let options = options(Pooling::Mean, Precision::F32, true);
    let mut model = DualEncoder::load(&data("bert"), &options).unwrap();
    let shared = model.parameters().len();
    assert!(model.shared());
    let pair = |model: &DualEncoder| {
        let pair = model
            .embed_pair(&expected.batch(), &expected.batch(), None)
            .unwrap();
        (flat(&pair.queries), flat(&pair.passages))
    };
    let (q, p) = pair(&model);
    assert!(max_difference(&q, &p) < 1e-6 && max_difference(&q, &expected.vectors("mean")) <= 1e-5);
    model.untie().unwrap();
    assert_eq!(
        (model.shared(), model.parameters().len()),
        (false, 2 * shared)
    );
    let moved = model
        .parameters()
        .into_iter()
        .find(|p| p.name.starts_with("query."))
        .unwrap();
    {
        let _no_grad = tch::no_grad_guard();
        let _ = moved.tensor.shallow_clone().g_mul_scalar_(2.0);
    }
    let (q2, p2) = pair(&model);
    assert!(max_difference(&p2, &p) < 1e-6 && max_difference(&q2, &q) > 1e-3);
}

#[test]
fn only_matrices_decay() {
    for parameter in load("bert", Pooling::Cls).parameters() {
        let matrix = parameter.name.ends_with("weight") && !parameter.name.contains("LayerNorm");
        assert_eq!(parameter.decay, matrix, "{}", parameter.name);
    }
}

#[test]
fn batches_the_encoder_cannot_take_are_refused() {
    let model = load("roberta", Pooling::Cls);
    let specials = expected("roberta").specials;
    let refusal = |contents: &[&[u32]]| {
        let batch = PackedBatch::new(contents.iter().copied(), specials, 512);
        model.query().embed(&batch, None).unwrap_err().to_string()
    };
    assert_eq!(refusal(&[]), "batch: it holds no sequence");
    assert!(refusal(&[&[97]]).contains("token id 97 is outside the vocabulary of 97"));
    assert!(refusal(&[&[5; 37]]).contains("39 tokens exceeds the model's 38 positions"));
}
