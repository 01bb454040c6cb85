//! The forward pass of the BERT family, without padding.
//!
//! All tokens of all sequences go through the linears and LayerNorms as one
//! `[T, h]` matrix; attention stays inside each sequence, so it needs no mask:
//!
//! ```text
//! x  = LN(word[ids] + position[positions] + type[0])
//! x  = LN(x + attention(x) Wo + bo)
//! x  = LN(x + gelu(x W1 + b1) W2 + b2)
//! ```

use super::Dropout;
use super::dropout::drop;
use super::linear::feed_forward;
use super::prepared::{Layer, Layers, Norm, Prepared};
use crate::config::{Config, Family};
use crate::error::ModelError;
use crate::packed::Run;
use quarry_torch_ext::{
    EmbeddingTables, FlashAttention, PackedAttention, SeededDropout, SequenceBounds, add_norm,
    residual_norm, trained_embeddings,
};
use tch::{Device, Kind, TchError, Tensor};

/// One pass over one batch.
pub(super) struct Forward<'a> {
    pub config: &'a Config,
    pub prepared: &'a Prepared,
    /// Kind of token states.
    pub kind: Kind,
    pub dropout: Option<Dropout>,
    /// Seeds of the residual branches' masks, two a layer; see [`dropout::seeds`].
    ///
    /// [`dropout::seeds`]: super::dropout::seeds
    pub seeds: &'a [i64],
    /// Where the device has it; without dropout of probabilities it is used.
    pub packed_attention: Option<PackedAttention>,
    /// On a GPU that has it, with where this batch's sequences begin.
    pub flash: Option<(FlashAttention, &'a SequenceBounds)>,
}

