//! Encoding many sequences without gradients.
//!
//! Sequences are sorted by length and cut by a token budget, so a batch depends
//! on the sequences alone: the same input gives the same bytes.

use super::Encoder;
use crate::error::ModelError;
use crate::packed::{PackedBatch, Specials};

/// Tokens a batch may hold on a CPU: its states then stay in the caches.
pub const CPU_TOKEN_BUDGET: usize = 1024;

impl Encoder {
    /// `[N · D]` f32 row after row in input order. `sequences` are content ids;
    /// `max_length` counts the specials; `progress` hears how many sequences are done.
    ///
    /// # Errors
    /// As `embed`; and an embedding that is not finite.
    pub fn encode(
        &self,
        sequences: &[&[u32]],
        specials: Specials,
        max_length: usize,
        token_budget: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let built;
        let prepared = match &self.frozen {
            Some(prepared) => prepared,
            None => {
                built = self.prepare()?;
                &built
            }
        };
        let width = self.dim().unsigned_abs() as usize;
        let mut rows = vec![0f32; sequences.len() * width];
        let mut block = Vec::new();
        let mut done = 0;
        for places in batches(sequences, max_length, token_budget) {
            let batch =
                PackedBatch::new(places.iter().map(|&i| sequences[i]), specials, max_length);
            self.check(&batch)?;
            let vectors = self.vectors(prepared, &batch, None)?;
            let vectors = vectors.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
            block.resize(places.len() * width, 0f32);
            vectors.f_copy_data(&mut block, places.len() * width)?;
            // `places` is sorted as the batch sorts, so rows are in its packed order.
            for (&place, row) in places.iter().zip(block.chunks_exact(width)) {
                if row.iter().any(|x| !x.is_finite()) {
                    return Err(ModelError::NotFinite(place));
                }
                rows[place * width..][..width].copy_from_slice(row);
            }
            done += places.len();
            progress(done);
        }
        Ok(rows)
    }
}

/// Places of the sequences, longest first, in batches of at most `budget`
/// tokens (or one sequence).
fn batches(sequences: &[&[u32]], max_length: usize, budget: usize) -> Vec<Vec<usize>> {
    let tokens = |i: usize| (sequences[i].len() + 2).min(max_length.max(2));
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(tokens(i)));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut used = usize::MAX;
    for i in order {
        used = used.saturating_add(tokens(i));
        match batches.last_mut() {
            Some(batch) if used <= budget => batch.push(i),
            _ => {
                batches.push(vec![i]);
                used = tokens(i);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_the_budget_and_every_sequence_once() {
        let lengths = [5usize, 0, 30, 7, 7, 1, 100, 2];
        let data: Vec<Vec<u32>> = lengths.iter().map(|&l| vec![3; l]).collect();
        let sequences: Vec<&[u32]> = data.iter().map(Vec::as_slice).collect();
        let cut = batches(&sequences, 40, 20);
        assert_eq!(cut, [vec![6], vec![2], vec![3, 4], vec![0, 7, 5, 1]]);
        assert!(batches(&[], 40, 20).is_empty());
    }
}
