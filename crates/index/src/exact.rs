//! Exact maximum inner product search on torch: tiled matrix products and top-k, on the CPU or a GPU.
//!
//! `queries × corpus` is never held beyond one tile. Products are accumulated in f32 from fp16 rows. The result is the
//! true top k in the order of [`Hit::order`], also where scores tie at the k boundary or across tiles: scores and rows
//! travel as one integer key whose order is that order.
//!
//! Products, top-k and merging stay on the device, and the host reads the best keys once for all queries of a call:
//! no tile waits for it.

use std::sync::Mutex;

use tch::{Device, Kind, Tensor};

use crate::hit::check_queries;
use crate::keys::{decode, encode, encode_all};
use crate::part::{Part, check_parts};
use crate::stretch::{Stretch, stretches};
use crate::{Hit, IndexError, Search};

/// Rows and queries of one tile: 32 MiB of scores on a CPU, 1 GiB on a GPU.
struct Tile {
    rows: usize,
    queries: i64,
}

impl Tile {
    fn of(device: Device) -> Tile {
        match device {
            Device::Cuda(_) => Tile {
                rows: 1 << 18,
                queries: 1 << 10,
            },
            _ => Tile {
                rows: 1 << 14,
                queries: 1 << 9,
            },
        }
    }
}

/// How many times the memory of a tile's scores their keys take while they are made.
const KEYS_COST: i64 = 8;

/// Exact search over parts of fp16 rows.
pub struct ExactIndex {
    parts: Vec<Part>,
    /// The parts' values `[N, D]` on the device; none on the CPU, which reads the parts themselves. A tensor may be
    /// moved between threads but not shared, hence the lock (held for a reference count only).
    uploaded: Vec<Mutex<Tensor>>,
    device: Device,
    tile: Tile,
    len: usize,
    dim: usize,
}

impl ExactIndex {
    /// An index over `parts`, in ascending order of rows. On a GPU the rows are copied there once.
    ///
    /// # Errors
    /// No rows, overlapping rows or different dimensions; a device that cannot hold the rows.
    pub fn new(parts: Vec<Part>, device: Device) -> Result<ExactIndex, IndexError> {
        let (len, dim) = check_parts(&parts)?;
        let tile = Tile::of(device);
        let uploaded = match device {
            Device::Cpu => Vec::new(),
            _ => parts
                .iter()
                .map(|part| Ok(Mutex::new(upload(part, dim, device, tile.rows)?)))
                .collect::<Result<_, IndexError>>()?,
        };
        Ok(ExactIndex {
            parts,
            uploaded,
            tile,
            device,
            len,
            dim,
        })
    }

    /// A stretch's rows as f32 `[D, N]` on the device; a row that is not finite is refused.
    fn rows_of(&self, stretch: &Stretch) -> Result<Tensor, IndexError> {
        let pieces = stretch.pieces.iter().map(|(part, rows)| {
            let (start, count) = (rows.start as i64, rows.len() as i64);
            if let Some(uploaded) = self.uploaded.get(*part) {
                let uploaded = uploaded
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                return Ok(uploaded.f_narrow(0, start, count)?);
            }
            let values = &self.parts[*part].values()[rows.start * self.dim..rows.end * self.dim];
            Ok(Tensor::f_from_slice(values)?.f_view([-1, self.dim as i64])?)
        });
        let mut pieces = pieces.collect::<Result<Vec<_>, IndexError>>()?;
        let halves = match pieces.len() {
            1 => pieces.remove(0),
            _ => Tensor::f_cat(&pieces, 0)?,
        };
        let rows = halves.f_to_kind(Kind::Float)?;
        // Uploaded ones were looked at when they were copied there.
        if self.uploaded.is_empty() && !bool::try_from(rows.f_isfinite()?.f_all()?)? {
            let parts = stretch.pieces.iter().map(|(part, _)| &self.parts[*part]);
            return Err(first_not_finite(parts, self.dim));
        }
        Ok(rows.f_tr()?)
    }

    /// Calls `visit` with the rows `[D, N]` of every tile and the number of the first.
    fn each_tile(
        &self,
        mut visit: impl FnMut(&Tensor, i64) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        for stretch in stretches(&self.parts, self.tile.rows) {
            visit(&self.rows_of(&stretch)?, stretch.first_row)?;
        }
        Ok(())
    }

    /// The best keys `[Q, k]` for the queries `[Q, D]`, best first, and for each query the score `[Q]` at which a tile
    /// may have kept the wrong one of several equal scores, −∞ if none did.
    fn best_keys(&self, queries: &Tensor, k: i64) -> Result<(Tensor, Tensor), IndexError> {
        let tiles: Vec<Tensor> = queries.f_split(self.tile.queries, 0)?;
        let mut best: Vec<Option<Best>> = tiles.iter().map(|_| None).collect();
        self.each_tile(|rows, first_row| {
            for (queries, best) in tiles.iter().zip(&mut best) {
                let found = Best::of(&queries.f_matmul(rows)?, first_row, k)?;
                *best = Some(match best.take() {
                    Some(before) => before.merge(&found, k)?,
                    None => found,
                });
            }
            Ok(())
        })?;
        let best: Vec<Best> = best.into_iter().flatten().collect();
        let keys: Vec<&Tensor> = best.iter().map(|best| &best.keys).collect();
        let tied: Vec<&Tensor> = best.iter().map(|best| &best.tied).collect();
        // A single tile has not been sorted by a merge.
        let keys = Tensor::f_cat(&keys, 0)?.f_topk(k, 1, true, true)?.0;
        Ok((keys, Tensor::f_cat(&tied, 0)?))
    }

