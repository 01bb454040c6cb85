//! The measures of one query, on grades in rank order: pure functions, trec_eval's definitions.

use crate::Metric;
use crate::qrels::RELEVANT;

/// What a measure may look at: the grade at every rank (0 where unjudged) and all grades of the query.
pub(crate) struct Judged<'a> {
    /// Grades of the retrieved documents, best rank first.
    pub ranked: &'a [i32],
    /// Grades of all judged documents, descending.
    pub ideal: &'a [i32],
}

impl Judged<'_> {
    /// The value of `metric` for this query.
    pub fn value(&self, metric: Metric) -> f64 {
        let relevant = self
            .ideal
            .iter()
            .filter(|grade| **grade >= RELEVANT)
            .count() as f64;
        match metric {
            Metric::Mrr(k) => self
                .top(k)
                .position(relevant_grade)
                .map_or(0.0, |index| 1.0 / (index + 1) as f64),
            Metric::Ndcg(k) => ratio(dcg(self.ranked, k), dcg(self.ideal, k)),
            Metric::Recall(k) => ratio(self.hits(k), relevant),
            Metric::Map(k) => ratio(self.precision_sum(k.unwrap_or(usize::MAX)), relevant),
            Metric::Success(k) => f64::from(self.hits(k) > 0.0),
            Metric::Precision(k) => self.hits(k) / k as f64,
        }
    }

    fn top(&self, k: usize) -> impl Iterator<Item = i32> {
        self.ranked.iter().take(k).copied()
    }

    fn hits(&self, k: usize) -> f64 {
        self.top(k).filter(|grade| relevant_grade(*grade)).count() as f64
    }

    /// Σ precision@i over the relevant ranks i ≤ k.
    fn precision_sum(&self, k: usize) -> f64 {
        let ranks = self
            .top(k)
            .enumerate()
            .filter(|(_, grade)| relevant_grade(*grade));
        ranks
            .enumerate()
            .map(|(before, (index, _))| (before + 1) as f64 / (index + 1) as f64)
            .sum()
    }
}

fn relevant_grade(grade: i32) -> bool {
    grade >= RELEVANT
}

/// Σ gain / log₂(1 + rank) with the grade itself as gain; negative grades gain nothing.
fn dcg(grades: &[i32], k: usize) -> f64 {
    let gains = grades.iter().take(k).enumerate();
    gains
        .map(|(index, grade)| f64::from((*grade).max(0)) / ((index + 2) as f64).log2())
        .sum()
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(metric: &str, ranked: &[i32], ideal: &[i32]) -> f64 {
        Judged { ranked, ideal }.value(metric.parse().unwrap())
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-7, "{a} is not {b}");
    }

    #[test]
    fn linear_gain_by_hand() {
        // judged a3 b2 c1, ranking x a c: 2.3927893 / 4.7618595
        close(value("ndcg@3", &[0, 3, 1], &[3, 2, 1]), 0.502_490_5);
        close(value("ndcg@10", &[0, 1], &[1]), 0.630_929_8);
    }

    #[test]
    fn average_precision_counts_all_relevant() {
        close(value("map", &[0, 1, 0, 1], &[1, 1, 1]), 1.0 / 3.0);
        close(value("map@3", &[0, 1, 0, 1], &[1, 1, 1]), 1.0 / 6.0);
    }

    #[test]
    fn cutoffs() {
        close(value("mrr@1", &[0, 1], &[1]), 0.0);
        close(value("mrr@2", &[0, 1], &[1]), 0.5);
        close(value("recall@2", &[0, 1, 1], &[1, 1]), 0.5);
        close(value("precision@5", &[0, 1], &[1]), 0.2);
        close(value("success@2", &[0, 1], &[1]), 1.0);
    }

    #[test]
    fn negative_grades_gain_nothing() {
        close(value("ndcg@2", &[-1, 2], &[2, -1]), 0.630_929_8);
        close(value("recall@2", &[-1], &[-1]), 0.0);
    }

    #[test]
    fn nothing_retrieved_or_relevant_is_zero() {
        for name in [
            "mrr@10",
            "ndcg@10",
            "recall@10",
            "map",
            "success@1",
            "precision@3",
        ] {
            close(value(name, &[], &[1]), 0.0);
            close(value(name, &[0, 0], &[0]), 0.0);
        }
    }
}
