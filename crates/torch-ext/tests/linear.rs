//! The packed linear layer against tch's plain one.
#![allow(clippy::unwrap_used)]

use quarry_torch_ext::{Activation, PackedLinear};
use tch::{Device, Kind, Tensor};

fn layer(kind: Kind) -> (Tensor, Tensor, Tensor) {
    tch::manual_seed(11);
    let random = |shape: &[i64], scale: f64| {
        (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * scale).to_kind(kind)
    };
    (
        random(&[50, 384], 1.0),
        random(&[96, 384], 0.05),
        random(&[96], 0.5),
    )
}

fn plain(x: &Tensor, w: &Tensor, b: &Tensor, activation: Activation) -> Tensor {
    let [x, w, b] = [x, w, b].map(|t| t.to_kind(Kind::Float));
    let y = x.linear(&w, Some(&b));
    match activation {
        Activation::Identity => y,
        Activation::Gelu => y.gelu("none"),
        Activation::GeluTanh => y.gelu("tanh"),
        Activation::Relu => y.relu(),
        Activation::Tanh => y.tanh(),
    }
}

const ALL: [Activation; 5] = [
    Activation::Identity,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::Tanh,
];

#[test]
fn every_activation_agrees_with_the_plain_layer() {
    // bf16 keeps 8 bits of an output of about 4: half a unit in the last place is 2^-7.
    for (kind, tolerance) in [(Kind::Float, 2e-5), (Kind::BFloat16, 2e-2)] {
        let (x, w, b) = layer(kind);
        let packed = match PackedLinear::pack(&w, Some(&b), Some(50)) {
            Ok(packed) => packed,
            // Every x86-64 takes f32; bf16 needs AVX-512.
            Err(error) if kind == Kind::BFloat16 => {
                eprintln!("SKIPPED for {kind:?}: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        for activation in ALL {
            let got = packed.forward(&x, activation).unwrap();
            assert_eq!((got.kind(), got.size()), (kind, vec![50, 96]));
            let difference = got.to_kind(Kind::Float) - plain(&x, &w, &b, activation);
            let worst = difference.abs().max().double_value(&[]);
            assert!(
                worst < tolerance,
                "{kind:?} {activation:?} differs by {worst}"
            );
        }
    }
}

#[test]
fn another_number_of_rows_and_no_bias_work_too() {
    let (x, w, b) = layer(Kind::Float);
    let packed = PackedLinear::pack(&w, None, Some(8)).unwrap();
    let x = x.narrow(0, 0, 7);
    let got = packed.forward(&x, Activation::Identity).unwrap();
    let want = plain(&x, &w, &b.zeros_like(), Activation::Identity);
    assert!((got - want).abs().max().double_value(&[]) < 2e-5);
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let (x, w, b) = layer(Kind::Float);
    assert!(PackedLinear::pack(&b, None, None).is_err());
    assert!(PackedLinear::pack(&w, Some(&b.narrow(0, 0, 3)), None).is_err());
    let packed = PackedLinear::pack(&w, Some(&b), None).unwrap();
    for bad in [x.narrow(1, 0, 5), x.to_kind(Kind::Double)] {
        let message = packed
            .forward(&bad, Activation::Relu)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("not Float […, 384] on the cpu"),
            "{message}"
        );
    }
}