    /// The same where scores tie: every score becomes a key, among which no two are equal.
    fn best_distinct_keys(&self, queries: &Tensor, k: i64) -> Result<Tensor, IndexError> {
        let chunks: Vec<Tensor> = queries.f_split((self.tile.queries / KEYS_COST).max(1), 0)?;
        let mut best: Vec<Option<Tensor>> = chunks.iter().map(|_| None).collect();
        self.each_tile(|rows, first_row| {
            for (queries, best) in chunks.iter().zip(&mut best) {
                let keys = encode_all(&queries.f_matmul(rows)?, first_row)?;
                let keys = match best.take() {
                    Some(before) => Tensor::f_cat(&[before, keys], 1)?,
                    None => keys,
                };
                *best = Some(keys.f_topk(k.min(keys.size()[1]), 1, true, true)?.0);
            }
            Ok(())
        })?;
        let best: Vec<Tensor> = best.into_iter().flatten().collect();
        Ok(Tensor::f_cat(&best, 0)?)
    }

    /// Searches again for the queries whose last kept score is one at which a tile may have kept the wrong row.
    fn settle_ties(
        &self,
        queries: &Tensor,
        k: usize,
        tied: &[f32],
        hits: &mut [Vec<Hit>],
    ) -> Result<(), IndexError> {
        let unsure: Vec<i64> = (hits.iter().zip(tied).enumerate())
            .filter(|(_, (hits, tied))| hits.last().is_some_and(|last| **tied >= last.score))
            .map(|(at, _)| at as i64)
            .collect();
        if unsure.is_empty() {
            return Ok(());
        }
        let places = Tensor::f_from_slice(&unsure)?.f_to_device(self.device)?;
        let again = queries.f_index_select(0, &places)?;
        let sure = read_hits(&self.best_distinct_keys(&again, k as i64)?, k)?;
        for (at, found) in unsure.into_iter().zip(sure) {
            hits[at as usize] = found;
        }
        Ok(())
    }
}

/// Copies a part's rows `[N, D]` to a GPU, slice by slice, and refuses a row that is not finite.
fn upload(part: &Part, dim: usize, device: Device, slice: usize) -> Result<Tensor, IndexError> {
    let rows = Tensor::f_empty([part.len() as i64, dim as i64], (Kind::Half, device))?;
    let mut finite = Vec::new();
    for start in (0..part.len()).step_by(slice) {
        let end = (start + slice).min(part.len());
        let values = &part.values()[start * dim..end * dim];
        let values = Tensor::f_from_slice(values)?.f_view([-1, dim as i64])?;
        let mut place = rows.f_narrow(0, start as i64, (end - start) as i64)?;
        place.f_copy_(&values)?;
        finite.push(place.f_isfinite()?.f_all()?);
    }
    match finite.is_empty() || bool::try_from(Tensor::f_stack(&finite, 0)?.f_all()?)? {
        true => Ok(rows),
        false => Err(first_not_finite([part], dim)),
    }
}

fn first_not_finite<'a>(parts: impl IntoIterator<Item = &'a Part>, dim: usize) -> IndexError {
    let row = parts.into_iter().find_map(|part| {
        let at = part.values().iter().position(|value| !value.is_finite())?;
        Some(part.first_row() as usize + at / dim)
    });
    IndexError::NotFinite {
        what: "corpus",
        row: row.unwrap_or(0),
    }
}

