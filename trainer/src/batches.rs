//! A batch as a pure function of (seed, step, generation's negatives).
//!
//! Owns: the draw of each query's positive and negatives, the columns of each
//! micro-batch and the false-negative mask. Refuses: tokens, tensors, files and
//! any state carried from one step to the next (law 4).

use crate::order::{BatchTooLarge, QueryOrder};
use crate::random::{Purpose, Stream};
use quarry_recipe::{Draw, Loss, Recipe};
use std::collections::{BTreeSet, HashMap};
use thiserror::Error;

/// What is judged: the qrels of the training split and which texts are equal.
pub trait Judgements {
    /// Rows judged relevant to a query, in the order of the qrels.
    fn positives(&self, query: u32) -> Vec<u32>;
    /// Rows that must not be negatives of a query: its positives and those of every
    /// query with the same text, of which a table of distinct texts has none.
    fn known_positives(&self, query: u32) -> Vec<u32> {
        self.positives(query)
    }
    /// Hash of a passage's text; equal texts have equal hashes.
    fn text_hash(&self, row: u32) -> u64;
}

/// What one generation mined.
pub trait Mined {
    /// Negatives of a query, hardest first.
    fn negatives(&self, query: u32) -> &[u32];
}

/// A query that cannot be trained on.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "training query {query} has no positive passage; prepare the corpus again with data.strictness.no_positive = \"drop\""
)]
pub struct NoPositive {
    /// Row of the query in its split.
    pub query: u32,
}

/// Draws batches.
pub struct Batches {
    order: QueryOrder,
    seed: u64,
    negatives: usize,
    draw: Draw,
    micro_size: usize,
    contrast: Contrast,
}

/// Which columns a query is scored against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contrast {
    /// All columns of the micro-batch.
    InBatch,
    /// Its own positive and negatives; the others are masked.
    Own,
    /// Its own, and the loss wants equally many of each query: what is short is
    /// filled with the query's positive, which is masked as a false negative.
    OwnPadded,
}

/// One optimizer step's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The step, from 0.
    pub step: u64,
    /// Its micro-batches, in order.
    pub micros: Vec<Columns>,
    /// Negatives that the mined lists were short of, over all queries.
    pub short: usize,
}

/// The score matrix of one micro-batch: `b` queries, `N` columns, query-major:
/// each query's positive, then its negatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// Query rows, `[b]`.
    pub queries: Vec<u32>,
    /// Distinct passage rows in order of first appearance, `[U]`: each is encoded once.
    pub passages: Vec<u32>,
    /// The passage (index into `passages`) of each column, `[N]`.
    pub passage_of: Vec<i64>,
    /// The column of each query's positive, `[b]`.
    pub targets: Vec<i64>,
    /// What the loss must not see, `[b × N]` row-major: false negatives (the column's
    /// text is that of a known positive of the query and the column is not its
    /// target) and, without in-batch negatives, other queries' columns.
    pub masked: Vec<bool>,
    /// (query, drawn negative) pairs that the contrast would hold without a mask.
    pub pairs: usize,
    /// Those of them that are masked as false negatives.
    pub false_negatives: usize,
}

impl Batches {
    /// Batches of `recipe` over a training split of `queries` queries.
    ///
    /// # Errors
    /// [`BatchTooLarge`].
    pub fn new(recipe: &Recipe, queries: usize) -> Result<Self, BatchTooLarge> {
        let train = &recipe.train;
        Ok(Self {
            order: QueryOrder::new(recipe.seed, queries, train.batch_size)?,
            seed: recipe.seed,
            negatives: train.negatives,
            draw: recipe.mining.draw,
            micro_size: train.batch_size / train.accumulation,
            contrast: match (train.loss, train.in_batch) {
                (Loss::Pairwise, _) => Contrast::OwnPadded,
                (Loss::InfoNce, true) => Contrast::InBatch,
                (Loss::InfoNce, false) => Contrast::Own,
            },
        })
    }

    /// The batch of `step` under one generation's negatives.
    ///
    /// # Errors
    /// [`NoPositive`].
    pub fn batch(
        &mut self,
        step: u64,
        judgements: &dyn Judgements,
        mined: &dyn Mined,
    ) -> Result<Batch, NoPositive> {
        let queries = self.order.batch(step);
        let mut short = 0;
        let mut micros = Vec::with_capacity(queries.len() / self.micro_size);
        for micro in queries.chunks(self.micro_size) {
            let mut groups = Groups::default();
            let mut missing = 0;
            for &query in micro {
                let positive = self.positive(step, query, &judgements.positives(query))?;
                let mut rows = self.negatives(step, query, mined.negatives(query));
                let lacking = self.negatives - rows.len();
                if self.contrast == Contrast::OwnPadded {
                    rows.resize(self.negatives, positive);
                    missing += lacking;
                }
                short += lacking;
                groups.push(query, positive, &rows);
            }
            micros.push(groups.columns(judgements, self.contrast, missing));
        }
        Ok(Batch {
            step,
            micros,
            short,
        })
    }

