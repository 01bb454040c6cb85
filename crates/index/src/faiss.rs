//! Approximate search by faiss: any factory string, inner product, rows numbered as in the corpus.
//!
//! Owns every faiss call and its `unsafe`. Refuses GPUs (exact search on torch serves them) and other metrics.

mod factory;
mod file;
mod native;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::hit::check_queries;
use crate::part::{Part, check_parts};
use crate::{Hit, IndexError, Search};
use factory::Factory;
use native::Native;

/// Rows widened to f32 and added at a time.
const ADD_ROWS: usize = 1 << 16;
/// Results fetched beyond k by an exhaustive index, to see where ties at the k boundary end.
const TIE_MARGIN: usize = 16;

/// What index to build and how to search it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexSpec {
    /// A faiss factory string: `Flat`, `IVF1024,Flat`, `HNSW32`, `OPQ16,IVF1024,PQ16`, …
    pub factory: String,
    /// Inverted lists visited by a query; only for IVF (faiss's default is 1).
    #[serde(default)]
    pub nprobe: Option<usize>,
    /// Candidates an HNSW search keeps; only for HNSW (faiss's default is 16).
    #[serde(default)]
    pub ef_search: Option<usize>,
    /// Threads that build an HNSW graph. More than one is faster, but then the graph depends on their timing.
    #[serde(default = "one")]
    pub graph_threads: usize,
}

fn one() -> usize {
    1
}

impl IndexSpec {
    /// The spec of a factory string, with faiss's own search parameters.
    pub fn new(factory: impl Into<String>) -> IndexSpec {
        IndexSpec {
            factory: factory.into(),
            nprobe: None,
            ef_search: None,
            graph_threads: one(),
        }
    }

    /// Checks what can be known without data.
    ///
    /// # Errors
    /// Parameters that the kind does not have or that are 0.
    pub fn check(&self) -> Result<(), IndexError> {
        let factory = Factory::parse(&self.factory)?;
        let refuse = |reason: &str| {
            Err(IndexError::Factory {
                factory: self.factory.clone(),
                reason: reason.to_owned(),
            })
        };
        match (self.nprobe, factory.lists) {
            (Some(0), _) => return refuse("nprobe is 0, set at least 1"),
            (Some(_), None) => return refuse("it has no inverted lists, remove nprobe"),
            (Some(nprobe), Some(lists)) if nprobe > lists => {
                return refuse("nprobe exceeds the number of lists");
            }
            _ => {}
        }
        match self.ef_search {
            Some(0) => refuse("ef_search is 0, set at least 1"),
            Some(_) if !factory.graph => refuse("it has no HNSW graph, remove ef_search"),
            _ if self.graph_threads == 0 => refuse("graph_threads is 0, set at least 1"),
            _ => Ok(()),
        }
    }

    /// Checks the spec for vectors of dimension `dim` by having faiss parse it.
    ///
    /// # Errors
    /// As [`Self::check`]; and a factory string that faiss does not know, or that
    /// does not fit the dimension.
    pub fn check_for(&self, dim: usize) -> Result<(), IndexError> {
        self.check()?;
        let factory = Factory::parse(&self.factory)?;
        Native::new(&factory.description, dim).map(|_| ())
    }
}

/// A faiss index over consecutive corpus rows.
pub struct FaissIndex {
    native: Native,
    spec: IndexSpec,
    exhaustive: bool,
    first_row: u32,
}

