//! Flash attention over packed sequences against the textbook's in f32, forward and backward.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_torch_ext::{FlashAttention, SequenceBounds, set_deterministic};
use std::sync::{Mutex, MutexGuard, PoisonError};
use support::textbook;
use tch::{Device, Kind, Tensor};

const LENGTHS: [i64; 9] = [158, 1, 16, 33, 200, 256, 90, 7, 520];

/// libtorch's generators and its deterministic setting belong to the process: tests that use
/// them take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Output and gradient of the projections on the CPU, for one gradient of the output.
fn both(
    projections: &Tensor,
    gradient: &Tensor,
    forward: impl Fn(&Tensor) -> Tensor,
) -> [Tensor; 2] {
    let leaf = projections.detach().copy().set_requires_grad(true);
    let context = forward(&leaf);
    (&context * gradient).sum(None).backward();
    [context.detach(), leaf.grad()].map(|t| t.to_device(Device::Cpu).to_kind(Kind::Float))
}

/// Projections and a gradient on the CPU, in numbers that f16 and bf16 hold exactly enough.
fn random(columns: i64, kind: Kind) -> (Tensor, Tensor) {
    tch::manual_seed(5);
    let tokens = LENGTHS.iter().sum();
    let draw = |width| Tensor::randn([tokens, width], (Kind::Float, Device::Cpu));
    let (projections, gradient) = (draw(3 * columns) * 1.5, draw(columns));
    let rounded = |t: Tensor| t.to_kind(kind).to_kind(Kind::Float);
    (rounded(projections), rounded(gradient))
}

fn largest(difference: Tensor) -> f64 {
    difference.abs().max().double_value(&[])
}

#[test]
fn context_and_gradients_agree_with_the_textbook() {
    let _turn = turn();
    let Some(gpu) = support::gpu() else { return };
    for (heads, width) in [(12, 32), (2, 64), (3, 24), (1, 128), (1, 256)] {
        for (kind, tolerance) in [(Kind::BFloat16, 6e-2), (Kind::Half, 1e-2)] {
            let attention = FlashAttention::new(heads, width, kind, gpu).unwrap();
            let (projections, gradient) = random(heads * width, kind);
            let expected = both(&projections, &gradient, |x| textbook(x, &LENGTHS, heads));
            let there = |t: &Tensor| t.to_device(gpu).to_kind(kind);
            let bounds = SequenceBounds::new(&LENGTHS, gpu).unwrap();
            let found = both(&there(&projections), &there(&gradient), |x| {
                attention.forward(x, &bounds, 0.0).unwrap()
            });
            for (what, (found, expected)) in ["context", "gradient"]
                .iter()
                .zip(found.iter().zip(&expected))
            {
                let worst = largest(found - expected);
                assert!(
                    worst < tolerance,
                    "{heads} x {width} {kind:?}: {what} differs by {worst}"
                );
            }
        }
    }
}

/// libtorch's operator follows the process's setting: two backward passes, one result.
#[test]
fn the_deterministic_setting_repeats_the_gradient_bitwise() {
    let _turn = turn();
    let Some(gpu) = support::gpu() else { return };
    let (projections, gradient) = random(12 * 64, Kind::BFloat16);
    let there = |t: &Tensor| t.to_device(gpu).to_kind(Kind::BFloat16);
    let (projections, gradient) = (there(&projections), there(&gradient));
    let attention = FlashAttention::new(12, 64, Kind::BFloat16, gpu).unwrap();
    let bounds = SequenceBounds::new(&LENGTHS, gpu).unwrap();
    set_deterministic(true).unwrap();
    let once = || {
        both(&projections, &gradient, |x| {
            attention.forward(x, &bounds, 0.0).unwrap()
        })
    };
    let first = once();
    for _ in 0..10 {
        let again = once();
        assert!(first[0].equal(&again[0]) && first[1].equal(&again[1]));
    }
    set_deterministic(false).unwrap();
}

#[test]
fn dropout_of_probabilities_keeps_the_mean_and_repeats_by_seed() {
    let _turn = turn();
    let Some(gpu) = support::gpu() else { return };
    let (projections, _) = random(4 * 64, Kind::BFloat16);
    let projections = projections.to_device(gpu).to_kind(Kind::BFloat16);
    let attention = FlashAttention::new(4, 64, Kind::BFloat16, gpu).unwrap();
    let bounds = SequenceBounds::new(&LENGTHS, gpu).unwrap();
    let drawn = |seed, dropout| {
        tch::manual_seed(seed);
        let context = attention.forward(&projections, &bounds, dropout).unwrap();
        context.to_kind(Kind::Float)
    };
    let plain = drawn(1, 0.0);
    assert!(drawn(1, 0.2).equal(&drawn(1, 0.2)));
    assert!(!drawn(1, 0.2).equal(&drawn(2, 0.2)));
    let mean = (0..200).map(|seed| drawn(seed, 0.2)).reduce(|a, b| a + b);
    let error = (mean.unwrap() / 200.0 - &plain).abs().mean(Kind::Float);
    assert!(error.double_value(&[]) < 0.05, "{error:?}");
}

#[test]
fn what_the_kernel_cannot_is_refused_before_it_runs() {
    support::load_libtorch();
    let refusal = |heads, width, kind, device| {
        let refused = FlashAttention::new(heads, width, kind, device);
        refused.unwrap_err().to_string()
    };
    let there = Device::Cuda(0);
    assert!(refusal(2, 64, Kind::BFloat16, Device::Cpu).contains("is no GPU"));
    assert!(refusal(2, 12, Kind::BFloat16, there).contains("multiple of 8"));
    assert!(refusal(2, 264, Kind::BFloat16, there).contains("multiple of 8"));
    assert!(refusal(2, 64, Kind::Float, there).contains("neither bf16 nor f16"));
}

#[test]
fn bounds_are_the_sums_of_the_lengths() {
    support::load_libtorch();
    let bounds = SequenceBounds::new(&[3, 1, 4], Device::Cpu).unwrap();
    assert_eq!(bounds.cumulative().kind(), Kind::Int);
    let ends = Vec::<i32>::try_from(bounds.cumulative()).unwrap();
    assert_eq!(ends, [0, 3, 4, 8]);
    for wrong in [
        &[][..],
        &[2, 0],
        &[2, -1],
        &[i64::MAX, 1],
        &[1 << 30, 1 << 30],
    ] {
        assert!(
            SequenceBounds::new(wrong, Device::Cpu).is_err(),
            "{wrong:?}"
        );
    }
}

#[test]
fn projections_that_do_not_fit_the_bounds_are_refused() {
    let _turn = turn();
    let Some(gpu) = support::gpu() else { return };
    let attention = FlashAttention::new(2, 16, Kind::BFloat16, gpu).unwrap();
    let bounds = SequenceBounds::new(&[2, 3], gpu).unwrap();
    let zeros = |rows| Tensor::zeros([rows, 96], (Kind::BFloat16, gpu));
    assert!(attention.forward(&zeros(5), &bounds, 0.0).is_ok());
    assert!(attention.forward(&zeros(6), &bounds, 0.0).is_err());
    assert!(
        attention
            .forward(&zeros(5).to_kind(Kind::Half), &bounds, 0.0)
            .is_err()
    );
    assert!(attention.forward(&zeros(5), &bounds, 1.0).is_err());
    let elsewhere = SequenceBounds::new(&[2, 3], Device::Cpu).unwrap();
    assert!(attention.forward(&zeros(5), &elsewhere, 0.0).is_err());
}
