//! The update of the weights: AdamW and LAMB over two groups of parameters.
//!
//! Owns: moments, decay groups, clipping, and their form in a checkpoint.
//! Refuses: learning-rate schedules (the caller passes the rate of the step) and
//! a step on a norm that is not finite, which the caller must have refused.

use crate::guard::Guard;
use anyhow::{Context, Result, bail, ensure};
use quarry_model::Parameter;
use quarry_recipe::Optimizer as Kind;
use quarry_recipe::Train;
use quarry_torch_ext::{
    AdamW, AdamWState, clip_global_norm_, drop_gradients, fused_adamw, fused_adamw_guarded,
    global_norm,
};
use std::collections::BTreeMap;
use tch::{Kind as Dtype, Tensor};

/// LAMB's bound on the weight norm inside the trust ratio (ANCE's code).
const LAMB_WEIGHT_NORM: f64 = 10.0;

/// Optimizer over all trainable parameters.
pub struct Optimizer {
    kind: Kind,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    clip_norm: f64,
    groups: [Group; 2],
}

/// Parameters that share one weight decay, and their state, position by position.
struct Group {
    decay: f64,
    names: Vec<String>,
    params: Vec<Tensor>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl Optimizer {
    /// Fresh moments for `parameters`; biases and LayerNorm weights (`decay` unset)
    /// are never decayed.
    #[must_use]
    pub fn new(parameters: Vec<Parameter>, train: &Train) -> Self {
        let mut groups = [Group::new(train.weight_decay), Group::new(0.0)];
        for parameter in parameters {
            groups[usize::from(!parameter.decay)].push(parameter);
        }
        Self {
            kind: train.optimizer,
            beta1: train.beta1,
            beta2: train.beta2,
            epsilon: train.epsilon,
            clip_norm: train.clip_norm,
            groups,
        }
    }

    /// Forgets every gradient, once a step is taken: until they appear again in the next
    /// backward pass, checkpoints and forward passes use their memory.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn drop_gradients(&self) -> Result<()> {
        for group in &self.groups {
            drop_gradients(&group.params)?;
        }
        Ok(())
    }

    /// The global L2 norm of the gradients, which are then scaled down to
    /// `train.clip_norm` (0: left alone). A norm that is not finite is returned
    /// with the gradients untouched.
    ///
    /// # Errors
    /// When no parameter has a gradient.
    pub fn clip_gradients(&self) -> Result<f64> {
        let mut gradients = self.gradients();
        if self.clip_norm > 0.0 {
            return Ok(clip_global_norm_(&mut gradients, self.clip_norm)?);
        }
        Ok(global_norm(&gradients)?.double_value(&[]))
    }

    /// The bound on the gradients' norm; 0 clips nothing.
    #[must_use]
    pub fn clip_norm(&self) -> f64 {
        self.clip_norm
    }

    /// The global L2 norm of the gradients, a scalar on their device that nobody waited for.
    ///
    /// # Errors
    /// When no parameter has a gradient.
    pub fn gradient_norm(&self) -> Result<Tensor> {
        Ok(global_norm(&self.gradients())?)
    }

    fn gradients(&self) -> Vec<Tensor> {
        let params = self.groups.iter().flat_map(|g| &g.params);
        params.map(Tensor::grad).filter(Tensor::defined).collect()
    }

    /// One update at learning rate `rate`. A parameter without a gradient stays.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn step(&mut self, rate: f64) -> Result<()> {
        self.update(rate, None)
    }

    /// As [`Optimizer::step`], clipped or refused as the device judged.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn step_guarded(&mut self, rate: f64, guard: &Guard) -> Result<()> {
        self.update(rate, Some(guard))
    }

    fn update(&mut self, rate: f64, guard: Option<&Guard>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for group in &mut self.groups {
            match self.kind {
                Kind::AdamW => {
                    let hyper = AdamW {
                        lr: rate,
                        beta1: self.beta1,
                        beta2: self.beta2,
                        weight_decay: group.decay,
                        eps: self.epsilon,
                    };
                    group.adamw(&hyper, guard)?;
                }
                Kind::Lamb => {
                    let hyper = Lamb {
                        rate,
                        beta1: self.beta1,
                        beta2: self.beta2,
                        epsilon: self.epsilon,
                    };
                    group.lamb(&hyper, guard)?;
                }
            }
        }
        Ok(())
    }

    /// A deep copy of the state on the CPU, named as a checkpoint names it.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(String, Tensor)> {
        self.slots()
            .map(|(name, tensor)| (name, on_cpu(tensor)))
            .collect()
    }

    /// Takes back what [`Optimizer::snapshot`] gave.
    ///
    /// # Errors
    /// When a tensor is missing, unknown, or of another shape.
    pub fn restore(&mut self, state: Vec<(String, Tensor)>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let mut state: BTreeMap<String, Tensor> = state.into_iter().collect();
        for (name, slot) in self.slots() {
            let saved = state
                .remove(&name)
                .with_context(|| format!("the optimizer state has no tensor {name}"))?;
            ensure!(
                saved.size() == slot.size() && saved.kind() == slot.kind(),
                "the optimizer state's {name} is {:?} where the model needs {:?}",
                saved.size(),
                slot.size()
            );
            slot.shallow_clone().f_copy_(&saved)?;
        }
        if let Some(name) = state.keys().next() {
            bail!("the optimizer state has a tensor {name} that this model lacks");
        }
        Ok(())
    }

    fn slots(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.groups.iter().flat_map(|group| {
            group.names.iter().enumerate().flat_map(|(at, name)| {
                [
                    (format!("exp_avg.{name}"), &group.exp_avgs[at]),
                    (format!("exp_avg_sq.{name}"), &group.exp_avg_sqs[at]),
                    (format!("step.{name}"), &group.steps[at]),
                ]
            })
        })
    }
}