impl FaissIndex {
    /// Trains on a sample and adds all rows of `parts`, which follow one another without a gap.
    ///
    /// `seed` chooses the training sample where there are more rows than faiss would use. Equal input gives an equal
    /// index, whatever the number of threads, but for graphs built by several ([`IndexSpec::graph_threads`]).
    ///
    /// # Errors
    /// A factory string that faiss does not know or that contradicts the parameters, too few rows to train, rows that
    /// are not finite.
    pub fn build(spec: &IndexSpec, parts: &[Part], seed: u64) -> Result<FaissIndex, IndexError> {
        spec.check()?;
        let factory = Factory::parse(&spec.factory)?;
        let (rows, dim) = check_parts(parts)?;
        check_consecutive(parts)?;
        factory.check_training(&spec.factory, rows)?;
        let mut native = Native::new(&factory.description, dim)?;
        if !native.is_trained() {
            native.train(&training_sample(
                parts,
                dim,
                rows,
                factory.training_rows(rows),
                seed,
            )?)?;
        }
        let _threads = factory
            .graph
            .then(|| native::limit_threads(spec.graph_threads));
        let mut buffer = vec![0.0; ADD_ROWS.min(rows) * dim];
        for part in parts {
            for start in (0..part.len()).step_by(ADD_ROWS) {
                let end = (start + ADD_ROWS).min(part.len());
                let chunk = &mut buffer[..(end - start) * dim];
                part.widen(start..end, chunk);
                check_finite(chunk, dim, part.first_row() as usize + start)?;
                native.add(chunk)?;
            }
        }
        FaissIndex::assemble(native, spec.clone(), parts[0].first_row())
    }

    /// Sets the search parameters and wraps the native index.
    fn assemble(
        mut native: Native,
        spec: IndexSpec,
        first_row: u32,
    ) -> Result<FaissIndex, IndexError> {
        let parameters = [("nprobe", spec.nprobe), ("efSearch", spec.ef_search)];
        for (name, value) in parameters {
            if let Some(value) = value {
                native.set_parameter(name, value)?;
            }
        }
        let exhaustive = Factory::parse(&spec.factory)?.exhaustive;
        Ok(FaissIndex {
            native,
            spec,
            exhaustive,
            first_row,
        })
    }

    /// The spec it was built by.
    pub fn spec(&self) -> &IndexSpec {
        &self.spec
    }

    /// The corpus row of its first vector.
    pub fn first_row(&self) -> u32 {
        self.first_row
    }

    /// Writes one file, complete or not at all: faiss's own format (which `faiss.read_index` opens) and after it what
    /// [`FaissIndex::read`] needs to know.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), IndexError> {
        file::write(self, path.as_ref())
    }

    /// Reads what [`FaissIndex::write`] wrote, and checks that it is whole.
    pub fn read(path: impl AsRef<Path>) -> Result<FaissIndex, IndexError> {
        file::read(path.as_ref())
    }

    fn hits(&self, labels: &[i64], scores: &[f32]) -> Vec<Hit> {
        let found = labels.iter().zip(scores).filter(|(label, _)| **label >= 0);
        let mut hits: Vec<Hit> = found
            .map(|(label, score)| Hit {
                row: self.first_row + *label as u32,
                score: *score,
            })
            .collect();
        hits.sort_unstable_by(Hit::order);
        hits
    }

    /// One query's true top k: faiss keeps any of the scores that tie at the boundary, so fetch until the tie ends.
    fn until_tie_ends(
        &self,
        query: &[f32],
        k: usize,
        mut fetch: usize,
    ) -> Result<Vec<Hit>, IndexError> {
        loop {
            fetch = (fetch * 2).min(self.len());
            let (scores, labels) = self.native.search(query, fetch)?;
            let hits = self.hits(&labels, &scores);
            if fetch == self.len() || !tie_is_open(&hits, k) {
                return Ok(hits);
            }
        }
    }
}

impl Search for FaissIndex {
    fn len(&self) -> usize {
        self.native.rows()
    }

    fn dim(&self) -> usize {
        self.native.dim()
    }

    fn search(&self, queries: &[f32], k: usize) -> Result<Vec<Vec<Hit>>, IndexError> {
        let count = check_queries(queries, self.dim())?;
        let k = k.min(self.len());
        if count == 0 || k == 0 {
            return Ok(vec![Vec::new(); count]);
        }
        let fetch = if self.exhaustive {
            (k + TIE_MARGIN).min(self.len())
        } else {
            k
        };
        let (scores, labels) = self.native.search(queries, fetch)?;
        let results = scores
            .chunks(fetch)
            .zip(labels.chunks(fetch))
            .zip(queries.chunks(self.dim()));
        let results = results.map(|((scores, labels), query)| {
            let mut hits = self.hits(labels, scores);
            if fetch > k && fetch < self.len() && tie_is_open(&hits, k) {
                hits = self.until_tie_ends(query, k, fetch)?;
            }
            hits.truncate(k);
            Ok(hits)
        });
        results.collect()
    }
}

