//! MS MARCO passage ranking: `collection.tsv`, `queries.<split>.tsv` (both `id TAB text`), `qrels.<split>.tsv`
//! (`query 0 passage grade`, as trec_eval reads it).

use std::path::Path;

use super::fields::{checked_id, columns, grade};
use super::{Records, files, lines};
use crate::{CorpusError, Format, Judgement, Passage, Query};

pub(crate) fn passages(dir: &Path) -> Result<Records<Passage>, CorpusError> {
    let path = files::require(dir, "collection.tsv", "the corpus")?;
    lines::records(&path, |_, line| {
        let [id, text] = columns(line)?;
        Ok(Some(Passage {
            id: checked_id(id)?,
            title: String::new(),
            text: text.to_string(),
        }))
    })
}

pub(crate) fn queries(dir: &Path, split: &str) -> Result<Records<Query>, CorpusError> {
    let path = split_file(dir, "queries", split)?;
    lines::records(&path, |_, line| {
        let [id, text] = columns(line)?;
        Ok(Some(Query {
            id: checked_id(id)?,
            text: text.to_string(),
        }))
    })
}

pub(crate) fn judgements(dir: &Path, split: &str) -> Result<Records<Judgement>, CorpusError> {
    let path = split_file(dir, "qrels", split)?;
    lines::records(&path, |_, line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [query, _, passage, relevance] = columns[..] else {
            return Err(format!(
                "it has {} columns and not 4 (query, 0, passage, grade)",
                columns.len()
            ));
        };
        Ok(Some(Judgement {
            query: checked_id(query)?,
            passage: checked_id(passage)?,
            grade: grade(relevance)?,
        }))
    })
}

fn split_file(dir: &Path, what: &str, split: &str) -> Result<std::path::PathBuf, CorpusError> {
    let name = format!("{what}.{split}.tsv");
    files::find(dir, &name)?.ok_or_else(|| Format::MsMarco.missing_split(dir, split, &name))
}
