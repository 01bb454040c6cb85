//! The second pass: tokenises what was admitted and writes shards and query sets.

use std::collections::BTreeMap;
use std::path::Path;

use super::admit::{Admitted, Entry};
use super::judged::{Judged, JudgedQuery, JudgedSplit};
use super::tally::Tally;
use super::{PrepareProgress, Stage};
use crate::query_set::QuerySetBuilder;
use crate::reader::Located;
use crate::shard::ShardBuilder;
use crate::{CorpusError, Passage, PrepareOptions, QueriesEntry, ShardEntry, Tokenize};

/// Texts given to the tokenizer at once: enough to keep its threads busy.
const BATCH: usize = 2048;

/// What every step of writing needs.
pub(super) struct Job<'a> {
    pub(super) dir: &'a Path,
    pub(super) out: &'a Path,
    pub(super) tokenizer: &'a dyn Tokenize,
    pub(super) options: &'a PrepareOptions,
}

/// The shards that were written.
pub(super) struct Shards {
    pub(super) entries: Vec<ShardEntry>,
    /// Passages of which tokens were cut off.
    pub(super) truncated: u64,
    passages: u32,
}

/// The passage, if the first pass admitted it; `ordinal` counts as that pass did.
fn kept(
    record: Option<Located<Passage>>,
    admitted: &Admitted,
    ordinal: &mut u64,
) -> Option<Passage> {
    let passage = record?.value;
    if passage.is_blank() {
        return None;
    }
    *ordinal += 1;
    admitted.keeps(*ordinal - 1).then_some(passage)
}

