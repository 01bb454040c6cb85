//! Inference mode keeps autograd out, on its thread and for as long as the guard lives.
#![allow(clippy::unwrap_used)]

use quarry_torch_ext::InferenceMode;
use tch::{Kind, Tensor};

fn weight() -> Tensor {
    Tensor::from_slice(&[2.0_f32, 3.0]).set_requires_grad(true)
}

#[test]
fn nothing_is_tracked_while_the_guard_lives() {
    let weight = weight();
    let inside = {
        let _inference = InferenceMode::enter().unwrap();
        &weight * 2.0
    };
    assert!(!inside.requires_grad());
    let outside = &weight * 2.0;
    assert!(outside.requires_grad());
    outside.sum(Kind::Float).backward();
    assert_eq!(weight.grad(), Tensor::from_slice(&[2.0_f32, 2.0]));
}

/// What sets it apart from `no_grad`: its tensors stay out of autograd afterwards too.
#[test]
fn a_tensor_made_inside_cannot_be_saved_for_backward_later() {
    let made = {
        let _inference = InferenceMode::enter().unwrap();
        Tensor::from_slice(&[1.0_f32, 1.0]) * 3.0
    };
    let error = weight().f_mul(&made).unwrap_err().to_string();
    assert!(
        error.contains("Inference tensors cannot be saved for backward"),
        "{error}"
    );
}

#[test]
fn guards_nest_and_belong_to_their_thread() {
    assert!(!InferenceMode::is_enabled());
    let outer = InferenceMode::enter().unwrap();
    drop(InferenceMode::enter().unwrap());
    assert!(InferenceMode::is_enabled());
    assert!(
        !std::thread::spawn(InferenceMode::is_enabled)
            .join()
            .unwrap()
    );
    drop(outer);
    assert!(!InferenceMode::is_enabled());
}

#[test]
fn a_panic_restores_the_mode() {
    let outcome = std::panic::catch_unwind(|| {
        let _inference = InferenceMode::enter().unwrap();
        panic!("while inside");
    });
    assert!(outcome.is_err());
    assert!(!InferenceMode::is_enabled());
}
