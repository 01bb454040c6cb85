//! The fused ends of a transformer's branches against libtorch's operations in f32.
#![allow(clippy::unwrap_used)]

use quarry_torch_ext::{Activation, FeedForwardBranch, ProjectionBranch, set_num_threads};
use tch::{Device, Kind, Tensor};

const EPSILON: f64 = 1e-12;

fn random(shape: &[i64], scale: f64) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)) * scale
}

fn bf16(shape: &[i64], scale: f64) -> Tensor {
    random(shape, scale).to_kind(Kind::BFloat16)
}

fn f32(tensor: &Tensor) -> Tensor {
    tensor.to_kind(Kind::Float)
}

fn norm(z: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    let width = [z.size()[1]];
    z.layer_norm(width, Some(weight), Some(bias), EPSILON, false)
}

/// Largest difference to the exact result, relative to one more than it: a few of bf16's roundings.
fn assert_near(found: &Tensor, exact: &Tensor, label: &str) {
    assert_eq!((found.kind(), found.size()), (Kind::BFloat16, exact.size()));
    let error = (f32(found) - exact).abs() / (exact.abs() + 1.0);
    let worst = error.max().double_value(&[]);
    assert!(worst < 0.016, "{label}: off by {worst}");
}

#[test]
fn a_projection_ends_as_its_operations_do() {
    // More than the last product sums up at once; rows that are no whole block.
    for (rows, width, inner) in [(1, 16, 16), (64, 32, 48), (133, 48, 1040)] {
        let (a, x) = (bf16(&[rows, inner], 1.0), bf16(&[rows, width], 1.0));
        let scale = 1.0 / (inner as f64).sqrt();
        let (w, b) = (bf16(&[width, inner], scale), bf16(&[width], 0.5));
        let (weight, bias) = (random(&[width], 1.0), random(&[width], 1.0));
        let Ok(branch) = ProjectionBranch::pack((&w, &b), (&weight, &bias, EPSILON)) else {
            eprintln!("SKIPPED: this processor has no bf16 products");
            return;
        };
        let exact = f32(&a).linear(&f32(&w), Some(&f32(&b))) + f32(&x);
        let found = branch.forward(&a, &x).unwrap();
        assert_near(
            &found,
            &norm(&exact, &weight, &bias),
            &format!("{rows} {width} {inner}"),
        );
    }
}

#[test]
fn a_feed_forward_part_ends_as_its_operations_do() {
    for (rows, width, inner) in [(1, 16, 16), (70, 32, 80), (133, 48, 1040)] {
        for (activation, form) in [(Activation::Gelu, "none"), (Activation::GeluTanh, "tanh")] {
            let x = bf16(&[rows, width], 1.0);
            // Far out on both sides, where GELU is flat.
            let (w1, b1) = (bf16(&[inner, width], 0.4), bf16(&[inner], 2.0));
            let scale = 1.0 / (inner as f64).sqrt();
            let (w2, b2) = (bf16(&[width, inner], scale), bf16(&[width], 0.5));
            let (weight, bias) = (random(&[width], 1.0), random(&[width], 1.0));
            let norms = (&weight, &bias, EPSILON);
            let layers = [(&w1, &b1), (&w2, &b2)];
            let Ok(branch) = FeedForwardBranch::pack(layers[0], layers[1], activation, norms)
            else {
                eprintln!("SKIPPED: this processor has no bf16 products");
                return;
            };
            let inner_state = f32(&x).linear(&f32(&w1), Some(&f32(&b1))).gelu(form);
            let exact = inner_state.linear(&f32(&w2), Some(&f32(&b2))) + f32(&x);
            let label = format!("{rows} {width} {inner} {form}");
            let found = branch.forward(&x).unwrap();
            assert_near(&found, &norm(&exact, &weight, &bias), &label);

            set_num_threads(2).unwrap();
            assert!(branch.forward(&x).unwrap() == found, "{label}: threads");
            set_num_threads(1).unwrap();
        }
    }
}

#[test]
fn what_a_kernel_could_not_take_is_refused() {
    let norm = (&random(&[32], 1.0), &random(&[32], 1.0), EPSILON);
    let pack = |w: &Tensor| ProjectionBranch::pack((w, &bf16(&[w.size()[0]], 1.0)), norm);
    let reason = |w: &Tensor| pack(w).unwrap_err().to_string();
    assert!(reason(&bf16(&[32, 24], 1.0)).contains("multiples of 16"));
    assert!(reason(&random(&[32, 32], 1.0)).contains("not bf16"));
    assert!(reason(&bf16(&[48, 32], 1.0)).contains("[32] is not [48]"));
    let Ok(branch) = pack(&bf16(&[32, 48], 1.0)) else {
        eprintln!("SKIPPED: this processor has no bf16 products");
        return;
    };
    let refused = |a: &Tensor, x: &Tensor| branch.forward(a, x).unwrap_err().to_string();
    let (a, x) = (bf16(&[3, 48], 1.0), bf16(&[3, 32], 1.0));
    assert!(refused(&x, &x).contains("[T, 48]"));
    assert!(refused(&a, &bf16(&[2, 32], 1.0)).contains("differ in rows"));
    assert!(refused(&a, &bf16(&[32, 3], 1.0).transpose(0, 1)).contains("contiguous"));
    assert!(branch.forward(&a, &x).is_ok());
}
