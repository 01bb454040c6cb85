//! The fused LayerNorm against libtorch's.
#![allow(clippy::unwrap_used)]

use quarry_torch_ext::add_norm;
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

#[test]
fn agrees_with_libtorch() {
    tch::manual_seed(2);
    for width in [384, 768, 10, 1] {
        let [x, y] = [0, 1].map(|_| Tensor::randn([133, width], FLOAT) * 3.0 + 1.0);
        let [weight, bias] = [0, 1].map(|_| Tensor::randn([width], FLOAT));
        for (kind, tolerance) in [(Kind::Float, 2e-6), (Kind::BFloat16, 4e-3)] {
            let (x, y) = (x.to_kind(kind), y.to_kind(kind));
            let sum = x.to_kind(Kind::Float) + y.to_kind(Kind::Float);
            let exact = sum.layer_norm([width], Some(&weight), Some(&bias), 1e-12, false);
            let found = add_norm(&x, y, &weight, &bias, 1e-12).unwrap();
            assert_eq!((found.kind(), found.size()), (kind, vec![133, width]));
            // bf16 keeps 8 bits: half a unit in the last place is 2^-9 of the number.
            let error = (found.to_kind(Kind::Float) - &exact).abs() / (exact.abs() + 1.0);
            let worst = error.max().double_value(&[]);
            assert!(worst < tolerance, "{width} {kind:?}: {worst}");
        }
    }
}

#[test]
fn what_it_cannot_take_is_refused() {
    let ones = |shape: &[i64], kind| Tensor::ones(shape, (kind, Device::Cpu));
    let fine = ones(&[4], Kind::Float);
    let wide = ones(&[2, 8], Kind::Float);
    for (x, y, weight) in [
        (
            ones(&[2, 4], Kind::Float),
            ones(&[3, 4], Kind::Float),
            &fine,
        ),
        (
            ones(&[2, 4], Kind::BFloat16),
            ones(&[2, 4], Kind::Float),
            &fine,
        ),
        (
            ones(&[2, 4], Kind::Double),
            ones(&[2, 4], Kind::Double),
            &fine,
        ),
        (
            ones(&[2, 5], Kind::Float),
            ones(&[2, 5], Kind::Float),
            &fine,
        ),
        (wide.narrow(1, 0, 4), ones(&[2, 4], Kind::Float), &fine),
        (
            ones(&[2, 4], Kind::Float),
            ones(&[2, 4], Kind::Float),
            &ones(&[4], Kind::BFloat16),
        ),
        (
            ones(&[2, 4], Kind::Float),
            ones(&[2, 4], Kind::Float).set_requires_grad(true),
            &fine,
        ),
    ] {
        assert!(add_norm(&x, y, weight, &fine, 1e-5).is_err());
    }
}
