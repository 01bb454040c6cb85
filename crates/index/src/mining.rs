//! From search results to negatives: drop what is, repeats or outranks a positive.

use std::ops::AddAssign;

use quarry_corpus::CandidateList;
use serde::{Deserialize, Serialize};

use crate::IndexError;

/// Which candidates become negatives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MiningFilter {
    /// Candidates looked at, from the best: the depth of the search.
    pub depth: usize,
    /// Best candidates passed over, after positives and duplicates are gone.
    pub skip: usize,
    /// Negatives kept, hardest first.
    pub keep: usize,
    /// Positive-aware filter by ratio (NV-Retriever's TopK-PercPos, arXiv 2407.15831): keep scores **below**
    /// `s⁺ − (1 − ratio)·|s⁺|`, where s⁺ is the lowest positive score. `None` for scores of no common scale (BM25).
    pub max_positive_ratio: Option<f32>,
    /// Positive-aware filter by margin (TopK-MarginPos): keep scores below `s⁺ − margin`.
    pub positive_margin: Option<f32>,
}

impl Default for MiningFilter {
    fn default() -> Self {
        MiningFilter {
            depth: 200,
            skip: 0,
            keep: 30,
            max_positive_ratio: Some(0.95),
            positive_margin: None,
        }
    }
}

/// What mining dropped, counted; sums over queries by `+=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Candidates that are positives of the query.
    pub positives: u64,
    /// Candidates with the text of a positive.
    pub text_duplicates: u64,
    /// Candidates that score above what the positive-aware filter allows: likely unlabelled positives.
    pub above_positive: u64,
    /// Queries left with fewer than `keep` negatives.
    pub short: u64,
    /// Queries left with no negative at all; counted in `short` too.
    pub none: u64,
}

impl AddAssign for Dropped {
    fn add_assign(&mut self, other: Dropped) {
        self.positives += other.positives;
        self.text_duplicates += other.text_duplicates;
        self.above_positive += other.above_positive;
        self.short += other.short;
        self.none += other.none;
    }
}

/// The negatives of one query, hardest first, and what was dropped on the way; `positives` stay as they are.
///
/// `text_hash` gives the hash of a corpus row's text. A pure function of its arguments.
///
/// # Errors
/// Lists of unequal lengths, scores that are not finite, or a positive-aware filter without positive scores.
pub fn mine(
    list: &CandidateList,
    text_hash: impl Fn(u32) -> u64,
    filter: &MiningFilter,
) -> Result<(CandidateList, Dropped), IndexError> {
    check(list, filter)?;
    let ceiling = score_ceiling(&list.positive_scores, filter);
    let positive_texts: Vec<u64> = list.positives.iter().map(|row| text_hash(*row)).collect();
    let mut dropped = Dropped::default();
    let mut kept = Vec::new();
    for (row, score) in list
        .rows
        .iter()
        .copied()
        .zip(list.scores.iter().copied())
        .take(filter.depth)
    {
        if list.positives.contains(&row) {
            dropped.positives += 1;
        } else if positive_texts.contains(&text_hash(row)) {
            dropped.text_duplicates += 1;
        } else if ceiling.is_some_and(|ceiling| score >= ceiling) {
            dropped.above_positive += 1;
        } else {
            kept.push((row, score));
        }
    }
    let (rows, scores): (Vec<_>, Vec<_>) =
        kept.into_iter().skip(filter.skip).take(filter.keep).unzip();
    dropped.short = u64::from(rows.len() < filter.keep);
    dropped.none = u64::from(rows.is_empty() && filter.keep > 0);
    Ok((
        CandidateList {
            rows,
            scores,
            ..list.clone()
        },
        dropped,
    ))
}

/// The score from which on a candidate is too close to a positive; with several positives the lowest one counts.
fn score_ceiling(positive_scores: &[f32], filter: &MiningFilter) -> Option<f32> {
    let lowest = positive_scores.iter().copied().reduce(f32::min)?;
    // Relative to |s⁺|: 95 % of a negative score would lie above it.
    let by_ratio = filter
        .max_positive_ratio
        .map(|ratio| lowest - (1.0 - ratio) * lowest.abs());
    let by_margin = filter.positive_margin.map(|margin| lowest - margin);
    by_ratio.into_iter().chain(by_margin).reduce(f32::min)
}

