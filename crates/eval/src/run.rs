//! Runs: what a system retrieved for each query, in TREC's six columns.

use std::collections::BTreeMap;
use std::path::Path;

use crate::EvalError;
use crate::lines::{MARK, fields, for_each_line, write_lines};

/// A run: query id → document id → score.
///
/// Scores are `f32`, as pytrec_eval compares them: 1.000000001 and 1.0 are a tie.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run(BTreeMap<String, BTreeMap<String, f32>>);

impl Run {
    /// Adds one retrieved document; a document that is there already, or a NaN, is refused.
    pub fn insert(&mut self, query: &str, document: &str, score: f32) -> Result<(), EvalError> {
        if score.is_nan() {
            return Err(EvalError::NotFinite {
                query: query.to_owned(),
                document: document.to_owned(),
            });
        }
        let retrieved = self.0.entry(query.to_owned()).or_default();
        if retrieved.insert(document.to_owned(), score).is_some() {
            return Err(EvalError::Duplicate {
                query: query.to_owned(),
                document: document.to_owned(),
            });
        }
        Ok(())
    }

    /// Adds documents in the order given, with strictly decreasing scores, so that every tool ranks them alike
    /// whatever its tie rule.
    pub fn insert_ranking<'a>(
        &mut self,
        query: &str,
        documents: impl ExactSizeIterator<Item = &'a str>,
    ) -> Result<(), EvalError> {
        let count = documents.len();
        documents
            .enumerate()
            .try_for_each(|(rank, document)| self.insert(query, document, (count - rank) as f32))
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no query has a document.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The documents of a query with their scores, by document id.
    pub fn get(&self, query: &str) -> Option<&BTreeMap<String, f32>> {
        self.0.get(query)
    }

    /// All queries with what they retrieved, by query id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, f32>)> {
        self.0
            .iter()
            .map(|(query, retrieved)| (query.as_str(), retrieved))
    }

    /// The documents of a query in trec_eval's order: score descending, then document id descending by bytes. The
    /// rank column and the order of the file do not count.
    pub fn ranking(&self, query: &str) -> Vec<(&str, f32)> {
        let Some(retrieved) = self.0.get(query) else {
            return Vec::new();
        };
        let mut ranking: Vec<_> = retrieved
            .iter()
            .map(|(document, score)| (document.as_str(), *score))
            .collect();
        // `==` first: -0.0 and 0.0 are one score.
        ranking.sort_by(|a, b| {
            if a.1 == b.1 {
                b.0.cmp(a.0)
            } else {
                b.1.total_cmp(&a.1)
            }
        });
        ranking
    }
}

/// Reads a TREC run, plain or `.gz`: `query Q0 document rank score tag`, separated by white space.
pub fn read_run(path: impl AsRef<Path>) -> Result<Run, EvalError> {
    let path = path.as_ref();
    let mut run = Run::default();
    for_each_line(path, |line, text| {
        let refuse = |problem: String| EvalError::Malformed {
            path: path.to_owned(),
            line,
            problem,
            fix: "write `query Q0 document rank score tag`",
        };
        let fields = fields(text);
        let [query, _, document, _, score, _] = fields[..] else {
            return Err(refuse(format!("{} fields instead of 6", fields.len())));
        };
        if query.is_empty() || document.is_empty() {
            return Err(refuse("an empty id".to_owned()));
        }
        let score: f64 = score
            .parse()
            .map_err(|_| refuse(format!("the score {score:?} is not a number")))?;
        run.insert(query, document, score as f32)
            .map_err(|error| refuse(error.to_string()))
    })?;
    Ok(run)
}

/// Writes a TREC run, gzipped where the name ends in `.gz`; the bytes depend on the run and the tag alone.
pub fn write_run(path: impl AsRef<Path>, run: &Run, tag: &str) -> Result<(), EvalError> {
    // A mark at the start of the file would not be read as part of the id.
    let lost = |c: char| c.is_whitespace() || c == MARK;
    let writable = |id: &str| match id.is_empty() || id.contains(lost) {
        true => Err(EvalError::UnwritableId { id: id.to_owned() }),
        false => Ok(()),
    };
    writable(tag)?;
    for (query, retrieved) in run.iter() {
        writable(query)?;
        retrieved
            .keys()
            .try_for_each(|document| writable(document))?;
    }
    write_lines(path.as_ref(), |out| {
        for (query, _) in run.iter() {
            for (rank, (document, score)) in run.ranking(query).into_iter().enumerate() {
                writeln!(out, "{query} Q0 {document} {} {score} {tag}", rank + 1)?;
            }
        }
        Ok(())
    })
}
