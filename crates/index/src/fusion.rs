//! Hybrid search: one ranking from a dense and a sparse one.

use std::collections::BTreeMap;

use crate::Hit;

/// Cormack's constant for [`rrf`].
pub const RRF_CONSTANT: f32 = 60.0;

/// `dense + alpha · sparse` (Ma et al. 2021): a passage missing from one list gets that list's minimum score.
///
/// Give lists longer than `k` (1000, say). An empty list adds 0 to all. `alpha` depends on the scores' scale: tantivy's
/// BM25 is Lucene's times 2.2.
pub fn weighted(dense: &[Hit], sparse: &[Hit], alpha: f32, k: usize) -> Vec<Hit> {
    let minimum = |hits: &[Hit]| {
        hits.iter()
            .map(|hit| hit.score)
            .reduce(f32::min)
            .unwrap_or(0.0)
    };
    let missing = (minimum(dense), minimum(sparse));
    let mut scores: BTreeMap<u32, (f32, f32)> = BTreeMap::new();
    for hit in dense {
        scores.entry(hit.row).or_insert(missing).0 = hit.score;
    }
    for hit in sparse {
        scores.entry(hit.row).or_insert(missing).1 = hit.score;
    }
    best(
        scores.into_iter().map(|(row, (dense, sparse))| Hit {
            row,
            score: dense + alpha * sparse,
        }),
        k,
    )
}

/// Reciprocal rank fusion (Cormack et al. 2009): Σ 1 / (constant + rank), ranks from 1, nothing where missing.
pub fn rrf(lists: &[&[Hit]], constant: f32, k: usize) -> Vec<Hit> {
    let mut scores: BTreeMap<u32, f32> = BTreeMap::new();
    for list in lists {
        for (index, hit) in list.iter().enumerate() {
            *scores.entry(hit.row).or_default() += 1.0 / (constant + (index + 1) as f32);
        }
    }
    best(scores.into_iter().map(|(row, score)| Hit { row, score }), k)
}

fn best(hits: impl Iterator<Item = Hit>, k: usize) -> Vec<Hit> {
    let mut hits: Vec<Hit> = hits.collect();
    hits.sort_unstable_by(Hit::order);
    hits.truncate(k);
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(pairs: &[(u32, f32)]) -> Vec<Hit> {
        pairs
            .iter()
            .map(|(row, score)| Hit {
                row: *row,
                score: *score,
            })
            .collect()
    }

    /// Rows 0..4 stand for a..e.
    #[test]
    fn weighted_sum_by_hand() {
        let fused = weighted(
            &hits(&[(0, 9.0), (1, 8.0), (2, 7.0)]),
            &hits(&[(1, 20.0), (3, 15.0), (4, 10.0)]),
            0.1,
            9,
        );
        assert_eq!(
            fused,
            hits(&[(0, 10.0), (1, 10.0), (3, 8.5), (2, 8.0), (4, 8.0)])
        );
    }

    #[test]
    fn alpha_zero_keeps_the_dense_order() {
        let fused = weighted(&hits(&[(3, 2.0), (1, 1.0)]), &hits(&[(9, 50.0)]), 0.0, 9);
        assert_eq!(fused, hits(&[(3, 2.0), (1, 1.0), (9, 1.0)]));
    }

    #[test]
    fn an_empty_list_leaves_the_other() {
        let dense = hits(&[(3, -2.0), (1, -5.0)]);
        assert_eq!(weighted(&dense, &[], 0.5, 9), dense);
        assert_eq!(weighted(&[], &dense, 1.0, 1), dense[..1]);
    }

    #[test]
    fn reciprocal_ranks_by_hand() {
        let fused = rrf(
            &[
                &hits(&[(7, 9.0), (8, 8.0), (6, 1.0)]),
                &hits(&[(8, 3.0), (5, 2.0), (7, 1.0)]),
            ],
            RRF_CONSTANT,
            2,
        );
        assert_eq!([fused[0].row, fused[1].row], [8, 7]);
        assert!(
            (fused[0].score - 0.032_522_5).abs() < 1e-7
                && (fused[1].score - 0.032_266_5).abs() < 1e-7
        );
    }
}
