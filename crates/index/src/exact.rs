//! Exact maximum inner product search on torch: tiled matrix products and top-k, on the CPU or a GPU.
//!
//! `queries × corpus` is never held beyond one tile. Products are accumulated in f32 from fp16 rows. The result is the
//! true top k in the order of [`Hit::order`], also where scores tie at the k boundary or across tiles: scores and rows
//! travel as one integer key whose order is that order.

use std::sync::Mutex;

use tch::{Device, Kind, Tensor};

use crate::hit::check_queries;
use crate::part::{Part, check_parts};
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
        let upload = |part: &Part| -> Result<Mutex<Tensor>, IndexError> {
            let rows = Tensor::f_from_slice(part.values())?.f_view([-1, dim as i64])?;
            Ok(Mutex::new(rows.f_to_device(device)?))
        };
        let uploaded = match device {
            Device::Cpu => Vec::new(),
            _ => parts.iter().map(upload).collect::<Result<_, _>>()?,
        };
        Ok(ExactIndex {
            parts,
            uploaded,
            tile: Tile::of(device),
            device,
            len,
            dim,
        })
    }

    /// Rows `start..end` of a part as f32 `[D, N]` on the device; a row that is not finite is refused.
    fn tile_rows(&self, part: usize, start: usize, end: usize) -> Result<Tensor, IndexError> {
        let rows = match self.uploaded.get(part) {
            Some(rows) => {
                let rows = rows
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner())
                    .shallow_clone();
                rows.f_narrow(0, start as i64, (end - start) as i64)?
            }
            None => {
                let values = &self.parts[part].values()[start * self.dim..end * self.dim];
                Tensor::f_from_slice(values)?.f_view([-1, self.dim as i64])?
            }
        };
        let rows = rows.f_to_kind(Kind::Float)?;
        if !bool::try_from(rows.f_isfinite()?.f_all()?)? {
            return Err(self.first_not_finite(part));
        }
        Ok(rows.f_tr()?)
    }

    fn first_not_finite(&self, part: usize) -> IndexError {
        let part = &self.parts[part];
        let at = part
            .values()
            .iter()
            .position(|value| !value.is_finite())
            .unwrap_or(0);
        IndexError::NotFinite {
            what: "corpus",
            row: part.first_row() as usize + at / self.dim,
        }
    }

    /// The best keys `[Q, min(k, N)]` for the queries `[Q, D]`, best first, over all tiles.
    fn best_keys(&self, queries: &Tensor, k: i64) -> Result<Vec<Tensor>, IndexError> {
        let tiles: Vec<Tensor> = queries.f_split(self.tile.queries, 0)?;
        let mut best: Vec<Option<Tensor>> = tiles.iter().map(|_| None).collect();
        for (index, part) in self.parts.iter().enumerate() {
            for start in (0..part.len()).step_by(self.tile.rows) {
                let end = (start + self.tile.rows).min(part.len());
                let rows = self.tile_rows(index, start, end)?;
                let first_row = i64::from(part.first_row()) + start as i64;
                for (queries, best) in tiles.iter().zip(&mut best) {
                    let keys = top_keys(&queries.f_matmul(&rows)?, first_row, k)?;
                    let keys = match best.take() {
                        Some(before) => Tensor::f_cat(&[before, keys], 1)?,
                        None => keys,
                    };
                    let keep = k.min(keys.size()[1]);
                    *best = Some(keys.f_topk(keep, 1, true, true)?.0);
                }
            }
        }
        Ok(best.into_iter().flatten().collect())
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
        let mut hits = Vec::with_capacity(count);
        for keys in self.best_keys(&queries, k as i64)? {
            let keys =
                Vec::<i64>::try_from(keys.f_to_device(Device::Cpu)?.f_contiguous()?.f_view(-1)?)?;
            hits.extend(
                keys.chunks(k)
                    .map(|keys| keys.iter().map(|key| decode(*key)).collect::<Vec<_>>()),
            );
        }
        Ok(hits)
    }
}

/// The best `min(k, N)` keys of scores `[Q, N]` whose columns are the rows from `first_row` on; not sorted.
///
/// torch's top-k does not say which of several equal scores it keeps. Where the first score left out equals the last
/// one kept, the query is done again on keys, among which no two are equal.
fn top_keys(scores: &Tensor, first_row: i64, k: i64) -> Result<Tensor, IndexError> {
    let columns = scores.size()[1];
    let rows = Tensor::f_arange_start(
        first_row,
        first_row + columns,
        (Kind::Int64, scores.device()),
    )?;
    if k >= columns {
        return encode(scores, &rows);
    }
    let (values, columns) = scores.f_topk(k + 1, 1, true, true)?;
    let keys = encode(
        &values.f_narrow(1, 0, k)?,
        &(columns.f_narrow(1, 0, k)? + first_row),
    )?;
    let tied = values
        .f_select(1, k - 1)?
        .f_eq_tensor(&values.f_select(1, k)?)?;
    let tied = tied.f_nonzero()?.f_view(-1)?;
    if tied.size()[0] == 0 {
        return Ok(keys);
    }
    let (untied, _) =
        encode(&scores.f_index_select(0, &tied)?, &rows)?.f_topk(k, 1, true, false)?;
    Ok(keys.f_index_copy(0, &tied, &untied)?)
}

/// One integer for score and row, greater = better: the f32's bits in sortable form above, the row's complement below.
fn encode(scores: &Tensor, rows: &Tensor) -> Result<Tensor, IndexError> {
    // + 0.0 turns −0 into 0: they are one score.
    let bits = scores
        .f_add_scalar(0.0)?
        .f_view_dtype(Kind::Int)?
        .f_to_kind(Kind::Int64)?;
    // Negative floats sort backwards by their bits: flip all but the sign.
    let flip = bits
        .f_lt(0)?
        .f_to_kind(Kind::Int64)?
        .f_mul_scalar(i64::from(i32::MAX))?;
    let sortable = bits.f_bitwise_xor_tensor(&flip)?;
    let complement = rows.f_neg()?.f_add_scalar(i64::from(u32::MAX))?;
    Ok(sortable.f_mul_scalar(1i64 << 32)?.f_add(&complement)?)
}

fn decode(key: i64) -> Hit {
    let sortable = (key >> 32) as i32;
    let bits = if sortable < 0 {
        sortable ^ i32::MAX
    } else {
        sortable
    };
    Hit {
        row: u32::MAX - key as u32,
        score: f32::from_bits(bits as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn keys_order_as_hits_do() {
        let scores = [
            -3.5f32,
            -1e-40,
            -0.0,
            0.0,
            1e-40,
            0.25,
            7.0,
            f32::MAX,
            f32::MIN,
        ];
        let rows: Vec<i64> = vec![5, 0, 3, 2, 1, 4_000_000_000, 6, 7, 8];
        let keys = encode(&Tensor::from_slice(&scores), &Tensor::from_slice(&rows)).unwrap();
        let mut keys = Vec::<i64>::try_from(keys).unwrap();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        let decoded: Vec<Hit> = keys.into_iter().map(decode).collect();
        let mut hits: Vec<Hit> = scores
            .iter()
            .zip(&rows)
            .map(|(score, row)| Hit {
                row: *row as u32,
                score: *score,
            })
            .collect();
        hits.sort_unstable_by(Hit::order);
        assert_eq!(decoded, hits);
    }

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
