//! The fused step against the formula in f64, and against the same step in tch operations.
#![allow(clippy::unwrap_used)]

use quarry_torch_ext::{AdamW, Error, StepGuard, StepState, fused_adamw, fused_adamw_guarded};
use tch::{Device, Kind, Tensor};

const HYPER: AdamW = AdamW {
    lr: 0.01,
    beta1: 0.9,
    beta2: 0.98,
    weight_decay: 0.1,
    eps: 1e-6,
};

/// The optimizer's memory for a list of parameters.
struct Optimizer {
    params: Vec<Tensor>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl Optimizer {
    fn new(params: Vec<Tensor>) -> Self {
        let zeros = || params.iter().map(Tensor::zeros_like).collect::<Vec<_>>();
        let steps = params
            .iter()
            .map(|_| Tensor::zeros([], (Kind::Float, Device::Cpu)))
            .collect();
        Self {
            exp_avgs: zeros(),
            exp_avg_sqs: zeros(),
            steps,
            params,
        }
    }

    fn step(&mut self, grads: &[Tensor], hyper: &AdamW) -> Result<(), Error> {
        fused_adamw(self.state(grads), hyper)
    }

    fn step_guarded(&mut self, grads: &[Tensor], divisor: f32, refused: f32) -> Result<(), Error> {
        let guard = StepGuard {
            divisor: &Tensor::from(divisor),
            refused: &Tensor::from(refused),
        };
        fused_adamw_guarded(self.state(grads), &HYPER, &guard)
    }

    fn state<'a>(&'a mut self, grads: &'a [Tensor]) -> StepState<'a> {
        StepState {
            params: &mut self.params,
            grads,
            exp_avgs: &mut self.exp_avgs,
            exp_avg_sqs: &mut self.exp_avg_sqs,
            state_steps: &mut self.steps,
        }
    }

    fn bits(&self) -> Vec<Vec<u64>> {
        let lists = [&self.params, &self.exp_avgs, &self.exp_avg_sqs, &self.steps];
        let values = |t: &Tensor| Vec::<f64>::try_from(t.to_kind(Kind::Double).view(-1)).unwrap();
        let bits = |t: &Tensor| values(t).into_iter().map(f64::to_bits).collect();
        lists.into_iter().flatten().map(bits).collect()
    }
}

/// One parameter's AdamW in f64, written from the paper: returns θ after each step.
fn by_formula(theta: f64, grads: &[f64], h: &AdamW) -> f64 {
    let (mut theta, mut m, mut v) = (theta, 0.0, 0.0);
    for (index, g) in grads.iter().enumerate() {
        let t = i32::try_from(index + 1).unwrap();
        theta -= h.lr * h.weight_decay * theta;
        m = h.beta1 * m + (1.0 - h.beta1) * g;
        v = h.beta2 * v + (1.0 - h.beta2) * g * g;
        let (m_hat, v_hat) = (m / (1.0 - h.beta1.powi(t)), v / (1.0 - h.beta2.powi(t)));
        theta -= h.lr * m_hat / (v_hat.sqrt() + h.eps);
    }
    theta
}

#[test]
fn two_steps_follow_the_formula() {
    let start = [1.0, -2.0, 0.5];
    let grads = [[0.1, -0.2, 3.0], [-0.4, 0.3, 1e-3]];
    let mut optimizer = Optimizer::new(vec![Tensor::from_slice(&start)]);
    for grad in &grads {
        optimizer.step(&[Tensor::from_slice(grad)], &HYPER).unwrap();
    }
    let got = Vec::<f64>::try_from(&optimizer.params[0]).unwrap();
    for (i, got) in got.iter().enumerate() {
        let want = by_formula(start[i], &[grads[0][i], grads[1][i]], &HYPER);
        assert!(
            (got - want).abs() < 1e-12,
            "element {i}: {got} where the formula gives {want}"
        );
    }
    assert_eq!(optimizer.steps[0].double_value(&[]), 2.0);
}

/// A first step worked by hand: m̂ = g and v̂ = g², so θ moves by lr·sign(g) up to ε.
#[test]
fn the_first_step_has_the_size_of_the_learning_rate() {
    let hyper = AdamW {
        lr: 0.1,
        weight_decay: 0.5,
        eps: 0.0,
        ..AdamW::default()
    };
    let mut optimizer = Optimizer::new(vec![Tensor::from_slice(&[2.0_f64, 2.0])]);
    optimizer
        .step(&[Tensor::from_slice(&[7.0_f64, -0.01])], &hyper)
        .unwrap();
    let got = Vec::<f64>::try_from(&optimizer.params[0]).unwrap();
    assert!((got[0] - (2.0 - 0.1 - 0.1)).abs() < 1e-12, "{got:?}");
    assert!((got[1] - (2.0 - 0.1 + 0.1)).abs() < 1e-12, "{got:?}");
}

/// The same step in tch's element-wise operations.
fn unfused(o: &mut Optimizer, grads: &[Tensor], t: i32, h: &AdamW) {
    for (i, g) in grads.iter().enumerate() {
        let _ = o.params[i].g_mul_scalar_(1.0 - h.lr * h.weight_decay);
        o.exp_avgs[i] = &o.exp_avgs[i] * h.beta1 + g * (1.0 - h.beta1);
        o.exp_avg_sqs[i] = &o.exp_avg_sqs[i] * h.beta2 + g * g * (1.0 - h.beta2);
        let m_hat = &o.exp_avgs[i] / (1.0 - h.beta1.powi(t));
        let v_hat = &o.exp_avg_sqs[i] / (1.0 - h.beta2.powi(t));
        o.params[i] -= m_hat / (v_hat.sqrt() + h.eps) * h.lr;
    }
}

#[test]
fn many_tensors_agree_with_the_unfused_step() {
    let _no_grad = tch::no_grad_guard();
    tch::manual_seed(7);
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let shapes: [&[i64]; 4] = [&[33, 17], &[1], &[], &[128, 9, 2]];
    let start: Vec<_> = shapes.map(random).into();
    let mut fused = Optimizer::new(start.iter().map(Tensor::copy).collect());
    let mut plain = Optimizer::new(start);
    for t in 1..=5 {
        let grads: Vec<_> = shapes.map(random).into();
        fused.step(&grads, &HYPER).unwrap();
        unfused(&mut plain, &grads, t, &HYPER);
    }
    for (i, (a, b)) in fused.params.iter().zip(&plain.params).enumerate() {
        let difference = (a - b).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "tensor {i} differs by {difference}");
    }
}