/// Whether rows that were not fetched may tie with the k-th hit.
fn tie_is_open(hits: &[Hit], k: usize) -> bool {
    match (hits.get(k - 1), hits.last()) {
        (Some(kth), Some(last)) => kth.score <= last.score,
        _ => false,
    }
}

/// faiss numbers vectors from 0: corpus rows follow only from rows without a gap.
fn check_consecutive(parts: &[Part]) -> Result<(), IndexError> {
    let gap = parts
        .windows(2)
        .find(|pair| pair[0].first_row() + pair[0].len() as u32 != pair[1].first_row());
    match gap {
        Some(pair) => Err(IndexError::Parts {
            first_row: pair[1].first_row(),
            problem: "leaves a gap before it",
        }),
        None => Ok(()),
    }
}

fn check_finite(values: &[f32], dim: usize, first_row: usize) -> Result<(), IndexError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(IndexError::NotFinite {
            what: "corpus",
            row: first_row + at / dim,
        }),
        None => Ok(()),
    }
}

/// `wanted` of the `rows` rows, evenly spaced over the corpus from an offset that the seed chooses.
fn training_sample(
    parts: &[Part],
    dim: usize,
    rows: usize,
    wanted: usize,
    seed: u64,
) -> Result<Vec<f32>, IndexError> {
    // The fractional part of seed · φ (Weyl): any two seeds give different offsets.
    let offset = u128::from(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let position = |i: usize| {
        let numerator = (((i as u128) << 64) + offset) * rows as u128;
        ((numerator / wanted as u128) >> 64) as usize
    };
    let mut sample = vec![0.0; wanted * dim];
    let (mut part, mut before) = (0, 0);
    for (i, out) in sample.chunks_mut(dim).enumerate() {
        let at = position(i);
        while at - before >= parts[part].len() {
            before += parts[part].len();
            part += 1;
        }
        parts[part].widen(at - before..at - before + 1, out);
    }
    check_finite(&sample, dim, parts[0].first_row() as usize)?;
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn the_sample_is_spread_over_all_parts_and_depends_on_the_seed() {
        let part = |first_row: u32, rows: u32| {
            Part::new(
                first_row,
                1,
                (first_row..first_row + rows)
                    .map(|row| f16::from_f32(row as f32))
                    .collect::<Vec<_>>(),
            )
        };
        let parts = [
            part(0, 90).unwrap(),
            part(90, 0).unwrap(),
            part(90, 10).unwrap(),
        ];
        let sample = |wanted, seed| training_sample(&parts, 1, 100, wanted, seed).unwrap();
        let whole: Vec<f32> = (0..100u16).map(f32::from).collect();
        assert_eq!(sample(100, 3), whole);
        let some = sample(10, 3);
        assert!(
            some.windows(2)
                .all(|pair| (9.0..=11.0).contains(&(pair[1] - pair[0]))),
            "{some:?}"
        );
        assert_eq!(some, sample(10, 3));
        assert!((0..20).any(|seed| sample(10, seed) != some));
    }

    #[test]
    fn parameters_must_fit_the_kind() {
        let spec = |factory: &str, nprobe, ef_search| IndexSpec {
            nprobe,
            ef_search,
            ..IndexSpec::new(factory)
        };
        assert!(spec("Flat", None, None).check().is_ok());
        assert!(spec("IVF16,Flat", Some(4), None).check().is_ok());
        assert!(spec("HNSW16", None, Some(40)).check().is_ok());
        for bad in [
            spec("Flat", Some(4), None),
            spec("Flat", None, Some(4)),
            spec("IVF16,Flat", Some(17), None),
            spec("IVF16,Flat", Some(0), None),
            spec("HNSW16", None, Some(0)),
            IndexSpec {
                graph_threads: 0,
                ..spec("HNSW16", None, None)
            },
            spec("", None, None),
        ] {
            assert!(bad.check().is_err(), "{bad:?} was taken");
        }
    }
}
