//! From merged candidates to a block of negatives: the filter of the recipe,
//! and a count of everything it dropped (law 8).

use crate::collection::MappedCorpus;
use crate::error::Result;
use crate::tasks::stem;
use crate::workshop::Workshop;
use quarry_artifacts::layout;
use quarry_corpus::{CandidateList, Corpus, NegativesBlock, QuerySet};
use quarry_index::{MiningFilter, mine};
use quarry_proto::{Block, Role, Task, TaskOutput};
use quarry_recipe::Recipe;
use std::collections::BTreeMap;
use std::ops::Range;

/// Where the scores of the candidates come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scores {
    /// Inner products; every positive has its own.
    Dense,
    /// BM25; a positive that was not found has none, stored as 0.
    Sparse,
}

/// Candidates to search for, so that `depth` are left of any query in `range`
/// when its known positives are taken out.
pub(super) fn depth(depth: usize, queries: &QuerySet, range: Range<usize>) -> usize {
    let most = range
        .map(|query| queries.known_positives(query).len())
        .max();
    depth + most.unwrap_or(0)
}

/// Filters `lists` as they come and publishes the block with its counts.
pub(super) fn publish(
    shop: &Workshop,
    task: &Task,
    block: &Block,
    corpus: &MappedCorpus,
    lists: impl Iterator<Item = Result<CandidateList>>,
    scores: Scores,
) -> Result<TaskOutput> {
    let mut counts = Counts::default();
    let kept = lists
        .map(|list| filter(&shop.recipe, &corpus.passages, &list?, scores, &mut counts))
        .collect::<Result<Vec<_>>>()?;
    let folder = layout::generation_negatives(task.generation);
    let write = |path: &std::path::Path| NegativesBlock::write(path, &kept);
    let object = shop.depot.publish(&folder, &stem(block), "arrow", write)?;
    Ok(TaskOutput {
        outputs: vec![(Role::Negatives, object)],
        counts: counts.by_name(),
        metrics: BTreeMap::new(),
    })
}

fn filter(
    recipe: &Recipe,
    corpus: &Corpus,
    list: &CandidateList,
    scores: Scores,
    counts: &mut Counts,
) -> Result<CandidateList> {
    let mining = &recipe.mining;
    let ratio = match scores {
        Scores::Dense => mining.max_positive_ratio,
        Scores::Sparse => mining.sparse_max_positive_ratio,
    };
    let filter = MiningFilter {
        // As deep for this query in a block with other queries as alone.
        depth: mining.depth + list.positives.len(),
        skip: 0,
        keep: mining.keep,
        max_positive_ratio: (ratio > 0.0).then_some(ratio),
        positive_margin: None,
    };
    let hash = |row| corpus.text_hash(row);
    let (mut kept, dropped) = match scores {
        Scores::Dense => mine(list, hash, &filter)?,
        Scores::Sparse => mine(&without_ceiling_of_missing(list), hash, &filter)?,
    };
    kept.positive_scores.clone_from(&list.positive_scores);
    counts.candidates += list.rows.len().min(filter.depth) as u64;
    counts.positives_masked += dropped.positives;
    counts.text_duplicates += dropped.text_duplicates;
    counts.above_positive += dropped.above_positive;
    counts.kept += kept.rows.len() as u64;
    counts.short_queries += u64::from(kept.rows.len() < recipe.train.negatives);
    counts.empty_queries += u64::from(kept.rows.is_empty());
    Ok(kept)
}

/// A positive that BM25 did not find sets no ceiling: the filter takes the
/// lowest positive score, and only found ones are to count.
fn without_ceiling_of_missing(list: &CandidateList) -> CandidateList {
    let scores = list.positives.iter().zip(&list.positive_scores);
    let found = |(row, score): (&u32, &f32)| {
        if list.rows.contains(row) {
            *score
        } else {
            f32::MAX
        }
    };
    CandidateList {
        positive_scores: scores.map(found).collect(),
        ..list.clone()
    }
}

/// What became of the candidates of a block.
#[derive(Default)]
struct Counts {
    candidates: u64,
    positives_masked: u64,
    text_duplicates: u64,
    above_positive: u64,
    kept: u64,
    short_queries: u64,
    empty_queries: u64,
}