fn check(list: &CandidateList, filter: &MiningFilter) -> Result<(), IndexError> {
    let refuse = |reason| {
        Err(IndexError::Candidates {
            query: list.query,
            reason,
        })
    };
    let aware = filter.max_positive_ratio.is_some() || filter.positive_margin.is_some();
    if list.rows.len() != list.scores.len() {
        return refuse("there are not as many scores as rows, so search again");
    }
    if aware && (list.positives.is_empty() || list.positives.len() != list.positive_scores.len()) {
        return refuse(
            "the positive-aware filter needs the score of every positive, so score them or turn it off",
        );
    }
    if list.scores.iter().any(|score| !score.is_finite())
        || aware && list.positive_scores.iter().any(|score| !score.is_finite())
    {
        return refuse("a score is not finite, so check the checkpoint");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(candidates: &[(u32, f32)], positives: &[(u32, f32)]) -> CandidateList {
        let (rows, scores) = candidates.iter().copied().unzip();
        let (positives, positive_scores) = positives.iter().copied().unzip();
        CandidateList {
            query: 7,
            rows,
            scores,
            positives,
            positive_scores,
        }
    }

    fn filter() -> MiningFilter {
        MiningFilter {
            depth: 100,
            skip: 0,
            keep: 10,
            max_positive_ratio: None,
            positive_margin: None,
        }
    }

    /// Rows 1 and 101, 2 and 102, … share their text.
    fn hash(row: u32) -> u64 {
        u64::from(row % 100)
    }

    #[test]
    fn thresholds_by_hand() {
        let list = list(&[(2, 0.79), (3, 0.755), (4, 0.74)], &[(1, 0.8)]);
        let ratio = MiningFilter {
            max_positive_ratio: Some(0.95),
            ..filter()
        };
        let (kept, dropped) = mine(&list, hash, &ratio).unwrap();
        assert_eq!((kept.rows, dropped.above_positive), (vec![3, 4], 1));
        let margin = MiningFilter {
            positive_margin: Some(0.05),
            ..filter()
        };
        let (kept, dropped) = mine(&list, hash, &margin).unwrap();
        assert_eq!((kept.rows, dropped.above_positive), (vec![4], 2));
        let both = MiningFilter {
            positive_margin: Some(0.05),
            ..ratio
        };
        assert_eq!(mine(&list, hash, &both).unwrap().0.rows, [4]);
    }

    #[test]
    fn negative_scores_keep_the_ceiling_below_the_positive() {
        let list = list(&[(2, -0.205), (3, -0.215)], &[(1, -0.2)]);
        let ratio = MiningFilter {
            max_positive_ratio: Some(0.95),
            ..filter()
        };
        assert_eq!(mine(&list, hash, &ratio).unwrap().0.rows, [3]);
    }

    #[test]
    fn the_lowest_positive_counts() {
        let list = list(&[(3, 0.7), (4, 0.4)], &[(1, 0.9), (2, 0.5)]);
        let ratio = MiningFilter {
            max_positive_ratio: Some(1.0),
            ..filter()
        };
        let (kept, dropped) = mine(&list, hash, &ratio).unwrap();
        assert_eq!((kept.rows, dropped.above_positive), (vec![4], 1));
        assert_eq!(
            (kept.positives, kept.positive_scores, kept.query),
            (vec![1, 2], vec![0.9, 0.5], 7)
        );
    }

    #[test]
    fn positives_and_their_duplicates_are_dropped_and_counted() {
        let list = list(
            &[(1, 5.0), (101, 4.0), (5, 3.0), (2, 2.0), (6, 1.0)],
            &[(1, 5.0), (2, 2.0)],
        );
        let (kept, dropped) = mine(&list, hash, &filter()).unwrap();
        assert_eq!((kept.rows, kept.scores), (vec![5, 6], vec![3.0, 1.0]));
        let expected = Dropped {
            positives: 2,
            text_duplicates: 1,
            above_positive: 0,
            short: 1,
            none: 0,
        };
        assert_eq!(dropped, expected);
    }

    #[test]
    fn depth_skip_and_keep() {
        let list = list(
            &[(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0), (5, 5.0)],
            &[(1, 9.0)],
        );
        let cut = MiningFilter {
            depth: 4,
            skip: 1,
            keep: 2,
            ..filter()
        };
        let (kept, dropped) = mine(&list, hash, &cut).unwrap();
        assert_eq!((kept.rows, dropped.short), (vec![3, 4], 0));
        let (kept, dropped) = mine(&list, hash, &MiningFilter { depth: 1, ..cut }).unwrap();
        assert_eq!((kept.rows.len(), dropped.short, dropped.none), (0, 1, 1));
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        let aware = MiningFilter {
            max_positive_ratio: Some(0.95),
            ..filter()
        };
        assert!(mine(&list(&[(2, 1.0)], &[]), hash, &aware).is_err());
        assert!(mine(&list(&[(2, 1.0)], &[(1, f32::NAN)]), hash, &aware).is_err());
        assert!(mine(&list(&[(2, f32::NAN)], &[(1, 1.0)]), hash, &filter()).is_err());
        assert!(
            mine(
                &CandidateList {
                    scores: vec![],
                    ..list(&[(2, 1.0)], &[])
                },
                hash,
                &filter()
            )
            .is_err()
        );
        assert!(
            mine(&list(&[(2, 1.0)], &[]), hash, &filter()).is_ok(),
            "BM25 lists need no positive scores"
        );
    }
}
