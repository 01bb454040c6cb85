//! Rankings of a whole collection by a dual encoder or by BM25, and the TREC
//! run they make. The exact way: every passage is scored for every query.

use crate::collection::{Collection, bar};
use crate::vectors::PassageVectors;
use anyhow::Result;
use quarry_corpus::{Corpus, QuerySet};
use quarry_eval::{Qrels, Run};
use quarry_index::{ExactIndex, Hit, Language, Search, SparseIndex};
use quarry_model::{DualEncoder, Encoder, Specials};

/// Passages looked at to tell a corpus's language; inferencers look at as many.
const LANGUAGE_SAMPLE: usize = 1000;

/// Queries searched at once.
const QUERY_TILE: usize = 1024;

/// Lengths to which texts are cut, in tokens, specials included.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    /// Of queries.
    pub query: usize,
    /// Of passages.
    pub passage: usize,
}

/// Encodes every query: `[Q, D]` row-major.
///
/// # Errors
/// If the model refuses a text.
pub fn encode_queries(
    encoder: &Encoder,
    specials: Specials,
    queries: &QuerySet,
    length: usize,
) -> Result<Vec<f32>> {
    let progress = bar("queries", queries.len() as u64);
    let tokens: Vec<&[u32]> = (0..queries.len()).map(|i| queries.tokens(i)).collect();
    let budget = encoder.token_budget();
    let rows = encoder.encode(&tokens, specials, length, budget, &mut |n| {
        progress.set_position(n as u64)
    })?;
    progress.finish_and_clear();
    Ok(rows)
}

/// The best `depth` passages of each query by dot product.
///
/// # Errors
/// If the model refuses a text or the search fails.
pub fn search_all(
    model: &DualEncoder,
    specials: Specials,
    index: &ExactIndex,
    queries: &QuerySet,
    length: usize,
    depth: usize,
) -> Result<Vec<Vec<Hit>>> {
    let rows = encode_queries(model.query(), specials, queries, length)?;
    let mut hits = Vec::with_capacity(queries.len());
    for tile in rows.chunks(QUERY_TILE * index.dim()) {
        hits.extend(index.search(tile, depth)?);
    }
    Ok(hits)
}

/// Encodes and searches a whole collection.
///
/// # Errors
/// If the model refuses a text or the search fails.
pub fn dense(
    model: &DualEncoder,
    specials: Specials,
    collection: &Collection,
    lengths: Lengths,
    depth: usize,
) -> Result<Vec<Vec<Hit>>> {
    let passages = PassageVectors::encode(
        model.passage(),
        specials,
        &collection.corpus,
        lengths.passage,
        &std::env::temp_dir(),
    )?;
    search_all(
        model,
        specials,
        &passages.index,
        &collection.queries,
        lengths.query,
        depth,
    )
}

/// The judgements of a query set, by id.
///
/// # Errors
/// If a query is judged twice on one passage.
pub fn qrels(queries: &QuerySet, corpus: &Corpus) -> Result<Qrels> {
    let mut qrels = Qrels::default();
    for query in 0..queries.len() {
        let (rows, grades) = queries.judged(query);
        for (row, grade) in rows.iter().zip(grades) {
            qrels.insert(queries.id(query), corpus.id(*row), *grade)?;
        }
    }
    Ok(qrels)
}

/// The best `depth` passages of each query by BM25.
///
/// # Errors
/// If the index cannot be built.
pub fn sparse(
    collection: &Collection,
    language: Option<Language>,
    depth: usize,
) -> Result<Vec<Vec<Hit>>> {
    let corpus = &collection.corpus;
    let language = language.unwrap_or_else(|| language_of(corpus));
    let folder = tempfile::Builder::new().prefix("quarry-bm25-").tempdir()?;
    let progress = bar("indexing", corpus.passages() as u64);
    let index = SparseIndex::build(
        folder.path().join("index"),
        corpus.texts(),
        language,
        &mut |n| {
            progress.set_position(n);
        },
    )?;
    progress.finish_and_clear();
    let queries = &collection.queries;
    let mut hits = Vec::with_capacity(queries.len());
    for query in 0..queries.len() {
        hits.push(index.search(queries.text(query), depth)?);
    }
    Ok(hits)
}

/// The language of a corpus, judged by its first passages.
#[must_use]
pub fn language_of(corpus: &Corpus) -> Language {
    let sample: Vec<&str> = corpus
        .texts()
        .take(LANGUAGE_SAMPLE)
        .map(|(_, text)| text)
        .collect();
    Language::detect(sample)
}

/// The rankings as a TREC run.
///
/// # Errors
/// If a ranking names a passage twice.
pub fn to_run(hits: &[Vec<Hit>], queries: &QuerySet, corpus: &Corpus) -> Result<Run> {
    let mut run = Run::default();
    for (query, ranking) in hits.iter().enumerate() {
        for hit in ranking {
            run.insert(queries.id(query), corpus.id(hit.row), hit.score)?;
        }
    }
    Ok(run)
}