impl Forward<'_> {
    /// Last hidden states of embedded tokens `[T, h]`: `[T, h]`, or `[n, h]` of the rows that
    /// `reads` `[n]` names. The other rows are then spared three quarters of the last layer's
    /// products, in packed layers five sixths.
    pub fn layers(
        &self,
        embedded: &Tensor,
        runs: &[Run],
        reads: Option<&Tensor>,
    ) -> Result<Tensor, ModelError> {
        let layers = match &self.prepared.layers {
            Layers::Packed(packed) => {
                let lengths = lengths_of(runs);
                return Ok(match reads {
                    // What pooling reads is every sequence's first token, or all.
                    Some(_) => packed.forward_first(embedded, &lengths)?,
                    None => packed.forward(embedded, &lengths)?,
                });
            }
            Layers::Single(layers) => layers,
        };
        let mut x = embedded.shallow_clone();
        let mut seeds = self.seeds.iter().copied();
        for (index, layer) in layers.iter().enumerate() {
            let reads = reads.filter(|_| index + 1 == layers.len());
            x = self.attention_branch(layer, &x, runs, reads, seeds.next())?;
            x = self.feed_forward_branch(layer, &x, seeds.next())?;
        }
        Ok(x)
    }

    /// Embedded tokens `[T, h]` of `[T]` ids at `[T]` positions.
    ///
    /// Summed and normalised in f32: the tables are, and it is one pass.
    pub fn embeddings(&self, ids: &Tensor, positions: &Tensor) -> Result<Tensor, ModelError> {
        // Hugging Face trains no padding row, neither of words nor of RoBERTa's positions.
        let word_pad = self.config.pad_token_id;
        let tables = EmbeddingTables {
            word: &self.prepared.word,
            position: &self.prepared.position,
            token_type: self.prepared.token_type.as_ref(),
            word_pad,
            position_pad: match self.config.first_position() {
                1.. => word_pad,
                _ => -1,
            },
        };
        let sum = match tables.word.requires_grad() && ids.device() == Device::Cpu {
            true => trained_embeddings(ids, positions, tables)?,
            false => sum_of_embeddings(ids, positions, &tables)?,
        };
        let x = layer_norm(&sum, &self.prepared.norm, self.config.layer_norm_eps)?;
        let dropped = drop(x, self.hidden_dropout())?;
        Ok(dropped.f_to_kind(self.kind)?)
    }

    fn attention_branch(
        &self,
        layer: &Layer,
        x: &Tensor,
        runs: &[Run],
        reads: Option<&Tensor>,
        seed: Option<i64>,
    ) -> Result<Tensor, ModelError> {
        let context = self.attention(&layer.projections.forward(x)?, runs)?;
        let read = |states: &Tensor| match reads {
            Some(places) => states.f_index_select(0, places),
            None => Ok(states.shallow_clone()),
        };
        let (context, x) = (read(&context)?, &read(x)?);
        // DistilBERT has no dropout here.
        let dropout = match self.config.family {
            Family::DistilBert => 0.0,
            _ => self.hidden_dropout(),
        };
        let y = layer.output.forward(&context)?;
        self.residual(x, y, &layer.attention_norm, dropout, seed)
    }

    fn feed_forward_branch(
        &self,
        layer: &Layer,
        x: &Tensor,
        seed: Option<i64>,
    ) -> Result<Tensor, ModelError> {
        let y = feed_forward(x, &layer.inner, &layer.outer, self.config.activation)?;
        self.residual(x, y, &layer.norm, self.hidden_dropout(), seed)
    }

    fn hidden_dropout(&self) -> f64 {
        self.dropout.map_or(0.0, |d| d.hidden)
    }

    /// `softmax(Q Kᵀ / √d) V` inside each sequence; `projections` is `[T, 3h]`.
    fn attention(&self, projections: &Tensor, runs: &[Run]) -> Result<Tensor, ModelError> {
        let dropout = self.dropout.map_or(0.0, |d| d.attention);
        if let Some((flash, bounds)) = self.flash {
            return Ok(flash.forward(projections, bounds, dropout)?);
        }
        match self.packed_attention {
            Some(packed) if dropout == 0.0 => Ok(packed.forward(projections, &lengths_of(runs))?),
            _ => Ok(self.attention_by_runs(projections, runs, dropout)?),
        }
    }

    /// The same by libtorch's operations, once per run of sequences of equal length.
    fn attention_by_runs(
        &self,
        projections: &Tensor,
        runs: &[Run],
        dropout: f64,
    ) -> Result<Tensor, TchError> {
        let heads = self.config.heads;
        let width = self.config.hidden_size;
        // One split rather than a narrow per run: its backward is one cat, where
        // every narrow's would be a zero-filled [T, 3h].
        let tokens: Vec<i64> = runs.iter().map(|r| r.count * r.length).collect();
        let mut contexts = Vec::with_capacity(runs.len());
        for (part, run) in projections.f_split_with_sizes(&tokens, 0)?.iter().zip(runs) {
            let shape = [run.count, run.length, 3, heads, width / heads];
            let mut qkv = Vec::with_capacity(3);
            for tensor in part.f_view(shape)?.f_unbind(2)? {
                qkv.push(tensor.f_transpose(1, 2)?);
            }
            let context = attend(&qkv[0], &qkv[1], &qkv[2], dropout)?;
            contexts.push(context.f_transpose(1, 2)?.f_reshape([-1, width])?);
        }
        match contexts.len() {
            1 => Ok(contexts.remove(0)),
            _ => Tensor::f_cat(&contexts, 0),
        }
    }

    /// `LN(x + dropout(y))`, on a CPU in one pass.
    fn residual(
        &self,
        x: &Tensor,
        y: Tensor,
        norm: &Norm,
        dropout: f64,
        seed: Option<i64>,
    ) -> Result<Tensor, ModelError> {
        let epsilon = self.config.layer_norm_eps;
        let on_cpu = y.device() == Device::Cpu;
        if on_cpu && y.requires_grad() {
            let dropout = match (dropout, seed) {
                (0.0, _) => None,
                (probability, Some(seed)) => Some(SeededDropout { probability, seed }),
                (_, None) => {
                    return Err(ModelError::Batch("a dropout mask has no seed".to_owned()));
                }
            };
            let out = residual_norm(x, &y, &norm.weight, &norm.bias, epsilon, dropout)?;
            return Ok(out);
        }
        let y = drop(y, dropout)?;
        match on_cpu {
            true => Ok(add_norm(x, y, &norm.weight, &norm.bias, epsilon)?),
            false => Ok(sum_norm(x, y, norm, epsilon)?),
        }
    }
}

