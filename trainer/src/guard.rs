//! A step judged where its numbers are, so that nobody waits for a GPU.
//!
//! Owns: the clipping factor and the refusal of a step that is not finite, as scalars on
//! the device, and the report that the host reads one step later. Refuses: the
//! processor's path, which reads its numbers at once (step.rs).
//!
//! A refusal lasts: every later step is refused too, so that the weights the host finds
//! when it learns of it are those before the step at fault (law 8).

use crate::step::{NotFinite, StepReport};
use anyhow::Result;
use quarry_torch_ext::{Download, StepGuard};
use tch::{Kind, Tensor};

/// Keeps a division by the norm from being one by zero, as torch's `clip_grad_norm_` does.
const CLIP_EPSILON: f64 = 1e-6;

/// What the device knows about a step.
#[derive(Debug)]
pub struct Guard {
    /// What gradients are divided by: 1 unless they are clipped.
    pub divisor: Tensor,
    /// 1 if this step or an earlier one is refused, otherwise 0.
    pub refused: Tensor,
    /// `[2]` loss and gradient norm.
    numbers: Tensor,
}

impl Guard {
    /// Judges a step by its `loss` and the global `norm` of its gradients, both f32
    /// scalars on the device; `clip_norm` 0 clips nothing.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn judge(
        loss: &Tensor,
        norm: &Tensor,
        clip_norm: f64,
        refused_before: Option<&Tensor>,
    ) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let divisor = match clip_norm > 0.0 {
            true => norm
                .f_add_scalar(CLIP_EPSILON)?
                .f_div_scalar(clip_norm)?
                .f_clamp_min(1.0)?,
            false => norm.f_ones_like()?,
        };
        let numbers = Tensor::f_stack(&[loss, norm], 0)?;
        let bad = numbers.f_isfinite()?.f_all()?.f_logical_not()?;
        let bad = bad.f_to_kind(Kind::Float)?;
        Ok(Self {
            divisor,
            refused: match refused_before {
                Some(before) => bad.f_maximum(before)?,
                None => bad,
            },
            numbers,
        })
    }

    /// As the optimizers' steps take it.
    #[must_use]
    pub fn as_step_guard(&self) -> StepGuard<'_> {
        StepGuard {
            divisor: &self.divisor,
            refused: &self.refused,
        }
    }
}

/// A step that was begun: on a GPU its numbers are still on their way.
#[derive(Debug)]
#[must_use = "a step that is not finite is only noticed by finish"]
pub struct Begun {
    step: u64,
    report: StepReport,
    numbers: Option<Download>,
}

impl Begun {
    /// A step whose numbers are known.
    pub(crate) fn known(step: u64, report: StepReport) -> Self {
        Self {
            step,
            report,
            numbers: None,
        }
    }

    /// A step whose loss and gradient norm are yet to be read.
    pub(crate) fn judged(step: u64, report: StepReport, guard: &Guard) -> Result<Self> {
        Ok(Self {
            step,
            report,
            numbers: Some(Download::begin(&guard.numbers)?),
        })
    }

    /// Whether reading the report may wait for a GPU.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.numbers.is_some()
    }

    /// What the step did. Waits for it, if it is still running.
    ///
    /// # Errors
    /// [`NotFinite`], with the weights as they were before that step.
    pub fn finish(self) -> Result<StepReport> {
        let mut report = self.report;
        if let Some(download) = self.numbers {
            let numbers = Vec::<f32>::try_from(download.wait()?)?;
            let [loss, norm] = numbers[..] else {
                anyhow::bail!(
                    "step {}: {} numbers where two were sent",
                    self.step,
                    numbers.len()
                );
            };
            (report.loss, report.grad_norm) = (f64::from(loss), f64::from(norm));
            NotFinite::check(self.step, "loss", report.loss)?;
            NotFinite::check(self.step, "gradient norm", report.grad_norm)?;
        }
        Ok(report)
    }
}
