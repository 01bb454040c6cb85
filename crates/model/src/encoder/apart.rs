//! Leaves of another thread: a lane collects the gradients of its sequences in leaves of its
//! own, which share the masters' memory, and adds them to the masters' when all are done.

use super::linear::Linear;
use super::prepared::Norm;
use crate::error::ModelError;
use tch::{TchError, Tensor};

/// A leaf of another thread beside its master: the same memory, a gradient of its own.
pub(super) struct Apart {
    master: Tensor,
    leaf: Tensor,
}

impl Apart {
    pub fn of(master: &Tensor) -> Result<Self, TchError> {
        let leaf = master
            .f_detach()?
            .f_set_requires_grad(master.requires_grad())?;
        Ok(Self {
            master: master.shallow_clone(),
            leaf,
        })
    }

    /// Adds what the leaf has collected to the master's gradient.
    pub fn join(self) -> Result<(), ModelError> {
        let (part, mut whole) = (self.leaf.f_grad()?, self.master.f_grad()?);
        if !part.defined() {
            return Ok(());
        }
        if !whole.defined() {
            let reason = "one thread has a gradient for a weight that has none".to_owned();
            return Err(ModelError::Batch(reason));
        }
        let _ = whole.f_add_(&part)?;
        Ok(())
    }
}

impl Norm {
    pub fn apart(&self, leaves: &mut Vec<Apart>) -> Result<Self, TchError> {
        let pair = [Apart::of(&self.weight)?, Apart::of(&self.bias)?];
        let [weight, bias] = pair.each_ref().map(|apart| apart.leaf.shallow_clone());
        leaves.extend(pair);
        Ok(Self { weight, bias })
    }
}

impl Linear {
    /// `None` for a layer whose gradients only autograd can collect.
    pub fn apart(&self, leaves: &mut Vec<Apart>) -> Result<Option<Self>, ModelError> {
        let Self::Trained(layer) = self else {
            return Ok(None);
        };
        let pairs = layer.leaves().iter().map(Apart::of);
        let pairs: Vec<Apart> = pairs.collect::<Result<_, _>>()?;
        let own = pairs.iter().map(|apart| apart.leaf.shallow_clone());
        let layer = layer.shallow_clone().collecting_in(own.collect())?;
        leaves.extend(pairs);
        Ok(Some(Self::Trained(layer)))
    }
}
