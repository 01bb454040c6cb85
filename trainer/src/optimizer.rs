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
    AdamW, Download, Lamb, StepState, clip_global_norm_, drop_gradients, fused_adamw,
    fused_adamw_guarded, global_norm, lamb, lamb_guarded,
};
use std::collections::BTreeMap;
use tch::{Device, Kind as Dtype, Tensor};

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

/// The tensors of some parameters of a group, shared with it.
struct Part {
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
                        lr: rate,
                        beta1: self.beta1,
                        beta2: self.beta2,
                        weight_decay: group.decay,
                        eps: self.epsilon,
                        most_weight_norm: LAMB_WEIGHT_NORM,
                    };
                    group.lamb(&hyper, guard)?;
                }
            }
        }
        Ok(())
    }

    /// Begins to copy the state to main memory. Nobody waits for a GPU here, and later steps
    /// may change the state there; on the CPU it is copied before this returns.
    ///
    /// # Errors
    /// When libtorch refuses, as without memory.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let downloads: Result<Vec<_>> = self
            .slots()
            .map(|(name, tensor)| Ok((name, Download::begin(tensor)?)))
            .collect();
        Ok(Snapshot(downloads?))
    }

    /// Takes back what [`Snapshot::wait`] gave.
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

/// The state as it was when the copy was begun; any thread may wait for it.
#[must_use = "the state is read by wait"]
pub struct Snapshot(Vec<(String, Download)>);

impl Snapshot {
    /// The state in main memory, once it is there, named as a checkpoint names it.
    ///
    /// # Errors
    /// When work on the GPU failed.
    pub fn wait(self) -> Result<Vec<(String, Tensor)>> {
        let downloads = self.0.into_iter();
        downloads
            .map(|(name, download)| Ok((name, download.wait()?)))
            .collect()
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

    fn part(&self, places: &[usize]) -> Part {
        let pick = |list: &[Tensor]| -> Vec<Tensor> {
            places.iter().map(|&at| list[at].shallow_clone()).collect()
        };
        Part {
            params: pick(&self.params),
            exp_avgs: pick(&self.exp_avgs),
            exp_avg_sqs: pick(&self.exp_avg_sqs),
            steps: pick(&self.steps),
        }
    }

    fn adamw(&mut self, hyper: &AdamW, guard: Option<&Guard>) -> Result<()> {
        let (touched, grads) = self.touched();
        let mut part = self.part(&touched);
        let state = part.state(&grads);
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
        let Some(first) = grads.first() else {
            return Ok(());
        };
        // A GPU wants few launches. On the processor they cost nothing, and one parameter
        // after the other needs memory for the largest alone.
        let together = match first.device() {
            Device::Cpu => 1,
            _ => grads.len(),
        };
        for (places, grads) in touched.chunks(together).zip(grads.chunks(together)) {
            let mut part = self.part(places);
            let state = part.state(grads);
            match guard {
                Some(guard) => lamb_guarded(state, hyper, &guard.as_step_guard())?,
                None => lamb(state, hyper)?,
            }
        }
        Ok(())
    }
}

impl Part {
    fn state<'a>(&'a mut self, grads: &'a [Tensor]) -> StepState<'a> {
        StepState {
            params: &mut self.params,
            grads,
            exp_avgs: &mut self.exp_avgs,
            exp_avg_sqs: &mut self.exp_avg_sqs,
            state_steps: &mut self.steps,
        }
    }
}
