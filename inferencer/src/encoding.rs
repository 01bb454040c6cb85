//! Token sequences to fp16 rows, batch after batch, without a pause between them.
//!
//! Sequences are ordered by length over the whole input before they are cut, so
//! a row depends on the input, the model, the precision and the thread count alone, never on how
//! often a task was asked to stop. Refuses rows that are not finite, by name.

use crate::error::{Result, TaskError};
use crate::models::Model;
use crate::progress::Progress;
use half::f16;
use quarry_model::{Encoder, Specials};
use std::ops::ControlFlow;

/// What to encode.
pub(crate) struct Sequences<'a> {
    /// Content ids of each text.
    pub tokens: Vec<&'a [u32]>,
    /// Longest sequence in tokens, specials included.
    pub max_length: usize,
    /// Words for item `i` in messages, such as `passage "d7"`.
    pub name: &'a dyn Fn(usize) -> String,
}

/// `[N · D]` fp16 values, row after row in input order. Between two batches it looks at the
/// cancellation.
pub(crate) fn encode(
    encoder: &Encoder,
    model: &Model,
    sequences: &Sequences<'_>,
    progress: &Progress,
) -> Result<Vec<f16>> {
    let budget = encoder.token_budget();
    in_batches(encoder, model.specials, budget, sequences, progress)
}

fn in_batches(
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
    let mut take = |places: &[usize], vectors: &[f16]| {
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

/// Puts a batch's vectors `[B · D]` where their sequences belong among `rows`.
fn put(
    vectors: &[f16],
    places: &[usize],
    sequences: &Sequences<'_>,
    rows: &mut [f16],
) -> Result<()> {
    let width = (vectors.len() / places.len().max(1)).max(1);
    for (&place, row) in places.iter().zip(vectors.chunks_exact(width)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_model::{DualEncoder, LoadOptions};
    use quarry_testkit::{WordCollection, write_plain_model};

    const SPECIALS: Specials = Specials { first: 2, last: 3 };

    #[test]
    fn rows_are_where_their_sequences_were() {
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
        let found = in_batches(encoder, SPECIALS, 40, &sequences, &progress).unwrap();
        assert_eq!(progress.fraction(), 1.0);
        let tokens = &sequences.tokens;
        let expected = encoder.encode(tokens, SPECIALS, 32, 40, &mut |_| {});
        let expected = expected.unwrap();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let difference = (found.to_f32() - expected).abs();
            // Half of f16's last bit.
            assert!(
                difference <= expected.abs() / 2048.0 + 1e-7,
                "{found} for {expected}"
            );
        }
        progress.cancel();
        let refused = in_batches(encoder, SPECIALS, 40, &sequences, &progress);
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
            put(&values.map(f16::from_f32), &[1, 0], &sequences, &mut rows)
                .map_err(|error| error.to_string())
        };
        let nan = placed([0.5, f32::NAN, 1.0, 1.0]).unwrap_err();
        assert!(nan.contains("text 1 is not finite"), "{nan}");
        let large = placed([0.5, 1.0, 1.0, 1e6]).unwrap_err();
        assert!(large.contains("text 0 does not fit fp16"), "{large}");
        placed([0.5, 1.0, 2.0, -4.0]).unwrap();
        assert_eq!(rows, [2.0, -4.0, 0.5, 1.0].map(f16::from_f32));
    }
}
