//! A run of the passages in a BM25 index, and the best of several of them: the same that one segment would find.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use tantivy::columnar::ColumnValues;
use tantivy::query::Weight;
use tantivy::schema::Field;
use tantivy::{Score, Searcher, SegmentReader, TantivyError};

use super::ROW;
use crate::Hit;

/// k1 (1 − b) of tantivy's BM25, k1 = 1.2 and b = .75: what a length of zero leaves of k1.
const SHORTEST: f64 = 0.3;
/// More than what f32 makes of a bound and of a score.
const ROUNDING: f64 = 1e-6;

/// Document numbers ascend with rows.
pub(super) struct Segment {
    reader: SegmentReader,
    rows: Arc<dyn ColumnValues<u64>>,
    /// How many times what tantivy takes for a bound a score may be, at most.
    slack: Score,
}

impl Segment {
    /// An index's segments in the order of their rows, which tantivy does not keep; refuses rows that do not ascend.
    pub(super) fn all(searcher: &Searcher, text: Field) -> tantivy::Result<Vec<Segment>> {
        let mut lengths = Vec::new();
        for reader in searcher.segment_readers() {
            let words = reader.inverted_index(text)?.total_num_tokens();
            lengths.push((words, u64::from(reader.max_doc())));
        }
        let sum = |(words, passages), (more, others)| (words + more, passages + others);
        let whole = mean(lengths.iter().copied().fold((0, 0), sum));
        let mut segments = Vec::new();
        for (reader, own) in searcher.segment_readers().iter().zip(lengths) {
            segments.push(Segment {
                reader: reader.clone(),
                rows: rows(reader)?,
                slack: slack(mean(own), whole),
            });
        }
        segments.sort_unstable_by_key(|segment| segment.rows.get_val(0));
        match segments
            .iter()
            .flat_map(Segment::each_row)
            .is_sorted_by(|row, next| row < next)
        {
            true => Ok(segments),
            false => Err(TantivyError::InternalError(
                "documents are not in the order of rows".to_owned(),
            )),
        }
    }

    fn each_row(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.reader.max_doc()).map(|document| self.rows.get_val(document))
    }

    /// Puts the documents that belong there among the best. What other segments hold already lets tantivy skip blocks
    /// of postings here, but no sooner than the slack of their bounds allows.
    pub(super) fn search(&self, weight: &dyn Weight, best: &mut Best) -> tantivy::Result<()> {
        weight.for_each_pruning(
            best.threshold() / self.slack,
            &self.reader,
            &mut |document, score| {
                best.push(Hit {
                    row: self.rows.get_val(document) as u32,
                    score,
                });
                best.threshold() / self.slack
            },
        )
    }
}

/// The corpus rows of a segment's documents.
pub(super) fn rows(segment: &SegmentReader) -> tantivy::Result<Arc<dyn ColumnValues<u64>>> {
    Ok(segment.fast_fields().u64(ROW)?.first_or_default_col(0))
}

fn mean((words, passages): (u64, u64)) -> f64 {
    words as f64 / passages as f64
}

/// tantivy bounds a block of postings by the score of the one that is best under the mean length of its own segment, but
/// scores by the mean of the whole index, r = own / whole: another posting may be better then. Of two with
/// 1 / factor = 1 + x + y under the one and 1 + x + r y under the other, x = k1 (1 − b) / tf and y = k1 b length / (tf own),
/// the first best, the second is better by at most q = (1 + k1 (1 − b) r) / (1 + k1 (1 − b)), or 1 / q if r < 1: where
/// one has all of x, which is at most k1 (1 − b), and the other all of y.
fn slack(own: f64, whole: f64) -> Score {
    if own == whole {
        return 1.0;
    }
    let q = (1.0 + SHORTEST * own / whole) / (1.0 + SHORTEST);
    (q.max(1.0 / q) * (1.0 + ROUNDING)) as Score
}

/// The k best of hits whose rows ascend; of equal scores the first stay.
pub(super) struct Best {
    k: usize,
    hits: BinaryHeap<Ranked>,
}

/// A hit that is greater the worse it is.
struct Ranked(Hit);

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        self.0.order(&other.0)
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

impl Best {
    pub(super) fn of(k: usize) -> Best {
        Best {
            k,
            hits: BinaryHeap::with_capacity(k + 1),
        }
    }

    /// The score that a hit must exceed.
    fn threshold(&self) -> Score {
        match self.hits.peek() {
            Some(worst) if self.hits.len() == self.k => worst.0.score,
            _ => Score::MIN,
        }
    }

