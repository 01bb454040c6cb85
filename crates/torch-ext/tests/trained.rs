//! Layers that fill their masters' gradients, against autograd's own.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use quarry_torch_ext::{
    Activation, EmbeddingTables, PackedAttention, TrainedLinear, set_num_threads,
    trained_embeddings, trained_feed_forward,
};
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

fn leaf(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, FLOAT).set_requires_grad(true)
}

fn twin(tensor: &Tensor) -> Tensor {
    tensor.detach().copy().set_requires_grad(true)
}

/// Two small tables without padding.
fn tables(leaves: &[Tensor; 2]) -> EmbeddingTables<'_> {
    EmbeddingTables {
        word: &leaves[0],
        position: &leaves[1],
        token_type: None,
        word_pad: -1,
        position_pad: -1,
    }
}

fn assert_near(found: &Tensor, exact: &Tensor, tolerance: f64, label: &str) {
    assert_eq!(found.size(), exact.size(), "{label}");
    let scale = exact.abs().max().double_value(&[]);
    let (found, exact) = (found.to_kind(Kind::Float), exact.to_kind(Kind::Float));
    let error = (found - exact).abs().max().double_value(&[]);
    assert!(
        error <= tolerance * scale,
        "{label}: off by {error} of {scale}"
    );
}

#[test]
fn joined_layers_train_as_single_ones_do() {
    tch::manual_seed(4);
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 0.02)] {
        let masters: Vec<(Tensor, Tensor)> = [24, 8, 40]
            .map(|out| (leaf(&[out, 48]), leaf(&[out])))
            .into();
        let twins: Vec<_> = masters.iter().map(|(w, b)| (twin(w), twin(b))).collect();
        let pairs: Vec<_> = masters.iter().map(|(w, b)| (w, b)).collect();
        let layer = match TrainedLinear::new(&pairs, kind, 64) {
            Ok(layer) => layer,
            Err(error) => {
                assert_eq!(kind, Kind::BFloat16, "{error}");
                eprintln!("skipped: this processor has no bf16 products");
                continue;
            }
        };
        let (a, b) = (leaf(&[50, 48]), leaf(&[7, 48]));
        let (c, d) = (twin(&a), twin(&b));
        // Two uses of one layer, as two chunks of a batch are.
        for x in [&a, &b] {
            let y = layer.forward(&x.to_kind(kind)).unwrap();
            assert_eq!((y.kind(), y.size()[1]), (kind, 72));
            y.to_kind(Kind::Float).square().sum(Kind::Float).backward();
        }
        for x in [&c, &d] {
            let outs: Vec<_> = twins
                .iter()
                .map(|(w, b)| {
                    x.to_kind(kind)
                        .linear(&w.to_kind(kind), Some(&b.to_kind(kind)))
                })
                .collect();
            let y = Tensor::cat(&outs, 1);
            y.to_kind(Kind::Float).square().sum(Kind::Float).backward();
        }
        assert_near(&a.grad(), &c.grad(), tolerance, "first input");
        assert_near(&b.grad(), &d.grad(), tolerance, "second input");
        for ((weight, bias), (w, b)) in masters.iter().zip(&twins) {
            assert_near(&weight.grad(), &w.grad(), tolerance, "weight");
            assert_near(&bias.grad(), &b.grad(), tolerance, "bias");
        }
    }
}

#[test]
fn a_feed_forward_branch_trains_as_its_three_operations_do() {
    tch::manual_seed(6);
    // Far out on both sides, where GELU is flat, and a size that is no multiple of a vector.
    let [x, grad] = [leaf(&[37, 24]), leaf(&[37, 10])].map(|t| t.detach() * 2.0);
    for (kind, tolerance) in [(Kind::Float, 2e-6), (Kind::BFloat16, 0.02)] {
        for (activation, form) in [(Activation::Gelu, "none"), (Activation::GeluTanh, "tanh")] {
            let masters = [leaf(&[33, 24]), leaf(&[33]), leaf(&[10, 33]), leaf(&[10])];
            let twins = masters.each_ref().map(twin);
            let [w1, b1, w2, b2] = &masters;
            let layers = [(w1, b1), (w2, b2)].map(|pair| TrainedLinear::new(&[pair], kind, 37));
            let [Ok(inner), Ok(outer)] = layers else {
                assert_eq!(kind, Kind::BFloat16);
                eprintln!("skipped: this processor has no bf16 products");
                continue;
            };
            let (a, b) = (twin(&x), twin(&x));
            let y = trained_feed_forward(&a.to_kind(kind), &inner, &outer, activation).unwrap();
            assert_eq!(y.kind(), kind);
            (y.to_kind(Kind::Float) * &grad).sum(Kind::Float).backward();

            let [w1, b1, w2, b2] = twins.each_ref().map(|t| t.to_kind(kind));
            let exact = b
                .to_kind(kind)
                .linear(&w1, Some(&b1))
                .gelu(form)
                .linear(&w2, Some(&b2));
            (exact.to_kind(Kind::Float) * &grad)
                .sum(Kind::Float)
                .backward();

            let label = |what: &str| format!("{kind:?} {form}: {what}");
            assert_near(&y, &exact, tolerance, &label("output"));
            assert_near(&a.grad(), &b.grad(), tolerance, &label("input"));
            for (place, (found, exact)) in masters.iter().zip(&twins).enumerate() {
                assert_near(
                    &found.grad(),
                    &exact.grad(),
                    tolerance,
                    &label(&place.to_string()),
                );
            }
        }
    }
}