/// Of each sequence.
fn lengths_of(runs: &[Run]) -> Vec<i64> {
    runs.iter().flat_map(Run::lengths).collect()
}

/// `LN(x + y)` by libtorch's operations, in the kind of `x`. Sum, statistics and scales are
/// f32, as in the kernels of a CPU: bf16 would round the sum to 8 bits before the norm
/// enlarges what is left of it.
fn sum_norm(x: &Tensor, y: Tensor, norm: &Norm, epsilon: f64) -> Result<Tensor, TchError> {
    let sum = y.f_to_kind(Kind::Float)?.f_add_(x)?;
    layer_norm(&sum, norm, epsilon)?.f_to_kind(x.kind())
}

fn layer_norm(x: &Tensor, norm: &Norm, epsilon: f64) -> Result<Tensor, TchError> {
    let (weight, bias) = (Some(&norm.weight), Some(&norm.bias));
    x.f_layer_norm(norm.weight.size(), weight, bias, epsilon, false)
}

/// `[T, h]` f32 by libtorch's operations.
fn sum_of_embeddings(
    ids: &Tensor,
    positions: &Tensor,
    tables: &EmbeddingTables<'_>,
) -> Result<Tensor, TchError> {
    let gather = |table: &Tensor, rows: &Tensor, padding: i64| {
        Tensor::f_embedding(table, rows, padding, false, false)
    };
    let mut sum = gather(tables.word, ids, tables.word_pad)?;
    sum = sum.f_add_(&gather(tables.position, positions, tables.position_pad)?)?;
    match tables.token_type {
        Some(types) => sum.f_add_(&types.f_get(0)?),
        None => Ok(sum),
    }
}

/// `[B, heads, L, d]` from queries, keys and values of that shape.
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, dropout: f64) -> Result<Tensor, TchError> {
    let bf16_on_cpu = q.kind() == Kind::BFloat16 && q.device() == Device::Cpu;
    if dropout == 0.0 && !(bf16_on_cpu && q.requires_grad()) {
        return Tensor::f_scaled_dot_product_attention::<Tensor>(
            q, k, v, None, 0.0, false, None, false,
        );
    }
    // The fused kernel cannot drop, and its bf16 backward on a CPU takes three
    // times as long as these five operations.
    let scale = 1.0 / (q.size().last().copied().unwrap_or(1) as f64).sqrt();
    let scores = q.f_mul_scalar(scale)?.f_matmul(&k.f_transpose(2, 3)?)?;
    let probabilities = scores.f_softmax(-1, q.kind())?;
    drop(probabilities, dropout)?.f_matmul(v)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a GPU does in bf16, here on the processor: far from 0 a sum of two states needs
    /// more bits than they have.
    #[test]
    fn the_sum_before_a_norm_is_rounded_after_it_alone() {
        tch::manual_seed(11);
        let draw = |rows: i64| Tensor::randn([rows, 32], (Kind::Float, Device::Cpu)) * 0.05;
        let [x, y] = [draw(64) + 4.0, draw(64)].map(|t| t.to_kind(Kind::BFloat16));
        let norm = Norm {
            weight: (draw(1) + 1.0).view([32]),
            bias: draw(1).view([32]),
        };
        let exact = |t: &Tensor| t.to_kind(Kind::Double);
        let wide = Norm {
            weight: exact(&norm.weight),
            bias: exact(&norm.bias),
        };
        let expected = layer_norm(&(exact(&x) + exact(&y)), &wide, 1e-12).unwrap();
        // In halves of the last bit that bf16 has.
        let worst = |found: &Tensor| {
            let error = (exact(found) - &expected).abs() / expected.abs().clamp_min(1.0);
            error.max().double_value(&[]) * 256.0
        };
        let found = sum_norm(&x, y.copy(), &norm, 1e-12).unwrap();
        assert_eq!(found.kind(), Kind::BFloat16);
        assert!(worst(&found) < 1.1, "{}", worst(&found));
        let rounded = (&x + &y).to_kind(Kind::Float);
        let coarse = layer_norm(&rounded, &norm, 1e-12).unwrap();
        assert!(worst(&coarse) > 4.0, "{}", worst(&coarse));
    }
}