    fn push(&mut self, hit: Hit) {
        if hit.score > self.threshold() {
            self.hits.push(Ranked(hit));
            if self.hits.len() > self.k {
                self.hits.pop();
            }
        }
    }

    /// In the order of [`Hit::order`].
    pub(super) fn into_hits(self) -> Vec<Hit> {
        let sorted = self.hits.into_sorted_vec();
        sorted.into_iter().map(|Ranked(hit)| hit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::writer::{Sizes, write};
    use crate::{Language, SparseIndex};

    /// The same passages in one segment and in segments of `segment`.
    fn built(passages: &[String], segment: usize) -> [SparseIndex; 2] {
        [passages.len(), segment].map(|segment| {
            let folder = tempfile::tempdir().unwrap().keep();
            let rows = (0..).zip(passages);
            let sizes = Sizes {
                segment,
                ..Sizes::DEFAULT
            };
            let parts = write(&folder, rows, Language::Plain, sizes, &mut |_| {}).unwrap();
            assert_eq!(parts.len(), passages.len().div_ceil(segment));
            let index = SparseIndex::open(&folder).unwrap();
            std::fs::remove_dir_all(folder).unwrap();
            index
        })
    }

    /// `x` as often as that among other words.
    fn passage(x: usize, length: usize) -> String {
        let words = (0..length).map(|i| if i < x { "x" } else { "other" });
        words.collect::<Vec<_>>().join(" ")
    }

    /// A segment of short passages in an index of long ones. Of its second block of postings the short passage is the
    /// best to the segment, and to the index the one with two words.
    #[test]
    fn a_blocks_bound_is_its_segments_own() {
        let mut passages = vec![passage(1, 40); 256];
        passages[7] = passage(2, 18);
        passages[130] = passage(1, 2);
        passages[200] = passage(2, 15);
        passages.resize(2560, passage(0, 5));
        passages.resize(5120, passage(0, 200));
        let [whole, segments] = built(&passages, 2560);
        // A second clause, though of no passage, is what makes tantivy skip blocks.
        for index in [&whole, &segments] {
            assert_eq!(index.search("x absent", 1).unwrap()[0].row, 200);
        }
        assert_eq!(
            whole.search("x absent", 40).unwrap(),
            segments.search("x absent", 40).unwrap()
        );
    }

    /// Passages that grow longer, of words that grow rarer.
    #[test]
    fn segments_find_what_one_would() {
        let mut random = 7u64;
        let mut draw = |below: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % below
        };
        let passages: Vec<String> = (0..20_000)
            .map(|row| {
                let words = (0..1 + draw(3 + row / 200)).map(|_| {
                    let most = 1 + draw(400);
                    format!("w{}", draw(most))
                });
                words.collect::<Vec<_>>().join(" ")
            })
            .collect();
        let [whole, segments] = built(&passages, 3000);
        for query in 0..200 {
            let text = format!("w{} w{} w{}", draw(40), draw(200), draw(400));
            let [expected, found] =
                [&whole, &segments].map(|index| index.search(&text, 50).unwrap());
            assert_eq!(expected.len(), found.len(), "{query}: {text}");
            for (expected, found) in expected.iter().zip(&found) {
                // Sums of three differ in their last bits.
                let off = (expected.score - found.score).abs();
                assert!(
                    off <= 1e-6 * expected.score,
                    "{text}: {expected:?} {found:?}"
                );
            }
        }
    }

    /// The factor of BM25 by brute force: no posting exceeds the slack, and some come near.
    #[test]
    fn no_posting_exceeds_the_slack() {
        let factor = |tf: f64, length: f64, mean: f64| tf / (tf + SHORTEST + 0.9 * length / mean);
        for (own, whole) in [(8.5, 104.2), (50.0, 49.0), (60.0, 20.0)] {
            let postings: Vec<[f64; 2]> = (1..=8)
                .flat_map(|tf| (1..=240).map(move |i| [f64::from(tf), f64::from(i) * 0.5]))
                .map(|[tf, length]| [factor(tf, length, own), factor(tf, length, whole)])
                .collect();
            let better = postings.iter().flat_map(|[mine, stored]| {
                let worse = postings.iter().filter(move |[other, _]| other <= mine);
                worse.map(move |[_, other]| other / stored)
            });
            let most = better.fold(1.0, f64::max);
            let slack = f64::from(slack(own, whole));
            assert!(
                most <= slack && most - 1.0 > 0.5 * (slack - 1.0),
                "{own} {whole}: {most} {slack}"
            );
        }
        assert_eq!(slack(12.5, 12.5), 1.0);
    }
}
