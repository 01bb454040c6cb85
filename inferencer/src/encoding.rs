//! Token sequences to fp16 rows, in slices small enough to stop between; on a GPU
//! batch after batch, without a pause.
//!
//! Sequences are ordered by length over the whole input before they are cut, so
//! a row depends on the input, the model, the precision and the thread count
//! alone, never on how often a task was asked to stop. Refuses rows that are
//! not finite, by name.

use crate::error::{Result, TaskError};
use crate::models::Model;
use crate::progress::Progress;
use half::f16;
use half::slice::HalfFloatSliceExt;
use quarry_model::{Encoder, ModelError, Specials};
use std::ops::ControlFlow;
use tch::{Device, Tensor};

/// Batches between two looks at the cancellation on a CPU.
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
    if device.is_cuda() {
        return overlapped(encoder, model.specials, GPU_TOKENS, sequences, progress);
    }
    let budget = CPU_TOKENS;
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
                return Err(too_large(&(sequences.name)(place)));
            }
            rows[place * width..][..width].copy_from_slice(&half);
        }
        progress.advance(slice.len())?;
    }
    Ok(rows)
}

/// As [`encode`] in batches of at most `budget` tokens, each under way while the rows of the
/// one before, already fp16, are looked at. Between two it looks at the cancellation.
fn overlapped(
    encoder: &Encoder,
    specials: Specials,
    budget: usize,
    sequences: &Sequences<'_>,
    progress: &Progress,
) -> Result<Vec<f16>> {
    let width = encoder.dim().unsigned_abs() as usize;
    let mut rows = vec![f16::ZERO; sequences.tokens.len() * width];
    progress.begin(sequences.tokens.len());
    progress.check()?;
    let mut taken = Ok(());
    let mut take = |places: &[usize], vectors: &Tensor| {
        taken = put(vectors, places, sequences, &mut rows)
            .and_then(|()| progress.advance(places.len()));
        match taken {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    let (tokens, max_length) = (&sequences.tokens, sequences.max_length);
    encoder.encode_half(tokens, specials, max_length, budget, &mut take)?;
    taken.map(|()| rows)
}

/// Puts a batch's vectors `[B, D]` f16 where their sequences belong among `rows`.
fn put(
    vectors: &Tensor,
    places: &[usize],
    sequences: &Sequences<'_>,
    rows: &mut [f16],
) -> Result<()> {
    let mut values = vec![f16::ZERO; vectors.numel()];
    let copied = vectors.f_copy_data(&mut values, vectors.numel());
    copied.map_err(ModelError::from)?;
    let width = values.len() / places.len().max(1);
    for (&place, row) in places.iter().zip(values.chunks_exact(width.max(1))) {
        if row.iter().any(|x| x.is_nan()) {
            return Err(not_finite(&(sequences.name)(place)));
        }
        if row.iter().any(|x| x.is_infinite()) {
            return Err(too_large(&(sequences.name)(place)));
        }
        rows[place * width..][..width].copy_from_slice(row);
    }
    Ok(())
}

/// Names the item in an error that knows its place in the slice only.
fn named(error: ModelError, name: impl Fn(usize) -> String) -> TaskError {
    match error {
        ModelError::NotFinite(i) => not_finite(&name(i)),
        other => other.into(),
    }
}

fn not_finite(name: &str) -> TaskError {
    TaskError::Refused(format!(
        "the vector of {name} is not finite; the checkpoint is damaged or has diverged"
    ))
}

fn too_large(name: &str) -> TaskError {
    TaskError::Refused(format!(
        "the vector of {name} does not fit fp16; normalise the vectors or check the checkpoint"
    ))
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
    use quarry_model::{DualEncoder, LoadOptions};
    use quarry_testkit::{WordCollection, write_plain_model};

    const SPECIALS: Specials = Specials { first: 2, last: 3 };

    /// A GPU's way, here on the processor: the rows are those of [`Encoder::encode`], rounded.
    #[test]
    fn overlapped_rows_are_where_their_sequences_were() {
        let folder = tempfile::tempdir().unwrap();
        write_plain_model(folder.path(), WordCollection::vocabulary(), 7);
        let towers = DualEncoder::load(folder.path(), &LoadOptions::default()).unwrap();
        let encoder = towers.passage();
        let texts: Vec<Vec<u32>> = (0..12u32)
            .map(|i| (4..5 + (i * 5) % 13).collect())
            .collect();
        let sequences = Sequences {
            tokens: texts.iter().map(Vec::as_slice).collect(),
            max_length: 32,
            name: &|i| format!("text {i}"),
        };
        let progress = Progress::default();
        let found = overlapped(encoder, SPECIALS, 40, &sequences, &progress).unwrap();
        assert_eq!(progress.fraction(), 1.0);
        let tokens = &sequences.tokens;
        let expected = encoder.encode(tokens, SPECIALS, 32, 40, &mut |_| {});
        let expected = expected.unwrap();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let difference = (found.to_f32() - expected).abs();
            // Half of f16's last bit, and what another batch changes in f32.
            assert!(
                difference <= expected.abs() / 2048.0 + 1e-4,
                "{found} for {expected}"
            );
        }
        progress.cancel();
        let refused = overlapped(encoder, SPECIALS, 40, &sequences, &progress);
        assert!(matches!(refused, Err(TaskError::Cancelled)));
    }

    #[test]
    fn rows_that_are_no_numbers_are_refused_by_name() {
        let sequences = Sequences {
            tokens: vec![&[4][..], &[5][..]],
            max_length: 8,
            name: &|i| format!("text {i}"),
        };
        let mut rows = vec![f16::ZERO; 4];
        let mut placed = |values: [f32; 4]| {
            let vectors = Tensor::from_slice(&values).view([2, 2]);
            put(
                &vectors.to_kind(tch::Kind::Half),
                &[1, 0],
                &sequences,
                &mut rows,
            )
            .map_err(|error| error.to_string())
        };
        let nan = placed([0.5, f32::NAN, 1.0, 1.0]).unwrap_err();
        assert!(nan.contains("text 1 is not finite"), "{nan}");
        let large = placed([0.5, 1.0, 1.0, 1e6]).unwrap_err();
        assert!(large.contains("text 0 does not fit fp16"), "{large}");
        placed([0.5, 1.0, 2.0, -4.0]).unwrap();
        assert_eq!(rows, [2.0, -4.0, 0.5, 1.0].map(f16::from_f32));
    }

    #[test]
    fn slices_hold_every_place_once_longest_first() {
        let lengths = [3usize, 9, 4, 4, 1];
        let cut = slices(lengths.len(), |i| lengths[i], 10);
        assert_eq!(cut, [vec![1, 2], vec![3, 0, 4]]);
        assert!(slices(0, |_| 1, 10).is_empty());
    }
}
