//! Operations over lists, against the numbers by hand and against one long vector.
#![allow(clippy::unwrap_used)]

use quarry_torch_ext::{clip_global_norm_, drop_gradients, global_norm, mul_scalar_};
use tch::{Device, Kind, Tensor};

/// 3, 4 and 12 over two tensors: norm 13.
fn thirteen() -> Vec<Tensor> {
    vec![
        Tensor::from_slice2(&[[3.0_f32, 0.0], [0.0, 4.0]]),
        Tensor::from_slice(&[12.0_f32]),
    ]
}

#[test]
fn the_global_norm_is_that_of_all_elements() {
    assert!((global_norm(&thirteen()).unwrap().double_value(&[]) - 13.0).abs() < 1e-5);
    tch::manual_seed(3);
    let list: Vec<_> = (1..20)
        .map(|n| Tensor::randn([n, 3], (Kind::Float, Device::Cpu)))
        .collect();
    let flat: Vec<_> = list.iter().map(|t| t.reshape([-1])).collect();
    let want = Tensor::cat(&flat, 0)
        .to_kind(Kind::Double)
        .norm()
        .double_value(&[]);
    let got = global_norm(&list).unwrap().double_value(&[]);
    assert!(
        (got - want).abs() < 1e-5 * want,
        "{got} where {want} was expected"
    );
}

/// 4,096 squares of 1/4: bf16 has 8 bits, so a bf16 sum would stop growing long before 16.
#[test]
fn the_norm_of_bf16_is_accumulated_in_f32() {
    let list = [Tensor::full([4096], 0.25, (Kind::BFloat16, Device::Cpu))];
    let norm = global_norm(&list).unwrap();
    assert_eq!((norm.kind(), norm.double_value(&[])), (Kind::Float, 16.0));
}

#[test]
fn clipping_scales_to_the_limit_and_returns_the_old_norm() {
    let mut grads = thirteen();
    assert!((clip_global_norm_(&mut grads, 1.3).unwrap() - 13.0).abs() < 1e-5);
    assert!((global_norm(&grads).unwrap().double_value(&[]) - 1.3).abs() < 1e-5);
    assert!((grads[1].double_value(&[0]) - 1.2).abs() < 1e-5);
}

#[test]
fn clipping_leaves_small_and_infinite_gradients_alone() {
    let mut grads = thirteen();
    clip_global_norm_(&mut grads, 14.0).unwrap();
    assert_eq!(grads, thirteen());
    let mut broken = vec![Tensor::from_slice(&[f32::NAN, 1.0])];
    assert!(clip_global_norm_(&mut broken, 1.0).unwrap().is_nan());
    assert_eq!(broken[0].double_value(&[1]), 1.0);
}

#[test]
fn scaling_acts_on_every_tensor_in_place() {
    let mut list = thirteen();
    let alias = list[1].shallow_clone();
    mul_scalar_(&mut list, -0.5).unwrap();
    assert_eq!(alias, Tensor::from_slice(&[-6.0_f32]));
    assert_eq!(
        list[0],
        Tensor::from_slice2(&[[-1.5_f32, 0.0], [0.0, -2.0]])
    );
}

#[test]
fn a_dropped_gradient_is_gone_and_the_next_one_starts_anew() {
    let leaf = Tensor::from_slice(&[2.0_f32]).set_requires_grad(true);
    let alias = leaf.shallow_clone();
    for _ in 0..2 {
        leaf.square().sum(tch::Kind::Float).backward();
        assert_eq!(alias.grad(), Tensor::from_slice(&[4.0_f32]));
        let kept = alias.grad();
        drop_gradients(&[leaf.shallow_clone(), Tensor::from_slice(&[1.0_f32])]).unwrap();
        assert!(!alias.grad().defined());
        assert_eq!(kept, Tensor::from_slice(&[4.0_f32]));
    }
    let inner = drop_gradients(&[leaf.square()]).unwrap_err().to_string();
    assert!(inner.contains("tensor 0 is no leaf"), "{inner}");
}

#[test]
fn bad_lists_are_refused() {
    assert!(
        global_norm(&[])
            .unwrap_err()
            .to_string()
            .contains("no tensors")
    );
    let undefined = global_norm(&[Tensor::new()]).unwrap_err().to_string();
    assert!(undefined.contains("tensor 0 is undefined"), "{undefined}");
    let mut mixed = thirteen();
    mixed.push(Tensor::from_slice(&[1.0_f64]));
    assert!(
        global_norm(&mixed)
            .unwrap_err()
            .to_string()
            .contains("tensor 2 differs")
    );
    assert!(clip_global_norm_(&mut thirteen(), 0.0).is_err());
    mul_scalar_(&mut [], 2.0).unwrap();
    drop_gradients(&[]).unwrap();
}

/// An exception of libtorch arrives as an error that names the operation.
#[test]
fn what_libtorch_throws_becomes_an_error() {
    let mut list = vec![Tensor::from_slice(&[1_i64, 2])];
    let message = mul_scalar_(&mut list, 0.5).unwrap_err().to_string();
    assert!(
        message.starts_with("libtorch refused _foreach_mul_: "),
        "{message}"
    );
}
