//! The measures' names: `mrr@10`, `ndcg@10`, `recall@100`, `map`.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::EvalError;

/// A retrieval measure with its cutoff k.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Metric {
    /// Reciprocal rank of the first relevant document in the top k, else 0.
    Mrr(usize),
    /// Normalised discounted cumulative gain, linear gain (trec_eval's), ideal from all judged documents.
    Ndcg(usize),
    /// Share of all relevant documents that are in the top k.
    Recall(usize),
    /// Average precision over all relevant documents; `Some(k)` cuts the ranking.
    Map(Option<usize>),
    /// 1 if a relevant document is in the top k.
    Success(usize),
    /// Share of relevant documents among k, even if fewer were retrieved.
    Precision(usize),
}

impl Metric {
    /// What is reported where nothing else is asked for.
    pub const DEFAULT: [Metric; 4] = [
        Metric::Mrr(10),
        Metric::Ndcg(10),
        Metric::Recall(100),
        Metric::Map(None),
    ];

    /// Parses a comma-separated list such as `mrr@10,ndcg@10`.
    pub fn parse_list(names: &str) -> Result<Vec<Metric>, EvalError> {
        names.split(',').map(|name| name.trim().parse()).collect()
    }

    /// The k that it looks no further than; `None` if it takes the whole ranking.
    pub fn cutoff(&self) -> Option<usize> {
        match *self {
            Metric::Map(cutoff) => cutoff,
            Metric::Mrr(k)
            | Metric::Ndcg(k)
            | Metric::Recall(k)
            | Metric::Success(k)
            | Metric::Precision(k) => Some(k),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::Mrr(k) => write!(f, "mrr@{k}"),
            Metric::Ndcg(k) => write!(f, "ndcg@{k}"),
            Metric::Recall(k) => write!(f, "recall@{k}"),
            Metric::Map(None) => write!(f, "map"),
            Metric::Map(Some(k)) => write!(f, "map@{k}"),
            Metric::Success(k) => write!(f, "success@{k}"),
            Metric::Precision(k) => write!(f, "precision@{k}"),
        }
    }
}

impl FromStr for Metric {
    type Err = EvalError;

    fn from_str(name: &str) -> Result<Metric, EvalError> {
        let unknown = || EvalError::UnknownMetric {
            name: name.to_owned(),
        };
        let lower = name.to_ascii_lowercase();
        if lower == "map" {
            return Ok(Metric::Map(None));
        }
        let (measure, cutoff) = lower.split_once('@').ok_or_else(unknown)?;
        let k = cutoff.parse::<NonZeroUsize>().map_err(|_| unknown())?.get();
        match measure {
            "mrr" | "rr" => Ok(Metric::Mrr(k)),
            "ndcg" => Ok(Metric::Ndcg(k)),
            "recall" | "r" => Ok(Metric::Recall(k)),
            "map" | "ap" => Ok(Metric::Map(Some(k))),
            "success" => Ok(Metric::Success(k)),
            "precision" | "p" => Ok(Metric::Precision(k)),
            _ => Err(unknown()),
        }
    }
}

impl TryFrom<String> for Metric {
    type Error = EvalError;

    fn try_from(name: String) -> Result<Metric, EvalError> {
        name.parse()
    }
}

impl From<Metric> for String {
    fn from(metric: Metric) -> String {
        metric.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for name in [
            "mrr@10",
            "ndcg@10",
            "recall@100",
            "map",
            "map@1000",
            "success@5",
            "precision@10",
        ] {
            assert_eq!(name.parse::<Metric>().unwrap().to_string(), name);
        }
        assert_eq!("P@10".parse::<Metric>().unwrap(), Metric::Precision(10));
        assert_eq!(
            Metric::parse_list("mrr@10, map").unwrap(),
            [Metric::Mrr(10), Metric::Map(None)]
        );
    }

    #[test]
    fn the_cutoff_is_the_k_of_the_name() {
        let metrics = Metric::parse_list("mrr@1,ndcg@2,recall@3,map@4,success@5,precision@6,map");
        let cutoffs: Vec<Option<usize>> = metrics.unwrap().iter().map(Metric::cutoff).collect();
        assert_eq!(
            cutoffs,
            [Some(1), Some(2), Some(3), Some(4), Some(5), Some(6), None]
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for name in [
            "",
            "mrr",
            "ndcg@0",
            "ndcg@-1",
            "ndcg@x",
            "auc@10",
            "mrr@10@10",
        ] {
            assert!(name.parse::<Metric>().is_err(), "{name:?} was taken");
        }
    }
}