impl Search for ExactIndex {
    fn len(&self) -> usize {
        self.len
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn search(&self, queries: &[f32], k: usize) -> Result<Vec<Vec<Hit>>, IndexError> {
        let count = check_queries(queries, self.dim)?;
        let k = k.min(self.len);
        if count == 0 || k == 0 {
            return Ok(vec![Vec::new(); count]);
        }
        let _no_grad = tch::no_grad_guard();
        let queries = Tensor::f_from_slice(queries)?
            .f_view([-1, self.dim as i64])?
            .f_to_device(self.device)?;
        let (keys, tied) = self.best_keys(&queries, k as i64)?;
        let mut hits = read_hits(&keys, k)?;
        let tied = Vec::<f32>::try_from(tied.f_to_device(Device::Cpu)?)?;
        self.settle_ties(&queries, k, &tied, &mut hits)?;
        Ok(hits)
    }
}

/// What the tiles so far have found for some queries.
struct Best {
    /// `[Q, ≤ k]` keys.
    keys: Tensor,
    /// `[Q]` the greatest score at which a tile may have kept the wrong one of several equal scores; −∞ if none did.
    tied: Tensor,
}

impl Best {
    /// The best `min(k, N)` of scores `[Q, N]` whose columns are the rows from `first_row` on; not sorted.
    ///
    /// torch's top-k does not say which of several equal scores it keeps. Where the first score left out equals the last
    /// one kept, that score is noted: whether it matters is only known at the end, and looking now would wait for a GPU.
    fn of(scores: &Tensor, first_row: i64, k: i64) -> Result<Best, IndexError> {
        let (queries, columns) = scores.size2()?;
        let nowhere = Tensor::f_full([queries], f64::NEG_INFINITY, (Kind::Float, scores.device()))?;
        if k >= columns {
            return Ok(Best {
                keys: encode_all(scores, first_row)?,
                tied: nowhere,
            });
        }
        let (values, columns) = scores.f_topk(k + 1, 1, true, true)?;
        let rows = columns.f_narrow(1, 0, k)?.f_add_scalar(first_row)?;
        let last = values.f_select(1, k - 1)?;
        let tied = last.f_eq_tensor(&values.f_select(1, k)?)?;
        Ok(Best {
            keys: encode(&values.f_narrow(1, 0, k)?, &rows)?,
            tied: last.f_where_self(&tied, &nowhere)?,
        })
    }

    fn merge(self, other: &Best, k: i64) -> Result<Best, IndexError> {
        let keys = Tensor::f_cat(&[&self.keys, &other.keys], 1)?;
        let keep = k.min(keys.size()[1]);
        Ok(Best {
            keys: keys.f_topk(keep, 1, true, true)?.0,
            tied: self.tied.f_maximum(&other.tied)?,
        })
    }
}

/// The hits that keys `[Q, k]` stand for.
fn read_hits(keys: &Tensor, k: usize) -> Result<Vec<Vec<Hit>>, IndexError> {
    let keys = keys.f_to_device(Device::Cpu)?.f_contiguous()?;
    let keys = Vec::<i64>::try_from(keys.f_view(-1)?)?;
    let hits = |keys: &[i64]| keys.iter().map(|key| decode(*key)).collect();
    Ok(keys.chunks(k).map(hits).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    /// Every score ties: whatever the tiles, the smallest rows must win.
    #[test]
    fn ties_at_tile_borders() {
        let part =
            |first_row, rows: usize| Part::new(first_row, 2, vec![f16::ONE; rows * 2]).unwrap();
        for (rows, queries) in [(1, 1), (3, 2), (4, 7), (100, 100)] {
            let mut index = ExactIndex::new(vec![part(3, 10), part(20, 5)], Device::Cpu).unwrap();
            index.tile = Tile { rows, queries };
            for k in [1, 2, 9, 10, 11, 15, 99] {
                let expected: Vec<u32> = (3..13).chain(20..25).take(k).collect();
                for hits in index.search(&[1.0; 10], k).unwrap() {
                    assert_eq!(
                        hits.iter().map(|hit| hit.row).collect::<Vec<_>>(),
                        expected,
                        "tiles of {rows}, k {k}"
                    );
                }
            }
        }
    }

    /// The same rows, read from a copy as on a GPU: the copy is made in slices.
    #[test]
    fn copied_rows_give_the_same_hits() {
        let values = |seed: usize, rows: usize| -> Vec<f16> {
            let value = |i: usize| f16::from_f32(((i * 7 + seed) % 11) as f32 - 5.0);
            (0..rows * 3).map(value).collect()
        };
        let parts = vec![
            Part::new(0, 3, values(1, 50)).unwrap(),
            Part::new(60, 3, values(4, 23)).unwrap(),
        ];
        let queries: Vec<f32> = (0..30).map(|i| (i % 5) as f32 - 2.0).collect();
        let plain = ExactIndex::new(parts.clone(), Device::Cpu).unwrap();
        let mut copied = ExactIndex::new(parts.clone(), Device::Cpu).unwrap();
        let copy = |part| Mutex::new(upload(part, 3, Device::Cpu, 8).unwrap());
        copied.uploaded = parts.iter().map(copy).collect();
        copied.tile = Tile {
            rows: 16,
            queries: 4,
        };
        for k in [1, 5, 16, 40, 73] {
            assert_eq!(
                copied.search(&queries, k).unwrap(),
                plain.search(&queries, k).unwrap(),
                "k {k}"
            );
        }
        let broken = Part::new(7, 3, vec![f16::ONE, f16::NAN, f16::ONE]).unwrap();
        assert!(matches!(
            upload(&broken, 3, Device::Cpu, 8),
            Err(IndexError::NotFinite { row: 7, .. })
        ));
    }

    #[test]
    fn a_row_that_is_not_finite_is_named() {
        let mut values = vec![f16::ONE; 8];
        values[5] = f16::INFINITY;
        let index = ExactIndex::new(vec![Part::new(100, 2, values).unwrap()], Device::Cpu).unwrap();
        assert!(matches!(
            index.search(&[1.0, 1.0], 1),
            Err(IndexError::NotFinite { row: 102, .. })
        ));
    }
}