impl Job<'_> {
    /// Writes all shards and notes the rows of judged passages.
    pub(super) fn shards(
        &self,
        admitted: &Admitted,
        judged: &mut Judged,
        tally: &mut Tally,
        progress: &mut dyn FnMut(PrepareProgress),
    ) -> Result<Shards, CorpusError> {
        let mut shards = Shards {
            entries: Vec::new(),
            truncated: 0,
            passages: 0,
        };
        let mut shard = ShardBuilder::new();
        let mut batch: Vec<(String, String)> = Vec::new();
        let (mut ordinal, mut row) = (0, 0);
        let options = self.options;
        for record in options.format.passages(self.dir, &options.splits)? {
            let Some(passage) = kept(tally.accept(record)?, admitted, &mut ordinal) else {
                continue;
            };
            judged.passages.place(&passage.id, row);
            row += 1;
            batch.push((passage.full_text(), passage.id));
            let full = shard.len() + batch.len() == options.shard_passages;
            if full || batch.len() == BATCH {
                self.add(&mut shard, &mut batch, &mut shards)?;
                let (stage, done, of) = (Stage::Passages, u64::from(row), Some(admitted.kept()));
                progress(PrepareProgress { stage, done, of });
            }
            if full {
                let complete = std::mem::replace(&mut shard, ShardBuilder::new());
                self.write_shard(complete, &mut shards)?;
            }
        }
        self.add(&mut shard, &mut batch, &mut shards)?;
        if shard.len() > 0 {
            self.write_shard(shard, &mut shards)?;
        }
        let (stage, done, of) = (Stage::Passages, u64::from(row), Some(admitted.kept()));
        progress(PrepareProgress { stage, done, of });
        match done == admitted.kept() {
            true => Ok(shards),
            false => Err(self.changed(format!(
                "it had {} passages and now {done}",
                admitted.kept()
            ))),
        }
    }

    fn changed(&self, reason: String) -> CorpusError {
        CorpusError::Changed {
            dir: self.dir.to_path_buf(),
            reason,
        }
    }

    /// Tokenises the batch of (text, id) into the shard.
    fn add(
        &self,
        shard: &mut ShardBuilder,
        batch: &mut Vec<(String, String)>,
        shards: &mut Shards,
    ) -> Result<(), CorpusError> {
        let options = self.options;
        let texts: Vec<String> = batch
            .iter()
            .map(|(text, _)| format!("{}{text}", options.passage_prefix))
            .collect();
        let tokens = self.tokens(&texts, options.passage_tokens, || {
            match (batch.first(), batch.last()) {
                (Some((_, first)), Some((_, last))) => {
                    format!("the passages {first:?} to {last:?}")
                }
                _ => "no passages".into(),
            }
        })?;
        for ((text, id), (tokens, cut)) in batch.drain(..).zip(tokens) {
            shards.truncated += u64::from(cut);
            shard.push(&id, &text, &tokens).map_err(|_| CorpusError::Option {
                key: "shard_passages",
                reason: "a shard would hold more than 2^31 tokens or bytes of ids, so make it smaller".into(),
            })?;
        }
        Ok(())
    }

    /// The ids of each text, and whether there were more.
    fn tokens(
        &self,
        texts: &[String],
        max_tokens: usize,
        what: impl Fn() -> String,
    ) -> Result<Vec<(Vec<u32>, bool)>, CorpusError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |reason| CorpusError::Tokenizer {
            what: what(),
            reason,
        };
        // One more than is kept tells whether anything was cut.
        let tokens = self
            .tokenizer
            .content_ids(texts, max_tokens.saturating_add(1))
            .map_err(failed)?;
        if tokens.len() != texts.len() {
            return Err(failed(format!(
                "it gave {} results for {} texts",
                tokens.len(),
                texts.len()
            )));
        }
        let cut = |mut ids: Vec<u32>| {
            let longer = ids.len() > max_tokens;
            ids.truncate(max_tokens);
            (ids, longer)
        };
        Ok(tokens.into_iter().map(cut).collect())
    }

    fn write_shard(&self, shard: ShardBuilder, shards: &mut Shards) -> Result<(), CorpusError> {
        let file = format!("shard-{:05}.arrow", shards.entries.len());
        let (first_row, passages, tokens) =
            (shards.passages, shard.len() as u32, shard.token_count());
        let written = shard.write(&self.out.join(&file), first_row)?;
        shards.passages += passages;
        shards.entries.push(ShardEntry {
            file,
            first_row,
            passages,
            size: written.size,
            sha256: written.sha256,
            tokens,
        });
        Ok(())
    }

    /// Writes the query set of every split.
    pub(super) fn queries(
        &self,
        judged: &Judged,
        progress: &mut dyn FnMut(PrepareProgress),
    ) -> Result<BTreeMap<String, QueriesEntry>, CorpusError> {
        let all: u64 = judged
            .splits
            .iter()
            .map(|split| split.queries.len() as u64)
            .sum();
        let mut done = 0;
        let mut entries = BTreeMap::new();
        for split in &judged.splits {
            let entry = self.split(judged, split, &mut |queries| {
                done += queries;
                let (stage, of) = (Stage::Queries, Some(all));
                progress(PrepareProgress { stage, done, of });
            })?;
            entries.insert(split.name.clone(), entry);
        }
        Ok(entries)
    }

    fn split(
        &self,
        judged: &Judged,
        split: &JudgedSplit,
        done: &mut dyn FnMut(u64),
    ) -> Result<QueriesEntry, CorpusError> {
        let options = self.options;
        let mut set = QuerySetBuilder::new();
        let (mut positives, mut truncated) = (0, 0);
        for batch in split.queries.chunks(BATCH) {
            let texts: Vec<String> = batch
                .iter()
                .map(|query| format!("{}{}", options.query_prefix, query.text()))
                .collect();
            let tokens = self.tokens(&texts, options.query_tokens, || {
                format!("queries of the split {}", split.name)
            })?;
            for (query, (tokens, cut)) in batch.iter().zip(tokens) {
                truncated += u64::from(cut);
                let (rows, grades) = self.verdicts(judged, query)?;
                positives += grades.iter().filter(|grade| **grade >= 1).count() as u64;
                set.push(&query.id, query.text(), &tokens, &rows, &grades)
                    .map_err(|_| CorpusError::Option {
                        key: "splits",
                        reason: format!(
                            "{} holds more than 2^31 tokens, ids or judgements, so divide it",
                            split.name
                        ),
                    })?;
            }
            done(batch.len() as u64);
        }
        let file = format!("queries-{}.arrow", split.name);
        let tokens = set.token_count();
        let written = set.write(&self.out.join(&file))?;
        Ok(QueriesEntry {
            file,
            queries: split.queries.len() as u32,
            positives,
            size: written.size,
            sha256: written.sha256,
            tokens,
            truncated,
        })
    }

    /// The corpus rows and grades of a query's judgements.
    fn verdicts(
        &self,
        judged: &Judged,
        query: &JudgedQuery,
    ) -> Result<(Vec<u32>, Vec<i32>), CorpusError> {
        let mut rows = Vec::with_capacity(query.verdicts.len());
        for verdict in &query.verdicts {
            let row = judged.passages.row(verdict.passage);
            rows.push(row.ok_or_else(|| {
                self.changed(format!("a positive of query {:?} is gone", query.id))
            })?);
        }
        Ok((
            rows,
            query.verdicts.iter().map(|verdict| verdict.grade).collect(),
        ))
    }
}
