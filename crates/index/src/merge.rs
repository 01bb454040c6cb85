//! One list of hits from several: partitions of a corpus, or tiles of a partition.

use crate::Hit;

/// The k best hits of several lists. A row that is in more than one list (overlapping partitions) is kept once, with
/// its best score.
pub fn merge(lists: Vec<Vec<Hit>>, k: usize) -> Vec<Hit> {
    let mut hits: Vec<Hit> = lists.into_iter().flatten().collect();
    hits.sort_unstable_by(|a, b| a.row.cmp(&b.row).then(a.order(b)));
    hits.dedup_by_key(|hit| hit.row);
    if k < hits.len() {
        hits.select_nth_unstable_by(k, Hit::order);
        hits.truncate(k);
    }
    hits.sort_unstable_by(Hit::order);
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

    #[test]
    fn best_first_then_smaller_row() {
        let lists = vec![
            hits(&[(4, 3.0), (5, 1.0)]),
            hits(&[(9, 2.0), (1, 1.0)]),
            vec![],
            hits(&[(2, 1.0)]),
        ];
        assert_eq!(
            merge(lists.clone(), 4),
            hits(&[(4, 3.0), (9, 2.0), (1, 1.0), (2, 1.0)])
        );
        assert_eq!(merge(lists.clone(), 100).len(), 5);
        assert!(merge(lists, 0).is_empty());
    }

    #[test]
    fn a_row_is_kept_once_with_its_best_score() {
        assert_eq!(
            merge(vec![hits(&[(1, 1.0)]), hits(&[(1, 2.0)])], 5),
            hits(&[(1, 2.0)])
        );
    }

    #[test]
    fn zeros_of_both_signs_tie() {
        assert_eq!(
            merge(vec![hits(&[(2, 0.0)]), hits(&[(1, -0.0)])], 1)[0].row,
            1
        );
    }
}