impl Counts {
    fn by_name(&self) -> BTreeMap<String, u64> {
        let named = [
            ("candidates", self.candidates),
            ("positives_masked", self.positives_masked),
            ("text_duplicates", self.text_duplicates),
            ("above_positive", self.above_positive),
            ("kept", self.kept),
            ("short_queries", self.short_queries),
            ("empty_queries", self.empty_queries),
        ];
        named.map(|(name, count)| (name.to_owned(), count)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_corpus::{Format, PrepareOptions, Strictness, Tokenize, prepare};
    use std::path::Path;

    struct NoTokens;

    impl Tokenize for NoTokens {
        fn content_ids(&self, texts: &[String], _: usize) -> Result<Vec<Vec<u32>>, String> {
            Ok(vec![Vec::new(); texts.len()])
        }

        fn digest(&self) -> String {
            "none".to_owned()
        }
    }

    /// Queries 0 and 2 ask the same; their positives are 0 and 1. Passage 2 repeats
    /// passage 1, which is only the positive of the other one.
    fn write_collection(dir: &Path) {
        let passages = [
            "iron rusts",
            "gold does not",
            "gold does  not",
            "tin",
            "lead",
        ];
        let passage = |(row, text)| format!("{{\"_id\":\"p{row}\",\"text\":\"{text}\"}}\n");
        let corpus: String = passages.iter().enumerate().map(passage).collect();
        let queries = ["what rusts", "what melts", " what  rusts"];
        let query = |(row, text)| format!("{{\"_id\":\"q{row}\",\"text\":\"{text}\"}}\n");
        let queries: String = queries.iter().enumerate().map(query).collect();
        std::fs::create_dir_all(dir.join("qrels")).unwrap();
        std::fs::write(dir.join("corpus.jsonl"), corpus).unwrap();
        std::fs::write(dir.join("queries.jsonl"), queries).unwrap();
        let qrels = "q0\tp0\t1\nq1\tp3\t1\nq2\tp1\t1\n";
        std::fs::write(dir.join("qrels/train.tsv"), qrels).unwrap();
    }

    fn open(dir: &Path) -> (Corpus, QuerySet) {
        write_collection(dir);
        let options = PrepareOptions {
            format: Format::Beir,
            shard_passages: 100,
            passage_prefix: String::new(),
            query_prefix: String::new(),
            passage_tokens: 1,
            query_tokens: 1,
            splits: vec!["train".to_owned()],
            strictness: Strictness::default(),
        };
        let manifest = prepare(dir, dir, &NoTokens, &options, &mut |_| {}).unwrap();
        let shard = dir.join(&manifest.shards[0].file);
        let queries = dir.join(&manifest.queries["train"].file);
        (
            Corpus::open(&[shard]).unwrap(),
            QuerySet::open(&queries).unwrap(),
        )
    }

    #[test]
    fn a_positive_of_an_equal_question_and_its_copies_are_no_negatives() {
        let dir = tempfile::tempdir().unwrap();
        let (corpus, queries) = open(dir.path());
        assert_eq!(depth(10, &queries, 0..3), 12);
        assert_eq!(depth(10, &queries, 1..2), 11);
        let mined = |query: usize| {
            let positives = queries.known_positives(query);
            let list = CandidateList {
                query: query as u32,
                rows: vec![1, 0, 2, 4, 3],
                scores: vec![0.5, 0.4, 0.3, 0.2, 0.1],
                positive_scores: vec![1.0; positives.len()],
                positives,
            };
            let mut counts = Counts::default();
            let recipe = Recipe::default();
            let kept = filter(&recipe, &corpus, &list, Scores::Dense, &mut counts).unwrap();
            let dropped = (counts.positives_masked, counts.text_duplicates);
            (kept.rows, dropped, counts.kept)
        };
        assert_eq!(mined(0), (vec![4, 3], (2, 1), 2));
        assert_eq!(mined(2), (vec![4, 3], (2, 1), 2));
        assert_eq!(mined(1), (vec![1, 0, 2, 4], (1, 0), 4));
    }
}