#[test]
fn a_leaf_that_requires_gradients_is_stepped_in_place() {
    let theta = Tensor::from_slice(&[1.0_f32, 2.0]).set_requires_grad(true);
    (&theta * &theta).sum(Kind::Float).backward();
    let mut optimizer = Optimizer::new(vec![theta.shallow_clone()]);
    optimizer.step(&[theta.grad()], &HYPER).unwrap();
    assert!(theta.requires_grad() && theta.is_leaf());
    assert!(theta.double_value(&[0]) < 1.0);
}

#[test]
fn a_guard_divides_the_gradients_or_refuses_the_step() {
    let start = || Optimizer::new(vec![Tensor::from_slice(&[1.0_f32, -2.0, 0.5])]);
    let grad = |scale: f32| {
        vec![Tensor::from_slice(&[
            0.4 * scale,
            -0.8 * scale,
            2.0 * scale,
        ])]
    };
    let (mut plain, mut guarded) = (start(), start());
    plain.step(&grad(1.0), &HYPER).unwrap();
    // Four times the gradient over 4: powers of two, so every bit agrees.
    guarded.step_guarded(&grad(4.0), 4.0, 0.0).unwrap();
    assert_eq!(guarded.bits(), plain.bits());
    assert_eq!(guarded.steps[0].double_value(&[]), 1.0);
    // Not even the count of steps moves, whatever the gradient and the divisor are.
    guarded
        .step_guarded(&grad(f32::NAN), f32::NAN, 1.0)
        .unwrap();
    assert_eq!(guarded.bits(), plain.bits());
    let wrong = StepGuard {
        divisor: &Tensor::from_slice(&[1.0_f32]),
        refused: &Tensor::from(0.0_f32),
    };
    let refusal = fused_adamw_guarded(guarded.state(&grad(1.0)), &HYPER, &wrong);
    let message = refusal.unwrap_err().to_string();
    assert!(message.contains("divisor is Float [1]"), "{message}");
}

#[test]
fn mismatched_tensors_are_refused_before_anything_changes() {
    let make = || Optimizer::new(vec![Tensor::from_slice(&[1.0_f32, 2.0])]);
    let grad = |values: &[f32]| Tensor::from_slice(values);
    let cases: [(Vec<Tensor>, &str); 4] = [
        (vec![], "1 params but 0 grads"),
        (vec![grad(&[1.0])], "grads[0] is Float [1]"),
        (
            vec![grad(&[1.0, 2.0]).to_kind(Kind::Double)],
            "grads[0] is Double",
        ),
        (vec![Tensor::new()], "grads[0] is undefined"),
    ];
    for (grads, expected) in cases {
        let mut optimizer = make();
        let message = optimizer.step(&grads, &HYPER).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert_eq!(optimizer.params[0], Tensor::from_slice(&[1.0_f32, 2.0]));
        assert_eq!(optimizer.steps[0].double_value(&[]), 0.0);
    }
    let mut strided = Optimizer::new(vec![Tensor::zeros([2, 3], (Kind::Float, Device::Cpu))]);
    let grads = [Tensor::zeros([3, 2], (Kind::Float, Device::Cpu)).tr()];
    let message = strided.step(&grads, &HYPER).unwrap_err().to_string();
    assert!(message.contains("grads[0] is not contiguous"), "{message}");
}

#[test]
fn no_parameters_is_no_step() {
    Optimizer::new(vec![]).step(&[], &HYPER).unwrap();
}
