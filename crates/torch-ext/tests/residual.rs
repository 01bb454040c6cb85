//! The end of a branch in training against libtorch's operations.
#![allow(clippy::unwrap_used)]

use quarry_torch_ext::{SeededDropout, residual_norm, set_num_threads};
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);
const EPSILON: f64 = 1e-12;

fn leaf(tensor: &Tensor) -> Tensor {
    tensor.copy().set_requires_grad(true)
}

fn worst(found: &Tensor, exact: &Tensor) -> f64 {
    let (found, exact) = (found.to_kind(Kind::Double), exact.to_kind(Kind::Double));
    ((found - &exact).abs() / (exact.abs() + 1.0))
        .max()
        .double_value(&[])
}

/// What is kept of a `[rows, width]` branch, scaled, or zero: only that has a gradient.
fn mask(rows: i64, width: i64, dropout: Option<SeededDropout>) -> Tensor {
    let [x, y] = [0, 1].map(|_| leaf(&Tensor::randn([rows, width], FLOAT)));
    let ones = Tensor::ones([width], FLOAT);
    let out = residual_norm(&x, &y, &ones, &ones, EPSILON, dropout).unwrap();
    out.backward_with(&Tensor::randn([rows, width], FLOAT));
    let kept = y.grad().ne(0.0).to_kind(Kind::Float);
    kept / (1.0 - dropout.map_or(0.0, |d| d.probability))
}

#[test]
fn output_and_gradients_are_those_of_the_textbook() {
    tch::manual_seed(7);
    // Rows beyond a block, widths beyond whole vectors.
    for (rows, width) in [(133, 384), (3, 768), (70, 10), (65, 1)] {
        let draw = |shape: &[i64]| Tensor::randn(shape, FLOAT);
        let [x, y, grad] = [0, 1, 2].map(|_| draw(&[rows, width]) * 2.0 + 0.5);
        let [weight, bias] = [0, 1].map(|_| draw(&[width]));
        for probability in [0.0, 0.1, 0.5] {
            // One element is its own mean: its mask cannot be seen from outside.
            if width == 1 && probability > 0.0 {
                continue;
            }
            let dropout = (probability > 0.0).then_some(SeededDropout {
                probability,
                seed: -5_123_456_789,
            });
            let kept = match probability {
                0.0 => Tensor::ones([rows, width], FLOAT),
                _ => mask(rows, width, dropout),
            };
            for (kind, tolerance) in [(Kind::Float, 2e-5), (Kind::BFloat16, 0.03)] {
                // What is left of one element less its mean is rounding alone.
                if width == 1 && kind == Kind::BFloat16 {
                    continue;
                }
                let [x, y, grad] = [&x, &y, &grad].map(|t| t.to_kind(kind));
                let found = [leaf(&x), leaf(&y), leaf(&weight), leaf(&bias)];
                let [a, b, w, c] = &found;
                let out = residual_norm(a, b, w, c, EPSILON, dropout).unwrap();
                assert_eq!((out.kind(), out.size()), (kind, vec![rows, width]));
                out.backward_with(&grad);

                let exact = [&x, &y, &weight, &bias].map(|t| leaf(&t.to_kind(Kind::Double)));
                let [a, b, w, c] = &exact;
                let z = a + b * kept.to_kind(Kind::Double);
                let centred = &z - z.mean_dim(-1, true, Kind::Double);
                let variance = centred.square().mean_dim(-1, true, Kind::Double);
                let normal = centred / (variance + EPSILON).sqrt();
                let reference = normal * w + c;
                (&reference * grad.to_kind(Kind::Double))
                    .sum(Kind::Double)
                    .backward();
                let label = format!("{rows} x {width} {kind:?} p {probability}");
                assert!(worst(&out, &reference) < tolerance, "{label}: output");
                for (place, (found, exact)) in found.iter().zip(&exact).enumerate() {
                    // A row of one element has no gradient but rounding's.
                    if width == 1 && place < 2 {
                        continue;
                    }
                    // A scale's gradient sums over the rows.
                    let bound = tolerance * if place > 1 { (rows as f64).sqrt() } else { 2.0 };
                    let error = worst(&found.grad(), &exact.grad());
                    assert!(error < bound, "{label}: gradient {place} off by {error}");
                }
            }
        }
    }
}

trait BackwardWith {
    fn backward_with(&self, grad: &Tensor);
}

impl BackwardWith for Tensor {
    /// The products with `grad` are exact in both kinds.
    fn backward_with(&self, grad: &Tensor) {
        (self.to_kind(Kind::Double) * grad.to_kind(Kind::Double))
            .sum(Kind::Double)
            .backward();
    }
}

#[test]
fn masks_have_the_rate_at_every_place_and_no_echo() {
    let probability = 0.1;
    let kept = |seed| mask(512, 384, Some(SeededDropout { probability, seed })).gt(0.0);
    let share = |t: &Tensor| t.to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
    for seed in [0, 1, -1, 1 << 32, i64::MAX] {
        let mask = kept(seed);
        // Four standard deviations of a proportion over 196,608 and 12,288 draws.
        assert!((share(&mask) - 0.9).abs() < 0.0028, "{seed}");
        for lane in 0..16 {
            let lane = mask.slice(1, lane, None, 16);
            assert!((share(&lane) - 0.9).abs() < 0.011, "{seed}");
        }
        // Independent draws agree in p² + (1 - p)² of all places.
        let agree = |a: &Tensor, b: &Tensor| (share(&a.eq_tensor(b)) - 0.82).abs();
        assert!(agree(&mask.slice(0, 1, None, 1), &mask.slice(0, 0, 511, 1)) < 0.0045);
        assert!(agree(&mask.slice(1, 1, None, 1), &mask.slice(1, 0, 383, 1)) < 0.0045);
        for other in [
            seed.wrapping_add(1),
            seed ^ (1 << 40),
            seed.wrapping_mul(3) ^ 77,
        ] {
            assert!(agree(&mask, &kept(other)) < 0.0045, "{seed} {other}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // Drawn once: libtorch's generator is the whole process's, and other tests draw from it meanwhile.
    let inputs =
        [[300, 48], [300, 48], [1, 48], [1, 48]].map(|shape| Tensor::randn(shape, FLOAT).squeeze());
    let dropout = SeededDropout {
        probability: 0.2,
        seed: 9,
    };
    let bits = |threads| {
        set_num_threads(threads).unwrap();
        let [x, y, weight, bias] = inputs.each_ref().map(leaf);
        let out = residual_norm(&x, &y, &weight, &bias, EPSILON, Some(dropout)).unwrap();
        out.square().sum(Kind::Float).backward();
        [x, y, weight, bias].map(|t| Vec::<f32>::try_from(t.grad().view(-1)).unwrap())
    };
    let one = bits(1);
    assert_eq!(one, bits(2));
    assert_eq!(one, bits(5));
    set_num_threads(1).unwrap();
}

#[test]
fn a_probability_outside_0_to_1_is_refused() {
    let ones = Tensor::ones([2, 4], FLOAT);
    let scale = Tensor::ones([4], FLOAT);
    for probability in [1.0, -0.1, f64::NAN] {
        let dropout = Some(SeededDropout {
            probability,
            seed: 0,
        });
        let error = residual_norm(&ones, &ones, &scale, &scale, EPSILON, dropout).unwrap_err();
        assert!(error.to_string().contains("not in [0, 1)"), "{error}");
    }
}