    fn positive(&self, step: u64, query: u32, positives: &[u32]) -> Result<u32, NoPositive> {
        match positives {
            [] => Err(NoPositive { query }),
            [only] => Ok(*only),
            several => {
                let mut stream = Stream::new(self.seed, Purpose::Positive, step, u64::from(query));
                Ok(several[stream.below(several.len() as u64) as usize])
            }
        }
    }

    fn negatives(&self, step: u64, query: u32, mined: &[u32]) -> Vec<u32> {
        match self.draw {
            Draw::Top => mined[..self.negatives.min(mined.len())].to_vec(),
            Draw::Uniform => Stream::new(self.seed, Purpose::Negatives, step, u64::from(query))
                .sample(mined, self.negatives),
        }
    }
}

/// The rows of one micro-batch, query after query.
#[derive(Default)]
struct Groups {
    queries: Vec<u32>,
    targets: Vec<i64>,
    rows: Vec<u32>,
    owners: Vec<usize>,
}

impl Groups {
    fn push(&mut self, query: u32, positive: u32, negatives: &[u32]) {
        self.targets.push(self.rows.len() as i64);
        self.rows.push(positive);
        self.rows.extend(negatives);
        self.owners.resize(self.rows.len(), self.queries.len());
        self.queries.push(query);
    }

    /// Deduplicates the passages and masks; `padding` of the columns are no draws.
    fn columns(self, judgements: &dyn Judgements, contrast: Contrast, padding: usize) -> Columns {
        let (b, n) = (self.queries.len(), self.rows.len());
        let in_batch = contrast == Contrast::InBatch;
        let mut masked = vec![false; b * n];
        let mut masked_own = 0;
        for (at, column) in self.false_negatives(judgements) {
            masked_own += usize::from(self.owners[column] == at);
            masked[at * n + column] = true;
        }
        let false_negatives = match in_batch {
            true => masked.iter().filter(|m| **m).count(),
            false => masked_own - padding,
        };
        if !in_batch {
            for (at, row) in masked.chunks_mut(n).enumerate() {
                for (mask, owner) in row.iter_mut().zip(&self.owners) {
                    *mask |= *owner != at;
                }
            }
        }
        let (passages, passage_of) = distinct(&self.rows);
        Columns {
            pairs: if in_batch {
                b * (n - 1)
            } else {
                n - b - padding
            },
            queries: self.queries,
            passages,
            passage_of,
            targets: self.targets,
            masked,
            false_negatives,
        }
    }

    /// Each (query, column) once whose text is a known positive of the query and
    /// which is not the query's target.
    fn false_negatives(&self, judgements: &dyn Judgements) -> BTreeSet<(usize, usize)> {
        let mut columns_of_text: HashMap<u64, Vec<usize>> = HashMap::new();
        for (column, &row) in self.rows.iter().enumerate() {
            columns_of_text
                .entry(judgements.text_hash(row))
                .or_default()
                .push(column);
        }
        let mut found = BTreeSet::new();
        for (at, &query) in self.queries.iter().enumerate() {
            for positive in judgements.known_positives(query) {
                let equal = columns_of_text.get(&judgements.text_hash(positive));
                let others = equal
                    .into_iter()
                    .flatten()
                    .filter(|c| **c as i64 != self.targets[at]);
                found.extend(others.map(|&column| (at, column)));
            }
        }
        found
    }
}

/// The distinct rows in order of first appearance, and the place of each row there.
fn distinct(rows: &[u32]) -> (Vec<u32>, Vec<i64>) {
    let mut passages = Vec::new();
    let mut place: HashMap<u32, i64> = HashMap::new();
    let places = rows
        .iter()
        .map(|&row| {
            *place.entry(row).or_insert_with(|| {
                passages.push(row);
                passages.len() as i64 - 1
            })
        })
        .collect();
    (passages, places)
}

impl Columns {
    /// Columns, `N`.
    #[must_use]
    pub fn width(&self) -> usize {
        self.passage_of.len()
    }

    /// (query, drawn negative) pairs that the contrast holds.
    #[must_use]
    pub fn open_pairs(&self) -> usize {
        self.pairs - self.false_negatives
    }
}
