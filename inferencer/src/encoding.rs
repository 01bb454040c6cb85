//! Token sequences to fp16 rows, in slices small enough to stop between.
//!
//! Sequences are ordered by length over the whole input before they are cut, so
//! a row depends on the input, the model, the precision and the thread count
//! alone, never on how often a task was asked to stop. Refuses rows that are
//! not finite, by name.

use crate::error::{Result, TaskError, refuse};
use crate::models::Model;
use crate::progress::Progress;
use half::f16;
use half::slice::HalfFloatSliceExt;
use quarry_model::{Encoder, ModelError};
use tch::Device;

/// Batches between two looks at the cancellation.
const BATCHES_A_SLICE: usize = 16;
/// Tokens of one batch on a CPU: its states stay in the caches.
const CPU_TOKENS: usize = 1024;
/// Tokens of one batch on a GPU: enough to fill it.
const GPU_TOKENS: usize = 65_536;

/// What to encode.
pub(crate) struct Sequences<'a> {
    /// Content ids of each text.
    pub tokens: Vec<&'a [u32]>,
    /// Longest sequence in tokens, specials included.
    pub max_length: usize,
    /// Words for item `i` in messages, such as `passage "d7"`.
    pub name: &'a dyn Fn(usize) -> String,
}

/// `[N · D]` fp16 values, row after row in input order.
pub(crate) fn encode(
    encoder: &Encoder,
    model: &Model,
    device: Device,
    sequences: &Sequences<'_>,
    progress: &Progress,
) -> Result<Vec<f16>> {
    let budget = if device.is_cuda() {
        GPU_TOKENS
    } else {
        CPU_TOKENS
    };
    let length = |i: usize| (sequences.tokens[i].len() + 2).min(sequences.max_length);
    let width = encoder.dim().unsigned_abs() as usize;
    let mut rows = vec![f16::ZERO; sequences.tokens.len() * width];
    let mut half = vec![f16::ZERO; width];
    progress.begin(sequences.tokens.len());
    for slice in slices(sequences.tokens.len(), length, budget * BATCHES_A_SLICE) {
        progress.check()?;
        let tokens: Vec<&[u32]> = slice.iter().map(|&i| sequences.tokens[i]).collect();
        let max_length = sequences.max_length;
        let vectors = encoder
            .encode(&tokens, model.specials, max_length, budget, &mut |_| {})
            .map_err(|e| named(e, |i| (sequences.name)(slice[i])))?;
        for (&place, vector) in slice.iter().zip(vectors.chunks_exact(width)) {
            half.convert_from_f32_slice(vector);
            if half.iter().any(|x| !x.is_finite()) {
                return refuse(format!(
                    "the vector of {} does not fit fp16; normalise the vectors or check the checkpoint",
                    (sequences.name)(place)
                ));
            }
            rows[place * width..][..width].copy_from_slice(&half);
        }
        progress.advance(slice.len())?;
    }
    Ok(rows)
}

/// Names the item in an error that knows its place in the slice only.
fn named(error: ModelError, name: impl Fn(usize) -> String) -> TaskError {
    match error {
        ModelError::NotFinite(i) => TaskError::Refused(format!(
            "the vector of {} is not finite; the checkpoint is damaged or has diverged",
            name(i)
        )),
        other => other.into(),
    }
}

/// Places `0..count`, longest first, cut into slices of about `budget` tokens.
fn slices(count: usize, length: impl Fn(usize) -> usize, budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(length(i)));
    let mut slices: Vec<Vec<usize>> = Vec::new();
    let mut used = budget;
    for i in order {
        if used >= budget {
            slices.push(Vec::new());
            used = 0;
        }
        used += length(i);
        if let Some(slice) = slices.last_mut() {
            slice.push(i);
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_hold_every_place_once_longest_first() {
        let lengths = [3usize, 9, 4, 4, 1];
        let cut = slices(lengths.len(), |i| lengths[i], 10);
        assert_eq!(cut, [vec![1, 2], vec![3, 0, 4]]);
        assert!(slices(0, |_| 1, 10).is_empty());
    }
}