#[test]
fn a_weights_gradient_adds_up_exactly_over_any_number_of_tokens() {
    check_weight_gradients();
}

/// AVX-512 without bf16 has packed layers in bf16 but no block products. Where the processor has
/// both, a second process that is told otherwise checks it: oneDNN reads its variable once.
#[test]
fn nor_is_a_weights_gradient_rounded_where_bf16_has_no_block_products() {
    const TOLD: &str = "QUARRY_TEST_WITHOUT_BF16_PRODUCTS";
    const NAME: &str = "nor_is_a_weights_gradient_rounded_where_bf16_has_no_block_products";
    if std::env::var_os(TOLD).is_some() {
        assert!(PackedAttention::new(2, 16, Kind::BFloat16).is_err());
        return check_weight_gradients();
    }
    let told = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(TOLD, "1")
        .env("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&told.stderr);
    eprintln!("{said}"); // Of a processor that has no bf16 at all.
    assert!(told.status.success(), "{said}");
    assert!(
        String::from_utf8_lossy(&told.stdout).contains("1 passed"),
        "{said}"
    );
}

/// dYᵀ X in double precision, of what the layer read: nothing is rounded to bf16 on its way into
/// the gradient, which 2⁻⁹ would show.
fn check_weight_gradients() {
    tch::manual_seed(8);
    for kind in [Kind::Float, Kind::BFloat16] {
        for (tokens, inputs, out) in [(1, 16, 70), (17, 65, 129), (1100, 130, 72)] {
            let (weight, bias) = (leaf(&[out, inputs]), leaf(&[out]));
            let Ok(layer) = TrainedLinear::new(&[(&weight, &bias)], kind, tokens) else {
                eprintln!("skipped: this processor has no {kind:?} products");
                continue;
            };
            let [x, dy] = [inputs, out].map(|n| Tensor::randn([tokens, n], FLOAT).to_kind(kind));
            let mut once = Tensor::new();
            for threads in [1, 2] {
                set_num_threads(threads).unwrap();
                let mut weight = weight.shallow_clone();
                weight.zero_grad();
                (layer.forward(&x).unwrap() * &dy).sum(kind).backward();
                let found = weight.grad().copy();
                let double = |t: &Tensor| t.to_kind(Kind::Double);
                let exact = double(&dy).transpose(0, 1).matmul(&double(&x));
                let label = format!("{kind:?} {tokens} {inputs} {out}");
                assert_near(&found, &exact, 1e-6, &label);
                if threads == 2 {
                    assert!(found == once, "{label}: threads");
                }
                once = found;
            }
            set_num_threads(1).unwrap();
        }
    }
}

#[test]
fn layers_that_do_not_fit_each_other_are_refused() {
    let layer = |out, width, kind| {
        TrainedLinear::new(&[(&leaf(&[out, width]), &leaf(&[out]))], kind, 4).unwrap()
    };
    let x = Tensor::ones([3, 6], FLOAT);
    let (inner, outer) = (layer(8, 6, Kind::Float), layer(6, 8, Kind::Float));
    let refused = |x: &Tensor, inner, outer, activation| {
        trained_feed_forward(x, inner, outer, activation)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&x, &inner, &inner, Activation::Gelu).contains("does not take"));
    assert!(refused(&x, &outer, &inner, Activation::Gelu).contains("[3, 6]"));
    assert!(refused(&x, &inner, &outer, Activation::Relu).contains("not GELU"));
    let deep = x.view([1, 3, 6]);
    assert!(refused(&deep, &inner, &outer, Activation::Gelu).contains("not [T, in]"));
    let reason = inner.forward(&deep).unwrap_err().to_string();
    assert!(reason.contains("not [T, in]"), "{reason}");
    let y = trained_feed_forward(&x, &inner, &outer, Activation::Gelu).unwrap();
    assert_eq!(y.size(), [3, 6]);
}