/// A deep copy in main memory, whatever device `tensor` is on.
pub fn on_cpu(tensor: &Tensor) -> Tensor {
    let detached = tensor.detach();
    match detached.device() {
        tch::Device::Cpu => detached.copy(),
        _ => detached.to_device(tch::Device::Cpu),
    }
}

impl Group {
    fn new(decay: f64) -> Self {
        Self {
            decay,
            names: Vec::new(),
            params: Vec::new(),
            exp_avgs: Vec::new(),
            exp_avg_sqs: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn push(&mut self, parameter: Parameter) {
        let weights = parameter.tensor.detach();
        self.exp_avgs.push(weights.zeros_like());
        self.exp_avg_sqs.push(weights.zeros_like());
        self.steps
            .push(Tensor::zeros([1], (Dtype::Float, weights.device())));
        self.names.push(parameter.name);
        self.params.push(parameter.tensor);
    }

    /// Positions whose parameter took part in the loss, and their gradients.
    fn touched(&self) -> (Vec<usize>, Vec<Tensor>) {
        let gradients = self.params.iter().map(Tensor::grad).enumerate();
        gradients.filter(|(_, gradient)| gradient.defined()).unzip()
    }

    fn adamw(&mut self, hyper: &AdamW, guard: Option<&Guard>) -> Result<()> {
        let (touched, grads) = self.touched();
        let pick = |list: &[Tensor]| -> Vec<Tensor> {
            touched.iter().map(|&at| list[at].shallow_clone()).collect()
        };
        let state = AdamWState {
            params: &mut pick(&self.params),
            grads: &grads,
            exp_avgs: &mut pick(&self.exp_avgs),
            exp_avg_sqs: &mut pick(&self.exp_avg_sqs),
            state_steps: &mut pick(&self.steps),
        };
        match guard {
            Some(guard) => fused_adamw_guarded(state, hyper, &guard.as_step_guard())?,
            None => fused_adamw(state, hyper)?,
        }
        Ok(())
    }

    /// You et al. 2020 (arXiv 1904.00962) as ANCE and STAR run it: no bias
    /// correction, decay inside the update, weight norm bounded by 10.
    fn lamb(&mut self, hyper: &Lamb, guard: Option<&Guard>) -> Result<()> {
        let (touched, grads) = self.touched();
        // A refused step computes as any other, and keeps what was there.
        let taken = |next: Tensor, before: &Tensor| match guard {
            Some(guard) => guard.choose(&next, before),
            None => Ok(next),
        };
        for (&at, gradient) in touched.iter().zip(&grads) {
            let gradient = match guard {
                Some(guard) => gradient.f_div(&guard.divisor)?,
                None => gradient.shallow_clone(),
            };
            let (m, v) = (&mut self.exp_avgs[at], &mut self.exp_avg_sqs[at]);
            let next = m
                .f_mul_scalar(hyper.beta1)?
                .f_add(&gradient.f_mul_scalar(1.0 - hyper.beta1)?)?;
            m.f_copy_(&taken(next, m)?)?;
            let squared = gradient.f_square()?.f_mul_scalar(1.0 - hyper.beta2)?;
            let next = v.f_mul_scalar(hyper.beta2)?.f_add(&squared)?;
            v.f_copy_(&taken(next, v)?)?;
            let weights = &mut self.params[at];
            let mut update = m.f_div(&v.f_sqrt()?.f_add_scalar(hyper.epsilon)?)?;
            if self.decay > 0.0 {
                update = update.f_add(&weights.f_mul_scalar(self.decay)?)?;
            }
            let trust = trust_ratio(weights, &update)?;
            let change = update.f_mul(&trust)?.f_mul_scalar(hyper.rate)?;
            let change = match guard {
                Some(guard) => guard.choose(&change, &change.f_zeros_like()?)?,
                None => change,
            };
            let _ = weights.f_sub_(&change)?;
            let next = self.steps[at].f_add_scalar(1.0)?;
            let counted = taken(next, &self.steps[at])?;
            self.steps[at].f_copy_(&counted)?;
        }
        Ok(())
    }
}

/// The numbers of a LAMB step that all parameters share.
struct Lamb {
    rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
}

/// `min(‖w‖₂, 10) / ‖u‖₂`, or 1 where either norm is 0; a scalar on the device,
/// so that no step waits for a GPU.
fn trust_ratio(weights: &Tensor, update: &Tensor) -> Result<Tensor> {
    let weight_norm = weights.f_norm()?.f_clamp_max(LAMB_WEIGHT_NORM)?;
    let update_norm = update.f_norm()?;
    let usable = weight_norm
        .f_gt(0.0)?
        .f_logical_and(&update_norm.f_gt(0.0)?)?;
    let ratio = weight_norm.f_div(&update_norm)?;
    Ok(ratio.f_where_self(&usable, &ratio.f_ones_like()?)?)
}
