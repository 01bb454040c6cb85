//! A run against judgements: values per query and their means.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::measures::Judged;
use crate::{Metric, Qrels, Run};

/// Values of some metrics for one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Metric name → mean over **all queries of the qrels**; a query the run lacks counts 0.
    pub means: BTreeMap<String, f64>,
    /// Query id → metric name → value.
    pub per_query: BTreeMap<String, BTreeMap<String, f64>>,
    /// Queries in the qrels: what the means divide by.
    pub queries: usize,
    /// Queries of the qrels for which the run has no document.
    pub missing: usize,
    /// Queries of the run without judgements: they do not count.
    pub unjudged: usize,
}

impl Evaluation {
    /// One metric's values in query order, as the significance tests take them; empty for a metric not evaluated.
    pub fn values(&self, metric: Metric) -> Vec<f64> {
        let name = metric.to_string();
        self.per_query
            .values()
            .filter_map(|values| values.get(&name).copied())
            .collect()
    }
}

/// Evaluates `run` against `qrels` as trec_eval with `-c` does: ties by document id descending, unjudged documents
/// grade 0, relevant from grade 1, means over all judged queries.
pub fn evaluate(qrels: &Qrels, run: &Run, metrics: &[Metric]) -> Evaluation {
    let names: Vec<String> = metrics.iter().map(Metric::to_string).collect();
    let mut means: BTreeMap<String, f64> = names.iter().map(|name| (name.clone(), 0.0)).collect();
    let mut per_query = BTreeMap::new();
    let mut missing = 0;
    for (query, judged) in qrels.iter() {
        let ranking = run.ranking(query);
        missing += usize::from(ranking.is_empty());
        let ranked: Vec<i32> = ranking
            .iter()
            .map(|(document, _)| judged.get(*document).copied().unwrap_or(0))
            .collect();
        let mut ideal: Vec<i32> = judged.values().copied().collect();
        ideal.sort_unstable_by(|a, b| b.cmp(a));
        let judged = Judged {
            ranked: &ranked,
            ideal: &ideal,
        };
        let values: BTreeMap<String, f64> = names
            .iter()
            .cloned()
            .zip(metrics.iter().map(|metric| judged.value(*metric)))
            .collect();
        for (name, value) in &values {
            *means.entry(name.clone()).or_default() += value;
        }
        per_query.insert(query.to_owned(), values);
    }
    let queries = qrels.len();
    means
        .values_mut()
        .for_each(|sum| *sum /= queries.max(1) as f64);
    let unjudged = run
        .iter()
        .filter(|(query, _)| qrels.get(query).is_none())
        .count();
    Evaluation {
        means,
        per_query,
        queries,
        missing,
        unjudged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(scores: &[(&str, f32)]) -> Run {
        let mut run = Run::default();
        scores
            .iter()
            .for_each(|(document, score)| run.insert("q", document, *score).unwrap());
        run
    }

    fn qrels(judged: &[(&str, i32)]) -> Qrels {
        let mut qrels = Qrels::default();
        judged
            .iter()
            .for_each(|(document, grade)| qrels.insert("q", document, *grade).unwrap());
        qrels
    }

    #[test]
    fn ties_go_to_the_greater_id() {
        let metrics = Metric::parse_list("mrr@10,ndcg@10,map,recall@1").unwrap();
        let evaluation = evaluate(
            &qrels(&[("d0", 1)]),
            &run(&[("d0", 1.0), ("d1", 1.0), ("d2", 1.0)]),
            &metrics,
        );
        assert_eq!(evaluation.means["mrr@10"], 1.0 / 3.0);
        assert_eq!(evaluation.means["ndcg@10"], 0.5);
        assert_eq!(evaluation.means["map"], 1.0 / 3.0);
        assert_eq!(evaluation.means["recall@1"], 0.0);
    }

    #[test]
    fn missing_queries_count_zero_and_unjudged_ones_not_at_all() {
        let mut judged = qrels(&[("a", 1)]);
        judged.insert("absent", "a", 1).unwrap();
        let mut run = run(&[("a", 1.0)]);
        run.insert("other", "a", 1.0).unwrap();
        let evaluation = evaluate(&judged, &run, &[Metric::Mrr(10)]);
        assert_eq!(evaluation.means["mrr@10"], 0.5);
        assert_eq!(
            (evaluation.queries, evaluation.missing, evaluation.unjudged),
            (2, 1, 1)
        );
        assert_eq!(evaluation.values(Metric::Mrr(10)), [0.0, 1.0]);
        assert!(evaluation.values(Metric::Mrr(5)).is_empty());
    }

    #[test]
    fn nothing_judged_is_zero_not_nan() {
        assert_eq!(
            evaluate(&Qrels::default(), &Run::default(), &[Metric::Map(None)]).means["map"],
            0.0
        );
    }
}