#[test]
fn a_layer_trains_although_its_input_does_not() {
    let (weight, bias) = (leaf(&[4, 6]), leaf(&[4]));
    let layer = TrainedLinear::new(&[(&weight, &bias)], Kind::Float, 1).unwrap();
    let x = Tensor::ones([3, 6], FLOAT);
    layer.forward(&x).unwrap().sum(Kind::Float).backward();
    assert_eq!(
        Vec::<f32>::try_from(weight.grad().view(-1)).unwrap(),
        [3.0; 24]
    );
    assert_eq!(Vec::<f32>::try_from(bias.grad()).unwrap(), [3.0; 4]);
    // Without gradients nothing is recorded.
    let y = tch::no_grad(|| layer.forward(&x)).unwrap();
    assert!(!y.requires_grad());
}

#[test]
fn embeddings_train_as_autograd_trains_them() {
    tch::manual_seed(5);
    let tables = [leaf(&[30, 10]), leaf(&[8, 10]), leaf(&[2, 10])];
    let twins = [twin(&tables[0]), twin(&tables[1]), twin(&tables[2])];
    let ids = Tensor::from_slice(&[3i64, 29, 3, 1, 7, 1, 0]);
    let positions = Tensor::from_slice(&[0i64, 1, 2, 1, 4, 5, 7]);
    let grad = Tensor::randn([7, 10], FLOAT);
    for (word_pad, position_pad) in [(1, -1), (1, 1)] {
        let sum = trained_embeddings(
            &ids,
            &positions,
            EmbeddingTables {
                word: &tables[0],
                position: &tables[1],
                token_type: Some(&tables[2]),
                word_pad,
                position_pad,
            },
        )
        .unwrap();
        let gather = |table, rows, pad| Tensor::embedding(table, rows, pad, false, false);
        let exact = gather(&twins[0], &ids, word_pad)
            + gather(&twins[1], &positions, position_pad)
            + twins[2].get(0);
        assert_near(&sum, &exact, 1e-6, "sum");
        (sum * &grad).sum(Kind::Float).backward();
        (exact * &grad).sum(Kind::Float).backward();
    }
    for (table, twin) in tables.iter().zip(&twins) {
        assert_near(&table.grad(), &twin.grad(), 1e-6, "table");
    }
}

#[test]
fn a_frozen_master_gets_no_gradient() {
    let (weight, bias) = (leaf(&[4, 6]), leaf(&[4]));
    let _ = weight.set_requires_grad(false);
    let layer = TrainedLinear::new(&[(&weight, &bias)], Kind::Float, 1).unwrap();
    let x = Tensor::ones([3, 6], FLOAT);
    layer.forward(&x).unwrap().sum(Kind::Float).backward();
    assert!(!weight.grad().defined());
    assert_eq!(Vec::<f32>::try_from(bias.grad()).unwrap(), [3.0; 4]);
}

#[test]
fn ids_that_change_between_the_passes_are_refused() {
    let leaves = [leaf(&[3, 2]), leaf(&[3, 2])];
    let ids = Tensor::from_slice(&[0i64, 2]);
    let sum = trained_embeddings(&ids, &Tensor::from_slice(&[0i64, 1]), tables(&leaves)).unwrap();
    // The detached handle shares the numbers, and not the count of their changes.
    let _ = ids.data().fill_(1 << 40);
    let error = sum.sum(Kind::Float).f_backward().unwrap_err();
    assert!(error.to_string().contains("outside its table"), "{error}");
}

#[test]
fn what_they_cannot_take_is_refused() {
    let (weight, bias) = (leaf(&[4, 6]), leaf(&[5]));
    let error = TrainedLinear::new(&[(&weight, &bias)], Kind::Float, 1).unwrap_err();
    assert!(error.to_string().contains("has a bias"), "{error}");
    let computed = &weight * 2.0;
    let error = TrainedLinear::new(&[(&computed, &leaf(&[4]))], Kind::Float, 1).unwrap_err();
    assert!(error.to_string().contains("leaf"), "{error}");

    let leaves = [leaf(&[3, 2]), leaf(&[3, 2])];
    let embed = |ids: &[i64], positions: &[i64]| {
        trained_embeddings(
            &Tensor::from_slice(ids),
            &Tensor::from_slice(positions),
            tables(&leaves),
        )
    };
    assert!(embed(&[0, 2], &[1, 1]).is_ok());
    for (ids, positions) in [
        (&[0, 3][..], &[0, 0][..]),
        (&[0, -1], &[0, 0]),
        (&[0], &[0, 1]),
    ] {
        assert!(embed(ids, positions).is_err(), "{ids:?} {positions:?}");
    }
}
