//! LAMB over lists against the formula in f64, its guard, and a GPU against the processor.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_torch_ext::{Error, Lamb, StepGuard, StepState, lamb, lamb_guarded};
use tch::{Device, Kind, Tensor};

const HYPER: Lamb = Lamb {
    lr: 0.01,
    beta1: 0.9,
    beta2: 0.98,
    weight_decay: 0.1,
    eps: 1e-6,
    most_weight_norm: 10.0,
};

/// Of norm 5, of norm 0, which has no ratio, and of norm 50, which is bounded.
const START: [&[f32]; 3] = [&[3.0, -4.0, 0.0], &[0.0, 0.0], &[30.0, 40.0]];
const GRADS: [[&[f32]; 3]; 2] = [
    [&[0.1, -0.2, 3.0], &[1.0, -2.0], &[0.5, 0.25]],
    [&[-0.4, 0.3, 1e-3], &[0.0, 0.5], &[-1.0, 2.0]],
];

/// The optimizer's memory for a list of parameters.
struct Optimizer {
    params: Vec<Tensor>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl Optimizer {
    fn new(params: &[&[f32]], device: Device) -> Self {
        let params = on(device, params);
        let zeros = || params.iter().map(Tensor::zeros_like).collect::<Vec<_>>();
        let step = |_| Tensor::zeros([1], (Kind::Float, device));
        Self {
            exp_avgs: zeros(),
            exp_avg_sqs: zeros(),
            steps: params.iter().map(step).collect(),
            params,
        }
    }

    fn step(&mut self, grads: &[Tensor]) -> Result<(), Error> {
        lamb(self.state(grads), &HYPER)
    }

    fn step_guarded(&mut self, grads: &[Tensor], divisor: f32, refused: f32) -> Result<(), Error> {
        let device = self.params[0].device();
        let guard = StepGuard {
            divisor: &Tensor::from(divisor).to_device(device),
            refused: &Tensor::from(refused).to_device(device),
        };
        lamb_guarded(self.state(grads), &HYPER, &guard)
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

    /// Parameters, moments and counts, in this order.
    fn values(&self) -> Vec<Vec<f32>> {
        let lists = [&self.params, &self.exp_avgs, &self.exp_avg_sqs, &self.steps];
        let values = |t: &Tensor| Vec::<f32>::try_from(t.to_device(Device::Cpu)).unwrap();
        lists.into_iter().flatten().map(values).collect()
    }

    fn bits(&self) -> Vec<u32> {
        let values = self.values().concat();
        values.into_iter().map(f32::to_bits).collect()
    }
}

fn on(device: Device, lists: &[&[f32]]) -> Vec<Tensor> {
    let tensor = |&list: &&[f32]| Tensor::from_slice(list).to_device(device);
    lists.iter().map(tensor).collect()
}

/// One parameter's LAMB in f64, written from the paper: θ after all steps.
fn by_formula(start: &[f32], grads: &[&[f32]], h: &Lamb) -> Vec<f64> {
    let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let mut theta: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
    let (mut m, mut v) = (vec![0.0; theta.len()], vec![0.0; theta.len()]);
    for grad in grads {
        let mut update = Vec::new();
        for (i, &g) in grad.iter().enumerate() {
            let g = f64::from(g);
            m[i] = h.beta1 * m[i] + (1.0 - h.beta1) * g;
            v[i] = h.beta2 * v[i] + (1.0 - h.beta2) * g * g;
            update.push(m[i] / (v[i].sqrt() + h.eps) + h.weight_decay * theta[i]);
        }
        let (weights, length) = (norm(&theta).min(h.most_weight_norm), norm(&update));
        let ratio = match weights > 0.0 && length > 0.0 {
            true => weights / length,
            false => 1.0,
        };
        for (theta, u) in theta.iter_mut().zip(&update) {
            *theta -= h.lr * ratio * u;
        }
    }
    theta
}

#[test]
fn two_steps_follow_the_formula() {
    support::load_libtorch();
    let mut optimizer = Optimizer::new(&START, Device::Cpu);
    for grads in &GRADS {
        optimizer.step(&on(Device::Cpu, grads)).unwrap();
    }
    let found = optimizer.values();
    for (i, &start) in START.iter().enumerate() {
        let expected = by_formula(start, &[GRADS[0][i], GRADS[1][i]], &HYPER);
        for (found, expected) in found[i].iter().zip(&expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 2e-6 * expected.abs().max(1.0),
                "parameter {i}: {found} where the formula gives {expected}"
            );
        }
    }
    assert!(optimizer.steps.iter().all(|s| s.double_value(&[0]) == 2.0));
}

#[test]
fn a_list_steps_as_its_parameters_do_alone() {
    support::load_libtorch();
    let mut together = Optimizer::new(&START, Device::Cpu);
    for grads in &GRADS {
        together.step(&on(Device::Cpu, grads)).unwrap();
    }
    for (i, &start) in START.iter().enumerate() {
        let mut alone = Optimizer::new(&[start], Device::Cpu);
        for grads in &GRADS {
            alone.step(&on(Device::Cpu, &[grads[i]])).unwrap();
        }
        assert!(alone.params[0].equal(&together.params[i]), "parameter {i}");
        assert!(alone.exp_avg_sqs[0].equal(&together.exp_avg_sqs[i]));
    }
}

#[test]
fn a_guard_divides_the_gradients_or_refuses_the_step() {
    support::load_libtorch();
    guard_holds(Device::Cpu);
}

fn guard_holds(device: Device) {
    let start = || {
        let mut optimizer = Optimizer::new(&START, device);
        // A sign that adding zero would lose, in a weight and in a moment.
        for list in [&mut optimizer.params, &mut optimizer.exp_avgs] {
            let _ = list[1].get(0).fill_(-0.0);
        }
        optimizer
    };
    let (mut plain, mut guarded) = (start(), start());
    plain.step(&on(device, &GRADS[0])).unwrap();
    // Four times the gradient over 4: powers of two, so every bit agrees.
    let fourfold: Vec<Tensor> = on(device, &GRADS[0]).iter().map(|g| g * 4.0).collect();
    guarded.step_guarded(&fourfold, 4.0, 0.0).unwrap();
    assert_eq!(guarded.bits(), plain.bits());

    let mut refused = start();
    let before = refused.bits();
    for bad in [f32::NAN, f32::INFINITY, 1.0] {
        let grads = on(device, &[&[bad, -1.0, 2.0], &[bad, 0.0], &[-bad, bad]]);
        for divisor in [f32::NAN, f32::INFINITY, 2.0] {
            let grads: Vec<Tensor> = grads.iter().map(Tensor::copy).collect();
            refused.step_guarded(&grads, divisor, 1.0).unwrap();
            assert_eq!(refused.bits(), before, "gradient {bad} over {divisor}");
        }
    }
    guarded
        .step_guarded(&on(device, &GRADS[1]), 1.0, 1.0)
        .unwrap();
    assert_eq!(guarded.bits(), plain.bits());
}

#[test]
fn a_gpu_steps_as_the_processor_does() {
    let Some(gpu) = support::gpu() else { return };
    let [here, there] = [Device::Cpu, gpu].map(|device| {
        let mut optimizer = Optimizer::new(&START, device);
        for grads in &GRADS {
            optimizer
                .step_guarded(&on(device, grads), 1.5, 0.0)
                .unwrap();
        }
        optimizer.values().concat()
    });
    for (here, there) in here.iter().zip(&there) {
        assert!(
            (here - there).abs() < 1e-5 * here.abs().max(1.0),
            "{there} is not {here}"
        );
    }
    guard_holds(gpu);
}

#[test]
fn what_does_not_match_is_refused_before_anything_changes() {
    support::load_libtorch();
    let mut optimizer = Optimizer::new(&START, Device::Cpu);
    let before = optimizer.bits();
    let few = optimizer.step(&on(Device::Cpu, &GRADS[0][..2]));
    let message = few.unwrap_err().to_string();
    assert!(message.contains("3 params but 2 grads"), "{message}");
    let guard = StepGuard {
        divisor: &Tensor::from(1.0_f32),
        refused: &Tensor::from(0.0_f64),
    };
    let grads = on(Device::Cpu, &GRADS[0]);
    let wrong = lamb_guarded(optimizer.state(&grads), &HYPER, &guard);
    let message = wrong.unwrap_err().to_string();
    assert!(message.contains("refused is Double []"), "{message}");
    assert_eq!(optimizer.bits(), before);

    for list in [
        &mut optimizer.params,
        &mut optimizer.exp_avgs,
        &mut optimizer.exp_avg_sqs,
    ] {
        list.iter_mut().for_each(|t| *t = t.to_kind(Kind::Double));
    }
    let grads: Vec<Tensor> = grads.iter().map(|g| g.to_kind(Kind::Double)).collect();
    let message = optimizer.step(&grads).unwrap_err().to_string();
    assert!(
        message.contains("params[0] is Double, not f32"),
        "{message}"
    );
    Optimizer::new(&[], Device::Cpu).step(&[]).unwrap();
}
