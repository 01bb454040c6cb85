//! Batches prepared ahead of the step that needs them.
//!
//! Owns: one thread that draws batches and packs their tokens, and a short
//! queue. A loader serves one generation: a swap starts another and drops this
//! one with what it had prepared, because a batch is a function of the
//! generation. Refuses: tensors and randomness of its own.

use crate::batches::{Batches, Columns};
use crate::dataset::Dataset;
use crate::negatives::Negatives;
use anyhow::{Context, Result};
use quarry_model::{PackedBatch, Specials};
use quarry_recipe::Recipe;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// Batches that wait at most.
const AHEAD: usize = 3;

/// Lengths and special tokens with which rows become token sequences.
#[derive(Debug, Clone, Copy)]
pub struct Framing {
    /// The tokens around every text.
    pub specials: Specials,
    /// Longest query in tokens, specials included.
    pub query_length: usize,
    /// Longest passage in tokens, specials included.
    pub passage_length: usize,
}

/// One micro-batch, ready for the encoder.
pub struct MicroBatch {
    /// The score matrix to build.
    pub columns: Columns,
    /// `columns.queries` as tokens.
    pub queries: PackedBatch,
    /// `columns.passages` as tokens.
    pub passages: PackedBatch,
}

/// One optimizer step's input.
pub struct Ready {
    /// The step, from 0.
    pub step: u64,
    /// Its micro-batches.
    pub micros: Vec<MicroBatch>,
    /// Negatives that the mined lists were short of.
    pub short: usize,
}

/// Prepares the batches of a range of steps under one generation.
pub struct Loader {
    queue: Receiver<Result<Ready>>,
}

impl Loader {
    /// Starts preparing `steps`, in order.
    ///
    /// # Errors
    /// A batch size that the training set cannot fill, or no thread to be had.
    pub fn start(
        recipe: &Recipe,
        dataset: Arc<Dataset>,
        negatives: Arc<Negatives>,
        framing: Framing,
        steps: Range<u64>,
    ) -> Result<Self> {
        let mut batches = Batches::new(recipe, dataset.queries())?;
        let (sender, queue) = sync_channel(AHEAD);
        std::thread::Builder::new()
            .name("loader".to_owned())
            .spawn(move || {
                for step in steps {
                    let ready = prepare(&mut batches, step, &dataset, &negatives, framing);
                    let failed = ready.is_err();
                    // A closed queue: this generation was swapped out or training is over.
                    if sender.send(ready).is_err() || failed {
                        break;
                    }
                }
            })
            .context("cannot start the loader thread; raise the limit on processes")?;
        Ok(Self { queue })
    }

    /// The next step's batch; waits if it is not prepared yet.
    ///
    /// # Errors
    /// A query without a positive.
    pub fn next(&self) -> Result<Ready> {
        self.queue
            .recv()
            .context("the loader thread ended before the last step")?
    }
}

fn prepare(
    batches: &mut Batches,
    step: u64,
    dataset: &Dataset,
    negatives: &Negatives,
    framing: Framing,
) -> Result<Ready> {
    let batch = batches.batch(step, dataset, negatives)?;
    let micros = batch
        .micros
        .into_iter()
        .map(|columns| pack(columns, dataset, framing))
        .collect();
    Ok(Ready {
        step,
        micros,
        short: batch.short,
    })
}

fn pack(columns: Columns, dataset: &Dataset, framing: Framing) -> MicroBatch {
    let queries = columns
        .queries
        .iter()
        .map(|&query| dataset.query_tokens(query));
    let passages = columns
        .passages
        .iter()
        .map(|&row| dataset.passage_tokens(row));
    MicroBatch {
        queries: PackedBatch::new(queries, framing.specials, framing.query_length),
        passages: PackedBatch::new(passages, framing.specials, framing.passage_length),
        columns,
    }
}
